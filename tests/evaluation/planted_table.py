"""What the suite says of the planted models: `results/evaluation/planted.json` and the tables of docs/probes.md.

    python tests/evaluation/planted_table.py

No test stands here (`test_planted_models.py` compares the file).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from planted import Copier, Lookup, Phrases
from planted_record import read_planted
from pool_builders import RulePredictor

from envecho.evaluation.baselines import fit_baselines
from envecho.evaluation.controls import run_controls
from envecho.evaluation.pool import tokenize_pool
from envecho.evaluation.probes import run_probes
from envecho.evaluation.results import PredictorResult
from envecho.evaluation.streaming import evaluate_stream, stream_baselines
from envecho.evaluation.summary import attribute, summarize_sums
from envecho.evaluation.sums import PoolSums
from envecho.tokens import ChatTokenizer

PATH: Final = Path(__file__).parents[2] / "results" / "evaluation" / "planted.json"
PHRASES: Final = tuple(f"[exit status {status}]" for status in (0, 1, 2))
MAX_QUESTIONS: Final = 30


def measure(tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Run the whole suite on every planted model and on the copy baselines: value by measure by predictor."""
    recorded = read_planted()
    pool = recorded["pool"]
    engines: dict[str, Any] = {
        "lookup": Lookup(tokenizer, [*pool, *recorded["survey"]]),
        "phrases": Phrases(tokenizer, PHRASES),
        "copier": Copier(len(tokenizer.hf)),
        "blank": RulePredictor(len(tokenizer.hf)),
    }
    sums: dict[str, PoolSums] = {name: evaluate_stream(engine, pool, tokenizer) for name, engine in engines.items()}
    fitted = fit_baselines(tokenize_pool(recorded["train"], tokenizer), len(tokenizer.hf))
    found = {name: _figures(summarize_sums(of), of, sums["blank"]) for name, of in sums.items()}
    for name, engine in engines.items():
        controls = run_controls(engine, pool, tokenizer, seed=0)
        found[name] |= {f"gap_{control}": _value(result.gap) for control, result in controls.items()}
        probes = run_probes(engine, pool, tokenizer, seed=0, max_questions=MAX_QUESTIONS)
        for probe, result in probes.items():
            found[name] |= {f"{probe}_{measure}": stat.value for measure, stat in result.measures.items()}
            found[name][f"{probe}_num_questions"] = result.num_questions
    for name, of in stream_baselines(fitted, pool, tokenizer).items():
        found[name] = _figures(summarize_sums(of), of, sums["blank"])
    return {name: {key: _rounded(value) for key, value in values.items()} for name, values in found.items()}


def _figures(result: PredictorResult, ours: PoolSums, blank: PoolSums) -> dict[str, Any]:
    classes: Mapping[str, Any] = result.slices["token_class"]
    attribution = attribute("planted", ours, blank)
    assert attribution is not None
    return {
        "ce_per_token": _value(result.ce_per_token),
        "ce_boilerplate": _value(result.ce_boilerplate),
        "ce_first_view": _value(result.ce_first_view),
        "ce_derivable": _value(result.ce_derivable),
        **{f"ce_{name}": part.ce.value for name, part in classes.items()},
        **{f"share_{name}": part.share for name, part in attribution.parts.items()},
    }


def _value(stat: Any) -> float | None:
    return None if stat is None else stat.value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main() -> None:
    """Write the file."""
    from envecho.engines.pretrained import resolve_model

    tokenizer = ChatTokenizer.from_pretrained(resolve_model("smollm2-135m"))
    PATH.write_text(json.dumps(measure(tokenizer), indent=1) + "\n", encoding="utf-8")
    print(PATH)


if __name__ == "__main__":
    main()
