"""The report of `envecho doctor` for people. Every string of a file passes `visible_text` and stands in a `Text`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from envecho.cli.printing import print_parts
from envecho.recipes.doctor import KINDS, DoctorReport, Finding, Level
from envecho.recipes.doctor.cost import Cost
from envecho.tokens.view import ROLE_STYLES, visible_text
from envecho.trajectory import Role

_STYLES: Final = {Level.ERROR: "bold red", Level.WARNING: "bold yellow", Level.NOTE: "bold cyan"}
_KINDS_SHOWN: Final = 6
_NOTE_EXAMPLES: Final = 1


def print_report(report: DoctorReport) -> None:
    """Print findings, worst first, then what a run costs."""
    print_parts(*_parts(report), soft_wrap=False)


def _parts(report: DoctorReport) -> Iterator[RenderableType]:
    head = Text(visible_text(report.file), style="bold")
    head.append(f"   {report.num_trajectories:,} trajectories, ", style="not bold")
    head.append(f"seen as {visible_text(report.model)}, windows from {report.max_tokens:,} tokens", style="not bold")
    yield head
    yield Text()
    for finding in report.findings:
        yield from _finding(finding, report.num_trajectories)
    yield from _cost(report)
    counts = {level: sum(finding.level is level for finding in report.findings) for level in Level}
    verdict = Text("\n")
    for level, count in counts.items():
        style = _STYLES[level] if count else "dim"
        verdict.append(f"{count} {level.value}{'' if count == 1 else 's'}   ", style=style)
    yield verdict


def _finding(finding: Finding, num_trajectories: int) -> Iterator[RenderableType]:
    kind = KINDS[finding.name]
    head = Text()
    head.append(f"{finding.level.value:<8}", style=_STYLES[finding.level])
    head.append(finding.name, style="bold")
    if finding.num_trajectories:
        head.append(f"  {finding.num_trajectories:,} of {num_trajectories:,} trajectories", style="dim")
    if finding.num_tokens:
        head.append(f", {finding.num_tokens:,} tokens", style="dim")
    yield head
    body = Text(kind.meaning)
    if finding.detail:
        body.append(f"\n{visible_text(finding.detail)}")
    shown = finding.examples[: _NOTE_EXAMPLES if finding.level is Level.NOTE else None]
    for example in shown:
        where = "" if example.turn is None else f", turn {example.turn}"
        body.append("\n  e.g. ", style="dim").append(visible_text(example.trajectory) + where, style="dim")
        if example.text:
            body.append("  ").append(visible_text(example.text), style="italic")
    if finding.level is not Level.NOTE:
        body.append("\n→ ", style="green").append(kind.advice, style="green")
    yield Padding(body, (0, 0, 1, 8), expand=False)


def _cost(report: DoctorReport) -> Iterator[RenderableType]:
    cost = report.cost
    yield Text("One epoch of this file", style="bold")
    line = Text("  ")
    total = sum(cost.tokens.values()) or 1
    for role in Role:
        count = cost.tokens[role.value]
        line.append(f"{role.value} {count:,}", style=ROLE_STYLES[role]).append(
            f" ({count / total:.0%})   ", style="dim"
        )
    yield line
    yield Text("\n".join(f"  {line}" for line in _epoch(cost)))
    if report.volatile:
        kinds = [f"{kind} {count:,}" for kind, count in list(report.volatile.items())[:_KINDS_SHOWN]]
        yield Text(f"  volatile text {report.volatile_share:.1%} of env_output: {', '.join(kinds)}")
    if cost.run_steps is not None:
        yield Text("The configured run", style="bold")
        yield Text("  " + "   ".join(_run(cost)))


def _epoch(cost: Cost) -> Iterator[str]:
    ratio = "" if cost.env_per_action is None else f", {cost.env_per_action:.2f} per action token"
    yield f"{cost.num_targets:,} targets{ratio}; boilerplate {cost.warning_fraction:.1%} of the observation tokens"
    if cost.effective_lambda is not None:
        nominal = f"world_model_coeff {cost.world_model_coeff:g} under {cost.normalizer}"
        yield f"effective lambda {cost.effective_lambda:.4g} beside a policy term ({nominal})"
    plural = "" if cost.steps_per_epoch == 1 else "s"
    per_epoch = f"{cost.steps_per_epoch:,} step{plural} of {cost.trajectories_per_step:,} trajectories"
    yield f"{per_epoch}, {cost.num_processed_tokens:,} tokens processed"
    if cost.epoch_flops is not None and cost.num_parameters is not None:
        yield f"{cost.epoch_flops:.2g} FLOPs forward and backward (6 x {cost.num_parameters:,} parameters x tokens)"
    if cost.tokens_per_second is not None and cost.epoch_seconds is not None:
        yield f"{_duration(cost.epoch_seconds)} at {cost.tokens_per_second:,.0f} tokens per second, measured here"


def _run(cost: Cost) -> Iterator[str]:
    assert cost.run_steps is not None
    yield f"{cost.run_steps:,} steps"
    if cost.run_epochs is not None and cost.run_tokens is not None:
        yield f"{cost.run_epochs:.3g} epochs"
        yield f"{cost.run_tokens:,.0f} tokens"
    if cost.run_flops is not None:
        yield f"{cost.run_flops:.2g} FLOPs"
    if cost.run_seconds is not None:
        yield f"{_duration(cost.run_seconds)} of forward and backward passes"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
