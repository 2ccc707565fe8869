"""Whether a step trains what the configuration says: terms, their tokens, and a probe that a gradient can flow.

A term that is configured and silently absent is METHOD's trap 23. Not here: what measures gradients (the engine), and
alarms about many silent steps (`alarms`).
"""

from __future__ import annotations

import dataclasses

import torch

from envecho.losses import WeightedBatch
from envecho.objective import CompiledBatch, EchoConfig


def configured_terms(config: EchoConfig) -> tuple[str, ...]:
    """Return which terms the configuration asks for: `policy`, `env`, or both."""
    policy = ("policy",) if config.use_rl else ()
    return policy + (("env",) if config.world_model_coeff > 0 else ())


def has_tokens(compiled: CompiledBatch, term: str) -> bool:
    """Whether the batch weighs a token of this term; advantages do not matter."""
    weights = compiled.batch.policy_weights if term == "policy" else compiled.batch.env_weights
    return bool((weights != 0).any())


def has_weight(compiled: CompiledBatch) -> bool:
    """Whether the batch can change the model at all."""
    batch = compiled.batch
    policy = (batch.policy_weights != 0) & (batch.advantages != 0)
    others = (batch.env_weights != 0) | (batch.kl_weights != 0) | (batch.entropy_weights != 0)
    return bool((policy | others).any())


def with_synthetic_advantages(batch: WeightedBatch) -> WeightedBatch:
    """Return the batch with every advantage 1: its policy gradient is that of the actions' likelihood, never 0.

    KL and entropy are left out, so that they cannot stand in for the policy term.
    """
    nothing = torch.zeros_like(batch.policy_weights)
    return dataclasses.replace(
        batch, advantages=torch.ones_like(batch.advantages), kl_weights=nothing, entropy_weights=nothing
    )


def scale_env(compiled: CompiledBatch, factor: float) -> CompiledBatch:
    """Return the batch with the environment term multiplied."""
    if factor == 1.0:
        return compiled
    batch = dataclasses.replace(compiled.batch, env_weights=compiled.batch.env_weights * factor)
    return dataclasses.replace(compiled, batch=batch)
