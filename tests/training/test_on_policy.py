"""Runs on their own rollouts: both terms, nothing lost, everything logged, and the same bits after a kill."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_command import documented_names
from tiny_policy import policy_config

from envecho.engines.local import LocalEngine
from envecho.errors import EngineError
from envecho.objective import compile_batch
from envecho.seam import AdamParams
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.training import loop
from envecho.training.loop import train
from envecho.trajectory.store import read_trajectories

DOCS = Path(__file__).parents[2] / "docs"
CLOCKS = ("seconds", "seconds_rollout", "seconds_measuring", "tokens_per_second")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower on two threads, and far slower beside another job."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("policy")


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_hybrid_run_logs_every_documented_metric_and_only_finite_ones(folder, tmp_path):
    """Catches a metric without a definition, a definition without a metric, and NaN in a log."""
    config = policy_config(
        folder,
        evaluation={"every": 2, "split": "held_out", "num_tasks": 3, "data": [str(folder / "walks.parquet")]},
        objective={"world_model_coeff": 0.1, "schedule": {"measure_every": 2}, "policy": {"kl_coeff": 0.01}},
        run={"steps": 4, "checkpoint_every": 2, "keep_rollouts_every": 2},
    )
    out = tmp_path / "out"
    result = train(config, out)
    text = (DOCS / "metrics.md").read_text()
    parts = text.split("\n## ")[1:]
    named = {part.splitlines()[0]: documented_names(part) for part in parts}
    train_names = set().union(*(names for title, names in named.items() if "`train`" in title))
    optional = {name for name in train_names if name.startswith("num_rollouts_env_excluded_")}
    for row in rows(out, "train"):
        assert set(row) - {"kind", "step"} == train_names - {"kind", "step"} - optional
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, int | float))
        measured = row["step"] % 2 == 1
        assert (row["policy_grad_norm"] is not None) == (row["env_grad_norm"] is not None) == measured
        assert row["env_ce"] > 0
        assert row["num_passes"] == 1
        assert row["sampler_mismatch"] < 1e-4
    looks = rows(out, "evaluation")
    assert [row["step"] for row in looks] == [0, 2, 4]
    for row in looks:
        assert set(row) - {"kind", "step"} == named["Rows of kind `evaluation`"]
        document = json.loads((out / "evaluations" / f"step-{row['step']:06d}.json").read_text())
        assert len(document["tasks"]) == 3
        total = sum(entry["nll_sum"] for entry in document["env_ce_by_trajectory"])
        tokens = sum(entry["num_tokens"] for entry in document["env_ce_by_trajectory"])
        assert row["env_ce"] == pytest.approx(total / tokens)
    kept = list(read_trajectories(out / "trajectories"))
    assert len(kept) == 2 * 12
    assert not list((out / "rollouts").glob("step-*"))
    assert result.best_step == 4


def test_lambda_zero_gives_the_weights_of_a_build_without_the_environment_term(folder, tmp_path, monkeypatch):
    """Catches an environment term that touches GRPO at lambda = 0, by a count, a chunk, or a bit of rounding; and
    (METHOD trap 28) a GRPO arm that does not log its environment CE."""
    objective = {"world_model_coeff": 0.0}
    logged = tmp_path / "logged"
    train(policy_config(folder, objective=objective), logged)

    def without_env(sequences, config, **options):
        compiled = compile_batch(sequences, config, **options)
        batch = compiled.batch
        nothing = torch.zeros_like(batch.env_weights)
        import dataclasses

        bare = dataclasses.replace(batch, env_weights=nothing, env_targets=nothing.bool())
        return dataclasses.replace(compiled, batch=bare)

    monkeypatch.setattr("envecho.training.sources.compile_batch", without_env)
    bare = tmp_path / "bare"
    train(policy_config(folder, objective=objective), bare)
    assert same(weights(logged, 4), weights(bare, 4))
    assert all(row["env_ce"] > 0 for row in rows(logged, "train"))
    assert all(row["env_ce"] is None for row in rows(bare, "train"))


def test_without_rl_the_step_is_masked_cross_entropy(folder, tmp_path):
    """Catches a policy term that stays on when use_rl is false: against torch's own loss on the same rollouts."""
    objective = {"use_rl": False, "world_model_coeff": 1.0, "normalizer": "global_token_mean"}
    run = {"steps": 1, "checkpoint_every": 1, "keep_rollouts_every": 1}
    # A large eps keeps Adam's first step proportional to the gradient; without it the step is its sign.
    config = policy_config(folder, objective=objective, optimizer={"eps": 0.1}, run=run)
    out = tmp_path / "out"
    train(config, out)
    engine = LocalEngine(config.model.name, device="cpu", compute_dtype="float32")
    network = engine._model.network
    tokenizer = ChatTokenizer.from_pretrained(config.model.name)
    sequences = [s for t in read_trajectories(out / "trajectories") for s in tokenize_trajectory(t, tokenizer)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, eps=0.1, weight_decay=0.0)
    total, count = torch.zeros(()), 0
    for sequence in sequences:
        ids = torch.from_numpy(sequence.token_ids.astype("int64"))
        labels = torch.where(torch.from_numpy(sequence.obs_mask), ids, -100)
        logits = network(input_ids=ids[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        count += int(sequence.obs_mask.sum())
    (total / count).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    found = weights(out, 1)
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=2e-6)


def test_arms_see_the_same_tasks_in_the_same_order(folder, tmp_path):
    """Catches a data order that depends on the objective: arms of a study would not be paired."""
    seen = []
    for name, coeff in (("a", 0.0), ("b", 0.5)):
        run = {"steps": 3, "checkpoint_every": 0, "keep_rollouts_every": 1}
        train(policy_config(folder, objective={"world_model_coeff": coeff}, run=run), tmp_path / name)
        seen.append([t.task_id for t in read_trajectories(tmp_path / name / "trajectories")])
    assert seen[0] == seen[1]
    first = [list(read_trajectories(tmp_path / n / "trajectories" / "step-000001.parquet")) for n in "ab"]
    assert first[0] == first[1]


def test_target_ratio_holds_the_environment_gradient_at_its_share(folder, tmp_path):
    """Catches a self-scaling lambda that is measured after scaling, or scales the wrong way."""
    schedule = {"target_ratio": 0.5, "measure_every": 1}
    config = policy_config(
        folder,
        objective={"world_model_coeff": 0.05, "schedule": schedule},
        rollout={"rollouts_per_task": 12, "tasks_per_step": 6},
        run={"steps": 4, "checkpoint_every": 2},
    )
    train(config, tmp_path / "out")
    scaled = [row for row in rows(tmp_path / "out", "train") if row["policy_grad_norm"] and row["env_grad_norm"]]
    assert scaled
    last = 0.05
    for row in rows(tmp_path / "out", "train"):
        if row in scaled:
            wanted = 0.5 * row["policy_grad_norm"] / row["env_grad_norm"]
            assert row["world_model_coeff"] / last == pytest.approx(min(4.0, max(0.25, wanted)), rel=1e-6)
        else:
            assert row["world_model_coeff"] == pytest.approx(last)
        last = row["world_model_coeff"]


def test_the_guard_lowers_lambda_when_a_collapse_begins_and_a_resume_keeps_it_low(folder, tmp_path):
    """Catches a guard that is told and does nothing, that acts at every step of trouble, or that a resume forgets."""
    # A CE below 100 times its first value beside a variety below 100 times its own: every second window is a collapse.
    tables = {
        "objective": {"world_model_coeff": 0.08, "schedule": {"guard": True, "guard_factor": 0.25}},
        "health": {"window": 1, "collapse_ce": 100.0, "collapse_variety": 100.0},
    }
    config = policy_config(folder, **tables)
    out = tmp_path / "out"
    train(config, out)
    coeffs = [row["world_model_coeff"] for row in rows(out, "train")]
    assert coeffs == pytest.approx([0.08, 0.08, 0.02, 0.02])
    (alarm,) = [row for row in rows(out, "alarm") if row["name"] == "collapse"]
    assert (alarm["step"], alarm["lambda_scale"]) == (2, 0.25)

    stopped = tmp_path / "stopped"

    def stop(event: Any) -> None:
        if event["kind"] == "train" and event["step"] == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, stopped, on_event=stop)
    train(config, stopped, resume=True)
    assert [row["world_model_coeff"] for row in rows(stopped, "train")] == coeffs
    assert same(weights(stopped, 4), weights(out, 4))


def test_shuffled_observations_keep_the_policy_term_and_change_the_environment_term(folder, tmp_path):
    """Catches a control that shuffles what the policy is trained on, or that trains the true observations too."""
    losses = {}
    for shuffle in (False, True):
        objective = {"world_model_coeff": 0.1, "noise": {"shuffle_observations": shuffle}}
        out = tmp_path / str(shuffle)
        train(policy_config(folder, objective=objective, run={"steps": 1, "checkpoint_every": 0}), out)
        (losses[shuffle],) = rows(out, "train")
    assert losses[True]["policy_loss"] == pytest.approx(losses[False]["policy_loss"], abs=1e-7)
    assert losses[True]["env_ce"] == pytest.approx(losses[False]["env_ce"], rel=1e-5)
    assert losses[True]["env_loss"] != pytest.approx(losses[False]["env_loss"], rel=1e-3)


def test_trap_23_a_term_whose_gradient_is_absent_ends_the_run(folder, tmp_path, monkeypatch):
    """Catches ECHO configured and gradient absent: nobody would notice until the paper is written."""
    whole = LocalEngine.term_gradients

    def without_env(self, batch):
        import dataclasses

        return dataclasses.replace(whole(self, batch), env_norm=0.0, cosine=None)

    monkeypatch.setattr(LocalEngine, "term_gradients", without_env)
    with pytest.raises(EngineError, match="no gradient flows from the env term"):
        train(policy_config(folder), tmp_path / "out")


def test_measuring_the_gradients_apart_changes_no_bit_of_the_run(folder, tmp_path):
    """Catches a measurement that leaves a gradient behind."""
    for name, every in (("never", 0), ("always", 1)):
        train(policy_config(folder, objective={"schedule": {"measure_every": every}}), tmp_path / name)
    assert same(weights(tmp_path / "never", 4), weights(tmp_path / "always", 4))


def bits(out: Path, step: int) -> str:
    folder = out / "checkpoints" / f"step-{step:06d}"
    digest = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        digest.update((folder / name).read_bytes())
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = {key: value for key, value in json.loads(line).items() if key not in CLOCKS}
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def test_twenty_sigkills_at_random_moments_change_no_bit_of_an_on_policy_run(folder, tmp_path):
    """Catches rollouts that are lost or drawn anew, a torn checkpoint or journal, and rows logged twice."""
    config = policy_config(
        folder,
        objective={"world_model_coeff": 0.1, "schedule": {"measure_every": 3, "target_ratio": 0.3}},
        evaluation={"every": 3, "split": "held_out", "num_tasks": 2},
        run={"steps": 32, "checkpoint_every": 2},
    )
    train(config, tmp_path / "alone")
    out, draw = tmp_path / "killed", random.Random(7)
    hits = 0
    for life in range(20):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train(config, out, resume=life > 0)
                status = 0
            finally:
                os._exit(status)
        time.sleep(draw.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert hits >= 10
    train(config, out, resume=True)
    assert bits(out, 32) == bits(tmp_path / "alone", 32)


def test_a_checkpoint_of_another_machine_warns(folder, tmp_path, monkeypatch):
    """Catches a promise of equal bits that nobody can keep: another number of threads, another library."""
    train(policy_config(folder, run={"steps": 2, "checkpoint_every": 1}), tmp_path / "out")
    real = loop.describe_machine()
    monkeypatch.setattr(loop, "describe_machine", lambda: real | {"threads": "99"})
    for checkpoint in (tmp_path / "out" / "checkpoints").iterdir():
        if checkpoint.name == "step-000002":
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    with pytest.warns(UserWarning, match="threads was .*, is 99"):
        train(policy_config(folder, run={"steps": 2, "checkpoint_every": 1}), tmp_path / "out", resume=True)


def test_sft_on_stored_episodes_trains_their_actions(folder, tmp_path):
    """Catches a warm start that asks for rewards, or that trains nothing: CE of the actions must fall."""
    document = {
        "model": {"name": str(folder / "model"), "device": "cpu", "compute_dtype": "float32"},
        "data": {"train": [str(folder / "walks.parquet")]},
        "objective": {"use_rl": True, "world_model_coeff": 0.0, "policy": {"loss": "sft"}},
        "optimizer": {"learning_rate": 1e-2},
        "run": {"steps": 30, "trajectories_per_step": 4, "checkpoint_every": 0},
    }
    policy_config(folder)
    from envecho.training.config import RunConfig

    train(RunConfig.from_document(document), tmp_path / "out")
    losses = [row["loss"] for row in rows(tmp_path / "out", "train")]
    assert losses[-1] < 0.8 * losses[0]


def test_one_step_of_the_policy_term_raises_the_probability_of_what_was_rewarded(folder, tmp_path):
    """Catches a sign error that no CE would show: rewarded rollouts must become likelier than punished ones."""
    run = {"steps": 1, "checkpoint_every": 1, "keep_rollouts_every": 1}
    config = policy_config(
        folder, objective={"world_model_coeff": 0.0}, rollout={"tasks_per_step": 8, "rollouts_per_task": 16}, run=run
    )
    before = LocalEngine(config.model.name, device="cpu", compute_dtype="float32")
    train(config, tmp_path / "out")
    after = LocalEngine(tmp_path / "out" / "checkpoints" / "step-000001", device="cpu", compute_dtype="float32")
    tokenizer = ChatTokenizer.from_pretrained(config.model.name)
    kept = list(read_trajectories(tmp_path / "out" / "trajectories"))
    sequences = [s for t in kept for s in tokenize_trajectory(t, tokenizer)]
    compiled = compile_batch(sequences, config.objective)
    assert compiled.batch.advantages.any()
    gain = torch.zeros(())
    for engine, sign in ((after, 1.0), (before, -1.0)):
        out = engine.forward_backward(compiled.batch)
        logprobs = torch.nan_to_num(torch.from_numpy(out.policy_logprobs))
        gain = gain + sign * (compiled.batch.policy_weights * compiled.batch.advantages * logprobs).sum()
        engine.optim_step(AdamParams(learning_rate=0.0))
    assert gain > 0
