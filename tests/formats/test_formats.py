"""Each format: whose words are whose, character for character, and what is known of their origin."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import format_samples as samples
import pytest

from envecho.errors import ConfigError
from envecho.formats import FORMATS, ImportOptions, ImportReport, import_traces
from envecho.trajectory import Source, Trajectory


def load(tmp_path: Path, data: Any, *, lines: bool = False, **options: Any) -> tuple[list[Trajectory], ImportReport]:
    path = tmp_path / "trace"
    path.write_text("".join(json.dumps(line) + "\n" for line in data) if lines else json.dumps(data, indent=1))
    report = ImportReport()
    return list(import_traces([path], report, options=ImportOptions(**options))), report


def one(tmp_path: Path, data: Any, **keys: Any) -> Trajectory:
    (trajectory,), report = load(tmp_path, data, **keys)
    assert report.problems == []
    return trajectory


def words(trajectory: Trajectory) -> list[list[tuple[str, str]]]:
    return [[(s.source.value, s.text) for s in message.segments] for message in trajectory.messages]


def facts(trajectory: Trajectory) -> dict[str, Any]:
    return trajectory.metadata["import"]


def text_of(source: Source, trajectory: Trajectory) -> str:
    return "".join(s.text for m in trajectory.messages for s in m.segments if s.source is source)


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_every_format_is_recognised_by_its_content_and_loses_no_character(tmp_path: Path, name: str):
    """Catches a format that another one takes first, and text that falls between two segments."""
    data = samples.SAMPLES[name]
    lines = name in ("claude-code", "codex", "codex-stream", "openhands-1")
    found, report = load(tmp_path, data, lines=lines)
    assert found
    assert report.problems == []
    expected = {
        "mini-1.1": "mini-swe-agent",
        "mini": "mini-swe-agent",
        "codex-stream": "codex",
        "verifiers": "messages",
    }
    wanted = expected.get(name, name.partition("-0")[0].partition("-1")[0])
    assert {facts(t)["format"] for t in found} == {wanted if wanted in FORMATS else "messages"}
    assert report.num_trajectories == len(found)
    for trajectory in found:
        assert facts(trajectory)["token_exact"] is False
        seen_answer = False
        for message in trajectory.messages:
            seen_answer = seen_answer or message.role == "assistant"
            assert all(segment.text for segment in message.segments)
            if not seen_answer:  # FORMATS rule R1
                assert all(segment.source.role.value == "context" for segment in message.segments)


def test_mini_version_1_cuts_by_its_template_and_drops_the_patch(tmp_path: Path):
    """Catches a return code that is trained, and the submitted patch taken for an answer of the world."""
    found = words(one(tmp_path, samples.mini()))
    assert found[3] == [
        ("status", "<returncode>0</returncode>\n"),
        ("wrapper", "<output>\n"),
        ("stdout", "a.py\n"),
        ("wrapper", "</output>"),
    ]
    assert found[5] == [("status", "<returncode>1</returncode>\n"), ("wrapper", "<output>\n"), ("wrapper", "</output>")]
    assert [source for source, _ in found[7]] == ["format_warning"]
    assert len(found) == 9
    bare = one(tmp_path, samples.mini()["messages"])
    assert words(bare) == found


def test_mini_version_1_1_finds_the_raw_output_also_inside_json_and_beside_a_tag(tmp_path: Path):
    """Catches an escaped output that no pattern sees, and an output that itself holds the template's tag."""
    found = words(one(tmp_path, samples.MINI_11))
    assert found[3] == [
        ("status", '{\n  "returncode": 0,\n  "output": "'),
        ("stdout", "it\\u0027s\\nhere\\n"),
        ("status", '"\n}'),
    ]
    assert found[4] == [
        ("status", "<returncode>1</returncode>\n"),
        ("wrapper", "<output>\n"),
        ("stdout", "<output>\ncat: q: none\n"),
        ("wrapper", "</output>"),
    ]
    assert found[5] == [("format_warning", "Wrong format.")]
    assert [text for source, text in found[7] if source == "stdout"] == ["1\n2\n", "8\n9\n\n"]
    assert {source for source, text in found[7] if "elided" in text or "Long" in text} == {"truncation_notice"}
    assert len(found) == 8  # the exit is no message


def test_an_unknown_version_of_mini_is_refused_by_name(tmp_path: Path):
    """Catches a newer format that is read as if it were known."""
    _, report = load(tmp_path, samples.mini("mini-swe-agent-9"))
    assert "found 'mini-swe-agent-9'" in str(report.problems[0])


def test_swe_agent_takes_the_raw_observation_and_leaves_out_demonstrations(tmp_path: Path):
    """Catches a trailer that is trained, a demonstration taken for an episode, and the last patch as an observation."""
    trajectory = one(tmp_path, samples.SWE_AGENT)
    found = words(trajectory)
    assert [source for message in found[:5] for source, _ in message] == ["system", "task", "task", "task", "task"]
    assert found[6] == [
        ("wrapper", "OBSERVATION:\n"),
        ("stdout", "a.py\nb.py\n"),
        ("status", "\n(Open file: n/a)\n(Current directory: /r)\nbash-$"),
    ]
    assert found[7] == [("task", "Exit due to cost limit")]
    assert "diff --git" not in text_of(Source.STDOUT, trajectory)
    assert facts(trajectory)["action_provenance"] == "assumed"
    nobody = copy.deepcopy(samples.SWE_AGENT)
    nobody["info"]["model_stats"]["api_calls"] = 0
    human = one(tmp_path, nobody)
    assert facts(human)["action_provenance"] == "not_sampled"
    assert text_of(Source.POLICY, human) == ""


def test_the_agent_world_model_keeps_the_verdict_out_of_the_targets(tmp_path: Path):
    """Catches METHOD's trap 9: a policy that is taught to predict its verifier."""
    trajectory = one(tmp_path, samples.AWM)
    assert words(trajectory)[2::2] == [
        [("tool_result", '{"n": 1}')],
        [("tool_error", "q is missing")],
        [("grader", '{"passed": false}')],
    ]
    assert (trajectory.task_id, trajectory.reward) == ("shop_1/3", 0.0)
    assert [call.arguments for call in trajectory.messages[1].tool_calls] == ['{"q": "tea"}']
    assert facts(trajectory)["grader_in_text"] is True
    assert facts(trajectory)["action_text_lossy"] is True


def test_atif_copied_steps_are_context_and_a_screen_is_cut(tmp_path: Path):
    """Catches copied context that is trained twice, and the echo of what the policy typed."""
    trajectory = one(tmp_path, samples.ATIF)
    found = words(trajectory)
    assert found[1:3] == [[("task", "old answer")], [("task", "old output")]]
    assert found[4] == [("format_warning", "Previous response had parsing errors:\nERROR: x\n\nPlease fix.")]
    assert found[6] == [
        ("status", "New Terminal Output:\n\n"),
        ("command_echo", "root@x:/app# ls\n"),
        ("tool_result", "a.py\n"),
    ]
    assert found[7] == [("task", "no model")]
    assert trajectory.messages[5].reasoning == "hm"
    assert facts(trajectory)["num_calls_with_ids"] == 0  # a completion without its prompt is no call


def test_chat_messages_pair_calls_with_results_and_know_a_person(tmp_path: Path):
    """Catches a person's thanks as an answer of the world, and schemas that stay a JSON string."""
    trajectory, report = one(tmp_path, samples.MESSAGES), ImportReport()
    assert words(trajectory)[2:] == [[("tool_result", "3")], [("policy", "Three.")], [("task", "Thanks!")]]
    assert trajectory.messages[1].tool_calls[0].name == "count"
    assert trajectory.tools == ({"type": "function", "function": {"name": "count"}},)
    report.add(trajectory)
    assert report.num_turns_of_a_person == 1
    world = one(tmp_path, samples.MESSAGES, user_turns="world")
    assert words(world)[4] == [("user_reply", "Thanks!")]


def test_calls_become_text_for_templates_without_tools(tmp_path: Path):
    """Catches an action that is lost with its call, and one that passes for what was sampled."""
    trajectory = one(tmp_path, samples.ANTHROPIC, calls_as_text=True)
    assert [message.role for message in trajectory.messages] == ["system", "user", "assistant", "user", "user", "user"]
    answer = trajectory.messages[2]
    assert answer.tool_calls == ()
    assert answer.content == (
        'I look.\n<tool_call>\n{"name": "find", "arguments": {"who": "Ann"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "find", "arguments": {"who": "Bob"}}\n</tool_call>'
    )
    assert {segment.source for segment in answer.segments} == {Source.POLICY}
    assert facts(one(tmp_path, samples.MESSAGES, calls_as_text=True))["action_text_lossy"] is True
    assert facts(one(tmp_path, samples.MESSAGES))["action_text_lossy"] is False


def test_where_the_world_speaks_as_user_its_words_are_targets(tmp_path: Path):
    """Catches role words that are believed: nebius rows and games answer as user."""
    nebius = one(tmp_path, samples.NEBIUS)
    assert words(nebius)[0] == [("system", "SETTING")]
    assert words(nebius)[3][0] == ("tool_result", "a.py")
    assert (nebius.task_id, nebius.reward) == ("repo-1", 1.0)
    game = one(tmp_path, samples.VERIFIERS)
    assert words(game)[2] == [("tool_result", "\nX X G X X"), ("harness_notice", "\n[GAME] [word]")]
    assert (game.task_id, game.reward) == ("7", 0.5)


def test_blocks_of_one_turn_become_one_call_each_and_one_answer_each(tmp_path: Path):
    """Catches parallel calls that are merged, results in the wrong order, and a picture that vanishes uncounted."""
    trajectory = one(tmp_path, samples.ANTHROPIC)
    assert [message.role for message in trajectory.messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert trajectory.messages[2].reasoning == "look it up"
    assert [call.id for call in trajectory.messages[2].tool_calls] == ["t1", "t2"]
    assert words(trajectory)[3:] == [
        [("tool_result", "Ann is 3")],
        [("tool_error", "no Bob")],
        [("scaffold", "[image]")],
    ]
    assert facts(trajectory)["num_parts_dropped"] == 1


def test_items_of_the_responses_api_join_into_turns(tmp_path: Path):
    """Catches hidden reasoning that leaves no trace, and a call that becomes a turn of its own behind it."""
    trajectory = one(tmp_path, samples.RESPONSES)
    assert [message.role for message in trajectory.messages] == ["user", "assistant", "tool", "assistant"]
    answer = [{"type": "message", "role": "assistant", "content": "Hm."}, samples.RESPONSES["input"][2]]
    whole = one(tmp_path, [samples.RESPONSES["input"][0], {"object": "response", "output": answer}])
    assert [(m.content, len(m.tool_calls)) for m in whole.messages] == [("Run.", 0), ("Hm.", 1)]
    assert facts(trajectory)["num_parts_dropped"] == 1
    assert facts(trajectory)["action_text_lossy"] is True


def test_tools_that_a_model_played_are_called_simulated(tmp_path: Path):
    """Catches a model's invention that is passed on as a world."""
    trajectory = one(tmp_path, samples.SHAREGPT)
    assert facts(trajectory)["environment_simulated"] is True
    assert trajectory.messages[1].tool_calls[0].arguments == '{"city": "Bonn"}'


def test_inspect_knows_who_was_sampled_and_which_error_is_the_harness(tmp_path: Path):
    """Catches an attachment that is trained as its address, and a parse error taken for the world."""
    trajectory = one(tmp_path, samples.INSPECT)
    assert words(trajectory)[2] == [("tool_result", "long output")]
    assert words(trajectory)[4:] == [[("format_warning", "bad call")], [("tool_error", "not there")]]
    assert facts(trajectory)["action_provenance"] == "proved"
    assert (trajectory.task_id, trajectory.reward) == ("task-1", 1.0)


def test_a_session_of_claude_code_is_cut_into_its_threads(tmp_path: Path):
    """Catches one answer counted as two turns, a sub-agent mixed into the main thread, and a context across /clear."""
    found, _ = load(tmp_path, samples.CLAUDE_CODE, lines=True)
    texts = [[message.content for message in trajectory.messages] for trajectory in found]
    assert texts == [
        ["Read it.", "I read.", "body\n<system-reminder>be good</system-reminder>"],
        ["sub task", "sub answer"],
        ["Anew.", "fresh"],
    ]
    assert words(found[0])[2] == [
        ("tool_result", "body"),
        ("harness_notice", "\n<system-reminder>be good</system-reminder>"),
    ]
    assert all(facts(trajectory)["context_incomplete"] for trajectory in found)
    assert len({trajectory.id for trajectory in found}) == 3


def test_codex_reads_items_once_in_files_and_streams(tmp_path: Path):
    """Catches `event_msg`, which repeats items, and `item.started`, which repeats commands."""
    rollout = one(tmp_path, samples.CODEX, lines=True)
    assert words(rollout) == [[("task", "Run.")], [], [("tool_result", "a.py\n")]]
    stream = one(tmp_path, samples.CODEX_STREAM, lines=True)
    assert words(stream) == [[], [("tool_result", "a.py\n")], [("policy", "One file.")]]


def test_openhands_joins_events_of_one_answer_and_drops_orphans(tmp_path: Path):
    """Catches parallel calls trained twice, and an observation that answers nobody."""
    old = one(tmp_path, samples.OPENHANDS_V0)
    assert [m.role for m in old.messages] == ["user", "assistant", "tool"]
    assert words(old)[2] == [
        ("stdout", "a.py\n"),
        ("status", "[Current working directory: /w]\n"),
        ("status", "\n[The command completed with exit code 0.]"),
    ]
    assert facts(old)["num_orphan_observations"] == 1
    new = one(tmp_path, samples.OPENHANDS_V1, lines=True)
    assert words(new)[2:] == [[("tool_result", "KEY=<secret-hidden>")], [("format_warning", "no such tool")]]
    assert facts(new)["num_orphan_observations"] == 1


def test_of_rows_that_grow_the_longest_is_kept(tmp_path: Path):
    """Catches an export with a row per step, whose first turns would be trained as often as there are steps."""
    rows = [{"conversations": samples.mini()["messages"][:n], "task": "t", "episode": str(n)} for n in (3, 5, 7)]
    found, report = load(tmp_path, [*rows, {**rows[0], "task": "other"}])
    assert [len(trajectory.messages) for trajectory in found] == [7, 3]
    assert report.num_growing_rows == 2


def test_a_format_can_be_named_and_a_wrong_name_is_an_error(tmp_path: Path):
    """Catches a document of another format that is bent into the one that was asked for."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(samples.AWM))
    report = ImportReport()
    assert list(import_traces([path], report, format="swe-agent")) == []
    assert "expected the format swe-agent; found an object with the keys" in str(report.problems[0])
    with pytest.raises(ConfigError, match="Did you mean 'swe-agent'"):
        list(import_traces([path], report, format="sweagent"))


def test_a_users_rules_come_first_and_repeated_lines_ask_for_one(tmp_path: Path):
    """Catches boilerplate of an unknown harness that nobody is told about."""
    from envecho.formats import load_rules

    def chat(number: int) -> dict[str, Any]:
        document = copy.deepcopy(samples.MESSAGES)
        document["messages"][2]["content"] = f"{number}\n[took 3 s, thank you]"
        return document

    _, report = load(tmp_path, [chat(n) for n in range(4)])
    assert ("[took 3 s, thank you]", 4) in report.repeated_lines()
    rules = tmp_path / "rules.toml"
    rules.write_text("[[rules]]\npattern = '\\n\\[took \\d+ s[^\\n]*\\]\\Z'\nsource = 'status'\n")
    found, report = load(tmp_path, [chat(n) for n in range(4)], rules=load_rules(rules))
    assert words(found[2])[2] == [("tool_result", "2"), ("status", "\n[took 3 s, thank you]")]
    assert report.repeated_lines() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rules]]\npattern = '('\nsource = 'status'\n", "rule 1: the pattern does not compile"),
        ("[[rules]]\npattern = 'x'\nsource = 'statsu'\n", "unknown source 'statsu'.*Did you mean 'status'"),
        ("[[rules]]\npattern = 'x'\n", "rule 1 needs pattern and source"),
        ("[[rule]]\n", "Did you mean 'rules'"),
        ("", r"has no \[\[rules\]\]"),
        ("[[rules", "expected TOML"),
    ],
)
def test_a_rule_that_cannot_work_is_named(tmp_path: Path, text: str, message: str):
    """Catches a rule that is dropped silently."""
    from envecho.formats import load_rules

    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_rules(tmp_path / "rules.toml")
