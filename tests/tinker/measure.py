"""What is proved on a real SkyRL server, as one JSON document; `make test-tinker` runs it and checks the numbers.

    facts         how the server reduces, as the probe found it
    traps         the norm of the gradient of one row, by the way in which its cross-entropy is asked for
    agreement     loss and first update of every setting against the float64 reference
    lora          the gradient of A and B away from B = 0, against the reference on the merged model (the server fuses
                  q, k and v, and gate and up, with one A each)
    resume        whether a step after loading the state gives the same bits
    stored        verifier-free by the training loop, over an explorer's episodes in the depot; `stored_local` is the
                  same run by the local engine with LoRA of the same rank (and another random A)
    grpo          GRPO with ECHO by the training loop, in the depot

Not here: the engine (`envecho.engines.tinker`), and the conformance kit (`conformance`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from envecho.engines.check import check_engine
from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.engines.tinker.engine import TinkerEngine
from envecho.engines.tinker.probe import measure_server
from envecho.engines.tinker.sdk import SdkService
from envecho.engines.tinker.service import Row
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import Setting, settings, write_model
from envecho.recipes.agreement.compare import compare
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.subjects import tinker as subject
from envecho.recipes.agreement.subjects.tinker_server import skyrl_environment, skyrl_server
from envecho.recipes.collect import collect_to_file
from envecho.recipes.collect_episodes import CollectConfig
from envecho.recipes.depot_start import make_depot_start
from envecho.seam import AdamParams, ScoreRequest
from envecho.training.config import RunConfig
from envecho.training.loop import train

SCALE = 32 / subject.RANK
"""SkyRL's alpha is 32."""

STEP = AdamParams(learning_rate=1e-2, grad_clip_norm=None)


def measure_all(work: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Start the server twice, on the agreement model and on the depot's, and measure everything but conformance."""
    model = work / "model"
    model.mkdir()
    write_model(model)
    found: dict[str, Any] = {"versions": _versions()}
    with skyrl_server(model, work) as address:
        service = SdkService(str(model), server=address, api_key=None)
        facts = measure_server(service)
        found["facts"] = dataclasses.asdict(facts)
        say(f"facts {found['facts']}")
        found["traps"] = _traps(service)
        say(f"traps {found['traps']}")

        def engine() -> TinkerEngine:
            return TinkerEngine(service, facts=facts, rank=subject.RANK, seed=1, max_context_tokens=512)

        found["agreement"] = [
            _agreement(model, setting, engine(), work / f"agreement-{setting.name}")
            for setting in settings()
            if setting.temperature == 1
        ]
        say(f"agreement {found['agreement']}")
        found["lora"] = _lora(model, engine(), work / "lora")
        say(f"lora {found['lora']}")
        found["resume"] = _resume(engine(), work / "resume")
        say(f"resume {found['resume']}")
    found |= _training(work / "training")
    say(f"training {found['stored']} {found['grpo']}")
    return found


def conformance(work: Path) -> list[str]:
    """The lines of the conformance kit on a server of its own; every check restores weights, so it takes long."""
    model = work / "model"
    model.mkdir(parents=True)
    write_model(model)
    (work / "kit").mkdir()
    with skyrl_server(model, work, max_adapters=128, max_rank=subject.RANK) as address:
        service = SdkService(str(model), server=address, api_key=None)
        engine = TinkerEngine(
            service,
            facts=measure_server(service),
            rank=subject.RANK,
            seed=1,
            max_context_tokens=512,
            download_adapter=False,
        )
        report = check_engine(engine, work / "kit", vocab_size=300, tolerance=1e-3)
    return str(report).splitlines()


def _versions() -> dict[str, str]:
    found = {"envecho": version("envecho"), "tinker": version("tinker"), "python": platform.python_version()}
    for info in sorted(skyrl_environment().glob("lib/python*/site-packages/*.dist-info")):
        name, _, number = info.name.removesuffix(".dist-info").rpartition("-")
        if name in ("skyrl", "jax", "flax", "optax"):
            found[f"server: {name}"] = number
    return found


def _traps(service: SdkService) -> dict[str, float]:
    """Norms of one row's gradient, asked for in ways that ought to differ by a factor of 2, or not at all."""
    client = service._client.create_lora_training_client(base_model=service.base_model, rank=subject.RANK, seed=1)
    ids = np.arange(5, 13, dtype=np.int32)

    def norm(loss: str, value: float, config: dict[str, float] | None = None) -> float:
        coefficients = np.full(8, value, dtype=np.float32)
        row = Row(token_ids=ids, coefficients=coefficients)
        datum = service.datum(row, "cross_entropy" if loss == "cross_entropy" else "pinned_ratio")
        client.forward_backward([datum], loss, config).result()
        adam = service.types("AdamParams")(learning_rate=0.0, beta1=0.0, beta2=0.0, eps=1.0)
        return float(client.optim_step(adam).result().metrics["skyrl.ai/grad_norm"])

    pin = {"clip_low_threshold": 1.0, "clip_high_threshold": 1.0}
    return {
        "cross_entropy, weights 1": norm("cross_entropy", 1.0),
        "cross_entropy, weights 2": norm("cross_entropy", 2.0),
        "cispo with the ratio pinned, coefficients 1": norm("cispo", 1.0, pin),
        "cispo with the ratio pinned, coefficients 2": norm("cispo", 2.0, pin),
        "importance_sampling, advantages 1 over placeholder log-probs 0": norm("importance_sampling", 1.0),
    }


def _agreement(model: Path, setting: Setting, engine: TinkerEngine, work: Path) -> dict[str, Any]:
    work.mkdir()
    before = subject.adapter_weights(engine, work / "before")
    compiled = compile_batch(setting.sequences(), setting.objective)
    out = engine.forward_backward(compiled.batch)
    engine.optim_step(subject.DESCENT)
    found = subject.descended(before, subject.adapter_weights(engine, work / "after"))
    expected = reference(model, setting)
    targets = compiled.selected.numpy()
    measured = subject.Measured(
        loss=out.loss,
        env_ce=float(-out.env_logprobs[targets].astype(np.float64).mean()),
        effective_lambda=compiled.effective_lambda,
        gradient=None,
    )
    row = compare("tinker", setting, expected, measured, {})
    actions = compiled.batch.policy_weights.numpy() != 0
    logprobs = [out.env_logprobs[targets] - expected.env_logprobs]
    if expected.policy_logprobs.size:
        logprobs.append(out.policy_logprobs[actions] - expected.policy_logprobs)
    return {
        "setting": setting.name,
        "loss_difference": row.loss_difference,
        "env_ce_difference": row.env_ce_difference,
        "lambda_difference": row.lambda_difference,
        "largest_logprob_difference": float(max(np.abs(d).max() for d in logprobs)),
        "first_update_difference": subject.relative(
            found, subject.lora_gradient(expected.gradient, before, scale=SCALE)
        ),
    }


def _lora(model: Path, engine: TinkerEngine, work: Path) -> dict[str, float]:
    """Two Adam steps away from B = 0, then one of gradient descent, against the reference on W + scale * B @ A."""
    work.mkdir()
    setting = settings()[0]
    setting = dataclasses.replace(
        setting,
        objective=setting.objective.model_copy(
            update={"policy": setting.objective.policy.model_copy(update={"ratio_denominator": "current"})}
        ),
    )
    batch = compile_batch(setting.sequences(), setting.objective).batch
    for _ in range(2):
        engine.forward_backward(batch)
        engine.optim_step(STEP)
    before = subject.adapter_weights(engine, work / "before")
    merged = work / "merged"
    merged.mkdir()
    for file in model.iterdir():
        (merged / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    for name, b in before.items():
        if name.endswith("lora_B"):
            module = name.removesuffix(".lora_B")
            full = tensors[f"{module}.weight"].astype(np.float64) + SCALE * b @ before[f"{module}.lora_A"]
            tensors[f"{module}.weight"] = full.astype(np.float32)
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    engine.forward_backward(batch)
    engine.optim_step(subject.DESCENT)
    found = subject.descended(before, subject.adapter_weights(engine, work / "after"))
    expected = subject.lora_gradient(reference(merged, setting).gradient, before, scale=SCALE)
    return {
        factor: subject.relative({n: v for n, v in found.items() if n.endswith(factor)}, part)
        for factor in ("lora_A", "lora_B")
        for part in [{n: v for n, v in expected.items() if n.endswith(factor)}]
    }


def _resume(engine: TinkerEngine, folder: Path) -> dict[str, bool]:
    folder.mkdir()
    batch = compile_batch(settings()[0].sequences(), settings()[0].objective).batch
    request = ScoreRequest(token_ids=batch.token_ids[:20].numpy().astype(np.int32), read=np.arange(20) > 0)

    def step() -> np.ndarray:
        engine.forward_backward(batch)
        engine.optim_step(STEP)
        return engine.logprobs([request])[0].logprobs[1:]

    step()
    engine.save_state(folder)
    first = step()
    engine.load_state(folder)
    return {"same_bits": bool((step() == first).all()), "something_changed": bool((step() != first).any())}


def _training(work: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs of the training loop on the server: over episodes that exist, verifier-free, and over its own rollouts."""
    work.mkdir()
    model = work / "depot"
    model.mkdir()
    torch.manual_seed(0)
    make_depot_start(model, num_plans=1, steps_per_plan=80, num_even_steps=4, hidden_size=32, learning_rate=5e-3)
    pool = work / "pool.parquet"
    collect_to_file(CollectConfig(world="depot", policy="explore", num_episodes=32, seed=0), pool)
    stored = _run(
        model,
        data={"train": [str(pool)]},
        objective={"use_rl": False, "world_model_coeff": 1.0, "normalizer": "global_token_mean"},
        optimizer={"learning_rate": 3e-3, "schedule": "constant", "grad_clip_norm": math.inf},
        run={"steps": 12, "trajectories_per_step": 8, "checkpoint_every": 0},
    )
    rollout = {"world": "depot", "num_tasks": 4, "tasks_per_step": 2, "rollouts_per_task": 4, "max_turns": 2}
    grpo = _run(
        model,
        rollout=rollout | {"max_tokens_per_turn": 4, "episodes_per_batch": 8},
        objective={"world_model_coeff": 0.3, "policy": {"ratio_denominator": "current"}},
        optimizer={"learning_rate": 5e-3, "schedule": "constant", "grad_clip_norm": math.inf},
        run={"steps": 6, "checkpoint_every": 3},
    )
    local = LocalEngine(model, device="cpu", compute_dtype="float32", lora=LoraOptions(rank=8), seed=1)
    train(stored, work / "local", engine=local)
    found = {"stored_local": _rows(work / "local")}
    with skyrl_server(model, work) as address:
        service = SdkService(str(model), server=address, api_key=None)
        facts = measure_server(service)
        for name, config in (("stored", stored), ("grpo", grpo)):
            engine = TinkerEngine(service, facts=facts, rank=8, seed=1, max_context_tokens=256)
            started = time.monotonic()
            train(config, work / name, engine=engine)
            found[name] = [*_rows(work / name), {"wall_seconds": round(time.monotonic() - started, 1)}]
    return found


def _run(model: Path, **tables: Any) -> RunConfig:
    return RunConfig.from_document({"model": {"name": str(model)}, **tables})


def _rows(out: Path) -> list[dict[str, Any]]:
    """The training rows of a run, by the names that the page shows."""
    names = ("step", "loss", "env_ce", "reward_mean", "grad_norm", "effective_lambda", "num_env_tokens")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: row[name] for name in names if name in row} for row in rows if row.get("kind") == "train"]
