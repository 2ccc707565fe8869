"""`compile_batch`: each token's weight by hand on short sequences, what is counted, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_builders import tokenized

from envecho.errors import ConfigError, DataError
from envecho.losses import SPLIT_RULES, NormalizerName
from envecho.objective import (
    EchoConfig,
    FilterConfig,
    NoiseConfig,
    PolicyConfig,
    ScheduleConfig,
    compile_batch,
)

FREE = EchoConfig(use_rl=False, world_model_coeff=1.0)
SPLIT_FREE = sorted(set(get_args(NormalizerName)) - SPLIT_RULES)


def config_of(name, **fields):
    length = {"constant_length": 10} if name == "constant_length" else {}
    return EchoConfig(normalizer=name, **length, **fields)


def close(values, expected):
    return torch.allclose(values.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_weights_of_two_rollouts_are_those_worked_out_by_hand():
    """Catches any factor of the reference rule: lambda, Z over the whole observation, the mean over all sequences."""
    rollouts = [tokenized("ctaooww", "one", reward=1.0), tokenized("caaa", "two", reward=0.0)]
    compiled = compile_batch(rollouts, EchoConfig(world_model_coeff=0.5))
    batch = compiled.batch
    assert close(batch.policy_weights, [0, 0, 1 / 2, 0, 0, 0, 0, 0, 1 / 6, 1 / 6, 1 / 6])
    assert close(batch.env_weights, [0, 0, 0, 0.5 / 8, 0.5 / 8, 0, 0, 0, 0, 0, 0])
    half = (1 - 0.5) / (math.sqrt(0.5) + 1e-6)
    assert close(batch.advantages, [half] * 7 + [-half] * 4)
    assert compiled.selected.tolist() == [False] * 3 + [True] * 2 + [False] * 6
    assert batch.env_targets.tolist() == [False] * 3 + [True] * 4 + [False] * 4
    assert batch.positions.tolist() == [*range(7), *range(4)]
    assert batch.sequence_index.tolist() == [0] * 7 + [1] * 4
    assert (batch.temperature, batch.policy_loss.clip_high) == (0.8, 0.2)
    assert compiled.effective_lambda == pytest.approx(0.125)


def test_counters_name_what_the_step_holds():
    """Catches a count that includes another role, or that counts what several windows show more than once."""
    rollouts = [
        tokenized("ctaooww", "one", reward=1.0),
        tokenized("taooe", "one", reward=1.0, window=1, owned_from=4, context_truncated=True),
        tokenized("caaa", "two", reward=0.0),
        tokenized("cgac", "three", reward=3.0, group_id="g1"),
    ]
    assert compile_batch(rollouts, EchoConfig()).counters == {
        "num_sequences": 4,
        "num_trajectories": 3,
        "num_trajectories_without_observation": 2,
        "num_repeated_tokens": 4,
        "num_context_tokens": 6,
        "num_action_tokens": 5,
        "num_env_output_tokens": 3,
        "num_warning_tokens": 2,
        "num_env_tokens": 3,
        "num_policy_tokens": 5,
        "num_dropped_actions_context_truncated": 0,
        "num_dropped_action_tokens_context_truncated": 0,
        "num_groups": 2,
        "num_zero_variance_groups": 1,
        "num_rollouts_ungraded_world_error": 0,
        "num_rollouts_ungraded_policy_error": 0,
        "num_rollouts_ungraded_timeout": 0,
        "num_env_tokens_excluded": 0,
        "num_env_tokens_low_entropy": 0,
        "num_env_tokens_disagreeing": 0,
    }


def test_every_counter_is_described_in_the_documentation():
    """Catches a counter that is logged without a definition (STYLE 36)."""
    page = (Path(__file__).parents[2] / "docs" / "objective.md").read_text()
    names = [*compile_batch([tokenized("cao")], FREE).counters, *EchoConfig.model_fields, *get_args(NormalizerName)]
    for table in (PolicyConfig, FilterConfig, NoiseConfig, ScheduleConfig):
        names += table.model_fields
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", SPLIT_FREE)
def test_windows_of_one_trajectory_are_one_sequence(name):
    """Catches windows that count as rollouts: an episode would weigh more because the context is short."""
    whole = tokenized("caowaow", "long")
    other = tokenized("caoo", "short")
    cut = [
        tokenized("caow", "long", token_ids=whole.token_ids[:4]),
        tokenized("owaow", "long", window=1, owned_from=2, token_ids=whole.token_ids[2:]),
    ]
    config = config_of(name, use_rl=False)
    in_one = compile_batch([whole, other], config).batch.env_weights
    in_two = compile_batch([*cut, other], config).batch.env_weights
    assert torch.equal(torch.cat([in_two[:4], in_two[6:]]), in_one)
    assert not in_two[4:6].any()


def test_branches_are_one_rollout_of_their_group():
    """Catches a group mean over branches: an episode whose template rewrote history would vote twice."""
    branches = [tokenized("cao", "one", reward=1.0), tokenized("caoao", "one", reward=1.0, branch=1, owned_from=3)]
    rest = [tokenized("cao", "two", reward=0.0)]
    config = EchoConfig(policy=PolicyConfig(advantage="group_mean"))
    advantages = compile_batch([*branches, *rest], config).batch.advantages
    assert advantages.tolist() == [0.5] * 8 + [-0.5] * 3


def test_an_action_that_lost_context_has_weight_zero_and_is_counted():
    """Catches an off-context action in the policy gradient, and a drop that weighs the others up."""
    rollouts = [
        tokenized("caoa", "one", reward=1.0),
        tokenized("oaaoa", "one", reward=1.0, window=1, owned_from=1, context_truncated=True),
        tokenized("cao", "two", reward=0.0),
    ]
    compiled = compile_batch(rollouts, EchoConfig())
    assert close(compiled.batch.policy_weights, [0, 0.1, 0, 0.1] + [0] * 5 + [0, 0.5, 0])
    assert compiled.batch.env_weights[7] > 0
    assert compiled.counters["num_dropped_actions_context_truncated"] == 2
    assert compiled.counters["num_dropped_action_tokens_context_truncated"] == 3
    assert compiled.counters["num_policy_tokens"] == 3


def test_source_coefficients_multiply_and_leave_the_targets_marked():
    """Catches a coefficient of 0 that also stops the logging, or that changes another source's weight."""
    plain = compile_batch([tokenized("caooe")], FREE).batch
    config = EchoConfig(use_rl=False, world_model_coeff=1.0, source_coeffs={"stderr": 0.0, "stdout": 2.0})
    batch = compile_batch([tokenized("caooe")], config).batch
    assert torch.equal(batch.env_weights, plain.env_weights * torch.tensor([1, 1, 2, 2, 0]))
    assert torch.equal(batch.env_targets, plain.env_targets)


def test_a_schedule_overrides_lambda():
    """Catches a schedule that is multiplied with the config's lambda instead of replacing it."""
    one = compile_batch([tokenized("caow")], EchoConfig(use_rl=False, world_model_coeff=0.4))
    two = compile_batch([tokenized("caow")], EchoConfig(use_rl=False), world_model_coeff=0.4)
    assert torch.equal(one.batch.env_weights, two.batch.env_weights)


def test_the_grader_is_a_target_only_when_told_so():
    """Catches grader output in the loss, which teaches the policy to predict its verifier (trap 9)."""
    assert not compile_batch([tokenized("cag")], FREE).batch.env_targets.any()
    config = EchoConfig(use_rl=False, grader_is_target=True, world_model_coeff=1.0)
    batch = compile_batch([tokenized("cag")], config).batch
    assert batch.env_weights.tolist() == [0, 0, 1]


def test_the_split_reaches_the_rule_that_needs_it():
    """Catches a mean per micro-batch that is computed over another split than the engine's."""
    sequences = [tokenized("cao", "one"), tokenized("caooo", "two"), tokenized("cao", "three")]
    config = EchoConfig(use_rl=False, normalizer="trl_token_mean", world_model_coeff=1.0)
    batch = compile_batch(sequences, config, micro_batch_index=[0, 0, 1]).batch
    assert close(batch.env_weights, [0, 0, 0.25, 0, 0, 0.25, 0.25, 0.25, 0, 0, 1])


@settings(deadline=None, max_examples=12)
@given(order=st.permutations(range(4)), name=st.sampled_from(SPLIT_FREE))
def test_the_order_of_the_sequences_changes_no_weight(order, name):
    """Catches a weight that depends on which sequence came first."""
    sequences = [
        tokenized("ctaoow", "one", reward=1.0),
        tokenized("caoao", "two", reward=0.25),
        tokenized("aoao", "two", reward=0.25, window=1, owned_from=2),
        tokenized("caw", "three", reward=3.0, group_id="g1"),
    ]
    config = config_of(name)
    straight = compile_batch(sequences, config).batch
    shuffled = compile_batch([sequences[k] for k in order], config).batch
    back = shuffled.select([order.index(k) for k in range(4)])
    assert torch.equal(back.policy_weights, straight.policy_weights)
    assert torch.equal(back.env_weights, straight.env_weights)
    torch.testing.assert_close(back.advantages, straight.advantages)


def test_the_source_arrays_are_not_shared_with_the_batch():
    """Catches an engine that writes into the batch and thereby into stored trajectories."""
    sequence = tokenized("cao")
    batch = compile_batch([sequence], FREE).batch
    before = sequence.token_ids.copy()
    batch.token_ids.zero_()
    assert np.array_equal(sequence.token_ids, before)


GOOD = {"reward": 1.0}


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([tokenized("cao", "one")], "needs a reward .* 'one'.*use_rl = false"),
        ([tokenized("cao", "one", reward=math.nan)], "needs a reward"),
        ([tokenized("cao", "one", reward=1.0, group_id=None)], "no group_id"),
        ([tokenized("cao", "one", reward=1.0, sampled=False)], "sampling log-prob .* 1 are unknown, in 'one'"),
        ([tokenized("cao", "one", reward=1.0, sampling_temperature=None)], "sampling temperature"),
        (
            [tokenized("cao", "one", **GOOD), tokenized("cao", "two", **GOOD, sampling_temperature=0.6)],
            r"one sampling temperature, found \[0.6, 0.8\]",
        ),
    ],
)
def test_use_rl_refuses_what_it_does_not_know(sequences, message):
    """Catches a guessed reward, group, log-prob or temperature; each would be a silent wrong gradient."""
    with pytest.raises(DataError, match=message):
        compile_batch(sequences, EchoConfig())
    assert compile_batch(sequences, FREE).batch.env_weights.any()


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one sequence"),
        ([tokenized("", "one")], "no token"),
        ([tokenized("cao", "one"), tokenized("cao", "one")], "occurs twice"),
        ([tokenized("cao", "one"), tokenized("cao", "one", window=1, reward=1.0)], "another reward or group"),
    ],
)
def test_a_step_that_contradicts_itself_is_refused(sequences, message):
    """Catches an observation that is trained twice in a step, and an episode with two rewards (trap 21)."""
    with pytest.raises(DataError, match=message):
        compile_batch(sequences, FREE)


def test_a_split_for_a_split_free_rule_is_refused_and_a_missing_one_too():
    """Catches a silent fallback from a per-micro-batch rule to another, or a split that has no effect."""
    with pytest.raises(ConfigError, match="takes no micro_batch_index"):
        compile_batch([tokenized("cao")], FREE, micro_batch_index=[0])
    config = EchoConfig(use_rl=False, normalizer="trl_token_mean")
    with pytest.raises(ConfigError, match="needs micro_batch_index"):
        compile_batch([tokenized("cao")], config)
    with pytest.raises(ConfigError, match="2 entries for 1"):
        compile_batch([tokenized("cao")], config, micro_batch_index=[0, 1])


@pytest.mark.parametrize("coeff", [-0.1, math.inf, math.nan])
def test_an_impossible_lambda_is_refused(coeff):
    """Catches a schedule that runs below zero and unlearns the world."""
    with pytest.raises(ConfigError, match="world_model_coeff"):
        compile_batch([tokenized("cao")], FREE, world_model_coeff=coeff)
