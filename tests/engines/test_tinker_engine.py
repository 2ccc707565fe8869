"""`TinkerEngine` over a server in this process: the server's gradient is that of our loss, whatever it divides by."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from batches import VOCAB_SIZE, random_batch
from peft import PeftModel
from tinker_fake import FakeService
from transformers import AutoModelForCausalLM

from envecho.engines.check import check_engine
from envecho.engines.tinker import TinkerEngine, measure_server
from envecho.engines.tinker.checkpoints import unpack_adapter
from envecho.errors import EngineError
from envecho.losses import PolicyLossSpec, batch_loss
from envecho.seam import AdamParams, SamplingParams, ScoreRequest, TurnRequest

REDUCTIONS = ("sum", "sequence_mean")
STEP = AdamParams(learning_rate=1e-2, grad_clip_norm=None)


def open_fake(folder, reduction="sum", **options):
    service = FakeService(folder, reduction, **options)
    engine = TinkerEngine(service, facts=measure_server(service), rank=2, seed=5, max_context_tokens=64)
    service.calls.clear()
    return engine, service


def moved(engine, batch):
    """Take two steps, so that no factor of the LoRA weights is 0 and every gradient is full."""
    for _ in range(2):
        engine.forward_backward(batch)
        engine.optim_step(STEP)


def expected_gradient(model, batch):
    """The gradient of `batch_loss` through the same network, sequence by sequence."""
    model.network.zero_grad()
    inner = model.network.get_base_model()
    total = 0.0
    for number in range(batch.num_sequences):
        part = batch.select([number])
        hidden = inner.model(input_ids=part.token_ids[None], use_cache=False).last_hidden_state[0]
        out = batch_loss(hidden, inner.lm_head.weight, part)
        if out.loss.requires_grad:
            out.loss.backward()
        total += float(out.loss.detach())
    found = {n: v.grad.clone() for n, v in model.network.named_parameters() if v.requires_grad and v.grad is not None}
    model.network.zero_grad()
    return total, found


def full_batch(spec=None, *, seed=1, lengths=(9, 5, 12, 7), kl=0.0):
    """Actions and observations at T = 1, with all that a policy loss may read."""
    batch = random_batch(list(lengths), seed=seed, policy=True)
    n = len(batch.token_ids)
    return dataclasses.replace(
        batch,
        temperature=1.0,
        proximal_logprobs=torch.full((n,), -3.1),
        reference_logprobs=torch.full((n,), -2.9),
        sequence_ratios=torch.full((n,), 1.05),
        kl_weights=kl * batch.policy_weights,
        policy_loss=spec or PolicyLossSpec(),
    )


SPECS = {
    "grpo": PolicyLossSpec(),
    "grpo over the current policy": PolicyLossSpec(ratio_denominator="current"),
    "grpo over proximal, capped": PolicyLossSpec(ratio_denominator="proximal", importance_cap=1.05),
    "cispo": PolicyLossSpec(name="cispo", clip_low=1.0, clip_high=4.0),
    "gspo": PolicyLossSpec(name="gspo"),
    "sft": PolicyLossSpec(name="sft", ratio_denominator="current"),
    "clipped env": PolicyLossSpec(env_nll_clip=2.0, ratio_denominator="current"),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", SPECS)
def test_the_servers_gradient_is_that_of_our_loss(tiny_qwen3, name, reduction):
    """Catches a coefficient of another loss, and a division by the server that nobody takes back."""
    engine, service = open_fake(tiny_qwen3, reduction)
    batch = full_batch(SPECS[name], kl=0.2 if name == "grpo" else 0.0)
    moved(engine, batch)
    loss, expected = expected_gradient(service.models[-1], batch)
    out = engine.forward_backward(batch)
    found = service.models[-1].gradients()
    assert found.keys() == expected.keys()
    difference = sum(float((found[n] - g).square().sum()) for n, g in expected.items())
    assert math.sqrt(difference / sum(float(g.square().sum()) for g in expected.values())) < 1e-6
    assert out.loss == pytest.approx(loss, rel=1e-6)
    assert np.array_equal(np.isfinite(out.env_logprobs), batch.env_targets.numpy())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_calls_before_a_step_add_up_however_a_batch_is_cut(tiny_qwen3, reduction):
    """Catches a mean over rows that a second call changes under the rows of the first."""
    batch = full_batch()
    gradients = []
    for cuts in ([[0, 1, 2, 3]], [[3], [1, 0], [2]]):
        engine, service = open_fake(tiny_qwen3, reduction)
        moved(engine, batch)
        for cut in cuts:
            engine.forward_backward(batch.select(cut))
        gradients.append(service.models[-1].gradients())
    for name, one in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], one, rtol=1e-5, atol=1e-9)


def test_both_terms_travel_in_one_backward_pass(tiny_qwen3):
    """Catches a second pass that nobody needs, and sequences without a weight that are trained for nothing."""
    engine, service = open_fake(tiny_qwen3)
    engine.forward_backward(full_batch(PolicyLossSpec(ratio_denominator="current")))
    assert service.calls == [("forward_backward", 4)]
    service.calls.clear()
    engine.forward_backward(full_batch(PolicyLossSpec(ratio_denominator="sampling")))
    assert service.calls == [("forward", 4), ("forward_backward", 4)]
    service.calls.clear()
    batch = full_batch()
    first = batch.sequence_index == 0
    batch = dataclasses.replace(
        batch, policy_weights=batch.policy_weights * first, env_weights=batch.env_weights * first
    )
    engine.forward_backward(dataclasses.replace(batch, policy_loss=PolicyLossSpec(ratio_denominator="current")))
    assert service.calls == [("forward_backward", 1), ("forward", 3)]


def test_observing_logs_cross_entropy_and_leaves_the_gradient_bit_for_bit(tiny_qwen3):
    """Catches targets of weight 0 that change a coefficient or the number of rows."""
    batch = full_batch()
    silent = dataclasses.replace(batch, env_weights=torch.zeros_like(batch.env_weights))
    plain = dataclasses.replace(silent, env_targets=torch.zeros_like(batch.env_targets))
    gradients = []
    for one in (silent, plain):
        engine, service = open_fake(tiny_qwen3, "sequence_mean")
        out = engine.forward_backward(one)
        gradients.append(service.models[-1].gradients())
        assert np.isfinite(out.env_logprobs).sum() == int(one.env_targets.sum())
    assert all(torch.equal(gradients[1][name], one) for name, one in gradients[0].items())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_engine_keeps_the_seams_contract(tiny_qwen3, tmp_path, reduction):
    """Catches any verb that does not do what the seam says."""
    engine, _ = open_fake(tiny_qwen3, reduction, norm_metric="server/grad_norm")
    report = check_engine(engine, tmp_path, vocab_size=VOCAB_SIZE, tolerance=1e-3)
    assert not report.failures, str(report)


def test_how_a_server_sums_is_measured(tiny_qwen3):
    """Catches a reduction that is assumed: lambda would be lost in a division."""
    plain = measure_server(FakeService(tiny_qwen3, "sum"))
    assert (plain.reduction, plain.clips_gradients, plain.grad_norm_metric) == ("sum", True, None)
    other = measure_server(FakeService(tiny_qwen3, "sequence_mean", clips=False, norm_metric="x/grad_norm:mean"))
    assert (other.reduction, other.clips_gradients) == ("sequence_mean", False)
    assert other.grad_norm_metric == "x/grad_norm:mean"
    assert not measure_server(FakeService(tiny_qwen3, "sum", tells_all=False)).tells_all_logprobs


@pytest.mark.parametrize(
    "options", [{"reduction": "mean_of_calls"}, {"reduction": "sequence_mean", "heeds_pin": False}]
)
def test_a_server_that_sums_in_another_way_is_refused(tiny_qwen3, options):
    """Catches training through a ratio over placeholder log-probs, and means that nobody can take back."""
    with pytest.raises(EngineError, match="way that is not known"):
        measure_server(FakeService(tiny_qwen3, **options))


def test_log_probs_are_scored_apart_where_a_backward_pass_does_not_tell_them(tiny_qwen3):
    """Catches log-probs of a few tokens that are taken for those of all."""
    engine, service = open_fake(tiny_qwen3, tells_all=False)
    batch = full_batch(PolicyLossSpec(ratio_denominator="current"))
    out = engine.forward_backward(batch)
    assert service.calls == [("forward", 4), ("forward_backward", 4)]
    assert np.isfinite(out.env_logprobs[batch.env_targets.numpy()]).all()


def test_what_the_api_cannot_do_is_refused_with_its_reason(tiny_qwen3):
    """Catches a term that is silently left out or read at the wrong temperature."""
    engine, _ = open_fake(tiny_qwen3, clips=False)
    batch = full_batch()
    with pytest.raises(EngineError, match=r"temperature 0\.8"):
        engine.forward_backward(dataclasses.replace(batch, temperature=0.8))
    with pytest.raises(EngineError, match="entropy_coeff = 0"):
        engine.forward_backward(dataclasses.replace(batch, entropy_weights=batch.policy_weights))
    with pytest.raises(EngineError, match="context 64"):
        engine.forward_backward(random_batch([65], seed=0))
    with pytest.raises(EngineError, match="never leave the server"):
        engine.term_gradients(batch)
    request = ScoreRequest(token_ids=np.array([1, 2], dtype=np.int32), read=np.array([False, True]))
    with pytest.raises(EngineError, match="T = 1 alone"):
        engine.logprobs([request], temperature=0.8)
    with pytest.raises(EngineError, match="nothing else of a distribution"):
        engine.logprobs([request], with_entropies=True)
    engine.forward_backward(batch)
    with pytest.raises(EngineError, match="grad_clip_norm = inf"):
        engine.optim_step(AdamParams(learning_rate=1e-3, grad_clip_norm=1.0))
    assert engine.optim_step(AdamParams(learning_rate=1e-3, grad_clip_norm=math.inf)) is None
    assert {"term_gradients", "grad_norm", "grad_clip", "entropies"} <= engine.capabilities.lacks.keys()


def test_a_checkpoint_goes_on_where_it_was_and_holds_the_adapter(tiny_qwen3, tmp_path):
    """Catches an optimiser that starts afresh, and a folder without the weights that were paid for."""
    engine, _ = open_fake(tiny_qwen3)
    batch = full_batch()
    moved(engine, batch)
    engine.save_state(tmp_path)
    moved(engine, batch)
    expected = engine.forward_backward(batch).loss
    engine.load_state(tmp_path)
    moved(engine, batch)
    assert engine.forward_backward(batch).loss == expected
    with pytest.raises(EngineError, match="lose the gradient"):
        engine.save_state(tmp_path)
    engine.load_model(tmp_path)
    tokens = batch.token_ids[:9].numpy().astype(np.int32)
    (score,) = engine.logprobs([ScoreRequest(token_ids=tokens, read=np.arange(9) > 0)])
    assert score.top1 is None
    base = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name of old
        restored = PeftModel.from_pretrained(base, tmp_path)
    with torch.no_grad():
        logits = restored(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0, :-1]
    peft = torch.log_softmax(logits, dim=-1).gather(-1, torch.from_numpy(tokens[1:].astype(np.int64))[:, None])[:, 0]
    np.testing.assert_allclose(score.logprobs[1:], peft.numpy(), rtol=1e-5)


def test_a_folder_of_another_engine_is_refused(tiny_qwen3, tmp_path):
    """Catches weights of another rank or base model, and half a checkpoint."""
    engine, _ = open_fake(tiny_qwen3)
    with pytest.raises(EngineError, match="holds no checkpoint"):
        engine.load_state(tmp_path)
    engine.save_state(tmp_path)
    file = tmp_path / "tinker_checkpoint.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(document | {"rank": 3}), encoding="utf-8")
    with pytest.raises(EngineError, match="rank 3"):
        engine.load_state(tmp_path)
    file.write_text(json.dumps(document | {"more": 3}), encoding="utf-8")
    with pytest.raises(EngineError, match="keys"):
        engine.load_state(tmp_path)
    with pytest.raises(EngineError, match="cannot be read"):
        unpack_adapter(b"no archive", tmp_path)


def test_samples_have_exact_ids_and_a_turns_seed_is_its_key(tiny_qwen3):
    """Catches a draw that depends on what is decoded beside it, and turns that end without their stop token."""
    engine, _ = open_fake(tiny_qwen3)
    prompts = [np.array([3, 4, 5], dtype=np.int32), np.array([3, 4, 5], dtype=np.int32)]
    params = SamplingParams(max_tokens=6, seed=2, stop_token_ids=(7, 8, 9, 10, 11, 12))
    first, second = engine.sample(prompts, params)
    assert first.token_ids.tolist() == engine.sample(prompts[:1], params)[0].token_ids.tolist()
    assert first.token_ids.tolist() != second.token_ids.tolist()
    requests = [TurnRequest(row=n, prompt=prompts[n], key=(4, n)) for n in range(2)]
    with engine.sampling_session() as session:
        together = session.sample(requests, params)
        session.drop(0)
        alone = session.sample(requests[1:], params)
    assert together[1].token_ids.tolist() == alone[0].token_ids.tolist()
    ids = np.concatenate([prompts[0], first.token_ids])
    (scores,) = engine.logprobs([ScoreRequest(token_ids=ids, read=np.arange(len(ids)) >= 3)])
    np.testing.assert_allclose(scores.logprobs[3:], first.logprobs, rtol=1e-5)
    assert not engine.sample(prompts[:1], dataclasses.replace(params, temperature=0.0))[0].logprobs.any()
    with pytest.raises(EngineError, match="sample at 1"):
        engine.sample(prompts, dataclasses.replace(params, temperature=0.7))
    with pytest.raises(EngineError, match="do not fit"):
        engine.sample(prompts, dataclasses.replace(params, max_tokens=64))
    engine._sampler.change = lambda one: dataclasses.replace(one, stopped=True, token_ids=np.append(one.token_ids, 1))
    with pytest.raises(EngineError, match="expected one of the stop tokens"):
        engine.sample(prompts, params)


def test_sampling_follows_the_weights(tiny_qwen3):
    """Catches a copy of the weights that is kept over a step."""
    engine, _ = open_fake(tiny_qwen3)
    prompt = [np.array([3, 4, 5], dtype=np.int32)]
    params = SamplingParams(max_tokens=6, seed=2)
    before = engine.sample(prompt, params)[0].logprobs
    moved(engine, full_batch())
    assert not np.array_equal(engine.sample(prompt, params)[0].logprobs, before)
