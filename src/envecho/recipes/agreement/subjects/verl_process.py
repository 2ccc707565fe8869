"""One process of a measurement inside verl: its FSDP engine on the CPU, its loss, its split into micro-batches.

    torchrun --nproc-per-node N -m envecho.recipes.agreement.subjects.verl_process PLAN.json

The plan (`write_plan`) lists cases; rank 0 writes `NAME.json` and `NAME.safetensors` for each beside it. Rows are those
of `envecho export --to verl`, turned into verl's batch by verl's `AgentLoopOutput` and joined by verl's own function.
Not here: what the figures are compared with (`verl`, tests).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from envecho.recipes.agreement.case import Setting, settings
from envecho.tokens.trainers.verl import row


@dataclass(frozen=True, kw_only=True)
class VerlCase:
    """One measurement: a setting of the agreement under one of verl's modes, cut into micro-batches.

    `remove_padding` is verl's `model.use_remove_padding`. `objective` None: verl's own configuration, and rows without
    masks. Otherwise it is `actor.fsdp_config.objective`.
    """

    name: str
    setting: str
    loss_agg_mode: str
    loss_scale_factor: int | None = None
    micro_batches: int = 1
    remove_padding: bool = True
    objective: dict[str, Any] | None = None


def write_plan(file: Path, model: Path, cases: Sequence[VerlCase]) -> None:
    """Write a plan as `main` reads it."""
    file.write_text(json.dumps({"model": str(model), "cases": [dataclasses.asdict(c) for c in cases]}))


def main(file: Path) -> None:
    """Measure every case of a plan in this process group."""
    plan = json.loads(file.read_text())
    torch.distributed.init_process_group("gloo")
    by_name = {setting.name: setting for setting in settings()}
    for table in plan["cases"]:
        case = VerlCase(**table)
        measured, gradient = measure_case(Path(plan["model"]), case, by_name[case.setting])
        if torch.distributed.get_rank() == 0:
            save_file(gradient, file.parent / f"{case.name}.safetensors")
            (file.parent / f"{case.name}.json").write_text(json.dumps(measured))
    torch.distributed.destroy_process_group()


def measure_case(model: Path, case: VerlCase, setting: Setting) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return loss and metrics over all ranks, and the whole gradient, of one mini-batch."""
    ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    rows = [r for r in (row(s, Counter()) for s in setting.sequences()) if r is not None]
    if case.objective is None:
        rows = [{**one, "extra_fields": {"group_id": one["extra_fields"]["group_id"]}} for one in rows]
    mine = rows[rank * len(rows) // ranks : (rank + 1) * len(rows) // ranks]
    engine_config = fsdp_config(case.objective)
    engine = make_engine(model, engine_config, remove_padding=case.remove_padding)
    actor = import_module("verl.workers.config").FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=case.loss_agg_mode,
        loss_scale_factor=case.loss_scale_factor,
        fsdp_config=engine_config,
    )
    loss = functools.partial(import_module("verl.workers.utils.losses").ppo_loss, config=actor)
    batch = mini_batch(
        mine,
        advantages=advantages(rows)[rank * len(rows) // ranks :],
        temperature=setting.temperature,
        global_batch_size=len(rows),
        micro_batch_size=len(mine) // case.micro_batches,
        remove_padding=case.remove_padding,
    )
    if setting.temperature != 1.0:
        _recompute_old_logprobs(engine, batch)
    with engine.train_mode():
        output = engine.forward_backward_batch(batch, loss)
        gradient = {name: _whole(value.grad) for name, value in engine.module.named_parameters()}
    return {"loss": _mean_over_ranks(sum(output["loss"])), **_metrics(output["metrics"])}, gradient


def fsdp_config(objective: dict[str, Any] | None) -> Any:
    """Return the engine's configuration in float32, with ECHO where there is an objective."""
    common: dict[str, Any] = {
        "strategy": "fsdp2",
        "mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        "use_torch_compile": False,
        "use_dynamic_bsz": False,
    }
    if objective is None:
        return import_module("verl.workers.config").FSDPEngineConfig(**common)
    return import_module("envecho.plugins.verl").EchoFSDPEngineConfig(**common, objective=objective)


def make_engine(model: Path, engine_config: Any, *, remove_padding: bool) -> Any:
    """Return the engine that verl's registry gives for this configuration, with its weights loaded."""
    import_module("envecho.plugins.verl.engine")
    configs = import_module("verl.workers.config")
    engine = import_module("verl.workers.engine.base").EngineRegistry.new(
        "language_model",
        engine_config.strategy,
        model_config=configs.HFModelConfig(
            path=str(model),
            use_remove_padding=remove_padding,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=engine_config,
        optimizer_config=configs.FSDPOptimizerConfig(lr=1e-3, total_training_steps=1),
        checkpoint_config=import_module("verl.trainer.config").CheckpointConfig(),
    )
    engine.initialize()
    return engine


def mini_batch(
    rows: Sequence[dict[str, Any]],
    *,
    advantages: Sequence[torch.Tensor],
    temperature: float,
    global_batch_size: int,
    micro_batch_size: int,
    remove_padding: bool,
) -> Any:
    """Return verl's mini-batch of export rows, as its trainer hands it to a worker."""
    tensors = import_module("verl.utils.tensordict_utils")
    output = import_module("verl.experimental.agent_loop.agent_loop").AgentLoopOutput
    fields: list[dict[str, Any]] = []
    for number, one in enumerate(rows):
        made = output(**one).as_dict()
        made["loss_mask"] = made["response_mask"]
        made["input_ids"] = torch.cat([made["prompts"], made["responses"]])
        made["position_ids"] = torch.arange(len(made["input_ids"]))
        made["old_log_probs"] = made.pop("rollout_log_probs")
        made["advantages"] = advantages[number][: len(made["responses"])]
        fields.append(made)
    # Jagged whatever the lengths, as verl's TransferQueue packs them.
    columns = {key: [made[key] for made in fields] for key in fields[0]}
    batch = tensors.get_tensordict(
        {
            key: torch.nested.as_nested_tensor(column, layout=torch.jagged)
            if isinstance(column[0], torch.Tensor)
            else column
            for key, column in columns.items()
        }
    )
    tensors.assign_non_tensor(
        batch,
        temperature=temperature,
        global_batch_size=global_batch_size,
        micro_batch_size_per_gpu=micro_batch_size,
        use_remove_padding=remove_padding,
        use_dynamic_bsz=False,
        calculate_entropy=False,
    )
    return batch


def advantages(rows: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """Return GRPO's advantages `[token]` of each row over its padded response, by verl's own function."""
    masks = [torch.tensor(one["response_mask"]) for one in rows]
    rewards = [
        torch.nn.functional.one_hot(torch.tensor(len(m) - 1), len(m)) * r["reward_score"]
        for m, r in zip(masks, rows, strict=True)
    ]
    found, _ = import_module("verl.trainer.ppo.core_algos").compute_grpo_outcome_advantage(
        token_level_rewards=torch.nn.utils.rnn.pad_sequence(rewards, batch_first=True),
        response_mask=torch.nn.utils.rnn.pad_sequence(masks, batch_first=True),
        index=np.array([one["extra_fields"]["group_id"] for one in rows], dtype=object),
    )
    return list(found)


def _recompute_old_logprobs(engine: Any, batch: Any) -> None:
    """Put verl's own log-probs at the sampling temperature in place of the sampler's, as its trainer does."""
    with engine.eval_mode():
        found = engine.infer_batch(batch.copy())["model_output"]["log_probs"]
    from_nested = import_module("verl.workers.utils.padding").response_from_nested
    batch["old_log_probs"] = from_nested(found, batch["response_mask"])


def _mean_over_ranks(value: float) -> float:
    mean = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(mean)
    return float(mean) / torch.distributed.get_world_size()


def _metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a mini-batch over all ranks, put together by verl's own functions."""
    gathered = import_module("verl.utils.torch_functional").allgather_dict_into_dict(
        data=metrics, group=torch.distributed.group.WORLD
    )
    aggregate = import_module("verl.utils.metric").Metric.aggregate_dp
    return {name: float(aggregate(values)) for name, values in gathered.items()}


def _whole(gradient: Any) -> torch.Tensor:
    return gradient.full_tensor().contiguous()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
