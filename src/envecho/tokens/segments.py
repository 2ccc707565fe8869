"""OpenEnv RFC 010's `tokenize_segments`: plain segments with roles to ids and masks, for whoever has only those.

Every segment is tokenised alone and the ids are joined, as RFC 010 does it. That is not how a model sees text that was
tokenised as a whole, so nothing else in envecho uses this; conversations go through `tokenize_trajectory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

from envecho.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

RoleName = Literal["context", "action", "env_output", "warning"]


class SegmentTokenizer(Protocol):
    """What `tokenize_segments` calls; transformers tokenizers do this."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, Sequence[int]]:
        """Return `{"input_ids": [...]}`."""
        ...


@dataclass(frozen=True)
class RoleSegment:
    """A run of text with one RFC 010 role: "context", "action", "env_output" or "warning"."""

    role: RoleName
    text: str

    def __post_init__(self) -> None:
        known = get_args(RoleName)
        if self.role not in known:
            raise DataError(
                f"a segment has role {self.role!r}, expected one of {', '.join(known)}.{did_you_mean(self.role, known)}"
            )


@dataclass(frozen=True, kw_only=True)
class SegmentTrajectory:
    """The segments of one rollout, in order."""

    segments: Sequence[RoleSegment]


class SegmentTokens(NamedTuple):
    """Ids and RFC 010's masks, all one-dimensional tensors `[token]`, in the order in which they unpack.

    `input_ids` int64; the masks bool. `obs_mask` is what the environment term trains: under "all" it holds the
    warnings too, which `warning_mask` marks in any case.
    """

    input_ids: Tensor
    action_mask: Tensor
    obs_mask: Tensor
    warning_mask: Tensor


def tokenize_segments(
    tokenizer: SegmentTokenizer,
    trajectory: SegmentTrajectory,
    world_loss_target: Literal["env_only", "all"] = "env_only",
) -> SegmentTokens:
    """Tokenise each segment alone, join the ids, and mark every token with its segment's role.

    Args:
        tokenizer: any callable `tokenizer(text, add_special_tokens=False) -> {"input_ids": [...]}`.
        trajectory: anything with a list `segments` of `RoleSegment`.
        world_loss_target: "env_only", or "all", under which warnings are targets too.

    Raises:
        ConfigError: there is no such target. Source: OpenEnv RFC 010.
    """
    import torch

    targets = ("env_only", "all")
    if world_loss_target not in targets:
        raise ConfigError(
            f"world_loss_target is {world_loss_target!r}, expected one of {', '.join(targets)} (segments have roles, "
            f"not sources).{did_you_mean(world_loss_target, targets)}"
        )
    ids: list[int] = []
    roles: list[str] = []
    for segment in trajectory.segments:
        segment_ids = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
        ids += segment_ids
        roles += [segment.role] * len(segment_ids)

    def mask(*chosen: str) -> Tensor:
        return torch.tensor([role in chosen for role in roles], dtype=torch.bool)

    return SegmentTokens(
        input_ids=torch.tensor(ids, dtype=torch.int64),
        action_mask=mask("action"),
        obs_mask=mask("env_output", "warning") if world_loss_target == "all" else mask("env_output"),
        warning_mask=mask("warning"),
    )
