"""OpenEnv's own harness writes the files, and they are read: its collector, its adapter and its capture graph."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from envecho.formats import ImportReport, import_traces

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    harness = pytest.importorskip(
        "openenv.core.harness", reason="needs openenv: pip install 'envecho[openenv]'", exc_type=ImportError
    )
    from openenv.core.client_types import StepResult
    from openenv.core.env_server.mcp_types import Tool
    from openenv.core.harness.capture.contract import to_training_trace
    from openenv.core.harness.capture.export import export_session
    from openenv.core.harness.capture.graph import TurnNode
    from openenv.core.harness.capture.sessions import Session
    from openenv.core.harness.collect import CollectRunner, RolloutSerializer
    from openenv.core.llm_client import LLMResponse, ToolCall


class Box:
    """An environment's client, in process: `ls` lists one file and is worth a point."""

    def reset(self, **_: Any) -> Any:
        return StepResult(observation={"ready": True}, reward=0.0, done=False)

    def step(self, action: dict[str, Any]) -> Any:
        return StepResult(observation={"stdout": f'"a".log é\n{action["command"]}'}, reward=1.0, done=False)

    def close(self) -> None:
        pass


class Factory(harness.ResourceSessionFactory):
    def create(self, task: Any, seed: int | None = None, episode_id: str | None = None) -> Any:
        return harness.StepEnvSessionAdapter(
            Box(),
            task=task,
            tool_specs=[Tool(name="run", description="", input_schema={"type": "object"})],
            action_builder=lambda _, arguments: arguments,
            initial_messages_builder=lambda _, task: [{"role": "user", "content": str(task)}],
        )


def model_step(messages: list[dict[str, Any]], tools: Any, sampling: Any) -> Any:
    answered = any(message["role"] == "tool" for message in messages)
    calls = [] if answered else [ToolCall(id="c0", name="run", args={"command": "ls"})]
    return harness.ModelStepResult(response=LLMResponse(content="one" if answered else "", tool_calls=calls))


def test_what_openenvs_collector_writes_is_read_to_the_character(tmp_path: Path):
    """Catches an envelope of the released package that our reader does not know, and its reward as a target."""
    runner = CollectRunner(
        session_factory=Factory(),
        harness_adapter=harness.MCPHarnessAdapter(),
        serializer=RolloutSerializer(tmp_path),
        tasks=["How many?", "And now?"],
    )
    assert runner.run(model_step=model_step, num_episodes=2).num_collected == 2
    report = ImportReport()
    found = list(import_traces([tmp_path / "results.jsonl"], report))
    assert report.problems == []
    assert report.formats == {"openenv": 2}
    for trajectory in found:
        assert [m.role for m in trajectory.messages] == ["user", "assistant", "tool", "assistant"]
        said: dict[str, str] = {}
        for segment in trajectory.messages[2].segments:
            said[segment.source.value] = said.get(segment.source.value, "") + segment.text
        assert json.loads(said["tool_result"]) == {"stdout": '"a".log é\nls'}
        assert said["grader"] == '"reward": 1.0'
        assert said["command_echo"] == '"arguments": {"command": "ls"}"tool_name": "run"'
        assert trajectory.reward == 1.0


def test_what_openenvs_capture_graph_exports_is_read_with_its_ids(tmp_path: Path):
    """Catches a trace of the released package whose calls, branches or log-probs are read in another way."""
    session = Session(session_id="s")
    user, tool = {"role": "user", "content": "How many?"}, {"role": "tool", "content": "a.log\n", "tool_call_id": "c0"}
    call = {"id": "c0", "type": "function", "function": {"name": "run", "arguments": '{"command": "ls"}'}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    answers = [said, {"role": "assistant", "content": "one"}]
    prompts = [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7]]
    for place, (prompt, shown) in enumerate(zip(prompts, ([user], [user, said, tool]), strict=True)):
        session.graph.add_turn(
            TurnNode(
                node_id=f"n{place}",
                prompt_ids=prompt,
                sampled_ids=[4, 5] if place == 0 else [8],
                sampled_logprobs=[-0.25, -0.5] if place == 0 else [-1.0],
                request_messages=shown,
                response_message=answers[place],
                sampling_params={"temperature": 0.7},
            )
        )
    document = to_training_trace(session.graph, export_session(session)).model_dump()
    (tmp_path / "trace.json").write_text(json.dumps(document))
    report = ImportReport()
    (found,) = import_traces([tmp_path / "trace.json"], report)
    assert report.problems == []
    (branch,) = found.branches
    assert branch.token_ids == (1, 2, 3, 4, 5, 6, 7, 8)
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert [s.source.value for s in found.messages[2].segments] == ["tool_result"]
    assert [(m.sampled.token_ids, m.sampled.logprobs, m.sampled.temperature) for m in found.messages if m.sampled] == [
        ((4, 5), (-0.25, -0.5), 0.7),
        ((8,), (-1.0,), 0.7),
    ]
