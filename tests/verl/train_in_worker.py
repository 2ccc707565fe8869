"""verl's own TrainingWorker on the committed batch: shuffled mini-batches, epochs, optimiser steps, its metrics.

torchrun --nproc-per-node 2 tests/verl/train_in_worker.py MODEL OUT.json
"""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch

from envecho.recipes.agreement.case import settings
from envecho.recipes.agreement.subjects import verl_process
from envecho.tokens.trainers.verl import row

EPOCHS, MINI_BATCH = 2, 4


def main(model: Path, out: Path) -> None:
    """Train two epochs of two mini-batches in this process group and write the metrics that verl would log."""
    torch.distributed.init_process_group("gloo")
    import_module("verl")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    configs, tensors = import_module("verl.workers.config"), import_module("verl.utils.tensordict_utils")
    engine = verl_process.fsdp_config({"normalizer": "global_token_mean", "world_model_coeff": 0.05})
    engine.micro_batch_size_per_gpu = 1
    worker = import_module("verl.workers.engine_workers").TrainingWorker(
        configs.TrainingWorkerConfig(
            model_type="language_model",
            model_config=configs.HFModelConfig(
                path=str(model),
                use_remove_padding=True,
                enable_gradient_checkpointing=False,
                override_config={"attn_implementation": "sdpa"},
            ),
            engine_config=engine,
            optimizer_config=configs.FSDPOptimizerConfig(lr=1e-3, total_training_steps=4),
            checkpoint_config=import_module("verl.trainer.config").CheckpointConfig(),
            profiler_config=None,
        )
    )
    worker.reset()
    actor = configs.FSDPActorConfig(strategy="fsdp2", rollout_n=4, ppo_micro_batch_size_per_gpu=1, fsdp_config=engine)
    loss = import_module("verl.workers.utils.losses").ppo_loss
    worker.set_loss_fn(functools.partial(loss, config=actor))
    rows = [one for one in (row(s, Counter()) for s in settings()[0].sequences()) if one is not None]
    mine = slice(rank * len(rows) // ranks, (rank + 1) * len(rows) // ranks)
    batch = verl_process.mini_batch(
        rows[mine],
        advantages=verl_process.advantages(rows)[mine],
        temperature=1.0,
        global_batch_size=MINI_BATCH,
        micro_batch_size=1,
        remove_padding=True,
    )
    tensors.assign_non_tensor(
        batch, mini_batch_size=MINI_BATCH, epochs=EPOCHS, seed=1, dataloader_kwargs={"shuffle": True}
    )
    metrics = tensors.get(worker.train_mini_batch(batch), "metrics")
    if rank == 0:
        chosen = ("actor/env_ce", "actor/effective_lambda", "actor/num_env_tokens", "actor/env_loss", "grad_norm")
        out.write_text(json.dumps({name: [float(value) for value in metrics[name]] for name in chosen}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
