"""`python -m envecho.recipes.wordy_pools --out DIR`: explorer episodes in a shell whose harness says more than it must.

Every answer repeats the command (`$ grep -c ERROR app.log`) and ends with the exit status (`[exit status 0]`), as many
harnesses do, and as ours does when asked. What a mask over such an observation teaches can be measured on these pools,
since who wrote each word is known: train, validation, and boxes that neither touches (new_boxes). Not here: training on
them (`configs/findings-masks.toml`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from envecho.recipes.demo_data import collect_pools, write_pools
from envecho.recipes.progress import progress_bar
from envecho.recipes.terminal_jobs import explore_jobs
from envecho.rollout import EpisodeJob
from envecho.worlds.terminal import ObservationStyle

WORDY = ObservationStyle(command_echo=True, status="always")


def wordy_jobs(
    *, num_train: int, num_validation: int, num_new_boxes: int, seed: int = 0
) -> dict[str, list[EpisodeJob]]:
    """Return the episodes of each pool; the same seed draws the same boxes and commands as `envecho demo` does."""
    counts = {"train": num_train, "validation": num_validation, "new_boxes": num_new_boxes}
    return {split: explore_jobs(split, count, seed=seed, style=WORDY) for split, count in counts.items()}


def main() -> None:
    """Collect and write."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.wordy_pools", description=summary)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the three .parquet files")
    parser.add_argument("--num-train", type=int, default=60)
    parser.add_argument("--num-validation", type=int, default=6)
    parser.add_argument("--num-new-boxes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jobs = wordy_jobs(
        num_train=arguments.num_train,
        num_validation=arguments.num_validation,
        num_new_boxes=arguments.num_new_boxes,
        seed=arguments.seed,
    )
    with progress_bar("a real bash answers", total=sum(map(len, jobs.values()))) as advance:
        pools = collect_pools(jobs, advance)
    for name, path in write_pools(pools, arguments.out).items():
        print(f"{len(pools[name])} episodes in {path}")


if __name__ == "__main__":
    main()
