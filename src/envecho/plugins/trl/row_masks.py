"""Which tokens of a completion are the world's words, and what they count: `RowMasks`, one per completion.

`rows_of_fields` reads them off the rows of a `rollout_func`, as `envecho export --to trl` and `rollout_in` write them.
`as_columns` makes tensors of them that TRL shuffles and cuts together with its own. Not here: tools that TRL calls
itself (`tool_turns`), and weights (`step_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.errors import ConfigError, DataError
from envecho.tokens.targets import WorldLossTarget

TARGETS: Final = "echo_targets"
OBSERVED: Final = "echo_observed"
MULTIPLIERS: Final = "echo_multipliers"
DROPPED: Final = "echo_dropped"
UNPROVED: Final = "echo_unproved"


@dataclass(frozen=True, kw_only=True)
class RowMasks:
    """One completion; arrays are `[token]` over its ids, without padding.

    `targets` are what the environment term trains, `observed` the whole observation (warnings counted, scaffold not);
    `multipliers` what a target counts (`tool_coeffs`). `num_dropped` counts tokens of observations that TRL left out of
    the sample; `unproved` says that a row holds tool results whose tokens could not be told from scaffold: it has no
    target.

    Example: one command, its output and an exit status, the next generation prompt.

        completion   ls   -1   <e>   <u>   a.log  \\n   [0]   <e><a>
        targets      0    0    0     0     1      1    0     0
        observed     0    0    0     0     1      1    1     0
    """

    targets: NDArray[np.bool_]
    observed: NDArray[np.bool_]
    multipliers: NDArray[np.float32]
    num_dropped: int = 0
    unproved: bool = False

    @staticmethod
    def nothing(length: int, *, unproved: bool = False) -> RowMasks:
        """A completion in which nothing is trained."""
        return RowMasks(
            targets=np.zeros(length, dtype=np.bool_),
            observed=np.zeros(length, dtype=np.bool_),
            multipliers=np.ones(length, dtype=np.float32),
            unproved=unproved,
        )


def rows_of_fields(
    fields: Mapping[str, Any],
    completion_ids: Sequence[Sequence[int]],
    action_masks: Sequence[Sequence[int]] | None,
    target: WorldLossTarget,
) -> list[RowMasks]:
    """Read `obs_mask` and `warning_mask` of the rows of a `rollout_func`; without `warning_mask` there are no warnings.

    Raises:
        ConfigError: the rows have no `obs_mask` or no `env_mask`.
        DataError: a mask is of another length than its completion, is not of 0 and 1, or overlaps another.
    """
    if "obs_mask" not in fields:
        raise ConfigError(
            "rollout_func returned no obs_mask, so no token would be trained as an observation. Return, for each"
            " completion, a list that is 1 at the world's words (docs/trl.md; `envecho export --to trl` writes it)"
        )
    if action_masks is None:
        raise ConfigError(
            "rollout_func returned obs_mask and no env_mask, so TRL would train the world's words as actions. Return"
            " env_mask, which is 1 at the tokens that the model sampled"
        )
    warnings: Sequence[Any] = fields.get("warning_mask") or [[0] * len(ids) for ids in completion_ids]
    rows: list[RowMasks] = []
    for number, ids in enumerate(completion_ids):
        obs = _mask(fields["obs_mask"], number, len(ids), "obs_mask")
        warning = _mask(warnings, number, len(ids), "warning_mask")
        action = _mask(action_masks, number, len(ids), "env_mask")
        if (obs & warning).any() or ((obs | warning) & action).any():
            raise DataError(f"completion {number}: env_mask, obs_mask and warning_mask overlap; a token has one writer")
        rows.append(
            RowMasks(
                targets=obs | warning if target == "all" else obs,
                observed=obs | warning,
                multipliers=np.ones(len(ids), dtype=np.float32),
            )
        )
    return rows


def _mask(masks: Sequence[Any], number: int, length: int, name: str) -> NDArray[np.bool_]:
    mask = np.asarray(masks[number]) if number < len(masks) else None
    if mask is None or mask.shape != (length,) or not np.isin(mask, (0, 1)).all():
        found = "none" if mask is None else f"shape {mask.shape}"
        raise DataError(f"completion {number} has {length} ids; expected a {name} of as many 0 and 1, found {found}")
    return mask.astype(np.bool_)


def as_columns(rows: Sequence[RowMasks], like: Tensor) -> dict[str, Tensor]:
    """Return the rows as tensors `[row, token]` and `[row]`, padded on the right to the shape of `like`."""
    shape = tuple(like.shape)
    targets, observed = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    multipliers = torch.ones(shape, dtype=torch.float32)
    for number, row in enumerate(rows):
        length = len(row.targets)
        targets[number, :length] = torch.from_numpy(row.targets)
        observed[number, :length] = torch.from_numpy(row.observed)
        multipliers[number, :length] = torch.from_numpy(row.multipliers)
    columns = {
        TARGETS: targets,
        OBSERVED: observed,
        MULTIPLIERS: multipliers,
        DROPPED: torch.tensor([row.num_dropped for row in rows]),
        UNPROVED: torch.tensor([row.unproved for row in rows]),
    }
    return {name: column.to(like.device) for name, column in columns.items()}
