"""Every policy loss and every term beside it, against a loop written for reading: values, gradients, reductions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch_loss import make_batch, make_states

from envecho.errors import DataError
from envecho.losses import (
    PolicyLossSpec,
    batch_loss,
    cispo_loss,
    grpo_loss,
    gspo_loss,
    kl_to_reference,
    policy_preset,
    sequence_ratios,
    truncated_importance_weights,
)

NAMES = ("grpo", "cispo", "gspo", "sft")


def full_batch(seed: int, name: str, *, cap: float | None = 1.2, clip: float | None = 2.0):
    """A batch in which every term has weight, some tokens of each term alone."""
    generator = torch.Generator().manual_seed(seed + 7)
    batch = make_batch(seed)
    n = len(batch.token_ids)
    noise = torch.rand(5, n, generator=generator, dtype=torch.float64)
    later = batch.positions > 0
    return dataclasses.replace(
        batch,
        sampling_logprobs=-3 * noise[0],
        proximal_logprobs=-3 * noise[1],
        reference_logprobs=-3 * noise[2],
        sequence_ratios=0.5 + noise[3],
        kl_weights=0.3 * noise[3] * later * (noise[4] > 0.4),
        entropy_weights=0.2 * noise[4] * later * (noise[3] > 0.4),
        policy_loss=PolicyLossSpec(
            name=name,
            clip_low=0.2,
            clip_high=0.3,
            ratio_denominator="proximal",
            importance_cap=cap,
            env_nll_clip=clip,
        ),
    )


def slow_policy_token(logprob, i, batch):
    """One token's policy loss as the paper writes it."""
    spec, advantage = batch.policy_loss, batch.advantages[i]
    low, high = 1 - spec.clip_low, 1 + spec.clip_high
    if spec.name == "sft":
        loss = -advantage * logprob
    elif spec.name == "cispo":
        ratio = torch.exp(logprob - batch.proximal_logprobs[i]).detach()
        loss = -ratio.clamp(low, high) * advantage * logprob
    else:
        if spec.name == "gspo":
            ratio = batch.sequence_ratios[i] * torch.exp(logprob - logprob.detach())
        else:
            ratio = torch.exp(logprob - batch.proximal_logprobs[i])
        limited = ratio.clamp(low, high)
        loss = -torch.minimum(ratio * advantage, limited * advantage)
    if spec.importance_cap is not None:
        weight = math.exp(float(batch.proximal_logprobs[i] - batch.sampling_logprobs[i]))
        loss = loss * min(weight, spec.importance_cap)
    return loss


def slow_terms(hidden, weight, batch):
    """The formula of `WeightedBatch` with all its terms, one token at a time, from full logits."""
    sums = {name: hidden.new_zeros(()) for name in ("policy", "env", "kl", "entropy")}
    for i in range(1, len(batch.token_ids)):
        logits = weight @ hidden[i - 1]
        chosen = torch.log_softmax(logits / batch.temperature, dim=0)
        logprob = chosen[batch.token_ids[i]]
        if batch.policy_weights[i]:
            sums["policy"] = sums["policy"] + batch.policy_weights[i] * slow_policy_token(logprob, i, batch)
        difference = batch.reference_logprobs[i] - logprob
        sums["kl"] = sums["kl"] + batch.kl_weights[i] * (torch.exp(difference) - difference - 1)
        sums["entropy"] = sums["entropy"] + batch.entropy_weights[i] * (chosen.exp() * chosen).sum()
        nll = -torch.log_softmax(logits, dim=0)[batch.token_ids[i]]
        clip = batch.policy_loss.env_nll_clip
        sums["env"] = sums["env"] + batch.env_weights[i] * (nll if clip is None else nll.clamp(max=clip))
    return sums


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**20), chunk_size=st.integers(1, 9))
def test_every_loss_with_every_term_is_the_slow_formula_in_value_and_gradient(name, seed, chunk_size):
    """Catches a clip on the wrong side, a gradient through a ratio that is data, KL or entropy of the wrong sign."""
    batch = full_batch(seed, name)
    hidden, weight = make_states(seed, batch)
    out = batch_loss(hidden, weight, batch, chunk_size=chunk_size)
    slow = slow_terms(hidden, weight, batch)
    for fast, key in ((out.policy_loss, "policy"), (out.env_loss, "env"), (out.kl_loss, "kl")):
        torch.testing.assert_close(fast, slow[key].detach(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(out.entropy_loss, slow["entropy"].detach(), rtol=1e-9, atol=1e-11)
    total = sum(slow.values())
    torch.testing.assert_close(out.loss, total, rtol=1e-9, atol=1e-11)
    fast_grads = torch.autograd.grad(out.loss, [hidden, weight])
    for one, other in zip(fast_grads, torch.autograd.grad(total, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_trap_15_the_parts_of_a_batch_add_up_to_the_whole_with_every_term_on(name):
    """Catches a mean per micro-batch in any term: gradients would depend on the split."""
    batch = full_batch(5, name)
    hidden, weight = make_states(5, batch)
    whole = torch.autograd.grad(batch_loss(hidden, weight, batch).loss, [hidden, weight])
    added = [torch.zeros_like(hidden), torch.zeros_like(weight)]
    for sequence in (2, 0, 1):
        rows = torch.nonzero(batch.sequence_index == sequence).flatten()
        part = batch.select([sequence])
        loss = batch_loss(hidden[rows], weight, part, chunk_size=2).loss
        for total, grad in zip(added, torch.autograd.grad(loss, [hidden, weight], allow_unused=True), strict=True):
            total += 0 if grad is None else grad
    for one, other in zip(whole, added, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_trap_19_a_part_without_any_action_or_observation_is_a_connected_zero_with_every_term_configured():
    """Catches NaN from an empty mean, and a backward pass that does not reach the weights."""
    batch = full_batch(1, "gspo")
    nothing = torch.zeros(len(batch.token_ids))
    names = ("policy_weights", "env_weights", "kl_weights", "entropy_weights")
    batch = dataclasses.replace(batch, **dict.fromkeys(names, nothing), env_targets=nothing.bool())
    hidden, weight = make_states(1, batch)
    out = batch_loss(hidden, weight, batch)
    grads = torch.autograd.grad(out.loss, [hidden, weight])
    assert out.loss.item() == 0
    assert all((grad == 0).all() for grad in grads)


def test_cispo_keeps_the_gradient_of_a_clipped_token_and_grpo_loses_it():
    """Catches CISPO built on PPO's minimum: rare tokens would lose their gradient."""
    logprob = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    data = {"denominator_logprobs": torch.tensor([-3.0], dtype=torch.float64), "clip_low": 1.0, "clip_high": 0.2}
    advantage = torch.tensor([1.5], dtype=torch.float64)
    for loss, gradient in ((cispo_loss, -1.2 * 1.5), (grpo_loss, 0.0)):
        values, clipped = loss(logprob, advantage, **data)
        assert clipped.all()
        assert torch.autograd.grad(values.sum(), logprob)[0].item() == pytest.approx(gradient)


def test_gspo_of_sequences_of_one_token_is_grpo():
    """Catches a sequence ratio that is not the mean of its tokens' log-ratios."""
    generator = torch.Generator().manual_seed(0)
    logprobs = -3 * torch.rand(6, generator=generator, dtype=torch.float64)
    denominators = -3 * torch.rand(6, generator=generator, dtype=torch.float64)
    advantages = torch.randn(6, generator=generator, dtype=torch.float64)
    logprobs.requires_grad_()
    ratios = sequence_ratios(
        logprobs, denominators, action_mask=torch.ones(6, dtype=torch.bool), trajectory_index=torch.arange(6)
    )
    ours = gspo_loss(logprobs, advantages, sequence_ratios=ratios, clip_low=0.2, clip_high=0.3)
    theirs = grpo_loss(logprobs, advantages, denominator_logprobs=denominators, clip_low=0.2, clip_high=0.3)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(values.sum(), logprobs)[0] for values, _ in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=0)


def test_gspo_has_the_gradient_of_the_sequence_objective():
    """Catches a per-token form whose mean is not GSPO: s = exp(mean log-ratio), loss -min(s A, clip(s) A)."""
    logprobs = torch.tensor([-1.0, -0.4, -2.0], dtype=torch.float64, requires_grad=True)
    denominators = torch.tensor([-1.1, -0.5, -1.8], dtype=torch.float64)
    advantage = torch.full((3,), 0.7, dtype=torch.float64)
    s = torch.exp((logprobs - denominators).mean())
    direct = -torch.minimum(s * 0.7, s.clamp(0.8, 1.2) * 0.7)
    mask, one = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    ratios = sequence_ratios(logprobs, denominators, action_mask=mask, trajectory_index=one)
    values, _ = gspo_loss(logprobs, advantage, sequence_ratios=ratios, clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(values.mean(), direct)
    expected = torch.autograd.grad(direct, logprobs)[0]
    torch.testing.assert_close(torch.autograd.grad(values.mean(), logprobs)[0], expected)


def test_sequence_ratios_count_the_actions_of_a_trajectory_over_all_its_branches():
    """Catches ratios per branch, observations in the mean, and NaN from tokens that no sampler drew."""
    logprobs = torch.tensor([-1.0, -9.0, -2.0, -1.0], dtype=torch.float64)
    denominators = torch.tensor([-1.5, math.nan, -2.1, -1.0], dtype=torch.float64)
    ratios = sequence_ratios(
        logprobs,
        denominators,
        action_mask=torch.tensor([True, False, True, True]),
        trajectory_index=torch.tensor([0, 0, 0, 1]),
    )
    assert ratios.tolist() == pytest.approx([math.exp(0.3), 1.0, math.exp(0.3), 1.0])


def test_importance_weights_are_truncated_above_and_never_below():
    """Catches a two-sided clip: where the sampler was overconfident the weight must stay small."""
    proximal, sampling = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([-1.0, -3.0, -1.0])
    found = truncated_importance_weights(proximal, sampling, cap=2.0)
    assert found.tolist() == pytest.approx([1.0, 2.0, math.exp(-2)])


def test_a_cap_above_every_ratio_and_equal_policies_change_nothing():
    """Catches truncated importance sampling that rescales the loss where sampler and trainer agree."""
    batch = full_batch(3, "grpo", cap=None)
    hidden, weight = make_states(3, batch)
    same = dataclasses.replace(batch, sampling_logprobs=batch.proximal_logprobs)
    capped = dataclasses.replace(same, policy_loss=dataclasses.replace(batch.policy_loss, importance_cap=1.0))
    assert torch.equal(batch_loss(hidden, weight, same).loss, batch_loss(hidden, weight, capped).loss)


@settings(deadline=None, max_examples=30)
@given(logprob=st.floats(-8, 0), reference=st.floats(-8, 0))
def test_the_kl_estimate_is_never_negative_and_zero_for_equal_policies(logprob, reference):
    """Catches reference and policy exchanged in one of the two places where they stand."""
    value = kl_to_reference(torch.tensor([logprob]), torch.tensor([reference])).item()
    assert value >= -1e-6
    assert kl_to_reference(torch.tensor([logprob]), torch.tensor([logprob])).item() == 0


def test_the_kl_estimate_is_unbiased_over_the_policy():
    """Catches k3 of the wrong direction: its mean under the policy is KL(policy || reference)."""
    generator = torch.Generator().manual_seed(1)
    policy = torch.log_softmax(torch.randn(7, generator=generator, dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.randn(7, generator=generator, dtype=torch.float64), 0)
    mean = (policy.exp() * kl_to_reference(policy, reference)).sum()
    torch.testing.assert_close(mean, (policy.exp() * (policy - reference)).sum())


def test_a_clipped_environment_token_has_its_value_and_no_gradient():
    """Catches clipping that scales the gradient instead of ending it."""
    batch = full_batch(2, "sft", clip=0.01)
    only_env = dataclasses.replace(
        batch,
        policy_weights=torch.zeros_like(batch.policy_weights),
        kl_weights=torch.zeros_like(batch.kl_weights),
        entropy_weights=torch.zeros_like(batch.entropy_weights),
    )
    hidden, weight = make_states(2, only_env)
    out = batch_loss(hidden, weight, only_env)
    torch.testing.assert_close(out.env_loss, 0.01 * only_env.env_weights.sum())
    assert all((grad == 0).all() for grad in torch.autograd.grad(out.loss, [hidden, weight]))


@pytest.mark.parametrize(
    ("field", "name"),
    [("reference_logprobs", "grpo"), ("sequence_ratios", "gspo"), ("proximal_logprobs", "cispo")],
)
def test_trap_17_data_that_a_term_needs_and_does_not_have_is_refused(field, name):
    """Catches a placeholder where a log-prob or ratio is missing."""
    batch = dataclasses.replace(full_batch(0, name), **{field: None})
    with pytest.raises(DataError, match=field):
        batch_loss(*make_states(0, batch), batch)


def test_presets_are_what_the_papers_say():
    """Catches a Dr. GRPO with a standard deviation or a length, and a DAPO without its higher clip."""
    assert policy_preset("dr_grpo").advantage == "group_mean"
    assert policy_preset("dr_grpo").normalizer == "constant_length"
    dapo = policy_preset("dapo")
    assert (dapo.clip_low, dapo.clip_high, dapo.normalizer) == (0.2, 0.28, "global_token_mean")
    assert policy_preset("cispo").clip_low == 1.0
    assert (policy_preset("gspo").clip_low, policy_preset("gspo").clip_high) == (3e-4, 4e-4)
    assert policy_preset("sft").advantage is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"importance_cap": 2.0}, "expected 'proximal'"),
        ({"importance_cap": 0.0, "ratio_denominator": "proximal"}, "importance_cap is 0.0"),
        ({"env_nll_clip": -1.0}, "env_nll_clip is -1.0"),
        ({"clip_low": -0.1}, "clip_low is -0.1"),
    ],
)
def test_a_policy_loss_that_makes_no_sense_is_refused_by_name(change, message):
    """Catches truncated importance sampling over a ratio that holds the mismatch already: it would count twice."""
    with pytest.raises(ValueError, match=message):
        PolicyLossSpec(**change)


@pytest.mark.parametrize("name", ["grpo", "cispo"])
def test_a_clip_that_never_binds_at_ratio_one_is_the_plain_policy_gradient(name):
    """Catches a ratio that leaks into the gradient where both policies are the same."""
    batch = dataclasses.replace(full_batch(4, name), policy_loss=PolicyLossSpec(name=name, ratio_denominator="current"))
    plain = dataclasses.replace(batch, policy_loss=PolicyLossSpec(name="sft"))
    states = make_states(4, batch)
    grads = [torch.autograd.grad(batch_loss(*states, part).loss, states) for part in (batch, plain)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_sft_with_advantages_of_one_is_the_mean_cross_entropy_of_the_actions():
    """Catches trap 17: a ratio against a placeholder, under which surprising tokens would have no gradient."""
    batch = make_batch(0, sampling_logprobs=torch.full((13,), torch.nan), env_weights=torch.zeros(13))
    actions = batch.policy_weights != 0
    assert actions.any()
    batch = dataclasses.replace(
        batch,
        policy_weights=actions / actions.sum(),
        advantages=torch.ones(13, dtype=torch.float64),
        temperature=1.0,
        policy_loss=PolicyLossSpec(name="sft"),
    )
    hidden, weight = make_states(0, batch)
    logits = (hidden @ weight.T)[torch.nonzero(actions).flatten() - 1]
    expected = torch.nn.functional.cross_entropy(logits, batch.token_ids[actions])
    found = batch_loss(hidden, weight, batch).loss
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(loss, [hidden, weight]) for loss in (found, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_trap_13_the_sampling_temperature_reaches_every_term_but_the_environment(name):
    """Catches a cross-entropy from divided logits: wrong scale, wrong nats."""
    batch = full_batch(6, name)
    warm = dataclasses.replace(batch, temperature=1.7)
    states = make_states(6, batch)
    one, other = batch_loss(*states, batch), batch_loss(*states, warm)
    assert torch.equal(one.env_loss, other.env_loss)
    # The value of GSPO is its given ratios'; its gradient is where the temperature is.
    terms = ("kl_loss", "entropy_loss") if name == "gspo" else ("policy_loss", "kl_loss", "entropy_loss")
    for term in terms:
        assert not torch.equal(getattr(one, term), getattr(other, term))


@pytest.mark.parametrize("name", NAMES)
def test_trap_18_environment_tokens_change_nothing_that_the_policy_side_reports(name):
    """Catches observation tokens in the entropy, the KL, the clip marks or the policy's normaliser."""
    batch = full_batch(8, name)
    bare = dataclasses.replace(
        batch, env_weights=torch.zeros_like(batch.env_weights), env_targets=torch.zeros_like(batch.env_targets)
    )
    states = make_states(8, batch)
    one, other = batch_loss(*states, batch), batch_loss(*states, bare)
    for term in ("policy_loss", "kl_loss", "entropy_loss", "policy_logprobs", "entropies", "clipped"):
        torch.testing.assert_close(getattr(one, term), getattr(other, term), rtol=0, atol=0, equal_nan=True)
    read = torch.isfinite(one.entropies)
    assert torch.equal(read, (batch.policy_weights != 0) | (batch.kl_weights != 0) | (batch.entropy_weights != 0))
