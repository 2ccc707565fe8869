"""docs/peers.md: its table is what the command would print on the episode that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from envecho.objective.peers import PEERS, effective_lambdas
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import Source

ROOT = Path(__file__).parents[2]


def episode(name: str) -> TokenizedTrajectory:
    """The captured episode, token by token, from the committed accounting."""
    targets = json.loads((ROOT / "results" / "awm" / "accounting.json").read_text())["targets"]
    codes = np.array([Source.TASK.code, Source.POLICY.code, Source.TOOL_RESULT.code], dtype=np.uint8)
    sources = codes.repeat([targets["context"], targets["action"], targets["env_output"]])
    n = len(sources)
    return TokenizedTrajectory(
        trajectory_id=name, task_id="t", group_id=None, reward=None, branch=0, window=0, owned_from=0,
        context_truncated=False, token_ids=np.zeros(n, dtype=np.int32), sources=sources,
        turns=np.zeros(n, dtype=np.int32), num_bytes=np.ones(n, dtype=np.uint16),
        sampling_logprobs=np.full(n, np.nan, dtype=np.float32), sampling_entropies=np.full(n, np.nan, dtype=np.float32),
    )  # fmt: skip


def test_the_table_of_peers_is_what_the_rules_give():
    """Catches a peer whose rule changed in the code and not on the page, or a figure of another episode."""
    rows = re.findall(r"^\| `([\w-]+)` \|.+\| `(\w+)` \|.+\| ([\d.]+) \| ([\d.]+) \|$", page(), re.MULTILINE)
    found = effective_lambdas([episode(str(k)) for k in range(8)], 0.05, num_micro_batches=8)
    assert [name for name, *_ in rows] == list(PEERS)
    for name, rule, coeff, effective in rows:
        assert rule == PEERS[name].normalizer
        assert float(coeff) == PEERS[name].world_model_coeff
        assert float(effective) == pytest.approx(found[name], abs=0.005)


def test_every_key_that_the_page_maps_is_one_of_the_table():
    """Catches a key of echo-rl on the page that the reader refuses."""
    from envecho.recipes.echo_rl_keys import KEYS, SUBTREES

    table = page().split("## A configuration of echo-rl")[1].split("## What")[0]
    known = {part for name in (*KEYS, *SUBTREES) for part in name.split(".")}
    for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)(?:: \w+)?`", row):
            assert name.split(".")[-1] in known | {"selected_tokens", "token_mean", "sequence_mean"} | VALUES, name


VALUES = {"seq_mean_token_sum_norm", "step_decay", "warning_plus_env", "full_observation", "warning_only"}


def page() -> str:
    return (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
