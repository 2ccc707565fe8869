"""Labels of tool answers reach the evaluation: tokens of what a tool said carry its message's view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envecho.evaluation.scores import answer_text, label_tokens, pool_tokens
from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Trajectory
from envecho.worlds.tools import ToolSuite


@dataclass(frozen=True)
class Nothing:
    """Scores of nobody."""

    logprobs: Any
    top1: Any


def explored(number: int) -> Trajectory:
    """Run one explorer episode on held-out data."""
    suite = ToolSuite()
    job = EpisodeJob(
        id=str(number),
        task_id=suite.task_id("new_data", number),
        seed=0,
        make_world=lambda: suite.make_world("new_data", number),
        make_policy=lambda: suite.scripted_policy("new_data", number, policy="explore", seed=0),
    )
    return run_episode(job)


def test_what_a_tool_answered_carries_the_label_of_its_message(smollm2_tokenizer: Any) -> None:
    """Would catch an evaluation that knows standard output alone: in a world of tools no token would be derivable."""
    trajectories = [explored(number) for number in range(6)]
    tokenizer = ChatTokenizer(smollm2_tokenizer)
    sequences = [sequence for trajectory in trajectories for sequence in tokenize_trajectory(trajectory, tokenizer)]
    scores: list[Any] = [Nothing(np.zeros(len(s), np.float32), np.ones(len(s), np.bool_)) for s in sequences]
    tokens = pool_tokens(sequences, scores)
    labels = label_tokens(tokens, trajectories)
    assert labels.derivable.mean() > 0.1
    assert labels.first.mean() > 0.3
    assert {"lookup", "filter", "sort", "change", "error"} <= set(labels.operations.tolist())
    answers = [message for trajectory in trajectories for message in trajectory.messages if "view" in message.labels]
    assert all(answer_text(message) == message.content for message in answers)
