"""The control that separates world knowledge from regularisation: the same observations behind other histories.

The policy term is trained on what happened; the environment term on copies of the rollouts in which each observation
comes from another rollout of the step. Text, lengths and token counts are those of real observations, but no action
predicts them. What remains of a gain under this control is not knowledge of the world. Not here: evaluation's action
swap (`envecho.evaluation.swap`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from envecho.errors import DataError
from envecho.losses import WeightedBatch
from envecho.objective.compile import CompiledBatch, compile_batch
from envecho.objective.config import EchoConfig
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import Message, Role, Segment, Trajectory

SUFFIX = "#shuffled"


def shuffle_observations(trajectories: Sequence[Trajectory], *, seed: int) -> list[Trajectory]:
    """Return copies of the rollouts, their ids with a suffix, whose observations come from other rollouts.

    Observations (the segments of role env_output of a message that answers an action) move between messages with the
    same place in the episode (first answer, second answer, ...): a random cyclic order of all rollouts that have one,
    ordered by task first, so that a neighbour is of another task where there is one. A place that one rollout alone has
    keeps its observation. Everything else stays: harness text, sampled ids, rewards.
    """
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, trajectory in enumerate(trajectories):
        for place, message in enumerate(_answers(trajectory)):
            places[place].append((number, message))
    moved: dict[tuple[int, int], tuple[Segment, ...]] = {}
    for place, members in sorted(places.items()):
        rng = random.Random(f"envecho-shuffle-{seed}-{place}")
        order = sorted(members, key=lambda member: (trajectories[member[0]].task_id, rng.random()))
        # Half a turn of the ring: as far from one's own task as the step allows.
        shift = len(order) // 2
        for receiver, giver in zip(order, [*order[shift:], *order[:shift]], strict=True):
            moved[receiver] = _body(trajectories[giver[0]].messages[giver[1]])
    return [
        trajectory.with_messages(
            tuple(
                _with_body(message, moved[number, k]) if (number, k) in moved else message
                for k, message in enumerate(trajectory.messages)
            )
        ).model_copy(update={"id": trajectory.id + SUFFIX})
        for number, trajectory in enumerate(trajectories)
    ]


def compile_with_shuffled_env(
    sequences: Sequence[TokenizedTrajectory],
    shuffled: Sequence[TokenizedTrajectory],
    config: EchoConfig,
    *,
    world_model_coeff: float | None = None,
    excluded_env: Mapping[str, str] | None = None,
) -> CompiledBatch:
    """Compile the policy term on `sequences` and the environment term on `shuffled`, in one batch.

    Each term is counted over its own sequences, so both weigh what they weigh without the control. Counters and logged
    environment tokens are those of the true sequences.

    Raises:
        DataError: the two do not hold the same trajectories.
    """
    if {s.trajectory_id + SUFFIX for s in sequences} != {s.trajectory_id for s in shuffled}:
        raise DataError("the shuffled sequences are not those of the step's trajectories")
    coeff = config.world_model_coeff if world_model_coeff is None else world_model_coeff
    excluded = excluded_env or {}
    true = compile_batch(sequences, config, world_model_coeff=0.0, excluded_env=excluded)
    control = compile_batch(
        shuffled,
        config.model_copy(update={"use_rl": False}),
        world_model_coeff=coeff,
        excluded_env={name + SUFFIX: reason for name, reason in excluded.items()},
    )
    num_trajectories = int(true.trajectory_index.max()) + 1
    return CompiledBatch(
        batch=_join(true.batch, control.batch),
        counters=true.counters,
        trajectory_index=torch.cat([true.trajectory_index, control.trajectory_index + num_trajectories]),
        selected=torch.cat([true.selected, torch.zeros_like(control.selected)]),
    )


def _join(true: WeightedBatch, control: WeightedBatch) -> WeightedBatch:
    fields = {}
    for name in WeightedBatch.token_fields():
        one, other = getattr(true, name), getattr(control, name)
        if one is None:
            continue
        fields[name] = torch.cat([one, torch.ones_like(control.policy_weights) if other is None else other])
    fields["sequence_index"] = torch.cat([true.sequence_index, control.sequence_index + true.num_sequences])
    fields["env_targets"] = torch.cat([true.env_targets, torch.zeros_like(control.env_targets)])
    return WeightedBatch(**fields, temperature=true.temperature, policy_loss=true.policy_loss)


def _answers(trajectory: Trajectory) -> list[int]:
    """The messages that answer an action and hold an observation, in order."""
    acted = False
    found: list[int] = []
    for k, message in enumerate(trajectory.messages):
        acted = acted or message.role == "assistant"
        if acted and message.role != "assistant" and _body(message):
            found.append(k)
    return found


def _body(message: Message) -> tuple[Segment, ...]:
    return tuple(segment for segment in message.segments if segment.source.role is Role.ENV_OUTPUT)


def _with_body(message: Message, body: tuple[Segment, ...]) -> Message:
    """The message with another observation where its first one stood; harness text around it stays."""
    first = next(k for k, segment in enumerate(message.segments) if segment.source.role is Role.ENV_OUTPUT)
    rest = [segment for segment in message.segments[first:] if segment.source.role is not Role.ENV_OUTPUT]
    return message.model_copy(update={"segments": (*message.segments[:first], *body, *rest)})
