"""A study: arms x seeds of ordinary training runs, paired, resumable one by one, with its cost stated first.

    OUT/start/seed-S               the model that all arms of a seed start from (shared: OUT/start/shared, of all seeds)
    OUT/ARM/seed-S/phase-K         a run folder, as `envecho train` makes it
    OUT/cost/ARM.json, OUT/logs/   what a step of each arm costs here; what each run printed
    OUT/runs.jsonl                 what is kept of finished runs; every figure is made from it alone

Seeds are the outer order, so that a study which is stopped early is balanced. Nothing here looks at a result. Not here:
figures (`study_analysis`, `study_report`).
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envecho.errors import ConfigError
from envecho.recipes.progress import say
from envecho.recipes.study_config import Arm, StudyConfig
from envecho.recipes.study_records import gather_records, phase_folder, phase_is_finished, write_stated
from envecho.recipes.study_start import make_start, require_start, start_is_made
from envecho.recipes.study_work import Task, work
from envecho.training.config import RunConfig
from envecho.training.run_folder import require_usable


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    num_workers: int = 1,
) -> None:
    """Run what is not finished of the chosen arms and seeds (None: all that the study states).

    Args:
        study: what to run.
        out: the study's folder.
        arms: names of arms.
        seeds: some of `[study] seeds`.
        num_workers: how many processes run at once, each with `[study] threads` torch threads; 0 runs in this process.

    Raises:
        ConfigError: an arm or seed is not stated, or what was run before was run with other values.
        EngineError: a run failed; the others were finished.
    """
    chosen = [study.arm(name) for name in arms] if arms is not None else list(study.arms)
    wanted = study.study.seeds if seeds is None else tuple(seeds)
    for seed in wanted:
        if seed not in study.study.seeds:
            raise ConfigError(f"seed {seed} is not stated; add it to [study] seeds before it is run")
    require_start(study.start)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kept = {(record.arm, record.seed) for record in gather_records(study, out)}
    for seed in wanted:
        start_is_made(study.start, _start_folder(study, out, seed))
        for arm in chosen:
            _require_unchanged(study, arm, seed, out)
    ordered = [(arm, seed) for seed in wanted for arm in chosen if (arm.name, seed) not in kept]
    if not ordered:
        say("every run of these arms and seeds is finished")
        return
    threads = study.study.threads
    work(_start_tasks(study, out, [seed for _, seed in ordered]), num_workers=num_workers, threads=threads)
    work(_cost_tasks(study, out, ordered), num_workers=num_workers, threads=threads)
    _say_cost(study, out, ordered, num_workers=num_workers)
    tasks = [
        Task(
            name=f"{arm.name}, seed {seed}",
            run=functools.partial(_run_arm, study, arm, seed, out),
            log=out / "logs" / f"{arm.name}-seed-{seed}.log",
        )
        for arm, seed in ordered
    ]
    work(tasks, num_workers=num_workers, threads=threads)


def _start_folder(study: StudyConfig, out: Path, seed: int) -> Path:
    return out / "start" / ("shared" if study.start.shared else f"seed-{seed}")


def _places(study: StudyConfig, out: Path, arm: Arm, seed: int) -> dict[str, str]:
    return {"start": str(_start_folder(study, out, seed)), "out": str(out / arm.name / f"seed-{seed}")}


def _require_unchanged(study: StudyConfig, arm: Arm, seed: int, out: Path) -> None:
    """Refuse before anything runs what `train` would refuse when it comes to it: a run of another configuration."""
    for number, config in enumerate(study.run_configs(arm, seed, places=_places(study, out, arm, seed))):
        require_usable(phase_folder(out, arm.name, seed, number), config, resume=True, overwrite=False)


def _start_tasks(study: StudyConfig, out: Path, seeds: Sequence[int]) -> list[Task]:
    wanted = (0,) if study.start.shared else dict.fromkeys(seeds)
    missing = [seed for seed in wanted if not start_is_made(study.start, _start_folder(study, out, seed))]
    return [
        Task(
            name=f"starting model, seed {seed}",
            run=functools.partial(make_start, study.start, _start_folder(study, out, seed), seed),
            log=out / "logs" / f"start-seed-{seed}.log",
        )
        for seed in missing
    ]


def _cost_tasks(study: StudyConfig, out: Path, ordered: Sequence[tuple[Arm, int]]) -> list[Task]:
    first_seed: dict[str, tuple[Arm, int]] = {}
    for arm, seed in ordered:
        first_seed.setdefault(arm.name, (arm, seed))
    return [
        Task(
            name=f"cost of {arm.name}",
            run=functools.partial(measure_cost, study, arm, seed, out),
            log=out / "logs" / f"cost-{arm.name}.log",
        )
        for arm, seed in first_seed.values()
        if not _cost_file(out, arm).is_file()
    ]


def _cost_file(out: Path, arm: Arm) -> Path:
    return out / "cost" / f"{arm.name}.json"


def measure_cost(study: StudyConfig, arm: Arm, seed: int, out: Path) -> None:
    """Take two steps of each phase of an arm and write `cost/ARM.json`: the seconds of a step, of a look, and of all.

    The second step counts: the first one also pays for what is made once. Every phase starts from the starting model
    here; weights and metrics of these steps are thrown away.
    """
    from envecho.training.loop import train

    folder = out / "cost" / arm.name
    phases: list[dict[str, float]] = []
    configs = study.run_configs(arm, seed, places=_places(study, out, arm, seed))
    for config in configs:
        clock = _EventClock()
        train(_two_steps(config, configs[0].model.name), folder, overwrite=True, on_event=clock.note)
        every = config.evaluation.every
        looks = (-(-config.run.steps // every) + 1) if every and config.rollout else 0
        estimate = config.run.steps * clock.seconds["train"] + looks * clock.seconds.get("evaluation", 0.0)
        phases.append({f"{kind}_seconds": value for kind, value in clock.seconds.items()} | {"estimate": estimate})
        shutil.rmtree(folder)
    document = {"arm": arm.name, "run_seconds": sum(phase["estimate"] for phase in phases), "phases": phases}
    _cost_file(out, arm).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _two_steps(config: RunConfig, model: str) -> RunConfig:
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"name": model}),
            "evaluation": config.evaluation.model_copy(update={"every": min(config.evaluation.every, 1)}),
            "run": config.run.model_copy(update={"steps": min(config.run.steps, 2), "checkpoint_every": 0}),
        }
    )


class _EventClock:
    """Seconds between an event of a run and the one before it, by the kind of the later one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self.seconds[event["kind"]], self._last = now - self._last, now


def _say_cost(study: StudyConfig, out: Path, ordered: Sequence[tuple[Arm, int]], *, num_workers: int) -> None:
    """Print the measured cost per arm and the estimate of what is left; finished runs count before probed steps."""
    finished: dict[str, list[float]] = {}
    for record in gather_records(study, out):
        finished.setdefault(record.arm, []).append(record.wall_seconds)
    total = 0.0
    for name in dict.fromkeys(arm.name for arm, _ in ordered):
        num_left = sum(arm.name == name for arm, _ in ordered)
        if name in finished:
            seconds, basis = sum(finished[name]) / len(finished[name]), f"mean of {len(finished[name])} finished runs"
        else:
            cost = json.loads(_cost_file(out, study.arm(name)).read_text(encoding="utf-8"))
            seconds, basis = cost["run_seconds"], "from a measured step"
        total += num_left * seconds
        say(f"{name}: {seconds / 60:.1f} min a run ({basis}), {num_left} to run")
    at_once = max(1, min(num_workers, len(ordered)))
    say(f"estimate: {total / 3600 / at_once:.2f} h for {len(ordered)} runs, {at_once} at once")


def _run_arm(study: StudyConfig, arm: Arm, seed: int, out: Path) -> None:
    """Run the phases of an arm and seed that are not finished, each from its last checkpoint."""
    from envecho.training.loop import train
    from envecho.training.progress import show_progress
    from envecho.training.summary import write_summary

    stated = study.run_configs(arm, seed)
    for number, config in enumerate(study.run_configs(arm, seed, places=_places(study, out, arm, seed))):
        folder = phase_folder(out, arm.name, seed, number)
        if phase_is_finished(folder):
            continue
        write_stated(folder, stated[number])
        with show_progress() as on_event:
            result = train(config, folder, resume=True, on_event=on_event)
        write_summary(config, result, folder)
