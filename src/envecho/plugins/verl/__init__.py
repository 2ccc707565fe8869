"""ECHO inside verl: an engine that adds the environment term, and an agent loop that plays worlds.

    EchoFSDPEngineConfig   `actor.fsdp_config` with an `objective`; naming it as `_target_` turns ECHO on
    EchoFSDPEngine         verl's FSDP engine; registers itself in verl's EngineRegistry when it is imported
    WorldAgentLoop         verl's agent loop `envecho_world`: a world's episode as AgentLoopOutput with masks

The pure parts (`settings`, `row_masks`, `step_weights`) need no verl. Not here: the policy term, advantages, sampling
and devices, which stay verl's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from envecho.plugins.verl.agent_loop import WorldAgentLoop
    from envecho.plugins.verl.engine import EchoFSDPEngine, EchoFSDPEngineConfig

__all__ = ["EchoFSDPEngine", "EchoFSDPEngineConfig", "WorldAgentLoop"]

_MODULE_OF: Final = {
    "EchoFSDPEngine": "envecho.plugins.verl.engine",
    "EchoFSDPEngineConfig": "envecho.plugins.verl.engine",
    "WorldAgentLoop": "envecho.plugins.verl.agent_loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
