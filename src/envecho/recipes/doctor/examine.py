"""`examine`: every check over every trajectory of a file, one at a time.

Memory is that of one step's trajectories, plus about 200 bytes per trajectory to know it again. Not here: the checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envecho.engines.pretrained import resolve_model
from envecho.errors import DataError, TemplateError
from envecho.objective import EchoConfig
from envecho.recipes.doctor.actions import ActionCheck
from envecho.recipes.doctor.cost import CostCheck, measure_speed, trajectories_per_step
from envecho.recipes.doctor.duplicates import DuplicateCheck
from envecho.recipes.doctor.episode import Check, Episode, Settings
from envecho.recipes.doctor.findings import Findings
from envecho.recipes.doctor.masks import MaskCheck
from envecho.recipes.doctor.report import DoctorReport
from envecho.recipes.doctor.secrets import SecretCheck
from envecho.recipes.doctor.volatile import VolatileCheck
from envecho.recipes.doctor.words import CutCheck, GraderCheck, OriginCheck
from envecho.recipes.model_facts import model_facts
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.training.config import ModelConfig, RunConfig
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """How a file is looked at.

    `model` names tokenizer and context; `config` gives the objective, the steps and the engine's settings (without one:
    `EchoConfig(use_rl=False)`). `max_tokens` is the length from which windows begin, at most the model's context.
    `timed` runs two training passes on this machine.
    """

    model: str
    config: RunConfig | None = None
    max_tokens: int | None = None
    timed: bool = False


def examine(
    file: str | Path, options: DoctorOptions, *, on_trajectory: Callable[[int], None] | None = None
) -> DoctorReport:
    """Look at every trajectory of a file or folder and say what is wrong with it, and what a run over it costs.

    Args:
        on_trajectory: called with 1 after each trajectory; a progress bar's `advance`.

    Raises:
        DataError: the file cannot be read, or holds no trajectory.
        EngineError: the model cannot be found.
        TemplateError: its tokenizer cannot be used at all.
    """
    config = options.config
    folder = resolve_model(options.model)
    facts = model_facts(folder)
    settings = _settings(options, folder, facts.max_context_tokens)
    findings = Findings()
    volatile = VolatileCheck(findings)
    cost = CostCheck(settings.objective, findings, trajectories_per_step=trajectories_per_step(config))
    checks: tuple[Check, ...] = (
        MaskCheck(settings, findings),
        GraderCheck(settings, findings),
        CutCheck(findings),
        OriginCheck(findings),
        SecretCheck(findings),
        ActionCheck(settings, findings),
        DuplicateCheck(findings),
        volatile,
        cost,
    )
    num_trajectories = 0
    for trajectory in read_trajectories(file):
        num_trajectories += 1
        findings.begin(trajectory)
        episode = _episode(trajectory, settings, findings)
        for check in checks:
            check.see(episode)
        if on_trajectory is not None:
            on_trajectory(1)
    if not num_trajectories:
        raise DataError("holds no trajectory", file=file)
    for check in checks:
        check.conclude()
    speed = measure_speed(cost.timed, folder, config.model if config else ModelConfig()) if options.timed else None
    return DoctorReport(
        file=str(file),
        model=options.model,
        max_tokens=settings.max_tokens,
        num_trajectories=num_trajectories,
        findings=findings.all(),
        volatile=dict(volatile.occurrences.most_common()),
        volatile_share=volatile.share,
        cost=cost.cost(config=config, num_parameters=facts.num_parameters, tokens_per_second=speed),
    )


def _settings(options: DoctorOptions, folder: Path, context: int) -> Settings:
    config = options.config
    asked = options.max_tokens or (config.data.max_tokens if config else None) or context
    return Settings(
        tokenizer=ChatTokenizer.from_pretrained(folder),
        max_tokens=min(asked, context),
        objective=config.objective if config else EchoConfig(use_rl=False),
        checks_policy=config is not None and config.objective.samples_matter,
    )


def _episode(trajectory: Trajectory, settings: Settings, findings: Findings) -> Episode:
    """Tokenise a trajectory; what the model refuses is a finding, and its text is looked at all the same."""
    sequences: tuple[TokenizedTrajectory, ...] = ()
    try:
        sequences = tuple(tokenize_trajectory(trajectory, settings.tokenizer, max_tokens=settings.max_tokens))
    except (TemplateError, DataError) as error:
        turn = error.turn if isinstance(error, DataError) else None
        findings.add("not_renderable", turn=turn, text=str(error), reason=_cause(str(error)))
    targets = tuple(settings.targets(sequence) for sequence in sequences)
    return Episode(trajectory=trajectory, sequences=sequences, targets=targets)


def _cause(message: str) -> str:
    """The part of an error that many trajectories share: without turn numbers and names in quotes."""
    return re.sub(r"'[^']*'", "…", re.sub(r"\bturn \d+ ", "", message)).split(";")[0][:160]
