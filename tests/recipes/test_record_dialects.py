"""`envecho record`: the dialects that agents speak, upstreams of another one, and calls that do not fit an episode."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded_model import ModelServer

from envecho.errors import DataError
from envecho.formats import ImportOptions, ImportReport, import_traces
from envecho.formats.turns import Turn
from envecho.recipes import record as recipe
from envecho.recipes.record import RecordConfig, RecordReport, record
from envecho.recipes.record_export import CapturedCall, Episode, trajectories_of
from envecho.recipes.record_proxy import Upstream
from envecho.trajectory import Source, Trajectory
from envecho.trajectory.store import read_trajectories

AGENTS = Path(__file__).parent / "recorded_agents"
CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "echo from bash"}}\n</tool_call>'


def script(messages: list[dict[str, Any]]) -> str:
    return CALL if all(m["role"] != "assistant" for m in messages) else "It says so."


def run(server: ModelServer, tmp_path: Path, *argv: str, **options: Any) -> tuple[list[Trajectory], RecordReport]:
    upstream = options.pop("upstream", None) or Upstream(url=server.url)
    config = RecordConfig(out=tmp_path / "out.parquet", upstream=upstream, **{"level": "tokens", **options})
    report = record(config, [sys.executable, str(AGENTS / argv[0]), *argv[1:]], lambda line: None)
    return list(read_trajectories(config.out)) if config.out.exists() else [], report


@pytest.mark.parametrize("dialect", ["responses", "gemini"])
def test_every_dialect_is_recorded_with_ids_and_results(qwen3_server: ModelServer, tmp_path: Path, dialect: str):
    """Catches a dialect whose calls are lost, or whose tool results nobody owns."""
    qwen3_server.reset(script)
    (found,), report = run(qwen3_server, tmp_path, "of_dialect.py", dialect, "What does it say?")
    assert (report.status, report.num_calls) == (0, 2)
    assert found.branches[-1].token_ids[-1] == qwen3_server.served[-1].completion_ids[-1]
    assert {m.sampled.token_ids for m in found.messages if m.sampled} == {s.completion_ids for s in qwen3_server.served}
    (result,) = [m for m in found.messages if any(s.source is Source.TOOL_RESULT for s in m.segments)]
    assert "from bash" in result.content
    assert (result.role, result.name) == ("tool", "bash")


def test_a_title_beside_the_work_is_no_part_of_the_episode(qwen3_server: ModelServer, tmp_path: Path):
    """Catches a harness's own calls that get the episode's reward."""
    qwen3_server.reset(lambda messages: "A title" if "title" in messages[-1]["content"] else CALL)
    (found,), report = run(qwen3_server, tmp_path, "of_dialect.py", "title", "Look.", task_id="look", group_id="g")
    assert [m.role for m in found.messages] == ["user", "assistant"]
    assert {m.sampled.temperature for m in found.messages if m.sampled} == {1.0}
    assert (report.num_calls, report.num_trajectories, report.num_aside) == (2, 1, 1)
    (aside,) = read_trajectories(tmp_path / "out-aside.parquet")
    assert aside.metadata["record"]["calls_of"] == "auxiliary"
    assert (aside.messages[-1].content, aside.task_id, aside.group_id) == ("A title", "look", None)
    assert aside.id != found.id


def test_an_answer_by_its_id_is_refused(qwen3_server: ModelServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Catches a model that is asked without the history, which the proxy does not have."""
    qwen3_server.reset(script)
    found, report = run(qwen3_server, tmp_path, "of_dialect.py", "stateful", "Go on.")
    assert (found, report.status) == ([], 1)
    assert "400 envecho record keeps no answers" in capfd.readouterr().out
    assert qwen3_server.served == []


def test_an_upstream_of_anthropics_is_text(qwen3_server: ModelServer, tmp_path: Path):
    """Catches an upstream that speaks messages and is asked for chat completions."""
    qwen3_server.reset(script)
    upstream = Upstream(url=qwen3_server.url, model="claude-any", provider="anthropic", api_key="sk-ant-key")
    (found,), report = run(qwen3_server, tmp_path, "with_anthropic.py", "Say?", upstream=upstream, level="auto")
    assert (report.level, report.status) == ("text", 0)
    assert [m.role for m in found.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert found.messages[2].tool_calls[0].arguments == '{"command": "echo from bash"}'
    assert [s.source for s in found.messages[3].segments] == [Source.TOOL_RESULT]
    assert found.messages[4].content == "It says so."


def test_forced_tokens_of_an_upstream_without_ids_are_text_and_counted(qwen3_server: ModelServer, tmp_path: Path):
    """Catches an episode that is lost because one call came without ids."""
    qwen3_server.reset(script, returns_ids=False)
    (found,), report = run(qwen3_server, tmp_path, "with_openai.py", "Say?")
    assert any("2 of 2 calls came without token ids" in note for note in report.notes)
    assert found.branches == ()
    assert [m.role for m in found.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_what_cannot_be_written_is_kept_as_calls(
    qwen3_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches an agent's hours that are lost to a full disk or to a bug of ours."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setattr(recipe, "trajectories_of", fails)
    qwen3_server.reset(script)
    with pytest.raises(DataError, match="the 2 calls could not be written as trajectories: disk full; they are in"):
        run(qwen3_server, tmp_path, "with_openai.py", "Say?")
    (kept,) = tmp_path.glob("*.calls.jsonl")
    (found,) = import_traces([kept], ImportReport())
    last = qwen3_server.served[-1]
    assert found.branches[0].token_ids == last.prompt_ids + last.completion_ids


def turn(kind: Any, text: str) -> Turn:
    return Turn(kind=kind, text=text)


FIRST = CapturedCall(
    request=(turn("system", "s1"), turn("user", "task")), answer=turn("assistant", "go"),
    prompt_ids=(1, 2), completion_ids=(3,), logprobs=(-0.5,), temperature=1.0,
)  # fmt: skip
SECOND = CapturedCall(
    request=(turn("system", "s2"), turn("user", "task"), turn("assistant", "go"), turn("user", "seen")),
    answer=turn("assistant", "end"), parent=0,
    prompt_ids=(1, 2, 3, 4), completion_ids=(5,), logprobs=(-0.25,), temperature=0.5,
)  # fmt: skip


def test_calls_at_several_temperatures_state_none():
    """Catches a file that no tokenizer takes, since an episode has one temperature."""
    found = trajectories_of([FIRST, SECOND], Episode(name="r"), ImportOptions(), exact=True)
    (agent,) = found.agent
    assert [m.sampled.temperature for m in agent.messages if m.sampled] == [None, None]
    assert agent.metadata["import"]["num_calls_by_temperature"] == [[1.0, 1], [0.5, 1]]


def test_text_links_calls_whose_system_prompt_is_written_anew():
    """Catches answers of the policy that count as nobody's, since the system prompt says the time."""
    found = trajectories_of([FIRST, SECOND], Episode(name="r"), ImportOptions(), exact=False)
    (agent,) = found.agent
    assert [(m.content, m.segments[0].source.value) for m in agent.messages] == [
        ("s2", "system"), ("task", "task"), ("go", "policy"), ("seen", "tool_result"), ("end", "policy"),
    ]  # fmt: skip


def test_demonstrations_in_a_prompt_are_not_the_policys():
    """Catches few-shot answers of a prompt that are trained as if the model had sampled them."""
    shown = (turn("user", "how?"), turn("assistant", "so"), turn("user", "task"))
    call = CapturedCall(request=shown, answer=turn("assistant", "go"), prompt_ids=(1,), completion_ids=(2,))
    for exact in (True, False):
        found = trajectories_of([call], Episode(name="r"), ImportOptions(), exact=exact)
        assert [m.segments[0].source for m in found.agent[0].messages] == [Source.TASK] * 3 + [Source.POLICY]


def test_records_are_json():
    """Catches facts of a recording that no store takes."""
    found = trajectories_of([FIRST], Episode(name="r", facts={"command": ["a"]}), ImportOptions(), exact=True)
    assert json.loads(found.agent[0].model_dump_json())["metadata"]["record"] == {
        "command": ["a"],
        "calls_of": "agent",
    }
