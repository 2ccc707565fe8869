"""ATIF documents as other readers see them: steps, results and metrics stand where the format has them."""

from __future__ import annotations

from collections import Counter

from envecho.formats import atif_export
from envecho.trajectory import (
    ExactBranch,
    Message,
    SampledTokens,
    Segment,
    Source,
    SpanKind,
    TokenSpan,
    ToolCall,
    Trajectory,
)


def message(role: str, source: Source, text: str, **fields: object) -> Message:
    return Message.model_validate({"role": role, "segments": [Segment(source=source, text=text)], **fields})


def test_answers_are_results_of_the_step_before_them():
    """Catches observations that become user steps of their own, and results tied to a call of another step."""
    calls = (ToolCall(name="ls", arguments='{"path": "."}', id="c0"), ToolCall(name="pwd", arguments="{}"))
    said = message("assistant", Source.POLICY, "Look.", tool_calls=calls, reasoning="why")
    trajectory = Trajectory(
        id="e",
        task_id="t",
        messages=(
            message("system", Source.SYSTEM, "Be brief."),
            message("user", Source.TASK, "Where am I?"),
            said,
            message("tool", Source.STDOUT, "a.log", tool_call_id="c0", name="ls"),
            message("tool", Source.STDOUT, "/root"),
            message("user", Source.STATUS, "[2 turns left]"),
            message("user", Source.TASK, "Go on."),
            message("assistant", Source.TASK, "written by a person"),
        ),
    )
    notes: Counter[str] = Counter()
    document = atif_export.write(trajectory, notes)
    assert [(step["step_id"], step["source"]) for step in document["steps"]] == [
        (1, "system"),
        (2, "user"),
        (3, "agent"),
        (4, "user"),
        (5, "agent"),
    ]
    step = document["steps"][2]
    assert [(c["tool_call_id"], c["arguments"]) for c in step["tool_calls"]] == [
        ("c0", {"path": "."}),
        ("call_3_1", {}),
    ]
    results = step["observation"]["results"]
    assert [(r.get("source_call_id"), r["content"]) for r in results] == [
        ("c0", "a.log"),
        (None, "/root"),
        (None, "[2 turns left]"),
    ]
    assert results[2]["extra"]["rfc010"]["spans"][0]["role"] == "warning"
    assert (step["reasoning_content"], step.get("is_copied_context")) == ("why", None)
    assert document["steps"][4]["is_copied_context"] is True
    assert notes["calls without an id: one was invented"] == 1


def test_metrics_hold_exact_ids_log_probs_and_the_prompt_of_the_branch_that_owns_the_turn():
    """Catches the prompt of another branch, and ids that only our own key holds."""
    sampled = [SampledTokens(token_ids=ids, logprobs=(-0.5,) * len(ids)) for ids in ((3, 4), (7,))]
    messages = (
        message("user", Source.TASK, "Look."),
        message("assistant", Source.POLICY, "ls", sampled=sampled[0]),
        message("user", Source.STDOUT, "a.log"),
        message("assistant", Source.POLICY, "one", sampled=sampled[1]),
    )
    opening = (
        TokenSpan(end=2, kind=SpanKind.MIXED, turn=0, num_turns=1),
        TokenSpan(end=4, kind=SpanKind.SAMPLED, turn=1, num_turns=1),
    )
    behind = (
        TokenSpan(end=6, kind=SpanKind.MIXED, turn=2, num_turns=1),
        TokenSpan(end=7, kind=SpanKind.SAMPLED, turn=3, num_turns=1),
    )
    branches = (
        ExactBranch(token_ids=(1, 2, 3, 4), spans=opening),
        ExactBranch(token_ids=(1, 2, 3, 4, 5, 6, 7), spans=(*opening, *behind), owned_from=4),
    )
    trajectory = Trajectory(id="e", task_id="t", messages=messages, branches=branches)
    steps = atif_export.write(trajectory, Counter())["steps"]
    found = [step["metrics"] for step in steps if step["source"] == "agent"]
    assert [(m["prompt_token_ids"], m["completion_token_ids"], m["logprobs"]) for m in found] == [
        ([1, 2], [3, 4], [-0.5, -0.5]),
        ([1, 2, 3, 4, 5, 6], [7], [-0.5]),
    ]
