"""Rollouts of another trainer, imported with their ids: GRPO and ECHO from the stored file, group by group."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import episode, tiny_config

from envecho.errors import DataError
from envecho.formats import ImportReport, import_traces
from envecho.tokens import ChatTokenizer, render_prompt
from envecho.training.data import group_order, load_data
from envecho.training.loop import train
from envecho.trajectory.store import write_trajectories


def recorded(chat: ChatTokenizer, number: int, **fields: Any) -> list[dict[str, Any]]:
    """The model calls of an episode, as a trainer logs them."""
    messages = episode(number).messages
    rows: list[dict[str, Any]] = []
    for k, message in enumerate(messages):
        if message.role == "assistant":
            ids = [*chat.encode_text(message.content)[0], chat.end_of_turn_id]
            shown = [{"role": m.role, "content": m.content} for m in messages[:k]]
            rows.append(
                {
                    "episode": f"e{number}",
                    "prompt_ids": render_prompt(messages[:k], chat).tolist(),
                    "completion_ids": ids,
                    "logprobs": [-1.0] * len(ids),
                    "temperature": 1.0,
                    "messages": shown,
                    "response": {"role": "assistant", "content": message.content},
                    **fields,
                }
            )
    return rows


def stored(tmp_path: Path, *, with_logprobs: bool = True, with_groups: bool = True):
    """A configuration whose training pool are six imported rollouts in two groups."""
    config = tiny_config(
        tmp_path, objective={"use_rl": True, "world_model_coeff": 0.05}, run={"trajectories_per_step": 3, "steps": 2}
    )
    chat = ChatTokenizer.from_pretrained(config.model.name)
    rows: list[dict[str, Any]] = []
    for number in range(6):
        group = {"group": f"g{number % 2}"} if with_groups else {}
        rows += recorded(chat, number, reward=float(number < 3), **group)
    if not with_logprobs:
        rows = [{key: value for key, value in row.items() if key != "logprobs"} for row in rows]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ImportReport()
    write_trajectories(tmp_path / "stored.parquet", import_traces([tmp_path / "calls.jsonl"], report))
    assert report.problems == []
    data = config.data.model_copy(update={"train": (str(tmp_path / "stored.parquet"),)})
    return config.model_copy(update={"data": data})


def test_imported_rollouts_train_both_terms_with_whole_groups(tmp_path: Path):
    """Catches advantages over half a group, and exact log-probs that never reach the policy term."""
    config = stored(tmp_path)
    data = load_data(config.data, config.objective, ChatTokenizer.from_pretrained(config.model.name), max_tokens=256)
    shown = [
        [s.group_id for s in data.step_sequences(step, trajectories_per_step=3, seed=seed)]
        for seed in range(4)
        for step in (1, 2)
    ]
    assert all(len(set(groups)) == 1 and len(groups) == 3 for groups in shown)
    train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row.get("kind") == "train"]
    assert len(steps) == 2
    for row in steps:
        assert row["num_trajectories"] == 3
        assert row["num_action_tokens"] > 0
        assert row["effective_lambda"] == pytest.approx(0.05)


def test_imported_rollouts_without_log_probs_or_groups_are_refused(tmp_path: Path):
    """Catches a policy gradient on ratios that nobody knows (METHOD trap 17)."""
    with pytest.raises(DataError, match="log-prob"):
        train(stored(tmp_path / "a", with_logprobs=False), tmp_path / "run-a")
    with pytest.raises(DataError, match="group"):
        train(stored(tmp_path / "b", with_groups=False), tmp_path / "run-b")


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    per_step=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_every_epoch_shows_each_group_once_and_whole(sizes: list[int], per_step: int, seed: int):
    """Catches a group that two steps share, one that an epoch leaves out, and steps that grow beyond their size."""
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    groups = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(starts))
    shown: list[int] = []
    step = 0
    while len(shown) < 2 * starts[-1]:
        step += 1
        chosen = group_order(groups, step, trajectories_per_step=per_step, seed=seed)
        held = [group for group in groups if set(group) <= set(chosen)]
        assert sorted(chosen) == sorted(place for group in held for place in group)
        assert len(chosen) <= per_step or len(held) == 1
        shown += chosen
    assert sorted(shown[: starts[-1]]) == sorted(shown[starts[-1] :]) == list(range(starts[-1]))
