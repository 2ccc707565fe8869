"""Traps of message lists and their rows (FORMATS sections 4.7 to 4.13 and 6), one small document each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_formats import facts, load, one, text_of, words

from envecho.formats import ImportReport, import_traces
from envecho.trajectory import Source

CALL = {"id": "a", "type": "function", "function": {"name": "run", "arguments": "{}"}}
ASK = {"role": "user", "content": "Do."}


def chat(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"messages": [ASK, *messages], **columns}


def test_results_without_ids_are_paired_in_order_and_others_by_id(tmp_path: Path):
    """Catches a result that is given to the wrong call: results of verifiers lost their ids, others come late."""
    calls = [json.dumps({"id": f"c{n}", "function": {"name": f"tool{n}", "arguments": "{}"}}) for n in range(3)]
    late = {"role": "tool", "content": "two", "tool_call_id": "c2"}
    lost = [{"role": "tool", "content": text} for text in ("zero", "one")]
    trajectory = one(tmp_path, chat({"role": "assistant", "content": None, "tool_calls": calls}, late, *lost))
    told = [(m.content, m.tool_call_id, m.name) for m in trajectory.messages[2:]]
    assert told == [("two", "c2", "tool2"), ("zero", "c0", "tool0"), ("one", "c1", "tool1")]
    assert {segment.tool for m in trajectory.messages[2:] for segment in m.segments} == {"tool0", "tool1", "tool2"}


def test_a_picture_that_a_tool_returned_is_a_placeholder_and_nobodys_words(tmp_path: Path):
    """Catches the user turn behind a tool's stub as a person's, and a picture that leaves no place."""
    picture = {
        "role": "user",
        "content": [{"type": "text", "text": "This is file 1:"}, {"type": "image_url", "image_url": {}}],
    }
    stub = {"role": "tool", "tool_call_id": "a", "content": "See file 1"}
    trajectory = one(tmp_path, chat({"role": "assistant", "content": None, "tool_calls": [CALL]}, stub, picture))
    assert words(trajectory)[3] == [("wrapper", "This is file 1:"), ("scaffold", "[image]")]
    assert (facts(trajectory)["num_turns_of_a_person"], facts(trajectory)["num_parts_dropped"]) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "dropped", "lossy"),
    [
        (
            {
                "role": "assistant",
                "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "y"}],
            },
            1,
            True,
        ),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "s"}]}, 1, True),
        ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}, 0, False),
        ({"role": "assistant", "content": "x", "function_call": None, "tool_calls": None, "name": None}, 0, False),
        ({"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "f", "arguments": {}}'}]}, 0, True),
    ],
)
def test_an_answer_of_any_spelling_says_what_is_hidden(
    tmp_path: Path, answer: dict[str, Any], dropped: int, lossy: bool
):
    """Catches hidden reasoning that leaves no trace, and null keys or legacy calls that are not understood."""
    trajectory = one(tmp_path, chat(answer))
    assert (facts(trajectory)["num_parts_dropped"], facts(trajectory)["action_text_lossy"]) == (dropped, lossy)


@pytest.mark.parametrize(
    "flag", [{"loss": False}, {"weight": 0}, {"mask": False}, {"sampled": False}, {"loss_weight": 0.0}]
)
def test_an_answer_that_nobody_is_to_learn_is_context(tmp_path: Path, flag: dict[str, Any]):
    """Catches few-shot answers and canned replies that are trained, and what stands before them as the world's."""
    given = {"role": "assistant", "content": "OK."} | flag
    tool = {"role": "tool", "content": "shown"}
    trajectory = one(
        tmp_path, chat(given, tool, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"})
    )
    assert [source for m in words(trajectory) for source, _ in m] == ["task", "task", "task", "policy", "tool_result"]


def test_agent_instruct_speaks_as_a_human_behind_the_first_learnt_answer(tmp_path: Path):
    """Catches an environment that passes for a person because nothing marks its words."""
    told = [
        ("human", "Rules.", None),
        ("gpt", "OK.", False),
        ("human", "Room.", None),
        ("gpt", "go", True),
        ("human", "You go.", None),
    ]
    row = {"id": "alf_1", "conversations": [{"from": f, "value": v, "loss": loss} for f, v, loss in told]}
    assert words(one(tmp_path, row))[2:] == [[("task", "Room.")], [("policy", "go")], [("tool_result", "You go.")]]


def test_rows_of_verifiers_end_with_the_world_and_rlm_times_are_the_harness(tmp_path: Path):
    """Catches FORMATS rule R4: a last observation that is dropped, and a time that is trained."""
    row = {
        "example_id": 1,
        "prompt": [ASK],
        "completion": [
            ASK,
            {"role": "assistant", "content": "2+2"},
            {"role": "user", "content": "4\n[Execution time: 0.44s]"},
        ],
    }
    assert words(one(tmp_path, row))[3] == [("tool_result", "4"), ("status", "\n[Execution time: 0.44s]")]


def test_a_simulated_person_is_context_and_a_users_own_tools_are_left_out(tmp_path: Path):
    """Catches tau-bench's user as the world, and what tau2's policy never saw."""
    said = {"role": "assistant", "content": "Your id?", "tool_calls": None}
    traj = [
        ASK,
        said,
        {"role": "user", "content": "mia"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "{}"},
    ]
    row = {"task_id": 3, "reward": 1.0, "traj": traj}
    trajectory = one(tmp_path, row)
    assert words(trajectory)[2] == [("task", "mia")]
    assert facts(trajectory)["user_simulated"] is True
    assert words(one(tmp_path, row, user_turns="world"))[2] == [("user_reply", "mia")]
    own = [
        {"role": "user", "content": None, "tool_calls": [{"id": "u", "name": "toggle", "requestor": "user"}]},
        {"role": "tool", "tool_messages": [{"role": "tool", "content": "off", "requestor": "user"}]},
    ]
    both = {"role": "tool", "tool_messages": [{"role": "tool", "content": "1", "requestor": "assistant"}]}
    second = {"task_id": "t", "reward_info": {"reward": 0.5}, "messages": [ASK, said, *own, said, both]}
    found, report = load(tmp_path, {"simulations": [second, {"task_id": "u", "messages": 3}]})
    assert (found[0].reward, text_of(Source.TOOL_RESULT, found[0])) == (0.5, "1")
    assert facts(found[0])["num_messages_of_the_users_tools"] == 2
    assert "simulation 1: " in str(report.problems[0])


def test_of_toolbenchs_lists_the_longest_is_read_and_its_search_speaks_as_harness(tmp_path: Path):
    """Catches cumulative lists that are trained as often as there are, and a prompt for diversity as a person's."""
    again = {"role": "user", "content": "Try something else.", "valid": False}
    answer = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    longest = [ASK, answer, {"role": "function", "name": "f", "content": "{}"}, again, answer]
    generation = {"train_messages": [longest[:2], longest], "query": "Do.", "function": [{"name": "f"}]}
    trajectory = one(tmp_path, {"win": True, "tree": {}, "answer_generation": generation})
    assert words(trajectory)[2:4] == [[("tool_result", "{}")], [("harness_notice", "Try something else.")]]
    assert facts(trajectory)["environment_simulated"] is True
    _, report = load(tmp_path, {"answer_generation": {"train_messages": []}})
    assert "train_messages, found none" in str(report.problems[0])


def test_the_agent_data_protocol_goes_by_place_and_not_by_source(tmp_path: Path):
    """Catches `source: user` on an environment's words, and a person's words behind a message as the world's."""
    content = [
        {"class_": "text_observation", "content": "Compute.", "source": "user"},
        {"class_": "code_action", "language": "python", "content": "1+1", "description": "I add."},
        {
            "class_": "text_observation",
            "content": "2\nYou have 3 steps left and 2 chances to propose solution left.",
            "source": "user",
        },
        {"class_": "message_action", "content": "It is 2."},
        {"class_": "text_observation", "content": "Thanks.", "source": "user"},
        {"class_": "web_observation", "axtree": "button", "image_observation": "x", "source": "environment"},
    ]
    trajectory = one(tmp_path, {"id": "x", "content": content, "details": {}})
    found = words(trajectory)
    assert [source for source, _ in found[2]] == ["tool_result", "harness_notice"]
    assert found[3:] == [[("policy", "It is 2.")], [("task", "Thanks.")], [("tool_result", "button")]]
    assert facts(trajectory)["action_text_lossy"] is True


def exchange(body: dict[str, Any], answer: Any) -> dict[str, Any]:
    return {"request": {"parsed_body": body}, "response": {"parsed_body": answer}}


def test_a_cassette_tells_whom_it_sampled_and_chains_answers_by_their_ids(tmp_path: Path):
    """Catches another model's history as sampled, an unknown prompt that is guessed, and a stream that is lost."""
    copied = [ASK, {"role": "assistant", "content": "another model's"}, {"role": "user", "content": "And?"}]
    chat_answer = {"choices": [{"message": {"role": "assistant", "content": "mine"}}]}
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "one"}]}
    interactions = [
        exchange({"messages": copied}, chat_answer),
        exchange({"input": "Count."}, {"id": "r1", "output": [item]}),
        exchange(
            {"input": [{"role": "user", "content": "On."}], "previous_response_id": "r1"},
            {"id": "r2", "output": [item]},
        ),
        exchange({"input": [ASK], "previous_response_id": "gone"}, {"id": "r3", "output": [item]}),
        exchange({"messages": [{"role": "user", "content": "stream"}]}, "data: {}"),
    ]
    path = tmp_path / "cassette.yaml"
    path.write_text("version: 1\ninteractions: " + json.dumps(interactions))
    report = ImportReport()
    found = list(import_traces([path], report))
    assert words(found[0])[1:] == [[("task", "another model's")], [("task", "And?")], [("policy", "mine")]]
    assert [m.content for m in found[1].messages] == ["Count.", "one", "On.", "one"]
    assert [str(p).partition("yaml: ")[2][:6] for p in report.problems] == ["turn 3", "turn 4"]
    _, report = load(tmp_path, {"input": [ASK], "previous_response_id": "x"})
    assert "export the whole input" in str(report.problems[0])


def test_tools_of_a_provider_stand_between_the_words_of_one_answer(tmp_path: Path):
    """Catches a server's search result in front of its own call, or with the text that follows from it."""
    content = [
        {"type": "text", "text": "I look."},
        {"type": "server_tool_use", "id": "s", "name": "search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "found"}]},
        {"type": "text", "text": "So it is."},
    ]
    trajectory = one(tmp_path, chat({"role": "assistant", "content": content}))
    assert words(trajectory)[1:] == [[("policy", "I look.")], [("tool_result", "found")], [("policy", "So it is.")]]


@pytest.mark.parametrize(
    ("document", "advice"),
    [
        ({"resourceSpans": []}, "the longest input"),
        ({"name": "chat", "attributes": {"gen_ai.input.messages": "[]"}}, "the longest input"),
        ({"run_type": "llm", "inputs": {"messages": [ASK]}, "outputs": {}}, "the last model run"),
        ({"input": "user\nx", "output": "y", "gts": 1, "score": 0.0, "step": 3}, "the `calls` format"),
    ],
)
def test_what_is_known_and_not_read_says_what_to_do(tmp_path: Path, document: dict[str, Any], advice: str):
    """Catches a refusal that leaves the user alone, and a span that is imported as if it were the run."""
    found, report = load(tmp_path, document)
    assert found == []
    assert advice in str(report.problems[0])


def test_a_recording_is_one_problem_and_a_trace_in_a_column_is_found(tmp_path: Path):
    """Catches thousands of complaints about one recording, and ATIF as JSON text in a data set's column."""
    cast = [{"version": 2, "width": 80, "height": 24}, [0.1, "o", "$ "], [0.2, "i", "l"]]
    found, report = load(tmp_path, cast, lines=True)
    assert (found, len(report.problems)) == ([], 1)
    assert "import the agent's own logs" in str(report.problems[0])
    atif = {"schema_version": "ATIF-v1.2", "agent": {"name": "x"}, "steps": [{"source": "agent", "message": "hi"}]}
    assert facts(one(tmp_path, {"trial": 1, "trajectory": json.dumps(atif)}))["format"] == "atif"
    shrinking = [chat(*[{"role": "assistant", "content": "x"}] * n, task_id="t") for n in (3, 2, 1)]
    kept, report = load(tmp_path, shrinking)
    assert ([len(t.messages) for t in kept], report.num_growing_rows) == ([4], 2)
