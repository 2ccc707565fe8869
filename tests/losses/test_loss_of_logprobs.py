"""`loss_of_logprobs`: the loss of `batch_loss`, from log-probs that somebody else computed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_batch_loss import make_batch, make_states

from envecho.losses import PolicyLossSpec, batch_loss, loss_of_logprobs


def all_logprobs(hidden, weight, batch):
    """Log-prob at T = 1 of every token from the state before it, differentiable; 0 at the first token of all."""
    logits = torch.log_softmax(hidden @ weight.T, dim=-1)
    read = logits[torch.arange(len(batch.token_ids) - 1), batch.token_ids[1:]]
    return torch.cat([torch.zeros(1, dtype=read.dtype), read])


def full_batch(seed, spec):
    """A batch at T = 1 that has everything which a policy loss may read."""
    batch = make_batch(seed, temperature=1.0)
    n = len(batch.token_ids)
    return dataclasses.replace(
        batch,
        sampling_logprobs=torch.full((n,), -2.5, dtype=torch.float64),
        proximal_logprobs=torch.full((n,), -2.4, dtype=torch.float64),
        reference_logprobs=torch.full((n,), -2.2, dtype=torch.float64),
        sequence_ratios=torch.full((n,), 1.1, dtype=torch.float64),
        kl_weights=0.3 * batch.policy_weights,
        policy_loss=spec,
    )


SPECS = {
    "grpo": PolicyLossSpec(),
    "grpo over proximal, capped": PolicyLossSpec(ratio_denominator="proximal", importance_cap=1.05),
    "cispo": PolicyLossSpec(name="cispo", clip_low=1.0, clip_high=4.0),
    "gspo": PolicyLossSpec(name="gspo"),
    "sft": PolicyLossSpec(name="sft", ratio_denominator="current"),
    "clipped env": PolicyLossSpec(env_nll_clip=2.0),
}


@pytest.mark.parametrize("name", SPECS)
def test_value_and_gradient_are_those_of_the_loss_from_hidden_states(name):
    """Catches a term that is left out, or a coefficient that an engine without logits would send wrongly."""
    batch = full_batch(4, SPECS[name])
    hidden, weight = make_states(4, batch)
    expected = batch_loss(hidden, weight, batch)
    found = loss_of_logprobs(all_logprobs(hidden, weight, batch), batch)
    for field in ("loss", "policy_loss", "env_loss", "kl_loss", "policy_logprobs", "env_logprobs", "clipped"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), equal_nan=True)
    for one, other in zip(
        torch.autograd.grad(found.loss, [hidden, weight]),
        torch.autograd.grad(expected.loss, [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_what_log_probs_at_one_cannot_tell_is_refused():
    """Catches an entropy bonus that is silently left out, and actions read at the wrong temperature."""
    batch = full_batch(4, PolicyLossSpec())
    zeros = torch.zeros(len(batch.token_ids), dtype=torch.float64)
    with pytest.raises(ValueError, match="another temperature"):
        loss_of_logprobs(zeros, dataclasses.replace(batch, temperature=0.8))
    with pytest.raises(ValueError, match="entropies"):
        loss_of_logprobs(zeros, dataclasses.replace(batch, entropy_weights=batch.policy_weights))
