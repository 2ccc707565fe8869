"""The study's TOML: what it refuses, and which runs it asks for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from study_material import ECHO, changed, study_document, write_document

from envecho.errors import ConfigError
from envecho.recipes.study import _places, run_study
from envecho.recipes.study_config import Start, load_study, study_from_document
from envecho.recipes.study_start import START_RECIPES, make_start, require_start, start_is_made

DOCUMENT = study_document(Path("material"))


def with_arm(**keys: Any) -> dict[str, Any]:
    return {**DOCUMENT, "arms": [DOCUMENT["arms"][0], {"name": "echo", "label": "ECHO", **keys}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**DOCUMENT, "stduy": {}}, r"unknown key 'stduy'. Did you mean 'study'"),
        ({**DOCUMENT, "study": {**DOCUMENT["study"], "sedes": [0]}}, r"'study.sedes'. Did you mean 'seeds'"),
        (with_arm(sets={}), r"unknown key 'arms.1.sets'. Did you mean 'set'"),
        (with_arm(phases=[{"steps": 1, "step": 2}]), r"unknown key 'arms.1.phases.0.step'"),
        (with_arm(set={"objective.world_model_coef": 1.0}), r"arm echo, phase 0: .*world_model_coef'.*coeff"),
        (with_arm(set={"optimzer.learning_rate": 1.0}), r"unknown table \[optimzer\].* Did you mean 'optimizer'"),
        (with_arm(set={"run.seed": 7}), r"neither run.seed"),
        (with_arm(set={"steps": 7}), r"expected TABLE.KEY"),
        (with_arm(phases=[{"steps": 2, "drop": ["data"]}]), r"drop names 'data'"),
        ({**DOCUMENT, "study": {**DOCUMENT["study"], "compare_to": "grop"}}, r"no arm.* Did you mean 'grpo'"),
        ({**DOCUMENT, "study": {**DOCUMENT["study"], "seeds": [1, 1]}}, r"distinct seeds"),
        ({**DOCUMENT, "arms": [*DOCUMENT["arms"], DOCUMENT["arms"][0]]}, r"'grpo' is taken"),
        ({**DOCUMENT, "arms": [*DOCUMENT["arms"], {"name": "start", "label": "x"}]}, r"'start' is taken"),
        ({**DOCUMENT, "base": {**DOCUMENT["base"], "run": {"steps": 2, "seed": 1}}}, r"no seed"),
    ],
)
def test_what_a_study_states_wrongly_is_named(document: dict[str, Any], message: str):
    """Catches a misspelt key that leaves an arm equal to the base, and a study that fails hours after its start."""
    with pytest.raises(ConfigError, match=message):
        study_from_document(document)


def test_trap_25_no_checkpoint_is_chosen_by_looking_at_results():
    """Catches a best checkpoint: by the held-out figures, or by a validation pool that another arm has not."""
    with pytest.raises(ConfigError, match="checkpoint is 'best', expected 'last'"):
        changed(DOCUMENT, study={"checkpoint": "best"})
    with pytest.raises(ConfigError, match=r"validation selects a checkpoint by its results"):
        study_from_document(with_arm(set={"data.validation": ["pool.parquet"]}))


def test_an_arm_is_the_base_with_its_own_keys():
    """Catches a set that leaks into the base or the next arm."""
    study = study_from_document(DOCUMENT)
    (grpo,), (echo,) = (study.run_configs(arm, 3) for arm in study.arms)
    assert (grpo.objective.world_model_coeff, echo.objective.world_model_coeff) == (
        0.0,
        ECHO["objective.world_model_coeff"],
    )
    assert (grpo.run.seed, echo.run.seed) == (3, 3)
    objective = echo.objective.model_copy(update={"world_model_coeff": 0.0, "world_loss_target": "env_only"})
    assert echo.model_copy(update={"objective": objective}) == grpo


def test_places_and_phases_become_paths():
    """Catches a placeholder that is left in a path, and a phase that does not start where the one before ended."""
    document = with_arm(phases=[{"steps": 3, "set": {"evaluation.data": ["{start}/held_out.parquet"]}}, {"steps": 4}])
    document["start"] = {"recipe": "depot"}
    study = study_from_document(document)
    first, second = study.run_configs(study.arm("echo"), 0, places={"start": "/s", "out": "/o"})
    assert (first.model.name, first.evaluation.data) == ("/s/model", ("/s/held_out.parquet",))
    assert second.model.name == "/o/phase-0/checkpoints/step-000003"
    assert (first.run.steps, second.run.steps) == (3, 4)


def test_a_start_is_made_once_whole_and_by_its_own_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a torn start that counts as made, and one that was made with other parameters."""

    def recipe(folder: Path, *, seed: int, size: int = 1) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "size").write_text(json.dumps([seed, size]))
        if size > 1:
            raise KeyboardInterrupt

    monkeypatch.setitem(START_RECIPES, "toy", recipe)
    start, folder = Start(recipe="toy"), tmp_path / "start/seed-4"
    torn = Start(recipe="toy", parameters={"size": 2})
    with pytest.raises(KeyboardInterrupt):
        make_start(torn, folder, 4)
    assert not start_is_made(start, folder)
    make_start(start, folder, 4)
    assert start_is_made(start, folder)
    assert json.loads((folder / "model/size").read_text()) == [4, 1]
    with pytest.raises(ConfigError, match=r"was made by"):
        start_is_made(torn, folder)


def test_a_shared_start_is_made_once_for_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a start that is made again for each seed, and seeds that start from another one."""
    made: list[int] = []
    trained: list[str] = []
    monkeypatch.setitem(START_RECIPES, "toy", lambda folder, *, seed: made.append(seed))
    monkeypatch.setattr("envecho.recipes.study.measure_cost", lambda *_: None)
    monkeypatch.setattr("envecho.recipes.study._say_cost", lambda *_, **__: None)
    monkeypatch.setattr(
        "envecho.recipes.study._run_arm",
        lambda study, arm, seed, out: trained.append(_places(study, out, arm, seed)["start"]),
    )
    document = copy.deepcopy(DOCUMENT) | {"start": {"recipe": "toy", "shared": True}}
    run_study(study_from_document(document), tmp_path, num_workers=0)
    assert made == [0]
    assert set(trained) == {str(tmp_path.resolve() / "start/shared")}
    assert len(trained) == 4


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(recipe="depto"), "no start recipe 'depto'.* Did you mean 'depot'"),
        (Start(recipe="depot", parameters={"num_plan": 3}), "unknown key 'num_plan'.* Did you mean 'num_plans'"),
        (Start(parameters={"x": 3}), "has no parameters"),
    ],
)
def test_a_start_that_is_stated_wrongly_is_named(start: Start, message: str):
    """Catches a parameter that is dropped silently."""
    with pytest.raises(ConfigError, match=message):
        require_start(start)


def test_the_depot_start_gives_a_model_and_its_pools(tmp_path: Path):
    """Catches a recipe whose pools the study's configuration names and nobody writes."""
    from envecho.trajectory.store import read_trajectories

    parameters = {"num_plans": 1, "steps_per_plan": 1, "num_even_steps": 1, "hidden_size": 8, "explorer_episodes": 1}
    make_start(Start(recipe="depot", parameters=parameters), tmp_path / "seed-0", 0)
    assert (tmp_path / "seed-0/model/config.json").is_file()
    oracle, held_out = (list(read_trajectories(tmp_path / f"seed-0/{name}.parquet")) for name in ("oracle", "held_out"))
    assert {trajectory.reward for trajectory in oracle} == {1.0}
    assert {trajectory.reward for trajectory in held_out} > {0.0}
    assert not {t.task_id for t in oracle} & {t.task_id for t in held_out}


def test_a_file_is_read_and_errors_name_it(tmp_path: Path):
    """Catches an error that does not say in which file."""
    assert load_study(write_document(tmp_path / "study.toml", DOCUMENT)) == study_from_document(DOCUMENT)
    (tmp_path / "bad.toml").write_text("[study\n")
    with pytest.raises(ConfigError, match=r"bad.toml is no TOML"):
        load_study(tmp_path / "bad.toml")
