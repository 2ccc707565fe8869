"""`TokenizedTrajectory`: one sequence of token ids with one source per token.

Not here: how text becomes tokens (`render`, `spans`), and what a token is worth (`envecho.objective`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.trajectory import SOURCES, Role, Source, StopReason

_ROLE_LOOKUP = {role: np.array([source.role is role for source in SOURCES]) for role in Role}


@dataclass(frozen=True, kw_only=True)
class TokenizedTrajectory:
    """One branch and window of a trajectory, as the model sees it.

    Arrays are `[token]`: `token_ids` int32; `sources` uint8 codes (`SOURCES[code]`); `turns` int32, the index of the
    message that the token belongs to, -1 for scaffold that belongs to none; `num_bytes` uint16, the UTF-8 bytes that
    the token stands for; `sampling_logprobs` and `sampling_entropies` float32, NaN where no sampler stated one.

    `stop_reason` is the episode's; `turn_tools[turn]` names the tools whose results that message holds.

    Tokens before `owned_from` were owned by an earlier branch or window: they are context here and carry no weight,
    so each token of the episode is trained at most once. `context_truncated` says that this window lacks tokens that
    its actions were sampled with: their policy weight is 0, and they are counted.

    Example: system and task, one command, its output, next generation prompt.

        text       <s>sys  task  <a>   ls -1   <e>     a.log\\n  [exit 0]  <e><a>
        sources    scaff.  task  scaff policy  scaff   stdout    status    scaff
        turns      0       1     2     2       2       3         3         3
    """

    trajectory_id: str
    task_id: str
    group_id: str | None
    reward: float | None
    branch: int
    window: int
    owned_from: int
    context_truncated: bool
    token_ids: NDArray[np.int32]
    sources: NDArray[np.uint8]
    turns: NDArray[np.int32]
    num_bytes: NDArray[np.uint16]
    sampling_logprobs: NDArray[np.float32]
    sampling_entropies: NDArray[np.float32]
    sampling_temperature: float | None = None
    stop_reason: StopReason = StopReason.UNKNOWN
    turn_tools: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        for name in ("sources", "turns", "num_bytes", "sampling_logprobs", "sampling_entropies"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected ({n},)")
        if not 0 <= self.owned_from <= n:
            raise ValueError(f"owned_from is {self.owned_from}, expected 0 to {n}")
        if n and int(self.sources.max()) >= len(SOURCES):
            raise ValueError(f"source code {int(self.sources.max())} is unknown")

    def __len__(self) -> int:
        return len(self.token_ids)

    def role_mask(self, role: Role) -> NDArray[np.bool_]:
        """Mask `[token]` of the tokens whose source has this RFC 010 role."""
        return _ROLE_LOOKUP[role][self.sources]

    def source_mask(self, source: Source) -> NDArray[np.bool_]:
        """Mask `[token]` of the tokens with this source."""
        return self.sources == source.code

    def owned_mask(self) -> NDArray[np.bool_]:
        """Mask `[token]` of the tokens that this sequence trains; position 0 has no log-prob and is never owned."""
        mask = np.arange(len(self)) >= max(self.owned_from, 1)
        return mask

    @property
    def action_mask(self) -> NDArray[np.bool_]:
        """RFC 010's `action_mask` `[token]`."""
        return self.role_mask(Role.ACTION)

    @property
    def obs_mask(self) -> NDArray[np.bool_]:
        """RFC 010's `obs_mask` `[token]` under `env_only`: what the world really answered."""
        return self.role_mask(Role.ENV_OUTPUT)

    @property
    def warning_mask(self) -> NDArray[np.bool_]:
        """RFC 010's `warning_mask` `[token]`."""
        return self.role_mask(Role.WARNING)
