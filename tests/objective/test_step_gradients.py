"""Compiled steps through a real causal model in float64: the gradient does not depend on how the step is cut."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_builders import TinyCausalModel, add_gradients, tokenized

from envecho.losses import SPLIT_RULES, NormalizerName, batch_loss
from envecho.objective import EchoConfig, compile_batch

SPLIT_FREE = sorted(set(get_args(NormalizerName)) - SPLIT_RULES)
MODEL = TinyCausalModel()


def step(seed, config, **options):
    """Five sequences of four trajectories in two groups; one has no observation and one was cut."""
    sequences = [
        tokenized("ctaoowtaoe", "one", seed=seed, reward=1.0),
        tokenized("taoeao", "one", seed=seed, reward=1.0, window=1, owned_from=4, context_truncated=True),
        tokenized("caa", "two", seed=seed, reward=0.0),
        tokenized("caowwwww", "three", seed=seed, reward=0.5, group_id="g1"),
        tokenized("cawaoa", "four", seed=seed, reward=2.0, group_id="g1"),
    ]
    return compile_batch(sequences, config, **options).batch


def loss_of(batch, layout="packed", chunk_size=512):
    return batch_loss(MODEL.batch_states(batch, layout), MODEL.head, batch, chunk_size=chunk_size).loss


def config_of(name, **fields):
    return EchoConfig(normalizer=name, constant_length=7 if name == "constant_length" else None, **fields)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    name=st.sampled_from(SPLIT_FREE),
    order=st.permutations(range(5)),
    cuts=st.sets(st.integers(1, 4)),
    layouts=st.lists(st.sampled_from(["packed", "left", "right"]), min_size=5, max_size=5),
    chunk_size=st.integers(1, 8),
)
def test_any_cut_order_padding_and_packing_gives_the_same_gradient(seed, name, order, cuts, layouts, chunk_size):
    """Catches a denominator per micro-batch or rank (traps 15 and 16), and states read across a padding or a seam."""
    batch = step(seed, config_of(name, world_model_coeff=0.3))
    whole = MODEL.gradients(loss_of(batch))
    edges = [0, *sorted(cuts), 5]
    parts = [batch.select(list(order[a:b])) for a, b in itertools.pairwise(edges)]
    losses = [loss_of(part, layout, chunk_size) for part, layout in zip(parts, layouts, strict=False)]
    summed = add_gradients([MODEL.gradients(loss) for loss in losses])
    assert any(grad.any() for grad in whole)
    for one, other in zip(summed, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.stack(losses).sum(), loss_of(batch), rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**16), name=st.sampled_from(SPLIT_FREE), layout=st.sampled_from(["packed", "left"]))
def test_world_model_coeff_zero_is_grpo_bit_for_bit_and_still_logs(seed, name, layout):
    """Catches an environment term at lambda = 0 that moves the policy, or a baseline whose CE nobody can log."""
    config = config_of(name, world_model_coeff=0.0)
    observed = step(seed, config)
    assert observed.env_targets.any()
    without = step(seed, config_of(name, world_model_coeff=0.0, world_loss_target="stdout"))
    bare = type(without)(
        **{field: getattr(without, field) for field in without.token_fields()}
        | {"env_weights": torch.zeros(33), "env_targets": torch.zeros(33, dtype=torch.bool)},
        temperature=without.temperature,
        policy_loss=without.policy_loss,
    )
    one, other = (MODEL.gradients(loss_of(batch, layout, 3)) for batch in (observed, bare))
    assert any(grad.any() for grad in one)
    assert all(torch.equal(a.view(torch.int64), b.view(torch.int64)) for a, b in zip(one, other, strict=True))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**16), target=st.sampled_from(["env_only", "all", "stdout"]))
def test_without_rl_a_step_is_masked_cross_entropy(seed, target):
    """Catches a verifier-free run that trains anything but the targets, or at another scale."""
    config = EchoConfig(use_rl=False, world_model_coeff=1.0, normalizer="global_token_mean", world_loss_target=target)
    batch = step(seed, config)
    states = MODEL.batch_states(batch, "packed")
    rows = torch.nonzero(batch.env_weights).flatten()
    expected = torch.nn.functional.cross_entropy(states[rows - 1] @ MODEL.head.T, batch.token_ids[rows])
    loss = loss_of(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for one, other in zip(MODEL.gradients(loss), MODEL.gradients(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    assert batch.effective_lambda is None


@pytest.mark.parametrize("name", SPLIT_FREE)
def test_the_two_terms_add_up(name):
    """Catches terms that interact: ECHO is GRPO's gradient plus lambda times the environment's, and nothing else."""
    both, rl, env = (
        MODEL.gradients(loss_of(step(3, config)))
        for config in (
            config_of(name, world_model_coeff=0.25),
            config_of(name, world_model_coeff=0.0),
            config_of(name, world_model_coeff=1.0, use_rl=False),
        )
    )
    for whole, one, other in zip(both, rl, env, strict=True):
        torch.testing.assert_close(whole, one + 0.25 * other, rtol=1e-6, atol=1e-9)
