"""TRL's `GRPOTrainer` with ECHO: the committed batch as rows of a `rollout_func`, one real optimiser step.

The gradient is the one that the trainer is about to apply, in 1 and 2 processes (torch.distributed on gloo, DDP by
accelerate), with 1 and 4 micro-batches. `loss_type` is TRL's for the setting's rule, and advantages are handed over as
rewards (`trl_stored`). Several processes run this module by themselves: MODEL, setting, folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from envecho.errors import EngineError
from envecho.objective import PolicyConfig
from envecho.recipes.agreement.case import ROLLOUTS_PER_GROUP, Setting, settings
from envecho.recipes.agreement.compare import Measured
from envecho.recipes.trl_stored import rows_with_advantages, stored_trainer, world_size

PACKAGES: Final = ("trl", "transformers", "accelerate", "torch")
_PROCESSES: Final = (1, 2)
_ACCUMULATION: Final = (1, 4)
_LOSS_TYPES: Final = {
    "global_token_mean": "dapo",
    "verl_token_mean": "dapo",
    "reference_sequence_mean": "grpo",
    "sequence_mean_selected": "grpo",
    "constant_length": "dr_grpo",
}
_NOTE: Final = 'loss_type="{}"; advantages handed over as rewards, since TRL adds 1e-4 to the standard deviation'
_TIMEOUT_SECONDS: Final = 300


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure the trainer in float32, in one and two processes, whole and cut in four."""
    for processes in _PROCESSES:
        launch(model, setting, work, processes=processes)
    return [read(work, setting, processes=p, accumulation=n) for p in _PROCESSES for n in _ACCUMULATION]


def step_trainer(model: Path, setting: Setting, out: Path, *, accumulation: int) -> tuple[Any, dict[str, Any]]:
    """Return a trainer of one step on the committed batch, and where its callback puts the gradient."""
    from transformers import TrainerCallback

    found: dict[str, Any] = {}

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            named = kwargs["model"].named_parameters()
            found.update({name.removeprefix("module."): value.grad.numpy().copy() for name, value in named})

    rows = rows_with_advantages(setting.sequences())
    trainer = stored_trainer(
        model,
        rows,
        setting.objective.model_copy(update={"policy": PolicyConfig()}),
        callbacks=[Gradients()],
        output_dir=str(out),
        per_device_train_batch_size=len(rows) // accumulation // world_size(),
        gradient_accumulation_steps=accumulation,
        num_generations=ROLLOUTS_PER_GROUP,
        max_completion_length=setting.objective.constant_length or 256,
        max_steps=1,
        max_grad_norm=0.0,
        loss_type=_LOSS_TYPES[setting.objective.preset.normalizer],
        temperature=setting.temperature,
    )
    return trainer, found


def launch(model: Path, setting: Setting, work: Path, *, processes: int) -> None:
    """Run the steps in this many processes, which write what came of them into `work`.

    Raises:
        EngineError: they fail, or give no result.
    """
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
    rendezvous = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    command = [sys.executable, *launcher, *rendezvous, "-m", __name__, str(model), setting.name, str(work)]
    # A group of its own, so that the processes of a launcher that is given up do not stay behind.
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, told = started.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise EngineError(f"TRL in {processes} processes gave no result in {_TIMEOUT_SECONDS} s") from None
    if started.returncode:
        raise EngineError(f"TRL in {processes} processes failed:\n{told[-2000:]}")


def read(work: Path, setting: Setting, *, processes: int, accumulation: int) -> Measured:
    """Return what `launch` measured."""
    stem = _stem(work, processes, accumulation)
    gradient: Mapping[str, NDArray[Any]] = load_file(stem.with_suffix(".safetensors"))
    logged = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return Measured(
        loss=logged["loss"],
        env_ce=logged["env_ce"],
        effective_lambda=logged.get("effective_lambda"),
        gradient=gradient,
        processes=processes,
        accumulation=accumulation,
        note=_NOTE.format(_LOSS_TYPES[setting.objective.preset.normalizer]),
    )


def _stem(work: Path, processes: int, accumulation: int) -> Path:
    return work / f"trl-{processes}-{accumulation}"


def main(model: Path, name: str, work: Path) -> None:
    """Run in one process of several: one step for each accumulation; the first process writes what came of it."""
    (setting,) = [s for s in settings() if s.name == name]
    for accumulation in _ACCUMULATION:
        trainer, gradient = step_trainer(model, setting, work, accumulation=accumulation)
        trainer.train()
        if trainer.accelerator.is_main_process:
            stem = _stem(work, world_size(), accumulation)
            save_file(gradient, stem.with_suffix(".safetensors"))
            stem.with_suffix(".json").write_text(json.dumps(trainer.state.log_history[0]), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    # Taking DDP and gloo down may deadlock: torch 2.13 destroys the process group with the interpreter's lock in hand
    # while gloo's thread waits for it. All files are written, so leave without it.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
