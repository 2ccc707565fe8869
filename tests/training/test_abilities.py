"""What an objective asks of its engine is known, and refused, before the run."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from envecho.errors import ConfigError
from envecho.objective import EchoConfig
from envecho.seam import Ability, EngineCapabilities
from envecho.training.abilities import needed_abilities, refuse_unable
from envecho.training.config import RunConfig

ABLE = EngineCapabilities(
    trains=True, samples=True, max_context_tokens=100, devices="a server", compute_dtype="bfloat16"
)


def run(objective: EchoConfig, **tables: object) -> RunConfig:
    document = {"rollout": {}, "run": {"steps": 1}, "optimizer": {"grad_clip_norm": float("inf")}, **tables}
    return RunConfig.from_document(document | {"objective": objective.model_dump(mode="json", exclude_none=True)})


def lacking(**lacks: str) -> EngineCapabilities:
    return dataclasses.replace(ABLE, lacks=lacks)


@pytest.mark.parametrize(
    ("table", "ability"),
    [
        ({"policy": {"loss": "cispo"}}, "loss_cispo"),
        ({"policy": {"loss": "sft"}}, "loss_sft"),
        ({"policy": {"ratio_denominator": "current"}}, "ratio_current"),
        ({"policy": {"ratio_denominator": "proximal", "importance_cap": 2.0}}, "importance_cap"),
        ({"policy": {"kl_coeff": 0.1}}, "kl"),
        ({"policy": {"entropy_coeff": 0.1}}, "entropy_bonus"),
        ({"noise": {"nll_clip": 5.0}}, "env_nll_clip"),
        ({"schedule": {"measure_every": 10}}, "term_gradients"),
    ],
)
def test_what_an_engine_lacks_is_refused_by_key_and_reason(table: dict[str, object], ability: str):
    """Catches a run that fails after its first rollout, or trains something else than it was asked to."""
    objective = EchoConfig.from_table(table)
    refuse_unable(ABLE, run(objective))
    with pytest.raises(ConfigError, match=r"\[objective\] .*the service cannot"):
        refuse_unable(lacking(**{ability: "the service cannot"}), run(objective))


def test_everything_that_is_missing_is_said_at_once():
    """Catches an error that sends the user round once for each key."""
    objective = EchoConfig.from_table({"policy": {"kl_coeff": 0.1}, "noise": {"nll_clip": 5.0}})
    with pytest.raises(ConfigError, match=r"kl_coeff: no KL; .*nll_clip: no clip"):
        refuse_unable(lacking(kl="no KL", env_nll_clip="no clip"), run(objective))


def test_a_verifier_free_run_asks_for_no_policy_loss():
    """Catches a server without policy losses that is refused for a run that needs none."""
    free = EchoConfig(use_rl=False)
    assert needed_abilities(run(free)) == {}
    refuse_unable(lacking(**dict.fromkeys(get_args(Ability), "no")), run(free))


def test_an_engine_that_only_scores_is_refused():
    """Catches a run that notices at its first backward pass."""
    with pytest.raises(ConfigError, match="cannot train"):
        refuse_unable(dataclasses.replace(ABLE, trains=False), run(EchoConfig()))


def test_clips_and_temperatures_are_asked_for_where_the_run_has_them():
    """Catches a server that does not clip, or knows T = 1 alone, and is noticed after the first rollouts."""
    clipped = run(EchoConfig(), optimizer={"grad_clip_norm": 0.2})
    with pytest.raises(ConfigError, match=r"\[optimizer\] grad_clip_norm = 0.2 .*: it does not clip"):
        refuse_unable(lacking(grad_clip="it does not clip"), clipped)
    warm = run(EchoConfig(), rollout={"temperature": 0.8})
    with pytest.raises(ConfigError, match=r"\[rollout\] temperature = 0.8: T = 1 alone"):
        refuse_unable(lacking(policy_temperature="T = 1 alone"), warm)
    refuse_unable(
        lacking(policy_temperature="T = 1 alone"), run(EchoConfig(use_rl=False), rollout={"temperature": 0.8})
    )
