"""What a check looks at: one episode, its sequences, and which of their tokens the objective selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envecho.objective import EchoConfig
from envecho.recipes.doctor.volatile_text import VolatileSpan, volatile_spans
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, env_target_mask, target_sources
from envecho.trajectory import SOURCES, Message, Role, Source, Trajectory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a file is looked at for: a tokenizer, a length, and an objective.

    `checks_policy` says that a configuration was given whose policy term needs samples.
    """

    tokenizer: ChatTokenizer
    max_tokens: int
    objective: EchoConfig
    checks_policy: bool = False

    @cached_property
    def sources(self) -> frozenset[Source]:
        """The sources that are trained."""
        objective = self.objective
        chosen = target_sources(objective.world_loss_target, grader_is_target=objective.grader_is_target)
        return frozenset(source for source in chosen if objective.source_coeffs.get(source, 1.0) > 0)

    def targets(self, sequence: TokenizedTrajectory) -> NDArray[np.bool_]:
        """Mask `[token]` of what the environment term trains in a sequence."""
        objective = self.objective
        mask = env_target_mask(
            sequence,
            world_loss_target=objective.world_loss_target,
            grader_is_target=objective.grader_is_target,
        )
        return mask & np.array([source in self.sources for source in SOURCES])[sequence.sources]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One trajectory under the eyes of a check.

    `sequences` are its branches and windows, `targets` their masks; both are empty where the model cannot take it.
    """

    trajectory: Trajectory
    sequences: tuple[TokenizedTrajectory, ...]
    targets: tuple[NDArray[np.bool_], ...]

    @cached_property
    def first_answer(self) -> int:
        """The place of the first answer of a policy, else of the first assistant turn; behind the end without one."""
        messages = self.trajectory.messages
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        sampled = [place for place in answers if is_action(messages[place])]
        return (sampled or answers or [len(messages)])[0]

    @cached_property
    def imported(self) -> Mapping[str, Any]:
        """What the importer knew of its origin; empty where it was not imported."""
        facts = self.trajectory.metadata.get("import")
        return facts if isinstance(facts, dict) else {}

    @cached_property
    def volatile(self) -> Mapping[int, Sequence[tuple[str, Sequence[VolatileSpan]]]]:
        """Per message, each text of role env_output with what in it differs from run to run."""
        found: dict[int, list[tuple[str, Sequence[VolatileSpan]]]] = {}
        for turn, message in enumerate(self.trajectory.messages):
            for segment in message.segments:
                if segment.source.role is Role.ENV_OUTPUT:
                    found.setdefault(turn, []).append((segment.text, volatile_spans(segment.text)))
        return found

    @property
    def num_targets(self) -> int:
        """How many tokens the environment term trains."""
        return sum(int(mask.sum()) for mask in self.targets)


class Check(Protocol):
    """Looks at every episode once, in constant memory, and says at the end what only the whole file shows."""

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        ...

    def conclude(self) -> None:
        """Say what the whole file shows."""
        ...


def is_action(message: Message) -> bool:
    """Whether a policy wrote this turn."""
    if message.role != "assistant":
        return False
    sources = {segment.source for segment in message.segments if segment.text}
    return not sources or Source.POLICY in sources


def target_text(message: Message, sources: frozenset[Source]) -> str:
    """Return the text of a message that is trained under these sources."""
    return "".join(segment.text for segment in message.segments if segment.source in sources)
