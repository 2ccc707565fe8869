"""Traces of verifiers v1: nodes say what was sampled and what is body; leaves are branches."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from token_files import load, spans

from envecho.trajectory import Source, StopReason


def node(parent: int | None, message: dict[str, Any], ids: list[int], **fields: Any) -> dict[str, Any]:
    return {"parent": parent, "message": message, "token_ids": ids, "mask": [False] * len(ids), **fields}


def said(parent: int, ids: list[int], text: str = "go") -> dict[str, Any]:
    """A sampled node: one id of scaffold, the rest sampled."""
    mask = [False] + [True] * (len(ids) - 1)
    answer = {"role": "assistant", "content": text}
    return node(parent, answer, ids, mask=mask, is_content=mask, sampled=True, logprobs=[-0.5] * (len(ids) - 1))


def seen(parent: int | None, ids: list[int], text: str, role: str = "tool") -> dict[str, Any]:
    body = [False] + [True] * (len(ids) - 2) + [False]
    return node(parent, {"role": role, "content": text}, ids, is_content=body)


TRACE = {
    "version": 1,
    "agent": {"name": "solver", "trainable": True, "config": {"sampling": {"temperature": 0.9}}},
    "task": {"type": "Task", "data": {"idx": 3, "prompt": "task"}},
    "nodes": [
        seen(None, [1, 2, 3], "task", "user"),
        said(0, [4, 5, 6]),
        seen(1, [7, 8, 9], "one"),
        said(2, [4, 10], "end"),
    ],
    "rewards": {"a": {"score": 1.0, "weight": 0.5}, "b": {"score": 2.0, "weight": 1.0}},
    "is_completed": True,
}


def episode_of(*traces: dict[str, Any]) -> dict[str, Any]:
    return {"id": "ep", "env": {"id": "math"}, "group": {"id": "g1"}, "traces": list(traces)}


def test_nodes_of_verifiers_say_what_is_body(tmp_path: Path):
    """Catches scaffold of a node that is trained, and facts of the episode that are lost."""
    (found,), report = load(tmp_path, episode_of(TRACE))
    assert report.problems == []
    assert (found.task_id, found.group_id, found.reward, found.stop_reason) == (
        "math/3",
        "g1",
        2.5,
        StopReason.COMPLETED,
    )
    assert spans(found) == [
        (1, "scaffold", 0, 0), (2, "content", 0, 1), (3, "scaffold", 0, 0),
        (4, "scaffold", 1, 0), (6, "sampled", 1, 1),
        (7, "scaffold", 2, 0), (8, "content", 2, 1), (9, "scaffold", 2, 0),
        (10, "scaffold", 3, 0), (11, "sampled", 3, 1),
    ]  # fmt: skip
    assert found.messages[1].sampled is not None
    assert found.messages[1].sampled.temperature == 0.9
    assert found.metadata["import"]["logprob_decimals"] == 4


def test_a_branch_that_was_rendered_anew_copies_old_answers_as_context(tmp_path: Path):
    """Catches an old observation that is trained again where a harness rewrote the history (FORMATS R6)."""
    trace = deepcopy(TRACE)
    copied = node(4, {"role": "assistant", "content": "end"}, [20, 21], is_content=[False, True], sampled=False)
    trace["nodes"] += [seen(1, [7, 19, 9], "elided"), copied, seen(5, [7, 22, 9], "two"), said(6, [4, 23], "more")]
    (found,), _ = load(tmp_path, episode_of(trace))
    assert [m.content for m in found.messages] == ["task", "go", "one", "end", "two", "more"]
    assert found.branches[1].owned_from == 6
    kinds = [(end, kind) for end, kind, turn, _ in spans(found, 1) if turn == -1]
    assert kinds == [(9, "scaffold"), (11, "scaffold")]


def test_judges_are_not_the_policy_and_an_episode_holds_several_agents(tmp_path: Path):
    """Catches a judge's words that are trained as actions."""
    judge = {**TRACE, "agent": {"name": "judge", "trainable": False}}
    found, _ = load(tmp_path, episode_of(TRACE, judge))
    assert [t.metadata["import"]["action_provenance"] for t in found] == ["proved", "not_sampled"]
    assert len({t.id for t in found}) == 2
    assert not any(s.source is Source.POLICY for m in found[1].messages for s in m.segments)
    assert not any(m.sampled for m in found[1].messages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": [True]}, "mask: expected one entry for each of 3 ids"),
        ({"mask": [True, False, True]}, "expected one run of sampled ids"),
        ({"token_ids": [1, "2"]}, "token_ids: expected a list of int"),
        ({"parent": 7}, "expected a parent before node 1"),
        ({"logprobs": "x"}, "logprobs: expected a list of float"),
    ],
)
def test_a_node_that_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str):
    """Catches a bare traceback on a broken trace."""
    trace = deepcopy(TRACE)
    trace["nodes"][1] |= change
    found, report = load(tmp_path, episode_of(trace), episode_of(TRACE))
    assert len(found) == 1
    assert message in report.problems[0].message
    assert (report.problems[0].line, "turn 1" in report.problems[0].message) == (1, True)


def test_text_only_leaves_the_ids_of_nodes_behind(tmp_path: Path):
    """Catches ids of another model that stay when the user asked for the text."""
    (found,), _ = load(tmp_path, episode_of(TRACE), text_only=True)
    assert found.branches == ()
    assert not any(m.sampled for m in found.messages)
    assert found.metadata["import"]["token_exact"] is False
