"""An engine that trains here and samples on a server: pushes, what is wrong with them, and a run that is the same."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import LoopbackServer
from safetensors.torch import load_file
from served_material import SavesElsewhere, step

from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.errors import ConfigError, EngineError
from envecho.rollout.served import ServedEngine, ServedSampler, SharedFolder, request_seed
from envecho.seam import Engine, Sample, SamplingParams, SamplingSession, TurnRequest

PUSHING = ("vllm", "sglang")
PROMPT = [np.arange(4, 30, dtype=np.int32)]


def engine_of(folder: Path, **options: Any) -> LocalEngine:
    return LocalEngine(folder, device="cpu", compute_dtype="float32", **options)


@pytest.mark.parametrize("kind", PUSHING)
def test_turns_are_drawn_from_the_weights_of_the_last_step(kind, small_dir: Path, tmp_path: Path) -> None:
    """Catches a push that is forgotten after a step or a load, or done again for every batch of turns."""
    engine = engine_of(small_dir)
    start = tmp_path / "start"
    start.mkdir()
    engine.save_model(start)
    with LoopbackServer(small_dir, kind) as server, ServedSampler(server.url, kind=kind) as sampler:
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights")
        assert isinstance(served, Engine)
        for number in range(3):
            step(served, 1e-2, seed=number)
            params = SamplingParams(max_tokens=5, temperature=0.9, seed=number)
            first, again = served.sample(PROMPT, params), served.sample(PROMPT, params)
            assert sampler.num_pushes == number + 1
            assert first[0].token_ids.tolist() == again[0].token_ids.tolist()
            assert served.last_check is not None
            assert served.last_check.max_difference < 1e-5
            assert served.last_check.num_tokens == 64
        served.load_model(start)
        served.sample(PROMPT, params)
        assert sampler.num_pushes == 4
        assert len(list((tmp_path / "weights").iterdir())) == 1


@pytest.mark.parametrize("kind", PUSHING)
def test_a_push_that_changes_nothing_ends_the_run(kind, small_dir: Path, tmp_path: Path) -> None:
    """Catches a run that trains on turns of old weights: an update that a server says yes to and does not do."""
    server = LoopbackServer(small_dir, kind, flaws=frozenset({"ignores_push"}))
    with server, ServedSampler(server.url, kind=kind) as sampler:
        served = ServedEngine(engine_of(small_dir), sampler, folder=tmp_path / "weights")
        served.refresh()
        step(served, 1e-6)
        with pytest.raises(EngineError, match="answers as before the push, bit for bit"):
            served.refresh()


def test_a_push_of_a_part_of_the_weights_ends_the_run(small_dir: Path, tmp_path: Path) -> None:
    """Catches what vLLM 0.32.0 does on a CPU: a tied output layer stays as it was, and a mean difference is small."""
    engine, half = engine_of(small_dir), engine_of(small_dir)
    with LoopbackServer(small_dir, "vllm") as server, ServedSampler(server.url, kind="vllm") as sampler:
        served = ServedEngine(SavesElsewhere(engine, tmp_path / "half"), sampler, folder=tmp_path / "weights")  # type: ignore[arg-type]
        (tmp_path / "half").mkdir()
        engine.save_model(tmp_path / "half")
        served.refresh()
        for one in (engine, half):
            step(one, 1e-3)
        moved = half._model.network
        original = load_file(tmp_path / "half" / "model.safetensors")
        moved.get_input_embeddings().weight.data.copy_(original["model.embed_tokens.weight"])
        moved.save_pretrained(tmp_path / "half")
        served.load_model(_saved(engine, tmp_path / "now"))
        with pytest.raises(EngineError, match="took a part of the weights"):
            served.refresh()


def _saved(engine: LocalEngine, folder: Path) -> Path:
    folder.mkdir()
    engine.save_model(folder)
    return folder


@pytest.mark.parametrize("flaw", ["other_context", "other_model"])
def test_a_server_with_another_model_or_context_is_refused_before_the_first_turn(
    flaw: str, small_dir: Path, tmp_path: Path
) -> None:
    """Catches a server that puts a token in front of every prompt, and one that serves other weights."""
    engine = engine_of(small_dir, trains=flaw == "other_context")
    if flaw == "other_model":
        other = engine_of(small_dir)
        step(other, 0.3)
        server = LoopbackServer(_saved(other, tmp_path / "other"), "vllm")
    else:
        server = LoopbackServer(small_dir, "vllm", flaws=frozenset({flaw}))
    with server, ServedSampler(server.url, kind="vllm") as sampler:
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights", most_mismatch=1e-3)
        with pytest.raises(EngineError, match=r"differ by .* nats on average .* at most 0\.001 are allowed"):
            served.sample(PROMPT, SamplingParams(max_tokens=2))


@pytest.mark.parametrize("kind", PUSHING)
def test_an_adapter_is_pushed_under_a_new_name_and_the_last_one_is_dropped(
    kind, small_dir: Path, tmp_path: Path
) -> None:
    """Catches adapters that fill a server, and turns that are still asked of the base model or of the last adapter."""
    engine = engine_of(small_dir, lora=LoraOptions(rank=2, alpha=4))
    with LoopbackServer(small_dir, kind) as server, ServedSampler(server.url, kind=kind) as sampler:
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights", pushes="adapter")
        names: list[str] = []
        for _ in range(2):
            served.load_model(_saved(engine, tmp_path / f"now-{sampler.num_pushes}"))
            served.refresh()
            (name,) = server.adapters
            names.append(name)
        named = "model" if kind == "vllm" else "lora_path"
        turns = [body.get(named) for path, body in server.calls if path in ("/v1/completions", "/generate")]
        assert turns[-1] == names[1] != names[0]
        pushed = [body["lora_path"] for path, body in server.calls if path.endswith("/load_lora_adapter")]
    assert [Path(path).name for path in pushed] == ["adapter", "adapter"]


@pytest.mark.parametrize("kind", ["openai", "llama_cpp"])
def test_a_server_that_takes_no_weights_is_refused_for_training_and_not_for_collecting(
    kind, small_dir: Path, tmp_path: Path
) -> None:
    """Catches a run that goes off policy from its second step on."""
    with LoopbackServer(small_dir, kind) as server, ServedSampler(server.url, kind=kind) as sampler:
        with pytest.raises(EngineError, match="cannot sample for training"):
            ServedEngine(engine_of(small_dir), sampler, folder=tmp_path)
        frozen = ServedEngine(engine_of(small_dir, trains=False), sampler, folder=tmp_path)
        assert len(frozen.sample(PROMPT, SamplingParams(max_tokens=2))) == 1
        assert sampler.num_pushes == 0
        assert frozen.capabilities.max_context_tokens == 256


def test_a_vllm_without_its_dev_mode_says_what_to_start_it_with(small_dir: Path, tmp_path: Path) -> None:
    """Catches a 404 that tells nobody which variable is missing."""
    with (
        LoopbackServer(small_dir, "vllm", dev_mode=False) as server,
        ServedSampler(server.url, kind="vllm") as sampler,
        pytest.raises(EngineError, match=r"has no /pause.*VLLM_SERVER_DEV_MODE=1"),
    ):
        ServedEngine(engine_of(small_dir), sampler, folder=tmp_path).refresh()


def test_a_folder_is_named_as_the_server_sees_it_and_must_hold_weights(small_dir: Path, tmp_path: Path) -> None:
    """Catches a path of this machine that is sent to another, and an empty folder that would end vLLM's engine."""
    shared = SharedFolder(here=tmp_path, there=Path("/mnt/weights"))
    weights = shared.weights(_saved(engine_of(small_dir), tmp_path / "step"), name="envecho-3")
    assert (weights.folder, weights.is_adapter, weights.name) == ("/mnt/weights/step", False, "envecho-3")
    with pytest.raises(ConfigError, match="does not lie in"):
        shared.weights(small_dir, name="envecho-1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"holds no \.safetensors"):
        shared.weights(tmp_path / "empty", name="envecho-1")


class OneByOne:
    """An engine that samples in process as the loopback server does: each turn alone, with the seed that it is sent."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @contextmanager
    def sampling_session(self) -> Generator[SamplingSession]:
        yield self  # type: ignore[misc]

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        drawn: list[Sample] = []
        alone = SamplingParams(
            max_tokens=params.max_tokens, temperature=params.temperature, stop_token_ids=params.stop_token_ids
        )
        for request in requests:
            key = (request_seed(params.seed, request.key),)
            with self._engine.sampling_session() as session:
                drawn += session.sample([TurnRequest(row=0, prompt=request.prompt, key=key)], alone)
        return drawn

    def drop(self, row: int) -> None:
        pass


def train_rows(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def test_a_run_that_samples_on_a_server_gives_the_weights_of_the_run_in_process(tmp_path: Path) -> None:
    """Catches a turn, a log-prob or a step that differs: three steps of GRPO and ECHO, bit for bit."""
    from tiny_policy import policy_config

    from envecho.training.loop import train

    folder, out = tmp_path / "policy", tmp_path
    config = policy_config(folder, run={"steps": 3, "checkpoint_every": 3})
    model = folder / "model"
    train(config, out / "near", engine=OneByOne(engine_of(model, seed=config.run.seed)))  # type: ignore[arg-type]
    with LoopbackServer(model, "vllm") as server, ServedSampler(server.url, kind="vllm") as sampler:
        engine = ServedEngine(engine_of(model, seed=config.run.seed), sampler, folder=out / "weights")
        train(config, out / "far", engine=engine)
        assert sampler.num_pushes == 3
    near, far = (
        load_file(out / name / "checkpoints" / "step-000003" / "model.safetensors") for name in ("near", "far")
    )
    start = load_file(model / "model.safetensors")
    assert all(torch.equal(near[name], far[name]) for name in near)
    assert not all(torch.equal(near[name], start[name]) for name in near)
    rows = [
        [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("near", "far")
    ]
    for one, other in zip(*([row for row in each if row["kind"] == "train"] for each in rows), strict=True):
        for key in ("env_ce", "policy_loss", "grad_norm", "num_env_tokens", "ratio_mean", "sampler_kl"):
            assert one[key] == other[key], key
        assert other["ratio_mean"] == pytest.approx(1.0, abs=1e-5)


def test_the_table_sampler_of_a_configuration_is_all_that_it_takes(tmp_path: Path) -> None:
    """Catches a TOML run that samples in process, or pushes elsewhere, or logs nothing of the server."""
    from tiny_policy import policy_config

    from envecho.training.loop import train

    folder, out = tmp_path / "policy", tmp_path / "out"
    policy_config(folder)  # writes the model
    with LoopbackServer(folder / "model", "vllm") as server:
        config = policy_config(
            folder,
            sampler={"url": server.url, "kind": "vllm", "most_mismatch": 1e-4},
            run={"steps": 2, "checkpoint_every": 2},
        )
        train(config, out)
        drawn = [path for path, _ in server.calls if path == "/v1/completions"]
    assert len(drawn) > 100  # the probe, the checks, and the turns
    rows = train_rows(out)
    assert [row["push_mismatch"] < 1e-4 and row["seconds_push"] > 0 for row in rows] == [True, True]
    assert len(list((out / "pushed").iterdir())) == 1
    assert json.loads(json.dumps(config.model_dump(mode="json")))["sampler"]["url"] == server.url
