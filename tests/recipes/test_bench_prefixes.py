"""The benchmark of shared beginnings counts what is computed, and what it times gives the same gradient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.recipes import bench_prefixes
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Trajectory


@pytest.fixture(scope="module")
def trajectories() -> list[list[Trajectory]]:
    """Three explorers on each of four tasks of the depot."""
    return bench_prefixes.groups_of("depot", num_tasks=4, group_size=3, seed=0)


@pytest.fixture(scope="module")
def groups(trajectories: list[list[Trajectory]], smollm2_dir: Path) -> list[list[bench_prefixes.Episode]]:
    """Their sequences."""
    tokenizer = ChatTokenizer.from_pretrained(smollm2_dir)
    return [[tokenize_trajectory(episode, tokenizer) for episode in group] for group in trajectories]


def test_a_group_is_one_task_and_its_episodes_are_not_the_same(trajectories: list[list[Trajectory]]):
    """Catches groups across tasks, and a seed that reaches no episode, so that whole episodes are shared."""
    tasks = [{episode.task_id for episode in group} for group in trajectories]
    assert [len(of_group) for of_group in tasks] == [1] * 4
    assert len(set.union(*tasks)) == 4
    for group in trajectories:
        assert len({tuple(message.content for message in episode.messages) for episode in group}) > 1


def test_computed_tokens_are_the_distinct_beginnings(groups: list[list[bench_prefixes.Episode]]):
    """Catches a share of the padded rows, and one of prompts that counts what the policy wrote."""
    (step,) = bench_prefixes.steps_of(groups, num_steps=1, seed=0)
    assert len(step) == 12
    sequences = [sequence for episode in step for sequence in episode]
    beginnings = {tuple(s.token_ids[: n + 1].tolist()) for s in sequences for n in range(len(s))}
    total = sum(map(len, sequences))
    assert bench_prefixes.computed_percent(step, 10**6) == pytest.approx(100 * len(beginnings) / total)
    # Where no two fit into a micro-batch, every sequence is whole.
    assert bench_prefixes.computed_percent(step, 1) == 100
    prompts = 100 * sum(int(np.flatnonzero(s.action_mask)[0]) for s in sequences) / total
    assert bench_prefixes.prompt_percent(step) == pytest.approx(prompts)
    assert 0 < prompts < 100


def test_branches_of_one_episode_begin_alike(trajectories: list[list[Trajectory]]):
    """Catches a template that drops no thinking, so that the row of branches has none."""
    found = bench_prefixes.measure_thinking(trajectories, num_steps=1, num_alone=2, seed=0)
    alone = found["terminal with thinking, one episode, 32,768 tokens"]["computed_percent"]
    assert len(alone) == 2
    assert max(alone) < 60


def test_what_is_timed_is_the_same_gradient(groups: list[list[bench_prefixes.Episode]], tmp_path: Path):
    """Catches ids that are renumbered sequence by sequence, and engines that both share, or neither."""
    batch = bench_prefixes.observation_batch([episode for group in groups[:2] for episode in group])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=int(batch.token_ids.max()) + 1,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    whole, shared = bench_prefixes.engines(tmp_path, dtype="float64", tokens=8192)
    sizes_of_rows = [sum(len(micro.forest or ()) for micro in engine._split(batch)) for engine in (whole, shared)]
    assert sizes_of_rows[1] < sizes_of_rows[0] == len(batch.token_ids)
    for engine in (whole, shared):
        engine.forward_backward(batch)
    expected, found = whole.gradients(), shared.gradients()
    assert found.keys() == expected.keys()
    norm = sum(float(np.square(gradient).sum()) for gradient in expected.values()) ** 0.5
    assert norm > 0
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) <= 1e-9 * norm, name


def test_the_command_writes_every_world_and_times_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a table that lacks a size of micro-batches, and a time that nobody asked for."""
    monkeypatch.setattr(bench_prefixes, "WORLDS", ("depot",))
    monkeypatch.setattr(bench_prefixes, "THINKING", "none")
    monkeypatch.setattr(bench_prefixes, "NUM_TASKS", 4)
    monkeypatch.setattr(bench_prefixes, "NUM_STEPS", 2)
    monkeypatch.setattr(bench_prefixes, "TIMED_TOKENS", 512)
    monkeypatch.setattr(bench_prefixes, "times", lambda batch, *, tokens, repetitions: [50.0] * repetitions)
    bench_prefixes.main(["--out", str(tmp_path / "out.json"), "--repetitions", "1"])
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    shares = [f"depot, {tokens} tokens" for tokens in ("1,024", "8,192", "32,768")]
    assert list(results) == [*shares, "depot, the step of 2 groups, 512 tokens"]
    computed = [results[title]["computed_percent"]["median"] for title in shares]
    assert 0 < computed[2] <= computed[1] <= computed[0] < 100
