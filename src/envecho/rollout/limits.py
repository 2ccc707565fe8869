"""What an episode may cost in time and attempts: `WorldLimits`, and `Rules`, which all episodes of a run share.

Not here: who keeps watch (`crew`), and how many episodes run at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from envecho.errors import ConfigError
from envecho.rollout.protocol import ToolProtocol


@dataclass(frozen=True, kw_only=True)
class WorldLimits:
    """Deadlines of a world and attempts to start it; what one action may take is `command_seconds`, told to the world.

    `episode_seconds`: wall clock of an episode, from its start to its last answer (None: no bound); waiting for room in
    a full server does not count. `call_seconds`: what one call (make, reset, a step without a bound of its own) may
    take at most. `grace_seconds`: how much later than told an answer may come, and how long closing may take, before
    the call is left alone. `capacity_wait_seconds`: how long to wait for room. `max_attempts`: how often a world is
    started whose connection breaks before its first observation.
    """

    episode_seconds: float | None = None
    call_seconds: float = 600.0
    grace_seconds: float = 10.0
    capacity_wait_seconds: float = 60.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        positive = {"call_seconds": self.call_seconds, "grace_seconds": self.grace_seconds}
        positive |= {} if self.episode_seconds is None else {"episode_seconds": self.episode_seconds}
        for name, value in positive.items():
            if not value > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0")
        if not self.capacity_wait_seconds >= 0 or self.max_attempts < 1:
            raise ConfigError(
                f"capacity_wait_seconds is {self.capacity_wait_seconds} and max_attempts {self.max_attempts}, "
                "expected at least 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What all episodes of a run share; fields as in `RolloutParams`."""

    max_turns: int
    command_seconds: float | None = None
    tool_protocol: ToolProtocol = "text"
    unfinished_reward: float | None = None
    limits: WorldLimits = field(default_factory=WorldLimits)
