"""The figures of a study, from the records of its runs alone: curves, final values, steps to reach, alarms, cost.

Every interval draws seeds and tasks with replacement (`envecho.evaluation.crossed_draws`), with a fixed seed; every
difference is paired by seed and task. With one seed there is a value and no interval (METHOD trap 26). The judged
weights are the last ones (trap 25). Not here: files and pictures (`study_report`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation import SeedStat, crossed_draws, resampled_means, seed_interval, seed_means, seed_stat
from envecho.recipes.study_config import Arm, StudyConfig
from envecho.recipes.study_records import Look, RunRecord

Figure = Literal["solve_rate", "train_solve_rate", "env_ce"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class ReachStat:
    """After how many steps a mean solve rate is reached; None is never, for the value and for an end of the interval.

    `never_fraction` is the share of resamples that never reach it; None where there is no interval.
    """

    value: int | None
    low: int | None
    high: int | None
    never_fraction: float | None
    num_seeds: int
    num_tasks: int


@final
class ArmRuns:
    """The finished runs of one arm, by seed; all were looked at after the same steps."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._runs = {record.seed: record for record in sorted(records, key=lambda record: record.seed)}
        self.seeds = tuple(self._runs)
        found = {tuple(look.step for look in record.looks) for record in records}
        if len(found) != 1:
            raise DataError(f"the seeds of arm {records[0].arm} were looked at after different steps")
        (self.steps,) = found

    @property
    def records(self) -> list[RunRecord]:
        """The runs, by seed."""
        return list(self._runs.values())

    def tasks(self, figure: Figure, seeds: Sequence[int]) -> set[str]:
        """Return the tasks that have this figure at every look of these seeds."""
        looks = [_by_task(look, figure) for seed in seeds for look in self._runs[seed].looks]
        names = [{task for task, (_, count) in look.items() if count} for look in looks]
        return set.intersection(*names) if names else set()

    def sums(self, figure: Figure, seeds: Sequence[int], tasks: Sequence[str]) -> Pair:
        """Return numerators and denominators `[look, seed, task]` of a figure."""
        cells = [
            [[_by_task(self._runs[seed].looks[place], figure)[task] for task in tasks] for seed in seeds]
            for place in range(len(self.steps))
        ]
        array = np.array(cells, dtype=np.float64)
        return array[..., 0], array[..., 1]


def _by_task(look: Look, figure: Figure) -> Mapping[str, tuple[float, int]]:
    """Numerator and denominator by task; the run's own rollouts are kept as one sum, not by task."""
    if figure == "train_solve_rate":
        return {} if look.trained is None else {"": look.trained}
    return look.solved if figure == "solve_rate" else look.env_nll


def _has_interval(figure: Figure, *, num_seeds: int, num_tasks: int) -> bool:
    return num_seeds > 1 and (num_tasks > 1 or figure == "train_solve_rate")


def analyse(study: StudyConfig, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return every figure of the study by arm, as JSON values; arms without a finished run have only their seeds.

    Raises:
        DataError: there is no finished run, or the seeds of an arm were looked at after different steps.
    """
    if not records:
        raise DataError("no arm has a finished run yet; run the study without --report-only")
    runs = {arm.name: ArmRuns(found) for arm in study.arms if (found := [r for r in records if r.arm == arm.name])}
    reference = runs.get(study.study.compare_to)
    return {
        arm.name: _arm_figures(arm, runs.get(arm.name), None if arm.name == study.study.compare_to else reference)
        | {
            "steps_to_reach": _json(_reach(runs.get(arm.name), reference, "solve_rate")),
            "train_steps_to_reach": _json(_reach(runs.get(arm.name), reference, "train_solve_rate")),
        }
        for arm in study.arms
    }


def _arm_figures(arm: Arm, runs: ArmRuns | None, reference: ArmRuns | None) -> dict[str, Any]:
    if runs is None:
        return {"label": arm.label, "seeds": []}
    records = runs.records
    curves = {figure: _curve(runs, figure) for figure in FIGURES}
    return {
        "label": arm.label,
        "seeds": list(runs.seeds),
        "num_steps": records[0].steps,
        "looks": [
            {"step": step} | {figure: _json(curve[place]) for figure, curve in curves.items() if curve}
            for place, step in enumerate(runs.steps)
        ],
        "final": {figure: _json(curve[-1] if curve else None) for figure, curve in curves.items()},
        "env_ce_change_percent": _json(_change_percent(runs)),
        "solve_rate_area": _json(_area(runs, None)),
        "difference": None if reference is None else _differences(runs, reference),
        "alarms": dict(sorted(Counter(name for record in records for _, name in record.alarms).items())),
        "num_ungraded_episodes": sum(look.num_ungraded for record in records for look in record.looks),
        "mean_wall_seconds": round(float(np.mean([record.wall_seconds for record in records])), 1),
        "mean_tokens": {
            role: round(float(np.mean([record.tokens.get(role, 0) for record in records])))
            for role in sorted({role for record in records for role in record.tokens})
        },
    }


def _curve(runs: ArmRuns, figure: Figure) -> list[SeedStat]:
    """The figure at every look; empty for a run that did not roll out between two looks."""
    tasks, by_task = sorted(runs.tasks(figure, runs.seeds)), figure != "train_solve_rate"
    if not tasks and by_task:
        raise DataError(f"arm {runs.records[0].arm}: no task has a {figure} at every look of every seed")
    if not tasks:
        return []
    numerators, denominators = runs.sums(figure, runs.seeds, tasks)
    return [seed_stat(*pair, by_task=by_task) for pair in zip(numerators, denominators, strict=True)]


def _change_percent(runs: ArmRuns) -> SeedStat:
    """Held-out environment CE, `100 * (last / first - 1)` of the means over seeds at the last and the first look."""
    tasks = sorted(runs.tasks("env_ce", runs.seeds))
    sums = runs.sums("env_ce", runs.seeds, tasks)
    numerators, denominators = (part[[0, -1]] for part in sums)
    first, last = seed_means(numerators, denominators)
    stat = SeedStat(
        value=float(100 * (last / first - 1)), low=None, high=None, num_seeds=len(runs.seeds), num_tasks=len(tasks)
    )
    if min(stat.num_seeds, stat.num_tasks) < 2:
        return stat
    before, after = resampled_means(numerators, denominators, crossed_draws(stat.num_seeds, stat.num_tasks))
    low, high = seed_interval(100 * (after / before - 1), num_seeds=stat.num_seeds)
    return dataclasses.replace(stat, low=low, high=high)


def _shared(runs: ArmRuns, reference: ArmRuns, figure: Figure) -> tuple[list[int], list[str]]:
    seeds = [seed for seed in runs.seeds if seed in reference.seeds]
    return seeds, sorted(runs.tasks(figure, seeds) & reference.tasks(figure, seeds)) if seeds else []


def _differences(runs: ArmRuns, reference: ArmRuns) -> dict[str, Any]:
    """Arm minus reference over the seeds and tasks that both have: final solve rate and CE, area under the curve."""
    found: dict[str, Any] = {}
    for figure in FIGURES:
        seeds, tasks = _shared(runs, reference, figure)
        if not seeds or not tasks:
            found[figure] = None
            continue
        ours, theirs = (tuple(part[-1] for part in of.sums(figure, seeds, tasks)) for of in (runs, reference))
        by_task = figure != "train_solve_rate"
        found[figure] = _json(seed_stat(*ours, minus=(theirs[0], theirs[1]), by_task=by_task))
    found["solve_rate_area"] = _json(_area(runs, reference))
    return found


def _area(runs: ArmRuns, reference: ArmRuns | None) -> SeedStat | None:
    """Mean solve rate over the steps of the run (trapezoids between looks); minus the reference's where one is given.

    None where there is a single look, or nothing shared with the reference.
    """
    seeds, tasks = _shared(runs, reference or runs, "solve_rate")
    if not seeds or not tasks or min(len(r.steps) for r in (runs, reference or runs)) < 2:
        return None

    def weighted(of: ArmRuns) -> Pair:
        steps = np.array(of.steps, dtype=np.float64)
        gaps = np.diff(steps)
        widths = (np.append(gaps, 0) + np.append(0, gaps)) / 2
        solved, episodes = of.sums("solve_rate", seeds, tasks)
        rates = np.einsum("l,lst->st", widths / widths.sum(), solved / episodes)
        return rates, np.ones_like(rates)

    return seed_stat(*weighted(runs), minus=None if reference is None else weighted(reference))


def _reach(runs: ArmRuns | None, reference: ArmRuns | None, figure: Figure) -> ReachStat | None:
    """Steps until the arm's mean of a figure is at the best of the reference's mean, over shared seeds and tasks.

    None where nothing is shared, or where the reference solved nothing, which every arm has reached at step 0.
    """
    if runs is None or reference is None:
        return None
    seeds, tasks = _shared(runs, reference, figure)
    if not seeds or not tasks:
        return None
    ours, theirs = (of.sums(figure, seeds, tasks) for of in (runs, reference))
    if not theirs[0].any():
        return None
    value = steps_to_reach(seed_means(*ours)[:, None], runs.steps, seed_means(*theirs).max(keepdims=True))[0]
    stat = ReachStat(
        value=_step(value), low=None, high=None, never_fraction=None, num_seeds=len(seeds), num_tasks=len(tasks)
    )
    if not _has_interval(figure, num_seeds=len(seeds), num_tasks=len(tasks)):
        return stat
    draws = crossed_draws(len(seeds), len(tasks))
    found = steps_to_reach(resampled_means(*ours, draws), runs.steps, resampled_means(*theirs, draws).max(axis=0))
    low, high = seed_interval(found, num_seeds=len(seeds))
    return dataclasses.replace(stat, low=_step(low), high=_step(high), never_fraction=float(np.isinf(found).mean()))


def steps_to_reach(
    curves: NDArray[np.float64], steps: Sequence[int], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the first of `steps` at which each curve is at its target or above; infinite where none is.

    `curves` is `[look, curve]`, `targets` `[curve]`. There is no interpolation: a step counts when it was looked at.
    """
    reached = curves >= targets - 1e-12
    first = np.array(steps, dtype=np.float64)[reached.argmax(axis=0)]
    return np.where(reached.any(axis=0), first, np.inf)


def _step(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None


def _json(stat: SeedStat | ReachStat | None) -> dict[str, Any] | None:
    """Numbers to ten digits: sums in another order must not change a file."""
    if stat is None:
        return None
    fields = dataclasses.asdict(stat)
    return {name: float(f"{value:.10g}") if isinstance(value, float) else value for name, value in fields.items()}
