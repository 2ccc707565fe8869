"""The training loop on the tinker engine: rollouts, steps, checkpoints, with nothing that the API does not tell."""

from __future__ import annotations

import json
import math

import pytest
from tinker_fake import FakeService

from envecho.engines.tinker import TinkerEngine, measure_server
from envecho.errors import ConfigError
from envecho.recipes.depot_start import make_depot_start
from envecho.training.config import RunConfig
from envecho.training.loop import train


@pytest.fixture(scope="module")
def depot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depot")
    make_depot_start(folder, num_plans=1, steps_per_plan=20, num_even_steps=1, hidden_size=16)
    return folder


def config(folder, **objective):
    return RunConfig.from_document(
        {
            "model": {"name": str(folder)},
            "rollout": {
                "world": "depot",
                "tasks_per_step": 1,
                "rollouts_per_task": 2,
                "max_turns": 2,
                "max_tokens_per_turn": 4,
            },
            "objective": {"world_model_coeff": 0.3, "world_loss_target": "all", **objective},
            "optimizer": {"learning_rate": 1e-2, "schedule": "constant", "grad_clip_norm": math.inf},
            "run": {"steps": 3, "checkpoint_every": 2},
        }
    )


def engine(folder):
    service = FakeService(folder, "sequence_mean", clips=False)
    return TinkerEngine(service, facts=measure_server(service), rank=2, seed=1, max_context_tokens=128)


def test_a_run_logs_saves_and_goes_on(depot, tmp_path):
    """Catches a loop that needs entropies, norms or the argmax, and a checkpoint that cannot be taken up again."""
    out = tmp_path / "run"
    result = train(config(depot), out, engine=engine(depot))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert all(row["env_ce"] > 0 for row in steps)
    assert all(row["grad_norm"] is None and row["action_entropy"] is None for row in steps)
    assert (result.best_checkpoint / "adapter_model.safetensors").is_file()
    assert (result.best_checkpoint / "tinker_checkpoint.json").is_file()


def test_an_objective_beyond_the_api_is_refused_before_the_run(depot, tmp_path):
    """Catches an entropy bonus that fails in the first step, after its rollouts."""
    asked = config(depot, policy={"entropy_coeff": 0.01})
    with pytest.raises(ConfigError, match=r"entropy_coeff: the API tells no entropies"):
        train(asked, tmp_path / "run", engine=engine(depot))
