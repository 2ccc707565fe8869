"""`envecho show --config` and `--losses`: weights of a run's objective, and three losses of one forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from envecho.cli.show import command
from envecho.engines.local import LocalEngine
from envecho.errors import ConfigError
from envecho.objective import EchoConfig, compile_batch
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, SampledTokens, Segment, Source, Trajectory
from envecho.trajectory.store import write_trajectories

CONFIG = """
[model]
name = "{model}"
device = "cpu"
compute_dtype = "float32"

[data]
train = "episodes.parquet"

[objective]
use_rl = {use_rl}
world_model_coeff = 0.3
world_loss_target = "all"
normalizer = "global_token_mean"
source_coeffs = {{ status = 0.5, stderr = 0.0 }}

[run]
steps = 1
"""


def show(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def tokenizer(smollm2_tokenizer: Any) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


def rollout(
    tokenizer: ChatTokenizer, name: str, *, reward: float | None, sampled: bool = True, group: str | None = "g"
) -> Trajectory:
    """An episode whose one command was sampled at temperature 0.8."""
    text = f"cat {name}.log"
    ids = (*tokenizer.encode_text(text)[0], tokenizer.end_of_turn_id)
    logprobs = tuple(-1.0 - k / 10 for k in range(len(ids)))
    tokens = SampledTokens(token_ids=ids, logprobs=logprobs, temperature=0.8) if sampled else None
    messages = (
        Message(role="user", segments=(Segment(source=Source.TASK, text="Which disk is full?"),)),
        Message(role="assistant", segments=(Segment(source=Source.POLICY, text=text),), sampled=tokens),
        Message(
            role="user",
            segments=(
                Segment(source=Source.STDOUT, text=f"disk of {name} is full\n"),
                Segment(source=Source.STDERR, text="one warning\n"),
                Segment(source=Source.STATUS, text="[exit status 0]"),
            ),
        ),
    )
    return Trajectory(id=name, task_id="t", group_id=group, reward=reward, messages=messages)


def losses(file: Path, model: Path, *args: object, index: int = 0) -> dict[str, Any]:
    return json.loads(show(file, "--index", index, "--model", model, "--losses", "--json", *args).stdout)


def test_an_episode_of_reward_0_has_no_policy_gradient_and_an_environment_gradient(
    tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path
):
    """Catches a policy term that is nearly 0, and an environment term that a zero-advantage filter took along."""
    file = tmp_path / "zeros.parquet"
    write_trajectories(file, [rollout(tokenizer, name, reward=0.0) for name in ("a", "b", "c")])
    found = losses(file, tiny_dir)["losses"]
    assert found["policy"]["loss"] == 0.0
    assert found["policy"]["gradient_norm"] == 0.0
    assert found["policy"]["num_tokens"] > 0
    assert found["env"]["loss"] > 0
    assert found["env"]["gradient_norm"] > 0
    assert found["echo"]["loss"] == found["env"]["loss"]
    assert found["echo"]["gradient_norm"] == pytest.approx(found["env"]["gradient_norm"])
    out = show(file, "--index", 0, "--model", tiny_dir, "--losses").stdout
    assert "Reward 0, one of 3 rollouts of its group, all with reward 0: its advantage is 0" in out
    assert "environment term still has a gradient of norm" in out


def test_the_losses_are_those_of_the_engine_on_the_compiled_step(
    tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path
):
    """Catches another advantage, temperature, normaliser or lambda than training's: the step is compiled by hand."""
    episodes = [rollout(tokenizer, "a", reward=1.0), rollout(tokenizer, "b", reward=0.0)]
    file = tmp_path / "mixed.parquet"
    write_trajectories(file, episodes)
    record = losses(file, tiny_dir)
    found = record["losses"]
    (sequence,) = tokenize_trajectory(episodes[0], tokenizer)
    step = compile_batch([sequence], EchoConfig())
    step.batch.advantages[:] = record["advantage"]
    assert record["advantage"] == pytest.approx(2**-0.5, rel=1e-4)
    out = LocalEngine(tiny_dir, device="cpu").forward_backward(step.batch)
    assert found["policy"]["loss"] == pytest.approx(out.policy_loss)
    assert found["env"]["loss"] == pytest.approx(out.env_loss)
    assert found["echo"]["loss"] == pytest.approx(out.loss) == pytest.approx(out.policy_loss + out.env_loss)
    assert found["policy"]["loss"] != 0
    assert found["policy"]["gradient_norm"] > 0
    targets = torch.from_numpy(out.env_logprobs)[step.batch.env_weights > 0]
    assert found["env"]["mean"] == pytest.approx(-float(targets.mean()), rel=1e-5)


def test_shares_are_of_all_tokens_of_the_episode(tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path):
    """Catches a share of the trained tokens, which is always 1."""
    episode = rollout(tokenizer, "a", reward=1.0)
    file = tmp_path / "one.parquet"
    write_trajectories(file, [episode])
    found = losses(file, tiny_dir)["losses"]
    (sequence,) = tokenize_trajectory(episode, tokenizer)
    assert found["policy"]["share"] == pytest.approx(sequence.action_mask.sum() / len(sequence))
    assert found["env"]["share"] == pytest.approx(sequence.obs_mask.sum() / len(sequence))
    assert found["echo"]["num_tokens"] == found["policy"]["num_tokens"] + found["env"]["num_tokens"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sampled": False}, "sampling log-prob"),
        ({"reward": None}, "reward for every trajectory"),
        ({"group": None}, "no group_id"),
    ],
)
def test_an_undefined_policy_term_is_said_in_words_and_the_environment_term_is_there(
    changes: dict[str, Any], reason: str, tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path
):
    """Catches a 0 for what is unknown, and an imported trace for which nothing at all is printed."""
    file = tmp_path / "imported.parquet"
    write_trajectories(file, [rollout(tokenizer, "a", **({"reward": 1.0} | changes))])
    record = losses(file, tiny_dir)
    assert reason in record["policy_missing"]
    assert record["losses"]["policy"]["loss"] is None
    assert record["losses"]["policy"]["gradient_norm"] is None
    assert record["losses"]["env"]["loss"] > 0
    assert record["losses"]["env"]["gradient_norm"] > 0
    out = show(file, "--index", 0, "--model", tiny_dir, "--losses").stdout
    assert "The GRPO term is undefined: " in out
    assert "undefined  " in out


def test_rollouts_of_other_groups_do_not_change_the_advantage(tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path):
    """Catches an advantage over the whole file, and one over the rollouts that stand before it alone."""
    episodes = [
        rollout(tokenizer, "a", reward=0.0),
        rollout(tokenizer, "other", reward=1.0, group="h"),
        rollout(tokenizer, "b", reward=0.0),
        rollout(tokenizer, "c", reward=3.0),
    ]
    file = tmp_path / "groups.parquet"
    write_trajectories(file, episodes)
    assert losses(file, tiny_dir, index=1)["advantage"] == 0
    expected = (0 - 1) / 3**0.5
    assert losses(file, tiny_dir, index=2)["advantage"] == pytest.approx(expected, rel=1e-4)


def test_a_configuration_weighs_the_tokens(tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path):
    """Catches weights of the defaults under the name of a configuration."""
    file, config = tmp_path / "one.parquet", tmp_path / "run.toml"
    write_trajectories(file, [rollout(tokenizer, "a", reward=None, sampled=False)])
    config.write_text(CONFIG.format(model=tiny_dir, use_rl="false"))
    record = json.loads(show(file, "--index", 0, "--config", config, "--json").stdout)
    rows = {row["source"]: row for row in record["weights"]}
    assert set(rows) == {"stdout", "status"}
    counts = record["views"][0]["by_source"]
    num_targets = counts["stdout"] + counts["stderr"] + counts["status"]
    assert rows["stdout"]["num_tokens"] == counts["stdout"]
    assert rows["stdout"]["per_token"] == pytest.approx(0.3 / num_targets)
    assert rows["status"]["per_token"] == pytest.approx(0.5 * 0.3 / num_targets)
    assert rows["stdout"]["weight"] == pytest.approx(0.3 * counts["stdout"] / num_targets)
    assert record["policy_missing"] == "use_rl is false in the configuration"
    out = show(file, "--index", 0, "--config", config).stdout
    assert "per token" in out
    assert "No policy term: use_rl is false" in out


def test_a_configuration_with_a_policy_term_weighs_the_actions_too(
    tokenizer: ChatTokenizer, tiny_dir: Path, tmp_path: Path
):
    """Catches a view in which a hybrid run seems to train observations alone."""
    file, config = tmp_path / "two.parquet", tmp_path / "run.toml"
    write_trajectories(file, [rollout(tokenizer, name, reward=float(name == "a")) for name in ("a", "b")])
    config.write_text(CONFIG.format(model=tiny_dir, use_rl="true"))
    record = json.loads(show(file, "--index", 0, "--config", config, "--json").stdout)
    (row,) = [row for row in record["weights"] if row["term"] == "policy"]
    assert (row["source"], row["turn"]) == ("policy", 1)
    assert row["weight"] == pytest.approx(1.0)
    trained = {
        token["source"]
        for token, weight in zip(record["views"][0]["tokens"], record["views"][0]["policy_weights"], strict=True)
        if weight > 0
    }
    assert trained == {"policy"}


def test_a_broken_configuration_is_named(tokenizer: ChatTokenizer, tmp_path: Path):
    """Catches defaults in place of a configuration that was not understood."""
    file, config = tmp_path / "one.parquet", tmp_path / "run.toml"
    write_trajectories(file, [rollout(tokenizer, "a", reward=None)])
    config.write_text("[objektive]\n")
    with pytest.raises(ConfigError, match="Did you mean 'objective'"):
        show(file, "--index", 0, "--config", config)
