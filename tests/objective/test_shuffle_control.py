"""The batch of the shuffle control: the policy term of one set of rollouts, the environment term of another."""

from __future__ import annotations

import pytest
import torch
from step_builders import TinyCausalModel, tokenized

from envecho.errors import DataError
from envecho.losses import batch_loss
from envecho.objective import EchoConfig, NoiseConfig, PolicyConfig, compile_batch, compile_with_shuffled_env
from envecho.objective.shuffle import SUFFIX

MODEL = TinyCausalModel(seed=2)
NUM_TRUE = 12
CONFIG = EchoConfig(world_model_coeff=0.5)


def true_step():
    return [
        tokenized("caaoow", "one", reward=1.0),
        tokenized("caoooo", "two", reward=0.0),
    ]


def shuffled_step():
    """The same actions; each rollout has the other's observations, so lengths change too."""
    return [
        tokenized("caaooooo", "one" + SUFFIX, reward=1.0),
        tokenized("caoo", "two" + SUFFIX, reward=0.0),
    ]


def gradients(batch):
    return MODEL.gradients(batch_loss(MODEL.batch_states(batch, "packed"), MODEL.head, batch).loss)


@pytest.mark.parametrize("name", ["reference_sequence_mean", "sequence_mean_selected", "global_token_mean"])
def test_the_control_weighs_each_term_as_its_own_step_would(name):
    """Catches a denominator over both sets of sequences (half the policy term), and true observations that are
    trained too: then the control would not be one."""
    config = EchoConfig(world_model_coeff=0.5, normalizer=name)
    batch = compile_with_shuffled_env(true_step(), shuffled_step(), config).batch
    plain = compile_batch(true_step(), config).batch
    assert torch.equal(batch.policy_weights[:NUM_TRUE], plain.policy_weights)
    assert torch.equal(batch.advantages[:NUM_TRUE], plain.advantages)
    assert not batch.env_weights[:NUM_TRUE].any()
    assert not batch.policy_weights[NUM_TRUE:].any()
    alone = compile_batch(shuffled_step(), EchoConfig(world_model_coeff=0.5, normalizer=name, use_rl=False)).batch
    assert torch.equal(batch.env_weights[NUM_TRUE:], alone.env_weights)
    assert alone.env_weights.any()


def test_the_gradient_of_the_control_is_the_sum_of_its_two_steps():
    """Catches a joined batch whose sequences see each other, or whose environment rows no engine reads because they
    are not logged."""
    batch = compile_with_shuffled_env(true_step(), shuffled_step(), CONFIG).batch
    policy = compile_batch(true_step(), CONFIG, world_model_coeff=0.0).batch
    env = compile_batch(shuffled_step(), CONFIG.model_copy(update={"use_rl": False})).batch
    parts = [gradients(policy), gradients(env)]
    assert all(any(grad.any() for grad in part) for part in parts)
    for whole, one, other in zip(gradients(batch), *parts, strict=True):
        torch.testing.assert_close(whole, one + other, rtol=1e-9, atol=1e-12)


def test_trap_28_the_control_logs_the_true_observations():
    """Catches an environment CE of the control that is measured on shuffled text: no arm could be compared with it."""
    compiled = compile_with_shuffled_env(true_step(), shuffled_step(), CONFIG)
    plain = compile_batch(true_step(), CONFIG)
    assert torch.equal(compiled.batch.env_targets[:NUM_TRUE], plain.batch.env_targets)
    assert not compiled.batch.env_targets[NUM_TRUE:].any()
    assert compiled.counters == plain.counters
    assert compiled.trajectory_index.tolist() == [0] * 6 + [1] * 6 + [2] * 8 + [3] * 4


def test_a_filtered_rollout_is_filtered_in_the_control_too():
    """Catches an exclusion that is looked up by the true id and so leaves the shuffled copy in."""
    compiled = compile_with_shuffled_env(true_step(), shuffled_step(), CONFIG, excluded_env={"one": "incorrect"})
    assert not compiled.batch.env_weights[NUM_TRUE : NUM_TRUE + 8].any()
    assert compiled.batch.env_weights[NUM_TRUE + 8 :].any()
    assert compiled.counters["num_rollouts_env_excluded_incorrect"] == 1


def test_the_control_refuses_copies_of_other_rollouts():
    """Catches shuffled sequences of the step before."""
    with pytest.raises(DataError, match="not those of the step"):
        compile_with_shuffled_env(true_step(), shuffled_step()[:1], CONFIG)


@pytest.mark.parametrize("loss", ["grpo", "cispo", "gspo", "dapo"])
def test_without_lambda_every_policy_field_is_that_of_a_step_without_observations(loss):
    """Catches (METHOD trap 18) a policy field that the environment term touches at lambda = 0: not one bit may differ
    between a step whose observations are targets, one whose targets are others, and the control."""
    fields = [
        "token_ids",
        "policy_weights",
        "advantages",
        "kl_weights",
        "entropy_weights",
        "sampling_logprobs",
    ]
    policy = PolicyConfig(loss=loss, kl_coeff=0.1, entropy_coeff=0.01)
    configs = [
        EchoConfig(world_model_coeff=0.0, policy=policy),
        EchoConfig(world_model_coeff=0.7, policy=policy, world_loss_target="all"),
        EchoConfig(world_model_coeff=0.7, policy=policy, noise=NoiseConfig(nll_clip=3.0)),
    ]
    batches = [compile_batch(true_step(), config).batch for config in configs]
    batches.append(compile_with_shuffled_env(true_step(), shuffled_step(), configs[1]).batch)
    assert not batches[0].env_weights.any()
    assert batches[0].policy_weights.any()
    for batch in batches[1:]:
        for name in fields:
            one, other = getattr(batches[0], name), getattr(batch, name)[:NUM_TRUE]
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), name
