"""Formats that keep token ids: calls, nodes and details become branches; ids and log-probs stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from token_files import load, spans

from envecho.formats import ImportReport, import_traces
from envecho.trajectory import Source, SpanKind, StopReason


def row(prompt: list[int], completion: list[int], **fields: Any) -> dict[str, Any]:
    return {"prompt_ids": prompt, "completion_ids": completion, "logprobs": [-0.5] * len(completion), **fields}


def ask(*texts: str) -> list[dict[str, str]]:
    """User and assistant messages in turn."""
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


FIRST = row([1, 2, 3], [4, 5], messages=ask("task"), response=ask("", "go")[1])
SECOND = row([1, 2, 3, 4, 5, 6, 7], [8], messages=ask("task", "go", "seen"), response=ask("", "end")[1])


def test_a_prompt_that_repeats_the_call_before_extends_it(tmp_path: Path):
    """Catches a branch per call where nothing was rewritten, and an observation that no span shows."""
    (found,), report = load(
        tmp_path, {**FIRST, "episode": "e"}, {**SECOND, "episode": "e", "reward": 0.5, "group": "g"}
    )
    assert report.problems == []
    assert (found.id, found.reward, found.group_id) == ("x.jsonl:e", 0.5, "g")
    assert [(m.role, m.content, bool(m.sampled)) for m in found.messages] == [
        ("user", "task", False), ("assistant", "go", True), ("user", "seen", False), ("assistant", "end", True),
    ]  # fmt: skip
    assert [s.source for m in found.messages for s in m.segments] == [
        Source.TASK, Source.POLICY, Source.TOOL_RESULT, Source.POLICY,
    ]  # fmt: skip
    assert found.branches[0].token_ids == (1, 2, 3, 4, 5, 6, 7, 8)
    assert spans(found) == [(3, "mixed", 0, 1), (5, "sampled", 1, 1), (7, "mixed", 2, 1), (8, "sampled", 3, 1)]
    facts = found.metadata["import"]
    assert (facts["token_exact"], facts["has_logprobs"], facts["action_provenance"]) == (True, True, "proved")
    assert found.messages[1].sampled is not None
    assert found.messages[1].sampled.logprobs == (-0.5, -0.5)


def test_a_rewritten_prompt_begins_a_branch_that_owns_what_is_new(tmp_path: Path):
    """Catches splicing of a prompt that does not continue the call before (FORMATS R5), and a copy that is trained."""
    second = {**SECOND, "prompt_ids": [1, 9, 9, 6, 7]}
    (found,), _ = load(tmp_path, {**FIRST, "episode": "e"}, {**second, "episode": "e"})
    assert found.metadata["import"]["breaks"] == [{"call": 1, "first_difference": 1}]
    assert [b.token_ids for b in found.branches] == [(1, 2, 3, 4, 5), (1, 9, 9, 6, 7, 8)]
    assert spans(found, 1) == [(5, "mixed", 2, 1), (6, "sampled", 3, 1)]
    assert [m.content for m in found.messages] == ["task", "go", "seen", "end"]


def test_a_summary_that_replaces_the_history_is_context(tmp_path: Path):
    """Catches a harness's summary that is trained as the world's answer."""
    third = row([1, 30], [31], messages=ask("summary of it all"), response=ask("", "on")[1])
    (found,), _ = load(tmp_path, *({**r, "episode": "e"} for r in (FIRST, SECOND, third)))
    assert [s.source for s in found.messages[-2].segments] == [Source.TASK]
    assert found.messages[-2].content == "summary of it all"


def test_the_same_prompt_sampled_twice_is_a_fork_and_a_repeated_call_is_one(tmp_path: Path):
    """Catches an observation or an action that is owned twice, and a retried log line that counts as data."""
    other = {**SECOND, "completion_ids": [20], "response": ask("", "other")[1]}
    (found,), _ = load(tmp_path, *({**r, "episode": "e"} for r in (FIRST, SECOND, other, SECOND)))
    assert [b.token_ids[-1] for b in found.branches] == [8, 20]
    assert [b.owned_from for b in found.branches] == [0, 7]
    assert found.metadata["import"]["num_repeated_calls"] == 1
    assert [m.content for m in found.messages] == ["task", "go", "seen", "end", "other"]


def test_log_probs_that_cannot_be_aligned_are_dropped_and_counted(tmp_path: Path):
    """Catches log-probs that are zipped with the wrong ids."""
    for wrong in ([-0.5], [-0.5, -0.5, -0.5], [0.3, -0.5], ["x", "y"], None):
        (found,), _ = load(tmp_path, {**FIRST, "episode": "e", "logprobs": wrong})
        assert found.messages[1].sampled is not None
        assert found.messages[1].sampled.logprobs is None
        facts = found.metadata["import"]
        assert (facts["has_logprobs"], facts["num_calls_without_logprobs"]) == (False, 1)


def test_interleaved_episodes_and_their_last_messages(tmp_path: Path):
    """Catches calls of two rollouts that are mixed, and a final observation that vanishes (METHOD trap 11)."""
    rows = [
        {**FIRST, "episode": "a"},
        {**FIRST, "episode": "b", "done": True},
        {**SECOND, "episode": "a", "final": [{"role": "user", "content": "last"}], "stop_reason": "length"},
    ]
    found, _ = load(tmp_path, *rows)
    assert [t.id for t in found] == ["x.jsonl:b", "x.jsonl:a"]
    assert found[1].messages[-1].content == "last"
    assert found[1].messages[-1].segments[0].source is Source.TOOL_RESULT
    assert found[1].stop_reason is StopReason.MAX_TOKENS


def test_rows_with_a_mask_are_calls(tmp_path: Path):
    """Catches tool tokens of TRL, verl or SkyRL that are taken for the policy's."""
    messages = ask("task", "go", "seen", "end", "behind")
    for name, ids in (
        ("tool_mask", "completion_ids"),
        ("response_mask", "response_ids"),
        ("loss_mask", "response_ids"),
    ):
        whole = {
            "prompt_ids": [1, 2, 3],
            ids: [4, 5, 6, 7, 8, 9, 10],
            name: [1, 1, 0, 0, 1, 0, 0],
            "messages": messages,
        }
        (found,), _ = load(tmp_path, {**whole, "logprobs": [-0.1, -0.2, 0.0, 0.0, -0.3, 0.0, 0.0]})
        assert spans(found) == [
            (3, "mixed", 0, 1), (5, "sampled", 1, 1), (7, "mixed", 2, 1), (8, "sampled", 3, 1), (10, "mixed", 4, 1),
        ]  # fmt: skip
        assert found.branches[0].token_ids == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
        assert [m.content for m in found.messages] == ["task", "go", "seen", "end", "behind"]
        assert [m.sampled.logprobs for m in found.messages if m.sampled] == [(-0.1, -0.2), (-0.3,)]


def test_a_batch_of_skyrl_is_its_rows(tmp_path: Path):
    """Catches a batch that is one episode."""
    batch = {
        "prompt_token_ids": [[1, 2], [1, 3]],
        "response_ids": [[4, 5], [6]],
        "loss_masks": [[1, 0], [1]],
        "rollout_logprobs": [[-0.1, 0.0], [-0.2]],
        "rewards": [1.0, 0.0],
    }
    found, report = load(tmp_path, batch)
    assert report.problems == []
    assert [(t.branches[0].token_ids, t.reward) for t in found] == [((1, 2, 4, 5), 1.0), ((1, 3, 6), 0.0)]


def test_other_spellings_of_calls(tmp_path: Path):
    """Catches rLLM, tinker-cookbook and servers that return ids, read as text or not at all."""
    rllm = {
        "id": "ep",
        "trajectories": [
            {
                "reward": 1,
                "steps": [
                    {"prompt_ids": [1], "response_ids": [2], "logprobs": [-1], "chat_completions": ask("t", "a")},
                    {"prompt_ids": [1, 2, 3], "response_ids": [4], "chat_completions": ask("t", "a", "o", "b")},
                ],
            }
        ],
    }
    tinker = {
        "transitions": [
            {"ob": {"chunks": [{"tokens": [1]}]}, "ac": {"tokens": [2], "maybe_logprobs": [-1.0]}},
            {"ob": [1, 2, 3], "ac": {"tokens": [4], "logprobs": [-0.5]}},
        ]
    }
    answer = {"message": ask("", "a")[1], "token_ids": [2], "logprobs": {"content": [{"logprob": -1.0}]}}
    server = {
        "request": {"messages": ask("t"), "temperature": 0.7},
        "response": {"prompt_token_ids": [1], "choices": [answer]},
    }
    for document, last in ((rllm, (1, 2, 3, 4)), (tinker, (1, 2, 3, 4)), (server, (1, 2))):
        (found,), report = load(tmp_path, document)
        assert report.problems == []
        assert found.metadata["import"]["format"] == "calls"
        assert found.branches[0].token_ids == last
    assert found.messages[1].sampled is not None
    assert (found.messages[1].sampled.temperature, found.messages[1].sampled.logprobs) == (0.7, (-1.0,))


def test_a_call_that_is_wrong_costs_its_episode_alone_and_is_named(tmp_path: Path):
    """Catches one bad id that loses a file of rollouts."""
    bad = {**SECOND, "prompt_ids": [1, 2, "x"], "episode": "b"}
    found, report = load(tmp_path, {**FIRST, "episode": "a"}, {**FIRST, "episode": "b"}, bad, {**FIRST, "episode": "c"})
    assert [t.id for t in found] == ["x.jsonl:a", "x.jsonl:c"]
    assert [(p.line, p.message) for p in report.problems] == [
        (3, "turn 1: prompt_ids[2]: expected a token id from 0 on, found 'x'")
    ]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_however_prompts_run_every_id_is_kept_and_owned_once(tmp_path_factory: Any, data: st.DataObject):
    """Catches an id that is lost, or a sampled token that two branches own, on any history of calls."""
    token = st.integers(0, 3)
    rows: list[dict[str, Any]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        base: list[int] = []
        if rows and data.draw(st.booleans()):
            before = data.draw(st.sampled_from(rows))
            base = before["prompt_ids"] + before["completion_ids"]
            base = base[: data.draw(st.integers(0, len(base)))] if data.draw(st.booleans()) else base
        prompt = base + data.draw(st.lists(token, min_size=0 if base else 1, max_size=3))
        rows.append(row(prompt, data.draw(st.lists(token, min_size=1, max_size=3)), episode="e"))
    (found,), report = load(tmp_path_factory.getbasetemp(), *rows)
    assert report.problems == []
    runs = [branch.token_ids for branch in found.branches]
    for one in rows:
        whole = tuple(one["prompt_ids"] + one["completion_ids"])
        assert any(run[: len(whole)] == whole for run in runs)
    num_owned = 0
    for branch in found.branches:
        start = 0
        for span in branch.spans:
            if span.kind is SpanKind.SAMPLED and start >= branch.owned_from:
                num_owned += 1
            start = span.end
    num_calls = len(rows) - found.metadata["import"]["num_repeated_calls"]
    assert num_owned == num_calls == sum(m.sampled is not None for m in found.messages)


def test_details_of_a_harbor_trial_are_one_episode_per_chat(tmp_path: Path):
    """Catches a summariser's chat that is spliced into the agent's, and log-probs that are too few."""
    chat = {
        "prompt_token_ids": [[1, 2], [1, 2, 3, 4]],
        "completion_token_ids": [[3], [5, 6]],
        "logprobs": [[-0.1], [-0.2, -0.3]],
    }
    summary = {"prompt_token_ids": [[1, 9]], "completion_token_ids": [[8]], "logprobs": []}
    trial = {
        "trial_name": "t__1",
        "task_name": "hello",
        "agent_result": {"rollout_details": [chat, summary]},
        "verifier_result": {"rewards": {"reward": 1.0}},
    }
    found, report = load(tmp_path, trial)
    assert report.problems == []
    assert [(t.task_id, t.reward, t.branches[0].token_ids) for t in found] == [
        ("hello", 1.0, (1, 2, 3, 4, 5, 6)),
        ("hello", None, (1, 9, 8)),
    ]
    assert [t.metadata["import"]["has_logprobs"] for t in found] == [True, False]
    empty = {**trial, "agent_result": {"rollout_details": []}}
    found, report = load(tmp_path, empty)
    assert found == []
    assert "collect_rollout_details was off" in report.problems[0].message


def test_atif_keeps_ids_where_every_call_has_them(tmp_path: Path):
    """Catches exact ids that an importer of text throws away, and half of them that are believed."""

    def step(number: int, prompt: list[int], completion: list[int]) -> dict[str, Any]:
        metrics = {"prompt_token_ids": prompt, "completion_token_ids": completion, "logprobs": [-0.5] * len(completion)}
        return {
            "step_id": number,
            "source": "agent",
            "message": f"say {number}",
            "observation": {"results": [{"content": f"saw {number}"}]},
            "metrics": metrics,
        }

    document: dict[str, Any] = {
        "schema_version": "ATIF-v1.5",
        "agent": {"name": "other"},
        "steps": [{"step_id": 1, "source": "user", "message": "task"}, step(2, [1], [2]), step(3, [1, 2, 3], [4])],
    }
    (found,), _ = load(tmp_path, document)
    assert spans(found) == [(1, "mixed", 0, 1), (2, "sampled", 1, 1), (3, "mixed", 2, 1), (4, "sampled", 3, 1)]
    assert [m.content for m in found.messages] == ["task", "say 2", "saw 2", "say 3", "saw 3"]
    del document["steps"][2]["metrics"]
    (found,), _ = load(tmp_path, document)
    assert found.branches == ()
    assert found.metadata["import"]["num_calls_with_ids"] == 1


def test_token_events_of_openhands_belong_to_the_answer_before_them(tmp_path: Path):
    """Catches ids that go to the wrong action."""

    def action(number: int) -> dict[str, Any]:
        call = {"name": "bash", "arguments": "{}", "id": f"c{number}"}
        return {"kind": "ActionEvent", "id": f"a{number}", "source": "agent", "thought": [{"text": f"t{number}"}],
                "tool_call": call, "llm_response_id": f"r{number}"}  # fmt: skip

    def tokens(prompt: list[int], response: list[int]) -> dict[str, Any]:
        return {"kind": "TokenEvent", "id": "t", "source": "agent", "prompt_token_ids": prompt,
                "response_token_ids": response}  # fmt: skip

    seen_one = {"kind": "ObservationEvent", "id": "o1", "source": "environment", "action_id": "a1",
                "tool_call_id": "c1", "observation": {"content": [{"text": "saw"}]}}  # fmt: skip
    prompt = {"kind": "SystemPromptEvent", "id": "s", "source": "agent", "system_prompt": {"text": "system"}}
    rows = [prompt, action(1), tokens([1], [2]), seen_one, action(2), tokens([1, 2, 3], [4])]
    (found,), report = load(tmp_path, *rows)
    assert report.problems == []
    assert spans(found) == [(1, "mixed", 0, 1), (2, "sampled", 1, 1), (3, "mixed", 2, 1), (4, "sampled", 3, 1)]


def test_text_only_leaves_the_ids_behind(tmp_path: Path):
    """Catches ids of another model that stay when the user asked for the text."""
    (found,), _ = load(tmp_path, {**FIRST, "episode": "e"}, text_only=True)
    assert found.branches == ()
    assert not any(m.sampled for m in found.messages)
    assert found.metadata["import"]["token_exact"] is False


def test_a_trial_of_harbor_gets_its_reward_from_the_result_beside_it(tmp_path: Path):
    """Catches solved trials that are imported ungraded, because Harbor writes rewards into another file."""
    atif = {
        "schema_version": "ATIF-v1.6",
        "agent": {"name": "x"},
        "steps": [
            {"step_id": 1, "source": "user", "message": "task"},
            {"step_id": 2, "source": "agent", "message": "ls", "observation": {"results": [{"content": "a"}]}},
        ],
    }
    result = {"trial_name": "hello__1", "task_name": "hello", "agent_result": {"rollout_details": None}}
    (tmp_path / "hello__1" / "agent").mkdir(parents=True)
    (tmp_path / "hello__1" / "agent" / "trajectory.json").write_text(json.dumps(atif))
    rewards = {"verifier_result": {"rewards": {"reward": 1.0, "style": 0.2}}}
    (tmp_path / "hello__1" / "result.json").write_text(json.dumps({**result, **rewards}))
    report = ImportReport()
    (found,) = import_traces([tmp_path], report)
    assert (found.reward, found.task_id, found.metadata["import"]["trial"]) == (1.0, "hello", "hello__1")
    assert ["holds no token ids" in p.message for p in report.problems] == [True]
