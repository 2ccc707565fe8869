"""`LocalEngine`: the gradient it applies is the one that the weights ask for, however it is computed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import random_batch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from envecho.engines.local import LocalEngine
from envecho.engines.model import use_float64_norms
from envecho.errors import EngineError
from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, ScoreRequest

PLAIN = AdamParams(learning_rate=1e-2, grad_clip_norm=None)


def slow_gradients(folder: Path, batch: WeightedBatch) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and its gradient with full logits, one sequence and one token at a time, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    use_float64_norms(model)
    loss = torch.zeros((), dtype=torch.float64)
    for number in range(batch.num_sequences):
        rows = torch.nonzero(batch.sequence_index == number).flatten().tolist()
        logits = model(batch.token_ids[rows][None]).logits[0]
        for place, row in enumerate(rows):
            if place == 0:
                continue
            env = log_softmax(logits[place - 1], -1)[batch.token_ids[row]]
            policy = log_softmax(logits[place - 1] / batch.temperature, -1)[batch.token_ids[row]]
            ratio = torch.exp(policy - batch.sampling_logprobs[row])
            limited = ratio.clamp(1 - batch.policy_loss.clip_low, 1 + batch.policy_loss.clip_high)
            advantage = batch.advantages[row]
            loss = loss - batch.env_weights[row] * env
            loss = loss - batch.policy_weights[row] * torch.minimum(ratio * advantage, limited * advantage)
    loss.backward()
    return float(loss.detach()), {name: value.grad for name, value in model.named_parameters()}


def first_moments(engine: LocalEngine, folder: Path) -> dict[str, torch.Tensor]:
    """The applied gradient, read from what AdamW remembers after one step: exp_avg = (1 - beta1) * gradient."""
    folder.mkdir()
    engine.save_state(folder)
    state = load_file(folder / "optimizer.safetensors")
    return {name.removesuffix(".exp_avg"): value / 0.1 for name, value in state.items() if name.endswith(".exp_avg")}


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen3"])
@pytest.mark.parametrize("policy", [False, True])
def test_the_gradient_equals_that_of_a_slow_loop_over_full_logits(
    architecture: str, policy: bool, request: pytest.FixtureRequest, tmp_path: Path
):
    """Catches a wrong shift, temperature, padding or weight anywhere between a batch and a parameter's gradient."""
    folder = request.getfixturevalue(architecture)
    batch = random_batch([11, 4, 9], policy=policy)
    loss, expected = slow_gradients(folder, batch)
    engine = LocalEngine(folder, device="cpu", compute_dtype="float64", tokens_per_micro_batch=20)
    out = engine.forward_backward(batch)
    norm = engine.optim_step(PLAIN)
    found = first_moments(engine, tmp_path / "state")
    assert out.loss == pytest.approx(loss, rel=1e-9)
    assert norm == pytest.approx(float(torch.stack([g.norm() for g in expected.values()]).norm()), rel=1e-9)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tokens_per_micro_batch", [1, 13, 24, 1000])
def test_the_split_into_micro_batches_does_not_change_the_step(
    tiny_llama: Path, tmp_path: Path, tokens_per_micro_batch: int
):
    """Catches a mean per micro-batch, and padding or order that leaks into the gradient (METHOD, traps 15 and 19)."""
    batch = random_batch([12, 3, 12, 8, 5], policy=True)
    whole = LocalEngine(tiny_llama, device="cpu", compute_dtype="float64", tokens_per_micro_batch=10**6)
    parts = LocalEngine(
        tiny_llama, device="cpu", compute_dtype="float64", tokens_per_micro_batch=tokens_per_micro_batch
    )
    outs = [engine.forward_backward(batch) for engine in (whole, parts)]
    norms = [engine.optim_step(PLAIN) for engine in (whole, parts)]
    assert outs[1].loss == pytest.approx(outs[0].loss, rel=1e-10)
    assert norms[1] == pytest.approx(norms[0], rel=1e-10)
    np.testing.assert_allclose(outs[1].env_logprobs, outs[0].env_logprobs, rtol=1e-6)
    np.testing.assert_allclose(outs[1].policy_logprobs, outs[0].policy_logprobs, rtol=1e-6)
    moments = [first_moments(engine, tmp_path / str(k)) for k, engine in enumerate((whole, parts))]
    for name in moments[0]:
        torch.testing.assert_close(moments[1][name], moments[0][name], rtol=1e-8, atol=1e-13)


def test_logging_the_environment_at_weight_zero_leaves_every_bit_of_the_step(tiny_llama: Path, tmp_path: Path):
    """Catches env tokens that change the policy's step at lambda = 0, by a shared chunk or micro-batch (trap 18)."""
    batch = random_batch([9, 7, 10], policy=True)
    silent = torch.zeros_like(batch.env_weights)
    states: list[dict[str, torch.Tensor]] = []
    for k, targets in enumerate((batch.env_targets, torch.zeros_like(batch.env_targets))):
        engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="float32", tokens_per_micro_batch=20)
        engine.forward_backward(dataclasses.replace(batch, env_weights=silent, env_targets=targets))
        engine.optim_step(PLAIN)
        states.append(first_moments(engine, tmp_path / str(k)))
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0])


def test_bfloat16_computes_on_a_copy_and_trains_float32_masters(tiny_llama: Path, tmp_path: Path):
    """Catches an optimiser that steps the bfloat16 copy: updates below its rounding would be lost, here all of them."""
    batch = random_batch([12, 9, 7])
    tiny_step = AdamParams(learning_rate=1e-6, grad_clip_norm=None)
    engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="bfloat16", tokens_per_micro_batch=14)
    assert engine.capabilities.compute_dtype == "bfloat16"
    engine.forward_backward(batch)
    engine.optim_step(tiny_step)
    (tmp_path / "state").mkdir()
    engine.save_state(tmp_path / "state")
    before, after = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "state" / "model.safetensors")
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert all(value.dtype == torch.float32 for value in after.values())
    assert float(moved.abs().max()) == pytest.approx(1e-6, rel=0.2)
    assert float((moved != 0).float().mean()) > 0.8
    assert json.loads((tmp_path / "state" / "config.json").read_text())["dtype"] == "float32"


def test_bfloat16_gradients_agree_with_float32(tiny_llama: Path, tmp_path: Path):
    """Catches gradients that the working copy keeps or overwrites between micro-batches instead of handing them on."""
    batch = random_batch([12, 9, 7, 11], policy=True)
    moments: list[dict[str, torch.Tensor]] = []
    for dtype, size in (("float32", 1000), ("bfloat16", 12)):
        engine = LocalEngine(tiny_llama, device="cpu", compute_dtype=dtype, tokens_per_micro_batch=size)
        engine.forward_backward(batch)
        engine.optim_step(PLAIN)
        moments.append(first_moments(engine, tmp_path / dtype))
    exact, rounded = (torch.cat([moment[name].flatten() for name in sorted(moment)]) for moment in moments)
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.999
    assert float(rounded.norm() / exact.norm()) == pytest.approx(1, abs=0.03)


def test_gradient_checkpointing_changes_memory_alone(tiny_llama: Path, tmp_path: Path):
    """Catches recomputation that differs from the first pass, or a training mode that switches dropout on."""
    batch = random_batch([12, 9])
    moments: list[dict[str, torch.Tensor]] = []
    for k, flag in enumerate((False, True)):
        engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="float32", gradient_checkpointing=flag)
        engine.forward_backward(batch)
        engine.optim_step(PLAIN)
        moments.append(first_moments(engine, tmp_path / str(k)))
    for name in moments[0]:
        torch.testing.assert_close(moments[1][name], moments[0][name])


def test_trainable_attention_steps_attention_and_norms_alone(tiny_llama: Path, tmp_path: Path):
    """Catches frozen weights that move, and optimiser memory that is kept for them."""
    engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="bfloat16", trainable="attention")
    engine.forward_backward(random_batch([12, 9]))
    engine.optim_step(PLAIN)
    stepped = first_moments(engine, tmp_path / "state")
    before, after = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "state" / "model.safetensors")
    moved = {name for name in before if bool((before[name] != after[name]).any())}
    assert moved == set(stepped)
    assert all("self_attn" in name or "norm" in name for name in moved)
    assert any("self_attn" in name for name in moved)
    engine.load_state(tmp_path / "state")


def test_a_gradient_that_is_not_finite_is_refused_and_forgotten(tiny_llama: Path):
    """Catches a NaN that reaches the weights, after which every later step is lost without a word."""
    engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="float32")
    batch = random_batch([8, 8])
    request = ScoreRequest(token_ids=np.arange(1, 9, dtype=np.int32), read=np.arange(8) > 0)
    before = engine.logprobs([request])[0].logprobs
    broken = torch.where(batch.env_targets, float("inf"), 0.0)
    engine.forward_backward(dataclasses.replace(batch, env_weights=broken))
    with pytest.raises(EngineError, match="gradient norm is"):
        engine.optim_step(PLAIN)
    assert engine.optim_step(PLAIN) == 0
    np.testing.assert_array_equal(engine.logprobs([request])[0].logprobs, before)


def test_what_the_engine_cannot_do_is_refused_with_words(tiny_llama: Path, tmp_path: Path):
    """Catches a traceback, or silence, where a person asked for something impossible."""
    with pytest.raises(EngineError, match="expected 'all' or 'attention'"):
        LocalEngine(tiny_llama, device="cpu", trainable="attn")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="compute_dtype 'float16' is unknown"):
        LocalEngine(tiny_llama, device="cpu", compute_dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="device 'gpu' is unknown"):
        LocalEngine(tiny_llama, device="gpu")
    reader = LocalEngine(tiny_llama, device="cpu", trains=False)
    with pytest.raises(EngineError, match="trains=False"):
        reader.forward_backward(random_batch([5]))
    with pytest.raises(EngineError, match="65 tokens, the model's context 64"):
        LocalEngine(tiny_llama, device="cpu").forward_backward(random_batch([65]))
    with pytest.raises(EngineError, match="holds a model, but not the state of an engine"):
        LocalEngine(tiny_llama, device="cpu").load_state(tiny_llama)
    engine = LocalEngine(tiny_llama, device="cpu")
    engine.forward_backward(random_batch([5, 6]))
    with pytest.raises(EngineError, match="would lose the gradient"):
        engine.save_state(tmp_path)


def test_models_that_cannot_be_taken_apart_are_refused(tmp_path: Path):
    """Catches training a model with the wrong logits: an encoder-decoder, or dropout under checkpointing."""
    torch.manual_seed(0)
    small = {"vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    with pytest.raises(EngineError, match="encoder-decoder"):
        LocalEngine(tmp_path / "t5", device="cpu")
    GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path / "gpt2"
    )
    with pytest.raises(EngineError, match="resid_pdrop"):
        LocalEngine(tmp_path / "gpt2", device="cpu", gradient_checkpointing=True)
    engine = LocalEngine(tmp_path / "gpt2", device="cpu")
    assert engine.forward_backward(random_batch([7, 6])).loss > 0


def test_a_saved_model_is_a_plain_hugging_face_folder(smollm2_dir: Path, tiny_llama: Path, tmp_path: Path):
    """Catches a checkpoint that only we can read: no tokenizer, no chat template, or other files than safetensors."""
    import shutil

    from transformers import AutoTokenizer

    source = tmp_path / "source"
    shutil.copytree(tiny_llama, source)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2_dir / name, source / name)
    engine = LocalEngine(source, device="cpu", compute_dtype="float32")
    engine.forward_backward(random_batch([6, 5]))
    engine.optim_step(PLAIN)
    out = tmp_path / "out"
    out.mkdir()
    engine.save_state(out)
    assert {path.suffix for path in out.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(source).chat_template
    ids = np.arange(1, 9, dtype=np.int32)
    logits = AutoModelForCausalLM.from_pretrained(out)(torch.from_numpy(ids).long()[None]).logits[0]
    (scores,) = engine.logprobs([ScoreRequest(token_ids=ids, read=np.arange(8) > 0)])
    expected = log_softmax(logits.detach(), -1)[torch.arange(7), torch.arange(2, 9)]
    np.testing.assert_allclose(scores.logprobs[1:], expected.numpy(), atol=1e-5)
