"""Regenerate `golden/*.json`: ids, sources and turns of the shared conversations per real tokenizer.

Run `python tests/tokens/make_golden.py` and read the diff: every change of it is a change of what is trained.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from conversations import GOLDEN_CASES, GOLDEN_TOOL_CASES

from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.trajectory import SOURCES

FOLDER = Path(__file__).parent / "golden"
QWEN3 = Path(__file__).parents[3] / "shared" / "tokenizers" / "qwen3"


def golden(chat: ChatTokenizer, *, tools: bool) -> dict[str, Any]:
    cases = GOLDEN_CASES | GOLDEN_TOOL_CASES if tools else GOLDEN_CASES
    return {name: [_sequence(part) for part in tokenize_trajectory(case, chat)] for name, case in cases.items()}


def _sequence(tokenized: TokenizedTrajectory) -> dict[str, Any]:
    sources = [SOURCES[code].value for code in tokenized.sources]
    return {
        "owned_from": tokenized.owned_from,
        "token_ids": tokenized.token_ids.tolist(),
        "sources": [[source, len(list(run))] for source, run in groupby(sources)],
        "turns": [[turn, len(list(run))] for turn, run in groupby(tokenized.turns.tolist())],
    }


def write(name: str, chat: ChatTokenizer, *, tools: bool) -> None:
    lines = [f"  {json.dumps(case)}: {json.dumps(value)}" for case, value in golden(chat, tools=tools).items()]
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    from envecho.engines.pretrained import resolve_model

    write("smollm2", ChatTokenizer.from_pretrained(resolve_model("smollm2-135m")), tools=False)
    write("qwen3", ChatTokenizer.from_pretrained(QWEN3), tools=True)
