"""Alarms: what goes wrong in a run of reinforcement learning, said in words with the numbers that show it.

    collapse        the environment CE falls while what the policy does loses its variety: it makes its world easy
    role_confusion  the policy writes what the harness or the world writes: markers of turns and tools, invented output
    silent_no_op    a term that is configured has had nothing to train for many steps

An alarm is raised once when it begins and can be raised again after its condition has been gone. Not here: what is
logged (`health`), and what the loop does about an alarm (`loop`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from envecho.trajectory import Trajectory

COLLAPSE, ROLE_CONFUSION, SILENT_NO_OP = "collapse", "role_confusion", "silent_no_op"
_VARIETY = ("distinct_command_fraction", "distinct_output_fraction", "action_entropy")
_WATCHED = ("env_ce", "solve_rate", "unparsed_call_fraction", *_VARIETY)
_FOREIGN = re.compile(
    r"<\|?/?(?:im_start|im_end|tool_call|tool_response|assistant|user|system)\|?>"
    r"|\[(?:exit status|timed out after|stdout\]|stderr\])"
)


class HealthConfig(BaseModel):
    """When an alarm is raised; the TOML table `[health]`.

    The mean over the last `window` steps is compared with that over the first `window` steps. Collapse: the environment
    CE is below `collapse_ce` times its first value while distinct commands or distinct outputs are below
    `collapse_variety` times theirs, or action entropy is and the solve rate did not rise: a policy that learns to solve
    its tasks loses entropy too. Role
    confusion: at least `role_confusion` of the actions hold foreign text, or the share of turns that could not be read
    has risen by twice that. Silent no-op: `silent_steps` steps in a row without a weighted token of a configured term.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(default=10, ge=1)
    collapse_ce: float = Field(default=0.7, gt=0)
    collapse_variety: float = Field(default=0.4, ge=0)
    role_confusion: float = Field(default=0.05, gt=0)
    silent_steps: int = Field(default=10, ge=1)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What is wrong (`collapse`, `role_confusion`, `silent_no_op`), and from what that is concluded, in a sentence."""

    name: str
    reason: str


@final
class AlarmMonitor:
    """Watches the rows of a run; its whole memory is `state()`, which a checkpoint keeps."""

    def __init__(self, config: HealthConfig, *, terms: Sequence[str], state: Mapping[str, Any] | None = None) -> None:
        self._config, self._terms = config, tuple(terms)
        stored = state or {}
        self._first: dict[str, list[float]] = {k: list(v) for k, v in stored.get("first", {}).items()}
        self._last: dict[str, list[float]] = {k: list(v) for k, v in stored.get("last", {}).items()}
        self._silent: dict[str, int] = dict(stored.get("silent", {}))
        self._raised: list[str] = list(stored.get("raised", []))

    def state(self) -> dict[str, Any]:
        """Return what the monitor remembers, as JSON values."""
        return {
            "first": {k: list(v) for k, v in self._first.items()},
            "last": {k: list(v) for k, v in self._last.items()},
            "silent": dict(self._silent),
            "raised": list(self._raised),
        }

    def observe(self, row: Mapping[str, Any]) -> list[Alarm]:
        """Take in the row of a step and return the alarms that begin with it."""
        for name in _WATCHED:
            value = row.get(name)
            if value is not None:
                first, last = self._first.setdefault(name, []), self._last.setdefault(name, [])
                if len(first) < self._config.window:
                    first.append(float(value))
                last.append(float(value))
                del last[: -self._config.window]
        found = {
            COLLAPSE: self._collapse(),
            ROLE_CONFUSION: self._role_confusion(row),
            **{f"{SILENT_NO_OP}:{term}": self._silent_no_op(term, row) for term in self._terms},
        }
        begun = [name for name, reason in found.items() if reason and name not in self._raised]
        self._raised = [name for name, reason in found.items() if reason]
        return [Alarm(name=name.partition(":")[0], reason=str(found[name])) for name in begun]

    def _fall(self, name: str) -> tuple[float, float] | None:
        """First and last mean of a number that has been seen for two windows."""
        first, last = self._first.get(name, []), self._last.get(name, [])
        window = self._config.window
        if len(first) < window or len(last) < window or first == last:
            return None
        return sum(first) / window, sum(last) / window

    def _collapse(self) -> str | None:
        ce = self._fall("env_ce")
        if ce is None or ce[1] >= self._config.collapse_ce * ce[0]:
            return None
        lost: list[str] = []
        solved = self._fall("solve_rate")
        learns = solved is not None and solved[1] > solved[0]
        for name in _VARIETY:
            if name == "action_entropy" and learns:
                continue
            fall = self._fall(name)
            if fall is not None and fall[1] < self._config.collapse_variety * fall[0]:
                lost.append(f"{name.replace('_', ' ')} from {fall[0]:.3g} to {fall[1]:.3g}")
        if not lost:
            return None
        return (
            f"the environment CE fell from {ce[0]:.3g} to {ce[1]:.3g} nats while the policy lost variety:"
            f" {', '.join(lost)}. It may be making its world easy to predict; lower world_model_coeff or raise"
            " exploration (kl_coeff, entropy_coeff)"
        )

    def _role_confusion(self, row: Mapping[str, Any]) -> str | None:
        share = row.get("foreign_text_fraction")
        if share is None or share < self._config.role_confusion:
            return self._writes_on()
        return (
            f"{share:.0%} of the actions hold text that only the harness or the world writes (turn or tool markers,"
            " invented output); lower world_model_coeff, and look at the actions with `envecho show`"
        )

    def _writes_on(self) -> str | None:
        """Turns of more than the one line that the harness takes: the policy goes on with what the world would say."""
        unread = self._fall("unparsed_call_fraction")
        if unread is None or unread[1] - unread[0] < 2 * self._config.role_confusion:
            return None
        return (
            f"turns that could not be read rose from {unread[0]:.0%} to {unread[1]:.0%}: a policy that learns what the"
            " world says may write it into its own turn; look at the actions with `envecho show`, and lower"
            " world_model_coeff"
        )

    def _silent_no_op(self, term: str, row: Mapping[str, Any]) -> str | None:
        self._silent[term] = 0 if row.get(f"has_{term}_signal") else self._silent.get(term, 0) + 1
        if self._silent[term] < self._config.silent_steps:
            return None
        why = {
            "policy": "no group had two different rewards; choose easier or harder tasks, or larger groups",
            "env": "no observation token has a weight; look at world_loss_target, the filters and `envecho show`",
        }[term]
        return f"the {term} term has trained nothing for {self._silent[term]} steps: {why}"


def foreign_text_fraction(trajectories: Sequence[Trajectory]) -> float | None:
    """Return the share of actions that hold text which only a harness or world writes; None without an action.

    Counted are markers of chat turns and tool calls in their common spellings (an action that ends a turn properly
    holds none, because the end-of-turn token is no text), and status lines such as `[exit status`.
    """
    actions = [m.content for t in trajectories for m in t.messages if m.role == "assistant"]
    if not actions:
        return None
    return sum(bool(_FOREIGN.search(action)) for action in actions) / len(actions)
