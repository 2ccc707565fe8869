"""Traps of the formats of agents, one small document of our own making each: whose words are whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_formats import facts, load, one, text_of, words

from envecho.formats import ImportReport, import_traces
from envecho.trajectory import Source

OBSERVED = (
    "### {{output.returncode}}\n{% if output.output|length < 9 -%}\n<<{{output.output}}>>\n"
    "{%- else -%}\n<<{{output.output[:3]}}>>\n[{{output.output|length - 6}} cut]\n"
    "<<{{output.output[-3:]}}>>\n{%- endif %}"
)
ANSWER = {"role": "assistant", "content": "```bash\nls\n```"}
OPENING = [{"role": "system", "content": "S"}, {"role": "user", "content": "Fix it."}]


def mini(*messages: dict[str, Any], version: str = "1", **config: str) -> dict[str, Any]:
    room = "agent" if version == "1" else "model"
    return {
        "trajectory_format": f"mini-swe-agent-{version}",
        "info": {"config": {room: config}},
        "messages": [*OPENING, *messages],
    }


def test_mini_is_cut_by_the_template_that_its_config_keeps(tmp_path: Path):
    """Catches a custom template whose harness text is trained, halves that are joined, and lost parts."""
    user = {"role": "user", "content": [{"type": "text", "text": "### 0\n<<a.py\n>>"}]}
    long = {"role": "user", "content": "### 1\n<<abc>>\n[4 cut]\n<<xyz>>"}
    wrong = {"role": "user", "content": "Use ONE block, not 2."}
    config = {
        "action_observation_template": OBSERVED,
        "format_error_template": "Use ONE block, not {{actions|length}}.",
    }
    found = words(
        one(
            tmp_path,
            mini(ANSWER, user, ANSWER, long, ANSWER, wrong, ANSWER, {"role": "user", "content": "diff"}, **config),
        )
    )
    assert found[3] == [("wrapper", "### 0\n<<"), ("stdout", "a.py\n"), ("wrapper", ">>")]
    assert [part for part in found[5] if part[0] == "stdout"] == [("stdout", "abc"), ("stdout", "xyz")]
    assert found[7] == [("format_warning", "Use ONE block, not 2.")]
    assert len(found) == 9  # the patch is gone


def test_mini_knows_commands_that_were_not_run_people_and_a_zero_beside_a_return_code_of_zero(tmp_path: Path):
    """Catches a filler that passes for output, a person's interruption, and `0` found in the return code."""
    calls = [{"id": i, "type": "function", "function": {"name": "bash", "arguments": "{}"}} for i in "ab"]
    answer = {"role": "assistant", "content": "go", "tool_calls": calls, "extra": {"response": {"id": "r"}}}
    ran = {
        "role": "tool",
        "tool_call_id": "a",
        "content": "<returncode>0</returncode>\n<output>\n0</output>",
        "extra": {"raw_output": "0"},
    }
    filler = {
        "role": "tool",
        "tool_call_id": "b",
        "content": "<exception>action was not executed</exception>\n<returncode>-1</returncode>\n<output>\n</output>",
        "extra": {"raw_output": "", "exception_info": "action was not executed"},
    }
    person = {"role": "user", "content": "Stop that.", "extra": {"interrupt_type": "UserInterruption"}}
    trajectory = one(tmp_path, mini(answer, ran, filler, person, version="1.1"))
    found = words(trajectory)
    assert found[3] == [
        ("status", "<returncode>0</returncode>\n"),
        ("wrapper", "<output>\n"),
        ("stdout", "0"),
        ("wrapper", "</output>"),
    ]
    assert [source for source, _ in found[4]] == ["harness_notice"]
    assert found[5] == [("task", "Stop that.")]
    assert facts(trajectory)["action_provenance"] == "proved"


def swe(query: bool = True) -> dict[str, Any]:
    answers = [{"role": "assistant", "content": f"do {n}", "action": f"cmd{n}"} for n in range(3)]
    told = [{"role": "user", "content": f"OBSERVATION:\nout {n}"} for n in range(3)]
    history = [*OPENING, *(m for pair in zip(answers, told, strict=True) for m in pair)]
    elided = {"role": "user", "content": "Old environment output: (1 lines omitted)"}
    queries = [OPENING, [*OPENING, answers[0], told[0]], [*OPENING, answers[0], elided, answers[1], told[1]]]
    steps = [{"action": f"cmd{n}", "response": f"do {n}", "observation": f"out {n}", "state": "{}"} for n in range(3)]
    if query:
        steps = [step | {"query": prompt} for step, prompt in zip(steps, queries, strict=True)]
    return {"history": history, "trajectory": steps, "info": {"model_stats": {"api_calls": 3}}}


def test_swe_agent_with_prompts_begins_anew_where_an_old_observation_was_cut_out(tmp_path: Path):
    """Catches FORMATS rule R5: a history that is spliced, and an answer or observation that is trained twice."""
    found, report = load(tmp_path, swe())
    assert report.problems == []
    assert [[text for m in words(t) for source, text in m if source == "policy"] for t in found] == [
        ["do 0", "do 1"],
        ["do 2"],
    ]
    assert [text_of(Source.STDOUT, trajectory) for trajectory in found] == ["out 0out 1", ""]
    whole = one(tmp_path, swe(query=False))
    assert text_of(Source.STDOUT, whole) == "out 0out 1out 2"


def test_swe_agent_cuts_attempts_apart_and_knows_what_the_harness_answered(tmp_path: Path):
    """Catches a retry that costs the first attempt, and `exit_cost` as a policy's action."""
    document = swe(query=False)
    document["history"][-2] = {"role": "assistant", "content": "Exiting due to cost", "action": "exit_cost"}
    found, report = load(tmp_path, {"attempts": [swe(query=False), {"history": 3}, document]})
    assert len(found) == 2
    assert "attempt 1: " in str(report.problems[0])
    assert words(found[1])[6] == [("task", "Exiting due to cost")]


def test_atif_keeps_what_system_steps_observe_and_reads_pictures_unknown_keys_and_versions(tmp_path: Path):
    """Catches a report of a sub-agent as the world's words, text that is lost, and a newer major version."""
    parts = [{"type": "text", "text": "see "}, {"type": "image", "source": {"path": "a.png"}}]
    call = {"tool_call_id": "a", "function_name": "run", "arguments": {}}
    steps: list[dict[str, Any]] = [
        {"source": "user", "message": "Do."},
        {
            "source": "agent",
            "message": "x",
            "tool_calls": [call, call | {"tool_call_id": "b"}],
            "observation": {
                "results": [{"source_call_id": "b", "content": parts}, {"source_call_id": "a", "content": "1"}]
            },
        },
        {"source": "system", "message": "summed up", "observation": {"results": [{"content": "sub-agent's words"}]}},
        {"source": "user", "message": "Go on.", "new_key": 1},
        {"source": "agent", "message": "none", "llm_call_count": 0, "observation": {"results": [{"content": "dir"}]}},
    ]
    document = {"schema_version": "1.4", "agent": {"name": "x"}, "steps": steps, "continued_trajectory_ref": "y.json"}
    trajectory = one(tmp_path, document)
    found = words(trajectory)
    assert found[2:4] == [[("tool_result", "see "), ("scaffold", "[image]")], [("tool_result", "1")]]
    assert found[4:7] == [[("system", "summed up")], [("task", "sub-agent's words")], [("task", "Go on.")]]
    assert found[7:] == [[("task", "none")], [("tool_result", "dir")]]
    assert facts(trajectory)["unknown_keys"] == ["steps.new_key"]
    assert facts(trajectory)["continued_trajectory_ref"] == "y.json"
    _, report = load(tmp_path, document | {"schema_version": "ATIF-v2.0"})
    assert "expected ATIF-v1.0 to 1.8, found 'ATIF-v2.0'" in str(report.problems[0])


def test_openhands_reads_rows_of_the_older_shape_and_breaks_at_a_condensation(tmp_path: Path):
    """Catches a resolver's output that is refused, a command that is lost, and a context across a summary."""
    old = [
        {"action": "message", "content": "Fix it.", "wait_for_response": False},
        {"action": "run", "thought": "Look.", "command": "ls", "is_confirmed": "confirmed"},
        {"observation": "run", "content": "a.py\r\nroot@4f:/w # ", "command_id": -1, "exit_code": 0},
        {"action": "condensation", "thought": ""},
        {"action": "run", "thought": "", "command": "cat a.py"},
        {"observation": "error", "content": "no such file"},
        {"observation": "recall", "content": "knowledge"},
    ]
    found, report = load(tmp_path, [{"instance_id": "i", "history": old, "success": True}] * 2, lines=True)
    assert report.problems == []
    assert [facts(t)["context_incomplete"] for t in found] == [True] * 4
    assert words(found[0])[2] == [("stdout", "a.py\r\n"), ("shell_prompt", "root@4f:/w # ")]
    assert found[0].messages[1].tool_calls[0].arguments == '{"command": "ls"}'
    assert (found[0].task_id, found[0].reward, facts(found[0])["action_provenance"]) == ("i", 1.0, "assumed")


def test_a_folder_of_events_is_one_trace_and_so_are_a_trials_logs(tmp_path: Path):
    """Catches each event as a trace of its own, and episode 10 before episode 2."""
    events: list[dict[str, Any]] = [
        {"kind": "MessageEvent", "id": "m", "source": "user", "llm_message": {"content": "Do."}},
        {
            "kind": "ActionEvent",
            "id": "a",
            "tool_call": {"id": "c", "name": "sh", "arguments": "{}"},
            "llm_response_id": "r",
        },
        {
            "kind": "ObservationEvent",
            "id": "o",
            "action_id": "a",
            "tool_call_id": "c",
            "tool_name": "sh",
            "observation": {"content": "ok", "metadata": {"exit_code": 0}},
        },
        {
            "kind": "ActionEvent",
            "id": "b",
            "tool_call": {"id": "d", "name": "sh", "arguments": "{}"},
            "llm_response_id": "r",
        },
        {"kind": "AgentErrorEvent", "id": "e", "tool_call_id": "gone", "error": "no tool"},
    ]
    folder = tmp_path / "conversation" / "events"
    folder.mkdir(parents=True)
    for number, event in enumerate(events):
        (folder / f"event-{number:05d}-x.json").write_text(json.dumps(event))
    for number in (0, 2, 10):
        episode = tmp_path / "trial" / "agent-logs" / f"episode-{number}"
        episode.mkdir(parents=True)
        (episode / "prompt.txt").write_text(f"New Terminal Output:\n\n{number}")
        (episode / "response.txt").write_text(f"answer {number}")
    (tmp_path / "trial" / "results.json").write_text('{"task_id": "t", "is_resolved": true}')
    report = ImportReport()
    new, old = import_traces([tmp_path], report)
    assert [len(message.tool_calls) for message in new.messages] == [0, 2, 0]
    assert words(new)[2] == [("tool_result", "ok"), ("status", "\n[Command finished with exit code 0]")]
    assert facts(new)["num_orphan_observations"] == 1
    assert text_of(Source.POLICY, old) == "answer 0answer 2answer 10"
    assert text_of(Source.TOOL_RESULT, old) == "210"
    assert (old.task_id, old.reward) == ("t", 1.0)


def test_a_bad_sample_of_a_log_costs_itself_alone_and_given_answers_are_context(tmp_path: Path):
    """Catches a log that is lost with one sample, a prefilled answer as sampled, and a timeout's partial output."""
    answer = {"role": "assistant", "content": "try", "source": "generate"}
    good = {
        "id": 1,
        "epoch": 1,
        "target": "",
        "messages": [
            {"role": "user", "content": "Q", "source": "input"},
            {"role": "assistant", "content": "given", "source": "input"},
            answer,
            {"role": "tool", "content": "Command timed out before completing.\npart", "error": {"type": "timeout"}},
            {"role": "user", "content": "Please proceed to the next step using your best judgement. Submit."},
        ],
    }
    bad = {"id": 2, "epoch": 1, "messages": [{"role": "user", "content": "tc://gone"}]}
    found, report = load(tmp_path, {"eval": {}, "samples": [bad, good, 3]})
    assert [str(problem).partition(": ")[2][:9] for problem in report.problems] == ["sample 0:", "sample 2:"]
    assert words(found[0])[1:] == [
        [("task", "given")],
        [("policy", "try")],
        [("timeout_notice", "Command timed out before completing."), ("tool_result", "\npart")],
        [("harness_notice", "Please proceed to the next step using your best judgement. Submit.")],
    ]
    assert facts(found[0])["action_provenance"] == "proved"


def test_a_session_of_claude_code_tells_streams_and_who_answered_for_the_model(tmp_path: Path):
    """Catches stderr as output, an API error as the policy's answer, and a first line that is a summary."""

    def line(number: int, kind: str, content: Any, **keys: Any) -> dict[str, Any]:
        message = {"role": kind, "content": content} | keys.pop("message", {})
        return {
            "type": kind,
            "uuid": str(number),
            "parentUuid": str(number - 1),
            "sessionId": "s",
            "message": message,
        } | keys

    result = [{"type": "tool_result", "tool_use_id": "t", "content": "out\nerr"}]
    lines = [
        {"type": "summary", "summary": "x", "leafUuid": "9"},
        line(1, "user", "Do."),
        line(2, "assistant", [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]),
        line(3, "user", result, toolUseResult={"stdout": "out", "stderr": "err", "interrupted": False}),
        line(4, "assistant", "API Error", message={"model": "<synthetic>"}),
    ]
    found = words(one(tmp_path, lines, lines=True))
    assert found[2:] == [[("stdout", "out"), ("wrapper", "\n"), ("stderr", "err")], [("task", "API Error")]]
    spoilt, report = load(
        tmp_path, [*lines, line(5, "user", "<command-name>/clear</command-name>"), line(6, "user", 7)], lines=True
    )
    assert len(spoilt) == 1
    assert "from here on: turn 0" in str(report.problems[0])


def test_codex_knows_its_older_layout_its_wrappers_and_every_item_of_a_stream(tmp_path: Path):
    """Catches the exit code as output, a tool call of a server that vanishes, and reasoning that is lost."""
    wrapped = json.dumps({"output": 'a "b"\n', "metadata": {"exit_code": 0, "duration_seconds": 0.1}})
    old = [
        {"id": "s", "timestamp": "t", "instructions": None},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Run."}]},
        {"record_type": "state"},
        {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
        {"type": "function_call_output", "call_id": "c", "output": wrapped},
        {"type": "custom_tool_call", "call_id": "d", "name": "apply_patch", "input": "*** Begin"},
        {
            "type": "custom_tool_call_output",
            "call_id": "d",
            "output": "Exit code: 0\nWall time: 0 seconds\nOutput:\nok",
        },
    ]
    found = words(one(tmp_path, old, lines=True))
    assert found[2] == [
        ("wrapper", '{"output": "'),
        ("stdout", 'a \\"b\\"\\n'),
        ("status", wrapped[wrapped.index('", "metadata') :]),
    ]
    assert found[4] == [("status", "Exit code: 0\nWall time: 0 seconds\nOutput:\n"), ("tool_result", "ok")]
    items: list[dict[str, Any]] = [
        {"id": "r", "type": "reasoning", "text": "hm"},
        {
            "id": "m",
            "type": "mcp_tool_call",
            "server": "s",
            "tool": "t",
            "arguments": {},
            "result": {"content": [{"type": "text", "text": "4"}]},
        },
        {"id": "f", "type": "file_change", "changes": [{"path": "a"}]},
    ]
    stream = [
        {"type": "thread.started", "thread_id": "t"},
        *({"type": "item.completed", "item": item} for item in items),
    ]
    trajectory = one(tmp_path, stream, lines=True)
    assert [(m.role, m.reasoning, m.content) for m in trajectory.messages] == [
        ("assistant", "hm", ""),
        ("tool", None, "4"),
        ("assistant", None, ""),
    ]


def test_gemini_cli_keeps_what_tools_answered_and_no_notes_to_the_user(tmp_path: Path):
    """Catches a note that the model never saw, and a result that a newer version keeps."""
    call = {
        "id": "c",
        "name": "read",
        "args": {"p": 1},
        "result": [{"functionResponse": {"response": {"output": "body"}}}],
    }
    messages = [
        {"type": "info", "content": "note"},
        {"type": "user", "content": "Read."},
        {
            "type": "gemini",
            "content": "I read.",
            "thoughts": [{"description": "hm"}],
            "toolCalls": [call, {"name": "x"}],
        },
    ]
    trajectory = one(tmp_path, {"sessionId": "s", "messages": messages})
    assert words(trajectory) == [[("task", "Read.")], [("policy", "I read.")], [("tool_result", "body")]]
    assert (facts(trajectory)["num_notes_left_out"], facts(trajectory)["num_calls_without_result"]) == (1, 1)
