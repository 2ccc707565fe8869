"""verl: its FSDP engine, its PPO loss and the plug-in, in one and two processes on the CPU over gloo.

Each setting runs under the `loss_agg_mode` that divides the policy term as the setting's rule does. Not here: what a
process does (`verl_process`).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file

from envecho.errors import EngineError
from envecho.extras import require_extra
from envecho.recipes.agreement.case import Setting, settings
from envecho.recipes.agreement.compare import Measured
from envecho.recipes.agreement.subjects.verl_process import VerlCase, write_plan

PACKAGES: Final = ("verl", "torch", "transformers", "tensordict")
CPU_ENVIRONMENT: Final = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "envecho.recipes.agreement.subjects.verl_cpu",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}

_MICRO_BATCHES: Final = (1, 4)
_MODES: Final = {
    "sequence_mean_selected": "seq-mean-token-mean",
    "reference_sequence_mean": "seq-mean-token-mean",
    "constant_length": "seq-mean-token-sum-norm",
}
"""The mode for a rule; token-mean for all others."""


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure one and two processes, each with one micro-batch and with four."""
    rows: list[Measured] = []
    for processes in (1, 2):
        folder = _measured(model, processes)
        for case in (verl_case(setting, micro_batches=count) for count in _MICRO_BATCHES):
            figures = json.loads((folder / f"{case.name}.json").read_text())
            rows.append(
                Measured(
                    loss=figures["loss"],
                    env_ce=figures["actor/env_ce"],
                    effective_lambda=figures.get("actor/effective_lambda"),
                    gradient=load_file(folder / f"{case.name}.safetensors"),
                    processes=processes,
                    accumulation=case.micro_batches,
                )
            )
    return rows


@functools.cache
def _measured(model: Path, processes: int) -> Path:
    """Run all settings in one start of the processes, since importing verl takes longer than everything else."""
    require_extra("verl")
    folder = model.parent / f"verl-{processes}"
    folder.mkdir()
    cases = [verl_case(setting, micro_batches=count) for setting in settings() for count in _MICRO_BATCHES]
    run_cases(model, cases, folder, processes=processes)
    return folder


def verl_case(setting: Setting, *, micro_batches: int) -> VerlCase:
    """Return a setting of the agreement as verl is configured for it."""
    rule = setting.objective.preset.normalizer
    table: dict[str, Any] = setting.objective.model_dump(mode="json", exclude_defaults=True, exclude={"policy"})
    return VerlCase(
        name=f"{setting.name}-{micro_batches}",
        setting=setting.name,
        loss_agg_mode=_MODES.get(rule, "token-mean"),
        loss_scale_factor=setting.objective.constant_length,
        micro_batches=micro_batches,
        objective=table,
    )


def run_cases(model: Path, cases: Sequence[VerlCase], folder: Path, *, processes: int) -> None:
    """Run cases in so many processes; each leaves `NAME.json` and `NAME.safetensors` in the folder.

    Raises:
        EngineError: a process failed.
    """
    plan = folder / "plan.json"
    write_plan(plan, model, cases)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "envecho.recipes.agreement.subjects.verl_process", str(plan)]
    done = subprocess.run(command, env=os.environ | CPU_ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        # What the processes said stands in front of what torchrun says about them.
        said = done.stderr.partition("torch/distributed/elastic/multiprocessing/api.py")[0]
        raise EngineError(f"verl's processes failed ({done.returncode}): {said[-3000:]}")
