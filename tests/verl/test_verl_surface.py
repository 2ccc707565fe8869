"""What the plug-in uses of verl, by signature, and verl's own worker on the way through it.

Each test names what would break. `forward_backward_batch`, `EngineRegistry.register`, `AgentLoopBase.run` and
`AgentLoopOutput` are verl's interface; `prepare_model_outputs` and the keys of a batch are not.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from verl_present import has_verl

if not has_verl():
    pytest.skip("needs verl: make test-verl", allow_module_level=True)

import torch
from omegaconf import OmegaConf

from envecho.errors import ConfigError, EngineError
from envecho.recipes.agreement.case import settings, write_model
from envecho.recipes.agreement.subjects.verl import CPU_ENVIRONMENT

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_engine_overrides_two_methods_of_known_signature() -> None:
    """Catches a method that verl renames or calls otherwise: the term would vanish without an error."""
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from envecho.plugins.verl import EchoFSDPEngine

    for name, expected in {
        "forward_backward_batch": ["self", "data", "loss_function", "forward_only"],
        "prepare_model_outputs": ["self", "output", "output_args", "micro_batch", "logits_processor_func"],
        "__init__": ["self", "model_config", "engine_config", "optimizer_config", "checkpoint_config"],
    }.items():
        assert parameters(getattr(FSDPEngineWithLMHead, name)) == expected, name
        assert parameters(getattr(EchoFSDPEngine, name)) == expected, name


def test_verls_registry_prefers_the_engine_of_the_vendor() -> None:
    """Catches a registry that stops asking for the vendor first, so that verl's own engine would train."""
    from verl.utils.device import get_device_name
    from verl.workers.engine.base import EngineRegistry

    from envecho.plugins.verl import EchoFSDPEngine

    for backend in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", backend) is EchoFSDPEngine
    assert get_device_name() == "cpu"


def test_verls_loss_gets_what_the_engine_reads_from_it() -> None:
    """Catches a loss that is bound otherwise, divides by other keys of the batch, or aggregates in a new mode."""
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.workers.utils.losses import ppo_loss

    assert parameters(ppo_loss) == ["config", "model_output", "data", "dp_group"]
    assert parameters(agg_loss) == [
        "loss_mat",
        "loss_mask",
        "loss_agg_mode",
        "dp_size",
        "batch_num_tokens",
        "global_batch_size",
        "loss_scale_factor",
    ]
    workers = inspect.getsource(importlib.import_module("verl.workers.engine_workers"))
    assert "partial(ppo_loss, config=actor_config)" in workers
    told = inspect.getsource(agg_loss)
    modes = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]
    assert all(f'"{mode}"' in told for mode in modes)
    with pytest.raises(ValueError, match="Invalid loss_agg_mode"):
        agg_loss(torch.ones(1, 1), torch.ones(1, 1), "another")


def test_the_configuration_reaches_the_engine_through_hydra(verl_config: Any) -> None:
    """Catches an objective that verl's configuration drops on its way to a worker."""
    from verl.utils.config import omega_conf_to_dataclass

    from envecho.plugins.verl import EchoFSDPEngineConfig

    actor = omega_conf_to_dataclass(verl_config.actor_rollout_ref.actor)
    assert isinstance(actor.engine, EchoFSDPEngineConfig)
    assert actor.engine.strategy == "fsdp2"
    assert actor.engine.objective == {"world_model_coeff": 0.05, "normalizer": "global_token_mean"}
    assert verl_config.actor_rollout_ref.ref.fsdp_config._target_ == "verl.workers.config.FSDPEngineConfig"


def test_an_unknown_key_of_the_objective_stops_verl_at_once(verl_config: Any) -> None:
    """Catches a typing error that leaves lambda at its default."""
    from verl.utils.config import omega_conf_to_dataclass

    resolved = OmegaConf.to_container(verl_config, resolve=True)
    actor = OmegaConf.create(resolved["actor_rollout_ref"]["actor"])
    actor.fsdp_config.objective["world_model_coef"] = 1.0
    with pytest.raises(Exception, match="Did you mean 'world_model_coeff'"):
        omega_conf_to_dataclass(actor)


def test_a_loss_without_its_configuration_and_masks_without_an_objective_are_refused() -> None:
    """Catches ECHO that is half configured: rows with masks and verl's own engine configuration, or a bare loss."""
    from envecho.plugins.verl import engine

    with pytest.raises(EngineError, match="with its actor configuration bound"):
        engine._actor_config(lambda **_: None)
    config = object()
    assert engine._actor_config(functools.partial(print, config=config)) is config
    from verl.utils.tensordict_utils import get_tensordict

    rows = get_tensordict({"n": torch.zeros(2), "extra_fields": [{"obs_mask": [1]}, {}]})
    with pytest.raises(ConfigError, match="silently absent"):
        engine._refuse_masks_without_objective(rows)
    engine._refuse_masks_without_objective(get_tensordict({"n": torch.zeros(2), "extra_fields": [{}, {}]}))


def test_verls_worker_trains_shuffled_mini_batches_and_logs_figures_of_each(tmp_path: Path) -> None:
    """Catches counts of the batch where the optimiser step is a mini-batch, and ranks that disagree on the metrics."""
    model, out = tmp_path / "model", tmp_path / "metrics.json"
    model.mkdir()
    write_model(model)
    script = Path(__file__).with_name("train_in_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(model), str(out)],
        env=os.environ | CPU_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(out.read_text())
    sequences = settings()[0].sequences()
    targets = sum(int((s.obs_mask & s.owned_mask()).sum()) for s in sequences)
    epochs = [metrics["actor/num_env_tokens"][:2], metrics["actor/num_env_tokens"][2:]]
    assert [sum(epoch) for epoch in epochs] == [targets, targets]
    assert len(set(metrics["actor/num_env_tokens"])) > 1
    assert metrics["actor/effective_lambda"] == pytest.approx([0.05] * 4)
    assert metrics["actor/env_loss"] == pytest.approx([0.05 * ce for ce in metrics["actor/env_ce"]], rel=1e-5)
    assert sum(metrics["actor/env_ce"][2:]) < sum(metrics["actor/env_ce"][:2])
    assert all(norm > 0 for norm in metrics["grad_norm"])
