"""The accounting of tool-call episodes: counted by hand, by tokens, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from envecho.recipes.tool_accounting import accounting, main
from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Role, Segment, Source, ToolCall, Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.tools import ToolSuite


def said(role: str, *segments: tuple[Source, str], calls: tuple[ToolCall, ...] = ()) -> Message:
    parts = tuple(Segment(source=source, text=text) for source, text in segments)
    return Message(role=role, segments=parts, tool_calls=calls)  # type: ignore[arg-type]


OWN = Trajectory(
    id="own",
    task_id="t",
    messages=(
        said("user", (Source.TASK, "Buy it.")),
        said("assistant", (Source.POLICY, "call"), calls=(ToolCall(name="buy", arguments="{}"),)),
        said("user", (Source.TOOL_RESULT, "123456"), (Source.STATUS, "[ok]")),
        said("assistant", (Source.POLICY, "x")),
        said("user", (Source.TOOL_ERROR, "no"), (Source.GRADER, "complete")),
    ),
)


def an_episode(policy: str) -> Trajectory:
    """Run one scripted episode of the tool world."""
    suite = ToolSuite()
    job = EpisodeJob(
        id=policy,
        task_id=suite.task_id("train", 0),
        seed=0,
        make_world=lambda: suite.make_world("train", 0),
        make_policy=lambda: suite.scripted_policy("train", 0, policy=policy, seed=0),
    )
    return run_episode(job)


def test_characters_are_counted_as_they_can_be_counted_by_hand() -> None:
    """Would catch structured calls that are left out, and a verdict or a status counted as observation."""
    found = accounting([OWN, OWN])
    assert (found["unit"], found["episodes"], found["observations"]) == ("characters", 2, 4)
    assert found["by_source"] == {
        "task": 14, "grader": 16, "policy": 20, "tool_result": 12, "tool_error": 4, "status": 8,
    }  # fmt: skip
    assert found["by_role"] == {"context": 30, "warning": 8, "env_output": 16, "action": 20}
    assert (found["learnable"], found["observation_share"]) == (36, round(16 / 36, 4))
    assert accounting([])["observation_share"] is None


def test_tokens_are_counted_once_each_by_the_role_that_training_gives_them(smollm2_tokenizer: Any) -> None:
    """Would catch tokens of shared prefixes counted twice, and a role that the loss does not use."""
    episode, tokenizer = an_episode("explore"), ChatTokenizer(smollm2_tokenizer)
    found = accounting([episode], tokenizer)
    sequences = tokenize_trajectory(episode, tokenizer)
    assert found["unit"] == "tokens"
    assert sum(found["by_role"].values()) == sum(int(sequence.owned_mask().sum()) for sequence in sequences)
    observed = sum(int((sequence.role_mask(Role.ENV_OUTPUT) & sequence.owned_mask()).sum()) for sequence in sequences)
    assert found["by_role"]["env_output"] == observed > 0


def test_the_command_counts_each_file(tmp_path: Path) -> None:
    """Would catch two files counted as one, and JSON that is mixed with words."""
    write_trajectories(tmp_path / "oracle.parquet", [an_episode("oracle")])
    write_trajectories(tmp_path / "explore.parquet", [an_episode("explore")])
    files = [str(tmp_path / "oracle.parquet"), str(tmp_path / "explore.parquet")]
    result = CliRunner().invoke(main, [*files, "--json"])
    found = json.loads(result.stdout)
    assert list(found) == ["oracle", "explore"]
    assert found["explore"]["observations"] == 12
    assert found["explore"]["observation_share"] > 0.5
    words = CliRunner().invoke(main, files).stdout
    assert "oracle: 1 episodes" in words
    assert "of" in words.splitlines()[-1]
    assert CliRunner().invoke(main, [str(tmp_path / "none.parquet")]).exit_code == 1
    assert CliRunner().invoke(main, [files[0], files[0]]).exit_code == 1
