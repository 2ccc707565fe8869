"""Write the tables of docs/performance.md from the committed measurements.

Run `python results/bench/make_table.py`; `tests/recipes/test_bench.py` compares the page with what it makes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from envecho.recipes import bench_precision, bench_step_table
from envecho.recipes.bench import table

NAMES = ("start", "import", "store", "rollout", "session", "decode", "packing", "prefixes", "kernels", "evaluation")
STEP_NAMES = (
    "step",
    "step-checkpointing",
    "step-shares",
    "step-tokens",
    "step-group",
    "step-ragged",
    "step-scaling",
    "step-sequence",
    "step-memory",
)
STEP_PLOTS = {
    "step": ("images/bench-step-ratios.svg", "The time of a step, subject by subject, over TRL's"),
    "step-sequence": ("images/bench-step-scaling.svg", "Seconds and peak memory over the tokens of a step"),
}
RESULTS = Path(__file__).parent
PAGE = RESULTS.parents[1] / "docs" / "performance.md"


def caption(document: dict[str, Any]) -> str:
    """Return what a table was measured on."""
    machine, material, times = document["machine"], document["material"], document["repetitions"]
    if document["format"] == "envecho.bench.step":
        threads = material["threads"]
        what = (
            f"{material['model']} on {material['device']}, {threads} thread{'s' if threads > 1 else ''}, torch"
            f" {material['torch']}" + (f", TRL {material['trl']}" if "trl" in material else "")
        )
    elif document["format"] == "envecho.bench.precision":
        sizes = [" + ".join(map(str, material[name])) for name in ("lengths", "split_lengths")]
        what = (
            f"{material['model']}, sequences of {sizes[0]} tokens ({material['actions']} actions, {material['targets']}"
            f" targets), then of {sizes[1]}; torch {material['torch']}"
        )
    elif document["format"] == "envecho.bench.rollout":
        decoding = material.get("decode")
        what = f"Episodes of {material['steps']} steps" + (f"; decoding: {decoding}" if decoding else "")
    elif document["format"] == "envecho.bench.session":
        what = f"{material['episodes']} episodes of {material['turns']} turns, {material['at once']} at once"
    elif document["format"] == "envecho.bench.packing":
        pools = [f"{name} {pool['mean']:,}" for name, pool in material.items() if isinstance(pool, dict)]
        what = (
            f"{material['draws']} steps drawn from each pool, tokens of {material['model']}; mean length: "
            + ", ".join(pools)
        )
    elif document["format"] == "envecho.bench.prefixes":
        what = (
            f"{material['steps']} steps of {material['groups']} groups of {material['group size']} episodes, of"
            f" {material['tasks']} tasks ({material['steps with thinking']} steps with thinking), tokens of"
            f" {material['model']}"
        )
    elif document["format"] == "envecho.bench.evaluation":
        threads = material["threads"]
        lengths = [value for key, value in material.items() if key.startswith("tokens per trajectory")]
        what = (
            f"Episodes of {min(lengths):,.0f} to {max(lengths):,.0f} tokens on average, {material['part']} at a turn, "
            f"{threads} thread{'s' if threads > 1 else ''}"
        )
    elif "num_trajectories" in material:
        what = f"{material['num_trajectories']:,} trajectories, {material['bytes_on_disk'] / 1e6:,.0f} MB on disk"
    elif "num_files" not in material:
        what = f"Model {material['model']}"
    else:
        size = sum(value for key, value in material.items() if key.startswith("bytes of "))
        what = f"{size / 1e6:,.0f} MB in {material['num_files']:,.0f} files, tokenizer of {material['model']}"
    return (
        f"{what}; {machine['cores']} cores of {machine['processor']}, load average {machine['load_average']:.1f}; "
        f"{times} repetition{'s' if times > 1 else ''}, seed {document['seed']}."
    )


def tables() -> dict[str, str]:
    """Return caption and table of each measurement."""
    documents = {name: _read(name) for name in NAMES}
    made = {name: f"{caption(document)}\n\n{table(document)}" for name, document in documents.items()}
    precision = _read("precision")
    made["precision"] = f"{caption(precision)}\n\n{bench_precision.table(precision)}"
    return made | {name: _step_tables(name) for name in STEP_NAMES}


def _step_tables(name: str) -> str:
    if not (RESULTS / f"{name}.json").is_file():
        return "Not measured: `results/bench/step.sh` does.\n"
    document = _read(name)
    image, shows = STEP_PLOTS.get(name, ("", ""))
    plot = f"\n![{shows}]({image})\n" if image and (PAGE.parent / image).is_file() else ""
    return f"{caption(document)}\n\n{bench_step_table.table(document)}{plot}"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def filled(page: str) -> str:
    """Return the page with each table between `<!-- bench NAME -->` and `<!-- end -->` made anew."""
    for name, text in tables().items():
        block = re.compile(rf"(<!-- bench {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = block.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
