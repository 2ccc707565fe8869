"""Which tokens the environment term trains: named choices over the sources, nothing else.

Not here: what a selected token is worth (`envecho.objective`).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envecho.errors import ConfigError, did_you_mean
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.trajectory import SOURCES, Role, Source

WorldLossTarget = Literal["env_only", "all", "reference", "stdout"]
"""`env_only`: role env_output, RFC 010's default. `all`: and role warning. `reference`: the paper's code, which trains
all text of an observation but its `WARNINGS:` prefix. `stdout`: standard output and tool results alone."""


def target_sources(world_loss_target: WorldLossTarget, *, grader_is_target: bool = False) -> frozenset[Source]:
    """The sources that a target trains.

    `reference` leaves out `harness_notice`: importers record the prefix of github.com/microsoft/echo-rl so.
    `grader_is_target` adds the grader's text, as RFC 010's own example does; a policy then learns to predict it.

    Raises:
        ConfigError: there is no such target.
    """
    if world_loss_target not in get_args(WorldLossTarget):
        known = get_args(WorldLossTarget)
        raise ConfigError(
            f"world_loss_target is {world_loss_target!r}, expected one of {', '.join(known)}."
            f"{did_you_mean(world_loss_target, known)}"
        )
    observed = {source for source in SOURCES if source.role is Role.ENV_OUTPUT}
    warnings = {source for source in SOURCES if source.role is Role.WARNING}
    chosen = {
        "env_only": observed,
        "all": observed | warnings,
        "reference": observed | (warnings - {Source.HARNESS_NOTICE}),
        "stdout": {Source.STDOUT, Source.TOOL_RESULT},
    }[world_loss_target]
    return frozenset(chosen | {Source.GRADER} if grader_is_target else chosen)


def env_target_mask(
    tokenized: TokenizedTrajectory, *, world_loss_target: WorldLossTarget = "env_only", grader_is_target: bool = False
) -> NDArray[np.bool_]:
    """Mask `[token]` of the tokens that the environment term trains in this sequence.

    A mask is about the token that is predicted. Tokens that another branch or window owns are left out, and so is
    token 0, which nothing predicts.

    Raises:
        ConfigError: there is no such target.
    """
    chosen = target_sources(world_loss_target, grader_is_target=grader_is_target)
    selected = np.array([source in chosen for source in SOURCES])
    return selected[tokenized.sources] & tokenized.owned_mask()
