"""verl's own FSDP engine and PPO loss with the plug-in, in one and two processes over gloo, against plain loops.

The processes of all cases start once for each process count; they take about half a minute each on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from verl_present import has_verl

if not has_verl():
    pytest.skip("needs verl: make test-verl", allow_module_level=True)

import numpy as np
from safetensors.numpy import load_file
from verl_expected import MODES, RULES, SCALE, distance, expected

from envecho.recipes.agreement.case import Setting, settings, write_model
from envecho.recipes.agreement.subjects.verl import run_cases
from envecho.recipes.agreement.subjects.verl_process import VerlCase

pytestmark = pytest.mark.timeout(600)

COEFF = 0.3
PROCESSES = (1, 2)
MICRO_BATCHES = (1, 2, 4)
BY_NAME = {setting.name: setting for setting in settings()}


def objective(rule: str, **fields: Any) -> dict[str, Any]:
    return {"world_model_coeff": COEFF, "normalizer": rule, **fields}


def mode_case(
    mode: str, rule: str, micro_batches: int, setting: str = "global_token_mean", *, remove_padding: bool = True
) -> VerlCase:
    return VerlCase(
        name=f"{mode}-{rule}-{micro_batches}-{setting}{'' if remove_padding else '-padded'}",
        remove_padding=remove_padding,
        setting=setting,
        loss_agg_mode=mode,
        loss_scale_factor=SCALE if mode.endswith("norm") else None,
        micro_batches=micro_batches,
        objective=objective(rule),
    )


CASES = [
    *[mode_case(mode, "global_token_mean", count) for mode in MODES for count in MICRO_BATCHES],
    *[mode_case(mode, rule, 2) for mode in MODES for rule in RULES if rule != "global_token_mean"],
    mode_case("seq-mean-token-mean", "global_token_mean", 2, "temperature_0.8"),
    mode_case("seq-mean-token-mean", "global_token_mean", 2, "temperature_0.8", remove_padding=False),
    mode_case("token-mean", "global_token_mean", 2, remove_padding=False),
]
OBSERVE = VerlCase(
    name="observe",
    setting="observe_only",
    loss_agg_mode="token-mean",
    micro_batches=2,
    objective=objective("global_token_mean") | {"world_model_coeff": 0.0},
)
OBSERVE_AT_08 = VerlCase(
    name="observe-0.8",
    setting="temperature_0.8",
    loss_agg_mode="token-mean",
    micro_batches=2,
    objective=objective("global_token_mean") | {"world_model_coeff": 0.0},
)
PLAIN = VerlCase(name="plain", setting="observe_only", loss_agg_mode="token-mean", micro_batches=2)
PLAIN_AT_08 = VerlCase(name="plain-0.8", setting="temperature_0.8", loss_agg_mode="token-mean", micro_batches=2)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verl-model")
    write_model(folder)
    return folder


@pytest.fixture(scope="session", params=PROCESSES, ids=[f"{n} processes" for n in PROCESSES])
def folder(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(f"verl-{request.param}")
    run_cases(model, [*CASES, OBSERVE, OBSERVE_AT_08, PLAIN, PLAIN_AT_08], made, processes=request.param)
    return made


@pytest.fixture(scope="session")
def reference(model: Path):
    known: dict[tuple[str, str, str], tuple[float, dict[str, Any]]] = {}

    def of(case: VerlCase) -> tuple[float, dict[str, Any]]:
        assert case.objective is not None
        key = case.setting, case.loss_agg_mode, case.objective["normalizer"]
        if key not in known:
            setting: Setting = BY_NAME[case.setting]
            known[key] = expected(model, setting, mode=key[1], rule=key[2], coeff=COEFF)
        return known[key]

    return of


def figures(folder: Path, case: VerlCase) -> tuple[dict[str, float], dict[str, Any]]:
    return json.loads((folder / f"{case.name}.json").read_text()), load_file(folder / f"{case.name}.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_gradient_is_that_of_the_definition_under_every_mode(folder: Path, reference: Any, case: VerlCase) -> None:
    """Catches an environment term divided by verl's own counts, by micro-batches or by ranks, and CE at T != 1."""
    measured, gradient = figures(folder, case)
    wanted_lambda, wanted = reference(case)
    assert distance(gradient, wanted) < 1e-5
    assert measured["actor/effective_lambda"] == pytest.approx(wanted_lambda, rel=1e-9)


@pytest.mark.parametrize(
    ("observe", "plain"), [(OBSERVE, PLAIN), (OBSERVE_AT_08, PLAIN_AT_08)], ids=["T = 1", "T = 0.8"]
)
def test_observing_alone_leaves_every_bit_of_verls_gradient(folder: Path, observe: VerlCase, plain: VerlCase) -> None:
    """Catches a logged cross-entropy that joins the graph, and a loss of verl's that is called differently."""
    measured, gradient = figures(folder, observe)
    of_verl, wanted = figures(folder, plain)
    for name, value in wanted.items():
        np.testing.assert_array_equal(gradient[name], value)
    assert measured["actor/env_ce"] > 0
    assert measured["actor/effective_lambda"] == 0.0
    ours = {"actor/env_ce", "actor/env_loss", "actor/effective_lambda"}
    ours |= {"actor/num_env_tokens", "actor/num_env_tokens_dropped"}
    assert {name: measured[name] for name in measured.keys() - ours} == of_verl


def test_the_policys_own_metrics_are_those_without_the_plugin(folder: Path) -> None:
    """Catches observations that enter verl's mask, and with it its policy loss, KL and clip fraction."""
    with_echo, _ = figures(folder, mode_case("token-mean", "global_token_mean", 2))
    plain, _ = figures(folder, PLAIN)
    for name in ("actor/pg_loss", "actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower"):
        assert with_echo[name] == plain[name]


def test_the_logged_figures_are_those_of_the_whole_mini_batch(folder: Path) -> None:
    """Catches metrics of one rank or one micro-batch, and a loss that does not add up."""
    sequences = BY_NAME["global_token_mean"].sequences()
    targets = sum(int((s.obs_mask & s.owned_mask()).sum()) for s in sequences)
    for count in MICRO_BATCHES:
        measured, _ = figures(folder, mode_case("token-mean", "global_token_mean", count))
        assert measured["actor/num_env_tokens"] == targets
        assert measured["actor/env_loss"] == pytest.approx(COEFF * measured["actor/env_ce"], rel=1e-6)
        assert measured["loss"] == pytest.approx(measured["actor/pg_loss"] + measured["actor/env_loss"], rel=1e-5)
