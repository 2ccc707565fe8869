"""Compose verl's configuration by verl's own hydra, check it, and start nothing.

    python -m envecho.plugins.verl.dry_run OVERRIDE...        the arguments of `python -m verl.trainer.main_ppo`

It says what would be trained, or what ECHO refuses, before a GPU is asked for. Not here: what is refused (`settings`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from envecho.errors import EnvechoError
from envecho.extras import require_extra
from envecho.objective import EchoConfig
from envecho.plugins.verl.dataset import AGENT_LOOP
from envecho.plugins.verl.settings import refuse_setup, verl_objective


def compose(overrides: Sequence[str]) -> Any:
    """Return verl's configuration with these overrides."""
    require_extra("verl")
    hydra = import_module("hydra")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("ppo_trainer", overrides=list(overrides))


def check(config: Any) -> EchoConfig:
    """Return the objective that verl's actor would train, or refuse.

    Raises:
        ConfigError: ECHO would be absent or inexact.
    """
    file = config.actor_rollout_ref.rollout.agent.agent_loop_config_path
    loops = import_module("omegaconf").OmegaConf.load(file) if file else ()
    allowed = any(loop.get("allow_filter_groups", False) for loop in loops if loop.name == AGENT_LOOP)
    refuse_setup(config, allow_filter_groups=allowed)
    actor = import_module("verl.utils.config").omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    return verl_objective(actor.engine.objective)


def main(overrides: Sequence[str]) -> int:
    """Print the objective; 1 where something is refused."""
    try:
        config = compose(overrides)
        echo = check(config)
    except EnvechoError as error:
        print(error, file=sys.stderr)
        return 1
    actor = config.actor_rollout_ref.actor
    print(f"actor        {actor.strategy}, {actor.loss_agg_mode}, {actor.fsdp_config._target_}")
    print(
        f"objective    {json.dumps(echo.model_dump(mode='json', exclude={'policy', 'schedule', 'filters', 'noise'}))}"
    )
    print(f"agent loops  {config.actor_rollout_ref.rollout.agent.agent_loop_config_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
