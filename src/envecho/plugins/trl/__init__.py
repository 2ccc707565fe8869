"""ECHO inside TRL's `GRPOTrainer`: `EchoGRPOTrainer`, and `rollout_in` for the worlds of envecho.

    settings       what of an EchoConfig and of a trainer can be followed; the rest is refused by name
    row_masks      which tokens of a completion are the world's words, from the rows of a `rollout_func`
    tool_turns     the same for the tools that TRL calls itself, proved on TRL's own ids
    step_weights   what each token is worth over the optimiser step, whichever way TRL cuts it
    body_reader    log-probs at T = 1 from the hidden states of TRL's own forward pass
    trainer        the trainer
    rollouts       a `rollout_func` that plays the worlds of envecho
    surface        TRL's private names that are used, each with what it looked like when it was tested

TRL is imported when one of the two names is asked for, and must be of a version that the tests ran on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envecho.extras import require_extra

if TYPE_CHECKING:
    from envecho.plugins.trl.rollouts import rollout_in
    from envecho.plugins.trl.trainer import EchoGRPOTrainer

__all__ = ["EchoGRPOTrainer", "rollout_in"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_extra("trl")
    if name == "EchoGRPOTrainer":
        from envecho.plugins.trl.trainer import EchoGRPOTrainer

        return EchoGRPOTrainer
    from envecho.plugins.trl.rollouts import rollout_in

    return rollout_in
