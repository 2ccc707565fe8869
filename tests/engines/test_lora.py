"""LoRA in the local engine: the gradient of plain peft, a base that never moves, and files that others read."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from batches import random_batch
from safetensors.torch import load_file, save_file
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from envecho.engines.check import check_engine
from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.engines.model import use_float64_norms
from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, EngineError
from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, ScoreRequest

STEP = AdamParams(learning_rate=1e-2, grad_clip_norm=None)
SMALL = LoraOptions(rank=3, alpha=6)
REQUEST = ScoreRequest(token_ids=np.arange(1, 12, dtype=np.int32), read=np.arange(11) > 0)


def make(folder: Path, *, lora: LoraOptions | None = SMALL, dtype: str = "float64", **options) -> LocalEngine:
    return LocalEngine(folder, device="cpu", compute_dtype=dtype, lora=lora, **options)


def trained_engine(folder: Path, *, steps: int = 3, **options) -> LocalEngine:
    engine = make(folder, **options)
    for number in range(steps):
        engine.forward_backward(random_batch([11, 4, 9], seed=number))
        engine.optim_step(STEP)
    return engine


def saved(engine: LocalEngine, folder: Path) -> Path:
    folder.mkdir()
    engine.save_state(folder)
    return folder


def score(engine: LocalEngine) -> np.ndarray:
    return engine.logprobs([REQUEST])[0].logprobs[1:]


def plain_scores(network: torch.nn.Module) -> np.ndarray:
    ids = torch.from_numpy(REQUEST.token_ids).long()
    with torch.no_grad():
        table = log_softmax(network(ids[None]).logits[0], -1)
    return table[torch.arange(10), ids[1:]].numpy()


def plain_peft(folder: Path, adapter: Path) -> peft.PeftModel:
    """Peft's own model in float64, its adapter trainable."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    use_float64_norms(base)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True, autocast_adapter_dtype=False).double()


def plain_peft_gradients(folder: Path, adapter: Path, batch: WeightedBatch) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of peft's own model with full logits, one sequence and token at a time, in float64."""
    model = plain_peft(folder, adapter)
    loss = torch.zeros((), dtype=torch.float64)
    for number in range(batch.num_sequences):
        rows = torch.nonzero(batch.sequence_index == number).flatten().tolist()
        logits = model(batch.token_ids[rows][None]).logits[0]
        for place, row in list(enumerate(rows))[1:]:
            env = log_softmax(logits[place - 1], -1)[batch.token_ids[row]]
            policy = log_softmax(logits[place - 1] / batch.temperature, -1)[batch.token_ids[row]]
            ratio = torch.exp(policy - batch.sampling_logprobs[row])
            limited = ratio.clamp(1 - batch.policy_loss.clip_low, 1 + batch.policy_loss.clip_high)
            advantage = batch.advantages[row]
            loss = loss - batch.env_weights[row] * env
            loss = loss - batch.policy_weights[row] * torch.minimum(ratio * advantage, limited * advantage)
    loss.backward()
    named = {name.removeprefix("base_model.model."): value for name, value in model.named_parameters()}
    return float(loss.detach()), {name: value.grad for name, value in named.items() if value.grad is not None}


def gpt2(folder: Path) -> Path:
    """A GPT-2: its linear layers hold `[in, out]`, and `c_proj` is the name of one in attention and of one outside."""
    torch.manual_seed(2)
    sizes = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2LMHeadModel(GPT2Config(**sizes, **quiet, initializer_range=0.3)).save_pretrained(folder)
    return folder


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model folder by the name of its fixture, or `gpt2`."""
    return gpt2(tmp_path / "base") if request.param == "gpt2" else request.getfixturevalue(request.param)


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_qwen3", "gpt2"], indirect=True)
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_the_gradient_on_a_and_b_equals_that_of_plain_peft(base: Path, targets: str, tmp_path: Path):
    """Catches a wrong scale, layout or layer, a base that is trained, and a head that bypasses the adapter.

    Measured after three steps: with B zero, the gradient of A is zero whatever the code does.
    """
    engine = trained_engine(base, lora=LoraOptions(rank=3, alpha=6, targets=targets), tokens_per_micro_batch=20)
    adapter = saved(engine, tmp_path / "state") / "adapter"
    batch = random_batch([11, 4, 9], policy=True, seed=9)
    loss, expected = plain_peft_gradients(base, adapter, batch)
    out = engine.forward_backward(batch)
    found = engine.gradients()
    assert out.loss == pytest.approx(loss, rel=1e-9)
    assert found.keys() == expected.keys()
    assert any("lora_A" in name and np.abs(value).max() > 1e-6 for name, value in found.items())
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient.numpy(), rtol=1e-7, atol=1e-12)


def test_before_the_first_step_the_engine_is_the_base_model(tiny_qwen3: Path):
    """Catches an adapter that does not start at zero: the run would begin from another policy than was asked for."""
    adapted, base = make(tiny_qwen3), make(tiny_qwen3, lora=None)
    np.testing.assert_array_equal(score(adapted), score(base))


def test_the_start_is_a_function_of_the_seed_alone(tiny_llama: Path, tmp_path: Path):
    """Catches an adapter drawn from the process's generator (no run could be repeated), or that changes its state."""
    torch.manual_seed(1)
    first = saved(make(tiny_llama, seed=4), tmp_path / "first")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = saved(make(tiny_llama, seed=4, dtype="bfloat16"), tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    other = saved(make(tiny_llama, seed=5), tmp_path / "other")
    files = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (first, again, other)]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        assert torch.equal(files[0][name].float(), files[1][name])
        assert torch.equal(files[0][name], files[2][name]) == ("lora_B" in name)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}])
def test_split_and_checkpointing_do_not_change_the_gradient(tiny_llama: Path, options: dict):
    """Catches a mean per micro-batch, and recomputation that cuts the adapter off because no input needs a gradient."""
    batch = random_batch([12, 3, 12, 8, 5], policy=True)
    whole = trained_engine(tiny_llama, tokens_per_micro_batch=10**6)
    parts = trained_engine(tiny_llama, tokens_per_micro_batch=13, **options)
    losses = [engine.forward_backward(batch).loss for engine in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    expected, found = whole.gradients(), parts.gradients()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_qwen3", "gpt2"], indirect=True)
def test_the_merged_folder_and_the_adapter_both_score_as_the_engine_does(base: Path, tmp_path: Path):
    """Catches merging with a wrong scale or layout, and an adapter that peft reads as something else."""
    engine = trained_engine(base)
    out = saved(engine, tmp_path / "out")
    expected = score(engine)
    assert np.abs(expected - score(make(base))).max() > 0.1
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float64)
    np.testing.assert_allclose(plain_scores(merged), expected, atol=2e-6)
    assert not any("lora" in name for name in load_file(out / "model.safetensors"))
    np.testing.assert_allclose(plain_scores(plain_peft(base, out / "adapter")), expected, atol=2e-6)
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".json", ".safetensors"}


def test_a_folder_of_weights_reads_into_an_engine_without_lora(tiny_llama: Path, tmp_path: Path):
    """Catches a checkpoint of a LoRA run that an evaluation, or a run of all weights, cannot start from."""
    engine = trained_engine(tiny_llama)
    out = saved(engine, tmp_path / "out")
    np.testing.assert_allclose(score(make(resolve_model(out), lora=None)), score(engine), atol=1e-6)
    full = make(tiny_llama, lora=None)
    full.load_model(out)
    np.testing.assert_allclose(score(full), score(engine), atol=1e-6)


def test_an_engine_that_is_saved_again_writes_the_same_bytes(tiny_llama: Path, tmp_path: Path):
    """Catches files whose header is written in the order of a hash map: equal checkpoints must have equal digests."""
    engine = trained_engine(tiny_llama, steps=1)
    first, *others = [saved(engine, tmp_path / f"{number}") for number in range(12)]
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    for other in others:
        assert [path for path in files if (first / path).read_bytes() != (other / path).read_bytes()] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_is_stopped_and_continued_ends_in_the_same_bits(tiny_qwen3: Path, tmp_path: Path, dtype: str):
    """Catches moments, steps or a working copy that a new process does not get back."""
    whole = trained_engine(tiny_qwen3, steps=4, dtype=dtype)
    half = saved(trained_engine(tiny_qwen3, steps=2, dtype=dtype), tmp_path / "half")
    rest = make(tiny_qwen3, dtype=dtype, seed=77)
    rest.load_state(half)
    for number in (2, 3):
        rest.forward_backward(random_batch([11, 4, 9], seed=number))
        rest.optim_step(STEP)
    expected, found = saved(whole, tmp_path / "whole"), saved(rest, tmp_path / "rest")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "optimizer.safetensors"):
        one, other = load_file(expected / name), load_file(found / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((found / "engine_state.json").read_text())["num_optim_steps"] == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_with_lora_passes_the_conformance_kit(tiny_qwen3: Path, tmp_path: Path, dtype: str):
    """Catches a verb that works on the whole model alone: scoring, sampling, clearing, clipping, continuing."""
    engine = trained_engine(tiny_qwen3, dtype=dtype, tokens_per_micro_batch=16, steps=1)
    report = check_engine(engine, tmp_path, vocab_size=61, tolerance=1e-4 if dtype == "float32" else 6e-2)
    assert not report.failures, str(report)


def test_in_bfloat16_the_frozen_base_has_no_masters_and_the_adapter_has(tiny_llama: Path, tmp_path: Path):
    """Catches float32 copies of what never moves (the memory that LoRA saves), and an update that is rounded away."""
    engine = make(tiny_llama, dtype="bfloat16")
    dtypes = {name: value.dtype for name, value in engine._masters.parameters.items()}
    assert all((dtype == torch.float32) == ("lora_" in name) for name, dtype in dtypes.items())
    assert all(value.dtype == torch.bfloat16 for value in engine._model.network.parameters())
    before = load_file(saved(engine, tmp_path / "before") / "adapter" / "adapter_model.safetensors")
    engine.forward_backward(random_batch([12, 9]))
    engine.optim_step(AdamParams(learning_rate=1e-6, grad_clip_norm=None))
    after = load_file(saved(engine, tmp_path / "after") / "adapter" / "adapter_model.safetensors")
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved == pytest.approx(1e-6, rel=0.2)
    merged = load_file(tmp_path / "after" / "model.safetensors")
    assert all(value.dtype == torch.float32 for value in merged.values())
    assert json.loads((tmp_path / "after" / "config.json").read_text())["dtype"] == "float32"


def test_bfloat16_gradients_of_the_adapter_agree_with_float32(tiny_llama: Path):
    """Catches adapter gradients that the working copy keeps or overwrites between micro-batches."""
    batch, found = random_batch([12, 9, 7, 11], policy=True), []
    for dtype, size in (("float32", 1000), ("bfloat16", 12)):
        engine = make(tiny_llama, dtype=dtype, tokens_per_micro_batch=size)
        engine.forward_backward(batch)
        found.append(np.concatenate([value.ravel() for _, value in sorted(engine.gradients().items())]))
    cosine = float(found[0] @ found[1] / np.linalg.norm(found[0]) / np.linalg.norm(found[1]))
    assert cosine > 0.995
    assert np.linalg.norm(found[1]) / np.linalg.norm(found[0]) == pytest.approx(1, abs=0.05)


def test_the_gradients_of_the_terms_are_those_of_the_adapter(tiny_llama: Path):
    """Catches `term_gradients` that counts the frozen base, or that leaves a gradient behind."""
    engine = trained_engine(tiny_llama)
    batch = random_batch([11, 4, 9], policy=True)
    found = engine.term_gradients(batch)
    assert not engine.gradients()
    engine.forward_backward(dataclasses.replace(batch, policy_weights=torch.zeros_like(batch.policy_weights)))
    norm = np.sqrt(sum(np.square(value).sum() for value in engine.gradients().values()))
    assert found.env_norm == pytest.approx(norm, rel=1e-9)
    assert found.policy_norm > 0


def test_shared_prefixes_and_sessions_see_the_adapter(tiny_llama: Path):
    """Catches scoring or sampling from the base model while the adapter trains."""
    engine = trained_engine(tiny_llama)
    assert engine.shares_prefixes
    twins = [
        ScoreRequest(token_ids=np.append(np.arange(1, 25), end).astype(np.int32), read=np.arange(25) > 20)
        for end in (3, 4)
    ]
    shared = engine.logprobs(twins)
    engine.shares_prefixes = False
    for one, other in zip(shared, engine.logprobs(twins), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-6)


def test_targets_that_are_no_layers_are_refused_with_the_nearest_name(tiny_llama: Path):
    """Catches an adapter on nothing, or on a head whose adapter nothing would read."""
    with pytest.raises(EngineError, match=r"no layer 'q_porj'\. Did you mean 'q_proj'\? Its linear layers are called"):
        make(tiny_llama, lora=LoraOptions(targets=("q_porj",)))
    with pytest.raises(EngineError, match="Did you mean 'all-linear'"):
        make(tiny_llama, lora=LoraOptions(targets="all_linear"))
    with pytest.raises(EngineError, match="lm_head is Linear; only linear layers before the head"):
        make(tiny_llama, lora=LoraOptions(targets=("q_proj", "lm_head")))
    with pytest.raises(EngineError, match="embed_tokens is Embedding"):
        make(tiny_llama, lora=LoraOptions(targets="embed_tokens"))
    with pytest.raises(EngineError, match="rank is 0"):
        LoraOptions(rank=0)
    with pytest.raises(EngineError, match="needs trains=True and trainable='all'"):
        make(tiny_llama, trainable="attention")
    with pytest.raises(EngineError, match="needs trains=True and trainable='all'"):
        make(tiny_llama, trains=False)


def test_names_of_layers_may_be_ends_or_whole(tiny_llama: Path):
    """Catches targets that peft would take and we would not."""
    engine = make(tiny_llama, lora=LoraOptions(targets=("v_proj", "layers.1.self_attn.q_proj")))
    layers = {name.rpartition(".lora_")[0] for name in engine._masters.trained}
    assert layers == {f"model.layers.{k}.self_attn.v_proj" for k in (0, 1)} | {"model.layers.1.self_attn.q_proj"}


def test_an_adapter_of_another_base_or_size_is_refused(tiny_llama: Path, tmp_path: Path):
    """Catches weights that fit by shape alone: an adapter on another base is another model, without a word."""
    out = saved(trained_engine(tiny_llama), tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineError, match="trained on another base model"):
        make(other).load_model(out)
    with pytest.raises(EngineError, match="has r = 3; this engine's is 4"):
        make(tiny_llama, lora=LoraOptions(rank=4, alpha=6)).load_model(out)
    with pytest.raises(EngineError, match="has lora_alpha = 6; this engine's is 7"):
        make(tiny_llama, lora=LoraOptions(rank=3, alpha=7)).load_state(out)
    with pytest.raises(EngineError, match="adapts other layers"):
        make(tiny_llama, lora=LoraOptions(rank=3, alpha=6, targets="attention")).load_model(out)
    with pytest.raises(EngineError, match="make the engine from it"):
        make(tiny_llama).load_model(tiny_llama)
    with pytest.raises(EngineError, match="belongs to no parameter of this model"):
        make(tiny_llama, lora=None).load_state(out)


def test_a_folder_that_holds_an_adapter_alone_is_merged_once_into_its_base(
    tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches an adapter that only we can load, or only we cannot; and a merge at every start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = trained_engine(tiny_qwen3, dtype="float32")
    adapter = saved(engine, tmp_path / "out") / "adapter"
    merged = resolve_model(adapter)
    np.testing.assert_allclose(score(make(merged, lora=None, dtype="float32")), score(engine), atol=1e-5)
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(str(adapter)) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    other = trained_engine(tiny_qwen3, dtype="float32", steps=4)
    assert resolve_model(saved(other, tmp_path / "other") / "adapter") != merged
    further = make(adapter, dtype="float32")
    np.testing.assert_allclose(score(further), score(engine), atol=1e-5)


def test_an_adapter_that_cannot_be_merged_is_refused_with_the_reason(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches a traceback where the base has moved, a pickle that is read, and weights of another shape."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adapter = saved(make(tiny_llama), tmp_path / "out") / "adapter"
    document = json.loads((adapter / "adapter_config.json").read_text())
    assert document["base_model_name_or_path"] == str(tiny_llama)

    def rewrite(**changes: object) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps(document | changes))

    rewrite(base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(EngineError, match=r"which is not to be had: .*change base_model_name_or_path in"):
        resolve_model(adapter)
    rewrite(base_model_name_or_path=None)
    with pytest.raises(EngineError, match="names no base_model_name_or_path"):
        resolve_model(adapter)
    rewrite(r=4)
    with pytest.raises(EngineError, match="cannot be merged into"):
        resolve_model(adapter)
    rewrite()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(EngineError, match="pickles are not read"):
        resolve_model(adapter)
    assert not any((tmp_path / "cache").rglob("config.json"))


def test_without_peft_in_its_range_the_error_says_what_to_type(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an ImportError from deep inside, or a version that nobody tested."""
    real = importlib.metadata.version
    monkeypatch.setattr("envecho.extras.version", lambda name: "0.18.0" if name == "peft" else real(name))
    with pytest.raises(ConfigError, match=r"peft is 0\.18\.0, expected .*pip install 'envecho\[lora\]'"):
        make(tiny_llama)
