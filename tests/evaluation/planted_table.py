"""What the suite says of the planted models: `results/evaluation/planted.json` and the table of docs/probes.md.

    python tests/evaluation/planted_table.py

No test stands here (`test_planted_models.py` compares both).
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
DOCS: Final = Path(__file__).parents[2] / "docs" / "probes.md"
MARKS: Final = ("<!-- planted -->\n", "<!-- end -->\n")
COLUMNS: Final = {
    "lookup": "lookup table",
    "phrases": "knows phrases",
    "copier": "copier",
    "blank": "knows nothing",
    "ngram": "n-gram",
    "ppm": "ppm",
}
ROWS: Final = {
    "ce_boilerplate": "the harness's phrases, nats/token",
    "ce_copied": "copied tokens, nats/token",
    "ce_predictable": "predictable tokens, nats/token",
    "ce_novel": "novel tokens, nats/token",
    "ce_derivable": "derivable output, nats/token",
    "share_boilerplate": "share of all that is saved: phrases",
    "share_copied": "share of all that is saved: copied",
    "share_predictable": "share of all that is saved: predictable",
    "share_novel": "share of all that is saved: novel",
    "gap_action_swap": "gap, action swapped",
    "gap_action_blank": "gap, action blanked",
    "gap_observation_shuffle": "gap, observation shuffled",
    "exit_status_balanced_accuracy": "`exit_status`, balanced accuracy",
    "exit_status_auc": "`exit_status`, AUC",
    "file_exists_balanced_accuracy": "`file_exists`, balanced accuracy",
    "file_exists_auc": "`file_exists`, AUC",
    "line_count_exact_match": "`line_count`, exact match",
    "free_running_exact_match": "`free_running`, exact match",
    "free_running_edit_similarity": "`free_running`, edit similarity",
}
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


def markdown(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """The table of the docs; a dash where a predictor has no such figure."""

    def cell(name: str, key: str) -> str:
        value = figures[name].get(key)
        # A share of what the blank model saves has no meaning, and -0.00 is 0.00.
        return "-" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")

    head = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    rows = [f"| {text} | " + " | ".join(cell(name, key) for name in COLUMNS) + " |" for key, text in ROWS.items()]
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    """Write the file and the table."""
    from envecho.engines.pretrained import resolve_model

    tokenizer = ChatTokenizer.from_pretrained(resolve_model("smollm2-135m"))
    figures = measure(tokenizer)
    PATH.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCS.write_text(f"{before}{MARKS[0]}{markdown(figures)}{MARKS[1]}{after}", encoding="utf-8")
    print(PATH, DOCS)


if __name__ == "__main__":
    main()
