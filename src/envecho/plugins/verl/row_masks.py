"""The masks of one row, from the extra fields of an `AgentLoopOutput`.

A row's `extra_fields` say who wrote each token of its response: `obs_mask` and `warning_mask`, as
`envecho export --to verl` writes them, and where the agent loop of this plug-in wrote them, `sources`. What of it is a
target is the objective's choice. Not here: what a target is worth (`step_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import ConfigError, DataError
from envecho.objective import EchoConfig
from envecho.tokens import target_sources
from envecho.trajectory import SOURCES, Role

OBS_MASK: Final = "obs_mask"
WARNING_MASK: Final = "warning_mask"
SOURCE_CODES: Final = "sources"
NUM_DROPPED: Final = "num_env_tokens_dropped"


@dataclass(frozen=True, kw_only=True)
class RowMasks:
    """Who wrote the response of one row, and what of it is trained; arrays are `[token]` over the response.

    `observed` is the whole observation, warnings counted; `targets` what the environment term reads; `coeffs` what a
    target counts (`source_coeffs`, else 1). `num_dropped`: targets that the agent loop cut off for length.

    Example: one command, its output and its exit status, with `world_loss_target = "env_only"`.

        response   ls   <e>  <a>  a.log  [exit 0]  <e>
        observed   0    0    0    1      1         0
        targets    0    0    0    1      0         0
    """

    observed: NDArray[np.bool_]
    targets: NDArray[np.bool_]
    coeffs: NDArray[np.float64]
    num_dropped: int = 0


def row_masks(fields: Mapping[str, Any], *, response_length: int, acts: bool, echo: EchoConfig) -> RowMasks | None:
    """Return the masks of a row, or None for a row that verl made up to fill a batch.

    verl fills a batch with copies of a row's fields around one token that has no part in any loss. Such a row is told
    by fields that do not fit its response, where verl trains no action (`acts` is false).

    Raises:
        DataError: the row has no masks, or masks that do not fit an answer that verl trains.
        ConfigError: the objective selects by source, and the row does not say its sources.
    """
    if OBS_MASK not in fields:
        raise DataError(
            f"a row of the batch has no {OBS_MASK!r} in its extra_fields, so ECHO would train nothing; use the agent"
            " loop 'envecho_world', or let your own return the rows of `envecho export --to verl`"
        )
    obs = np.asarray(fields[OBS_MASK], dtype=bool)
    if len(obs) != response_length:
        if acts:
            raise DataError(
                f"{OBS_MASK} has {len(obs)} entries for a response of {response_length} tokens; masks are cut with the"
                " response or not at all"
            )
        return None
    warning = np.asarray(fields.get(WARNING_MASK, np.zeros_like(obs)), dtype=bool)
    targets, coeffs = _targets(fields, obs, warning, echo)
    return RowMasks(
        observed=obs | warning | targets,
        targets=targets,
        coeffs=coeffs,
        num_dropped=int(fields.get(NUM_DROPPED, 0)),
    )


def _targets(
    fields: Mapping[str, Any], obs: NDArray[np.bool_], warning: NDArray[np.bool_], echo: EchoConfig
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    ones = np.ones(len(obs))
    if SOURCE_CODES in fields:
        codes = np.asarray(fields[SOURCE_CODES], dtype=np.int64)
        chosen = target_sources(echo.world_loss_target, grader_is_target=echo.grader_is_target)
        selected = np.array([source in chosen for source in SOURCES])
        factors = np.array([echo.source_coeffs.get(source, 1.0) for source in SOURCES])
        return selected[codes], factors[codes]
    if echo.source_coeffs or echo.grader_is_target or echo.world_loss_target not in ("env_only", "all"):
        raise ConfigError(
            f"the rows say whose a token is by {Role.ENV_OUTPUT.value} and {Role.WARNING.value} alone: there,"
            " world_loss_target is 'env_only' or 'all', and source_coeffs and grader_is_target are unknown. The agent"
            " loop 'envecho_world' says all sources"
        )
    return (obs if echo.world_loss_target == "env_only" else obs | warning), ones
