"""The local engine over 2 and 4 processes of torchrun, on gloo: float32, sequences dealt out, gradients added up.

The processes run this module by themselves: MODEL, setting, folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file, save_file

from envecho.engines.distributed import open_local, rank_zero
from envecho.errors import EngineError
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import Setting, settings
from envecho.recipes.agreement.compare import Measured

PACKAGES: Final = ("torch", "transformers")
_PROCESSES: Final = (2, 4)
_TOKENS_PER_MICRO_BATCH: Final = 4096
_TIMEOUT_SECONDS: Final = 300


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure the engine in 2 and 4 processes."""
    return [_measure(model, setting, work / str(processes), processes=processes) for processes in _PROCESSES]


def _measure(model: Path, setting: Setting, out: Path, *, processes: int) -> Measured:
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, "-m", __name__, str(model), setting.name, str(out)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise EngineError(f"torchrun with {processes} processes failed:\n{done.stderr[-2000:]}")
    told = json.loads((out / "told.json").read_text(encoding="utf-8"))
    return Measured(**told, gradient=load_file(out / "gradient.safetensors"), processes=processes)


def _step(model: Path, setting: Setting, out: Path) -> None:
    """On rank 0: one forward and backward pass over the committed batch."""
    engine = open_local(model, device="cpu", compute_dtype="float32", tokens_per_micro_batch=_TOKENS_PER_MICRO_BATCH)
    compiled = compile_batch(setting.sequences(), setting.objective)
    found = engine.forward_backward(compiled.batch)
    targets = compiled.selected.numpy()
    told = {
        "loss": found.loss,
        "env_ce": float(-found.env_logprobs[targets].astype(np.float64).mean()),
        "effective_lambda": compiled.effective_lambda,
    }
    (out / "told.json").write_text(json.dumps(told), encoding="utf-8")
    save_file(engine.gradients(), out / "gradient.safetensors")


if __name__ == "__main__":
    with rank_zero() as is_rank_zero:
        if is_rank_zero:
            chosen = {setting.name: setting for setting in settings()}[sys.argv[2]]
            _step(Path(sys.argv[1]), chosen, Path(sys.argv[3]))
