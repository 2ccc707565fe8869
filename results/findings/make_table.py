"""Write the tables of docs/findings.md, and the README's sentence, from the figures beside this file.

    sh results/findings/make.sh                                the runs, then this
    python results/findings/make_table.py --from RUNS          keep the figures of finished evaluations, and write
    python results/findings/make_table.py                      write again from what is kept

What is kept of each evaluation are its figures (`evaluation.json` without readouts and token views).
`tests/recipes/test_findings.py` compares the pages with what this makes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

from envecho.evaluation import compare_sums, read_sums
from envecho.evaluation.results import (
    TOKEN_CLASSES,
    Evaluation,
    Predictor,
    PredictorResult,
    Stat,
    read_evaluation,
    write_evaluation,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "findings.md"
README = ROOT / "README.md"
PAIRED = HERE / "masks-paired.json"
MASKS = {"env_only": "`env_only` mask", "reference": "`reference` mask"}
ARMS = {
    "grpo": "GRPO",
    "echo-0.02": "ECHO 0.02",
    "shuffled": "ECHO on shuffled observations",
    "reference": "`reference` mask",
}


def keep(runs: Path) -> None:
    """Copy the figures of finished evaluations from the folder of `make.sh`."""
    for name in [*MASKS, *(f"depot-{arm}" for arm in ARMS)]:
        source = runs / f"eval-{name}" / "evaluation.json"
        if source.is_file():
            found = read_evaluation(source)
            write_evaluation(HERE / f"{name}.json", found.model_copy(update={"readouts": (), "token_views": ()}))

    sums = [runs / f"eval-{name}" / "sums.parquet" for name in MASKS]
    if all(path.is_file() for path in sums):
        ours, theirs = (read_sums(path)["new_boxes"]["trained"] for path in sums)
        found = compare_sums("new_boxes", ours, theirs, predictor="trained", reference="trained")
        document = {c.tokens: {"difference": c.difference.model_dump(), "ratio": c.ratio.model_dump()} for c in found}
        PAIRED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def paired_sentence() -> str:
    """Say how far the two masks are apart on the same tokens of the environment, paired over tasks."""
    found = json.loads(PAIRED.read_text(encoding="utf-8"))
    cells = [f"{_cell(Stat.model_validate(found[tokens]['difference']))} on {tokens} tokens" for tokens in found]
    return f"`env_only` minus `reference`, the environment's tokens alone, paired over tasks: {', '.join(cells)}."


def kept(name: str) -> Evaluation | None:
    """Return what is kept under this name."""
    path = HERE / f"{name}.json"
    return read_evaluation(path) if path.is_file() else None


def masks_table() -> str:
    """Nats per token of each kind of token on new boxes, for the base model and under both masks."""
    found = {label: evaluation for name, label in MASKS.items() if (evaluation := kept(name))}
    return _table(found, "new_boxes")


def depot_table() -> str:
    """Nats per token of each kind of token on held-out walks, for the start and each arm."""
    found = {label: evaluation for name, label in ARMS.items() if (evaluation := kept(f"depot-{name}"))}
    return _table(found, "held_out")


def _table(found: Mapping[str, Evaluation], pool: str) -> str:
    if not found:
        return ""
    first = next(iter(found.values())).pools[pool]
    columns: dict[str, PredictorResult] = {"before training": first["base"]}
    columns |= {label: evaluation.pools[pool]["trained"] for label, evaluation in found.items()}
    lines = [f"| nats per token at T = 1 | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for label, figure in _rows(columns):
        lines.append(f"| {label} | {' | '.join(_cell(figure.get(column)) for column in columns)} |")
    return "\n".join(lines)


def _rows(columns: Mapping[str, PredictorResult]) -> list[tuple[str, dict[str, Stat | None]]]:
    rows: list[tuple[str, dict[str, Stat | None]]] = [
        ("the harness's phrases", {c: r.ce_boilerplate for c, r in columns.items()}),
        ("what the environment said", {c: r.ce_per_token for c, r in columns.items()}),
    ]
    for name in TOKEN_CLASSES:
        stats = {c: r.slices.get("token_class", {}).get(name) for c, r in columns.items()}
        share = next((s.share for s in stats.values() if s), None)
        if share is not None:
            rows.append((f"... {name} ({share:.0%})", {c: s.ce if s else None for c, s in stats.items()}))
    rows.append(("... first views", {c: r.ce_first_view for c, r in columns.items()}))
    rows.append(("... derivable", {c: r.ce_derivable for c, r in columns.items()}))
    for control, label in (
        ("action_swap", "another action in its place costs"),
        ("action_blank", "no action in its place costs"),
        ("observation_shuffle", "another task's episode costs"),
    ):
        gaps = {c: r.controls[control].gap if control in r.controls else None for c, r in columns.items()}
        rows.append((label, gaps))
    return [row for row in rows if any(row[1].values())]


def _cell(stat: Stat | None) -> str:
    if stat is None:
        return "-"
    return f"{stat.value:.2f}" + ("" if stat.low is None else f" [{stat.low:.2f}, {stat.high:.2f}]")


def saved_sentence(name: str, label: str, pool: str, predictor: Predictor = "trained") -> str:
    """Say of what one model's gain is made, over everything that environment and harness said."""
    evaluation = kept(name)
    if evaluation is None:
        return ""
    part = next(a for a in evaluation.attributions if (a.pool, a.predictor, a.reference) == (pool, predictor, "base"))
    nats = [f"{p.saved.value:+.2f} {key}" for key, p in part.parts.items() if abs(p.saved.value) >= 0.005]
    return f"{label}: {part.saved.value:+.2f} nats saved per token of both, of which {', '.join(nats)}."


def blocks() -> dict[str, str]:
    """Return what stands between the markers of the page."""
    masks = [saved_sentence(name, label, "new_boxes") for name, label in MASKS.items()]
    arms = [saved_sentence(f"depot-{name}", label, "held_out") for name, label in ARMS.items()]
    return {
        "masks": masks_table() + "\n\n" + "\n".join(f"- {line}" for line in [*masks, paired_sentence()] if line),
        "depot": depot_table() + "\n\n" + "\n".join(f"- {line}" for line in arms if line),
    }


def readme_block() -> str:
    """Say in a few words what the masks taught, for the README."""
    parts = {
        name: next(a.parts for a in evaluation.attributions if (a.predictor, a.reference) == ("trained", "base"))
        for name in MASKS
        if (evaluation := kept(name))
    }
    phrases = {name: found["boilerplate"] for name, found in parts.items()}
    world = {name: sum(p.saved.value for key, p in f.items() if key != "boilerplate") for name, f in parts.items()}
    taught, cost = phrases["reference"].saved.value, -phrases["env_only"].saved.value
    words = [
        "Measured so on a harness that repeats the command and states the exit status, whose phrases are",
        f"{phrases['reference'].tokens:.0%} of an observation: under the paper's mask SmolLM2-135M saves",
        f"{taught:.2f} nats per token on the phrases and {world['reference']:.2f} on the world; under RFC 010's",
        f"{world['env_only']:.2f} on the world, and the phrases cost {cost:.2f} more",
        "([findings](docs/findings.md)).",
    ]
    return " ".join(words)


def filled(text: str) -> str:
    """Return the page with every block as the figures have it."""
    for name, block in blocks().items():
        marks = rf"(<!-- findings: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marks, lambda m, b=block: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL)
    return text


def filled_readme(text: str) -> str:
    """Return the README with its sentence as the figures have it."""
    marks = r"(<!-- findings -->\n).*?(<!-- end findings -->)"
    return re.sub(marks, lambda m: f"{m[1]}{readme_block()}\n{m[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Keep, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--from", dest="runs", type=Path, help="the folder that make.sh filled")
    arguments = parser.parse_args()
    if arguments.runs:
        keep(arguments.runs)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    README.write_text(filled_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
