"""One test for each mistake of METHOD section 4, "Loss", that weights and losses can make; each was seen shipped."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from step_builders import TinyCausalModel, tokenized

from envecho.losses import batch_loss, grpo_loss
from envecho.objective import EchoConfig, compile_batch

MODEL = TinyCausalModel(seed=1)


def run(batch):
    return batch_loss(MODEL.batch_states(batch, "packed"), MODEL.head, batch)


def group(*rewards, letters="caaoow"):
    return [tokenized(letters, f"rollout-{k}", reward=reward) for k, reward in enumerate(rewards)]


@pytest.mark.parametrize("temperature", [0.5, 0.8, 2.0])
def test_trap_13_the_cross_entropy_is_at_temperature_one_whatever_actions_were_sampled_at(temperature):
    """Catches CE from logits divided by the sampling temperature: wrong scale, calibration and nats."""
    batch = compile_batch(group(1.0, 0.0), EchoConfig()).batch
    hot = dataclasses.replace(batch, temperature=temperature)
    one, other = run(dataclasses.replace(batch, temperature=1.0)), run(hot)
    read = batch.env_targets
    assert torch.equal(one.env_logprobs[read], other.env_logprobs[read])
    assert torch.equal(one.env_loss, other.env_loss)
    assert not torch.equal(
        one.policy_logprobs[batch.policy_weights > 0], other.policy_logprobs[batch.policy_weights > 0]
    )


def test_trap_14_the_environment_term_is_not_divided_by_the_number_of_actions():
    """Catches an environment term that shrinks when the policy talks more, under the default rule."""
    short, long = (
        compile_batch(group(1.0, 0.0, letters="c" + "a" * actions + "oo"), EchoConfig()) for actions in (2, 30)
    )
    assert short.effective_lambda == pytest.approx(0.05)
    assert long.effective_lambda == pytest.approx(0.05)


def test_trap_15_a_token_has_one_weight_however_the_step_is_cut():
    """Catches a mean per micro-batch: the lone observation of a quiet one would outweigh many of a loud one."""
    sequences = [tokenized("cao", "quiet"), tokenized("ca" + "o" * 32, "loud")]
    config = EchoConfig(use_rl=False, normalizer="global_token_mean", world_model_coeff=1.0)
    batch = compile_batch(sequences, config).batch
    weights = torch.cat([batch.select([k]).env_weights for k in (0, 1)])
    assert weights[weights > 0].tolist() == pytest.approx([1 / 33] * 33)


def test_trap_16_accumulation_scales_both_terms_alike():
    """Catches a framework that divides its own loss by the accumulation steps and not the added term."""
    batch = compile_batch(group(1.0, 0.0, 0.5, 0.25), EchoConfig()).batch
    whole = run(batch)
    for parts in ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]):
        outs = [run(batch.select(part)) for part in parts]
        assert sum(out.policy_loss.item() for out in outs) == pytest.approx(whole.policy_loss.item())
        assert sum(out.env_loss.item() for out in outs) == pytest.approx(whole.env_loss.item())


def test_trap_17_a_surprising_observation_keeps_its_full_gradient():
    """Catches ECHO through an importance-sampling loss: with a placeholder the gradient is p times too small."""
    hidden = torch.tensor([[12.0], [0.0]], requires_grad=True)
    head = torch.tensor([[-1.0], [1.0]], requires_grad=True)
    config = EchoConfig(use_rl=False, world_model_coeff=1.0)
    sequence = tokenized("co", token_ids=torch.tensor([1, 0], dtype=torch.int32).numpy())
    batch = compile_batch([sequence], config).batch
    assert torch.isnan(batch.sampling_logprobs).all()
    out = batch_loss(hidden, head, batch)
    assert out.env_logprobs[1].item() == pytest.approx(-24)
    (grad,) = torch.autograd.grad(out.loss, [hidden])
    assert grad[0, 0].item() == pytest.approx(2.0)


def test_trap_17_a_placeholder_is_refused_where_a_ratio_would_read_it():
    """Catches NaN or infinity as the sampler's log-prob of an action."""
    logprobs, advantages = torch.tensor([-1.0, -2.0]), torch.ones(2)
    with pytest.raises(ValueError, match="finite"):
        grpo_loss(
            logprobs, advantages, denominator_logprobs=torch.tensor([-1.0, torch.nan]), clip_low=0.2, clip_high=0.2
        )


@pytest.mark.parametrize("normalizer", ["reference_sequence_mean", "global_token_mean", "verl_token_mean"])
def test_trap_18_environment_tokens_do_not_touch_the_policy_term(normalizer):
    """Catches observations in the loss mask: the action normaliser, the clip fraction and the loss would change."""
    outs = []
    for letters in ("caacaa", "caaoaa"):
        sequences = [
            tokenized(letters, f"rollout-{k}", reward=float(k), token_ids=tokenized("caaoaa").token_ids)
            for k in range(2)
        ]
        batch = compile_batch(sequences, EchoConfig(normalizer=normalizer)).batch
        batch = dataclasses.replace(batch, sampling_logprobs=torch.full((12,), -2.0))
        outs.append((batch.policy_weights, run(batch).policy_loss, run(batch).clipped))
    assert all(torch.equal(one, other) for one, other in zip(*outs, strict=True))


def test_trap_19_a_micro_batch_without_a_term_gives_zeros_and_the_same_keys():
    """Catches NaN from 0/0, a rank that hangs for want of a graph, and metric keys that differ between ranks."""
    sequences = [tokenized("ct", "silent", reward=1.0), tokenized("caaoo", "full", reward=0.0)]
    compiled = compile_batch(sequences, EchoConfig())
    silent = run(compiled.batch.select([0]))
    assert silent.loss.item() == 0
    gradients = torch.autograd.grad(silent.loss, [MODEL.head, MODEL.embedding])
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in gradients)
    alone = compile_batch([tokenized("ct", "silent")], EchoConfig(use_rl=False))
    assert alone.counters.keys() == compiled.counters.keys()
    assert alone.counters["num_trajectories_without_observation"] == 1


def test_trap_20_a_group_without_variance_keeps_its_environment_term():
    """Catches a zero-advantage filter: it deletes ECHO's signal exactly where reward gives none."""
    equal, varied = (compile_batch(group(*rewards), EchoConfig()) for rewards in ((0.0, 0.0), (1.0, 0.0)))
    assert equal.counters["num_zero_variance_groups"] == 1
    assert not equal.batch.advantages.any()
    assert torch.equal(equal.batch.env_weights, varied.batch.env_weights)
    out = run(equal.batch)
    assert out.policy_loss.item() == 0
    assert any(grad.any() for grad in MODEL.gradients(out.loss))


def test_trap_21_an_observation_that_two_branches_show_is_trained_once():
    """Catches an observation that several branches train, or that none does."""
    whole = tokenized("caoocao", "one")
    branches = [
        tokenized("caoo", "one", token_ids=whole.token_ids[:4]),
        tokenized("caoocao", "one", branch=1, owned_from=4, token_ids=whole.token_ids),
    ]
    config = EchoConfig(use_rl=False)
    batch = compile_batch(branches, config).batch
    assert int(batch.env_targets.sum()) == int(compile_batch([whole], config).batch.env_targets.sum()) == 3
    assert float(batch.env_weights.sum()) == pytest.approx(0.05)


def test_trap_23_a_step_that_selects_nothing_says_so():
    """Catches ECHO that is configured and absent: nobody would notice that no token was selected."""
    compiled = compile_batch(group(1.0, 0.0, letters="caaww"), EchoConfig())
    assert compiled.counters["num_env_tokens"] == 0
    assert compiled.counters["num_warning_tokens"] == 4
    assert compiled.effective_lambda == 0


def test_trap_24_a_step_in_which_nothing_was_correct_divides_by_nothing():
    """Catches a correct share of 0.0 as a divisor: failed rollouts would turn the step into NaN."""
    for normalizer in ("reference_sequence_mean", "sequence_mean_selected", "global_token_mean", "verl_token_mean"):
        batch = compile_batch(group(0.0, 0.0, 0.0), EchoConfig(normalizer=normalizer)).batch
        assert batch.env_weights.sum() > 0
        out = run(batch)
        assert torch.isfinite(out.loss)
        assert all(torch.isfinite(grad).all() for grad in MODEL.gradients(out.loss))
