"""SkyRL's own command with ECHO in it: `main` is what `trainer.override_entrypoint` calls.

    python -m skyrl.train.entrypoints.main_base trainer.override_entrypoint=envecho.plugins.skyrl.entrypoint \\
        objective=echo.toml trainer.algorithm.policy_loss_type=echo_regular trainer.algorithm.temperature=1.0 ...

`objective` names a TOML file whose table `[objective]` is ours (docs/objective.md); all other settings are SkyRL's. Not
here: what they mean.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from envecho.errors import ConfigError
from envecho.extras import require_extra
from envecho.objective import EchoConfig
from envecho.plugins.skyrl.generator import EchoGenerator, template_marks
from envecho.plugins.skyrl.loss import register_echo_losses
from envecho.plugins.skyrl.trainer import check_config, trainer_class

_OURS: Final = "objective="
_OVERRIDE: Final = "trainer.override_entrypoint="


def read_objective(path: Path) -> EchoConfig:
    """Read the table `[objective]` of a TOML file.

    Raises:
        ConfigError: the file cannot be read, has no such table, or the table is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the objective cannot be read: {error}") from error
    table: Any = document.get("objective")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected a table [objective]")
    return EchoConfig.from_table(table)


def experiment_class(objective: EchoConfig) -> type[Any]:
    """Return SkyRL's `BasePPOExp` with our trainer, and with its generator's observations marked."""
    base: Any = importlib.import_module("skyrl.train.entrypoints.main_base").BasePPOExp

    class EchoPPOExp(base):
        """`BasePPOExp` that hands out an `EchoGenerator` and our trainer."""

        def get_generator(self, cfg: Any, tokenizer: Any, inference_engine_client: Any) -> Any:
            """Wrap SkyRL's generator."""
            inner = super().get_generator(cfg, tokenizer, inference_engine_client)
            model = cfg.trainer.policy.model.path
            return EchoGenerator(inner, template_marks(model, world_loss_target=objective.world_loss_target))

        def get_trainer(self, *args: Any, **kwargs: Any) -> Any:
            """Build our trainer in place of SkyRL's."""
            return trainer_class()(*args, objective=objective, **kwargs)

    return EchoPPOExp


def main() -> None:
    """Read SkyRL's command line and `objective=FILE.toml`, check both, and train on Ray as SkyRL does.

    Raises:
        ConfigError: a setting would make the environment term wrong or inert.
    """
    require_extra("skyrl")
    named = [argument.removeprefix(_OURS) for argument in sys.argv[1:] if argument.startswith(_OURS)]
    if len(named) != 1:
        raise ConfigError(f"expected objective=FILE.toml once, found {len(named)}")
    rest = [argument for argument in sys.argv[1:] if not argument.startswith((_OURS, _OVERRIDE))]
    objective = read_objective(Path(named[0]))
    ray: Any = importlib.import_module("ray")
    train: Any = importlib.import_module("skyrl.train.utils")
    cfg = importlib.import_module("skyrl.train.config").SkyRLTrainConfig.from_cli_overrides(rest)
    register_echo_losses()
    train.validate_cfg(cfg)
    check_config(cfg, objective)
    importlib.import_module("skyrl.train.utils.utils").initialize_ray(cfg)

    def run(config: Any) -> None:
        experiment_class(objective)(config).run()

    ray.get(ray.remote(num_cpus=1)(run).remote(cfg))
