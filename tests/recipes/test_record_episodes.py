"""`envecho record`: real agents in processes of their own, a server that returns ids, and what lands in the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_model import MODEL, ModelServer

from envecho.objective import EchoConfig
from envecho.objective.compile import compile_batch
from envecho.recipes.record import RecordConfig, RecordReport, record
from envecho.recipes.record_proxy import Upstream
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Source, StopReason, Trajectory
from envecho.trajectory.store import read_trajectories

AGENTS = Path(__file__).parent / "recorded_agents"


def call(command: str) -> str:
    return f'<tool_call>\n{{"name": "bash", "arguments": {json.dumps({"command": command})}}}\n</tool_call>'


def block(command: str) -> str:
    return f"I look.\n```bash\n{command}\n```"


def by_turn(*answers: str) -> Any:
    """The n-th answer for a conversation that holds n answers."""
    return lambda messages: answers[min(sum(m["role"] == "assistant" for m in messages), len(answers) - 1)]


def run(
    server: ModelServer, tmp_path: Path, agent: str, *arguments: str, **options: Any
) -> tuple[list[Trajectory], RecordReport, list[str]]:
    said: list[str] = []
    upstream = options.pop("upstream", None) or Upstream(url=server.url)
    config = RecordConfig(out=tmp_path / "out.parquet", upstream=upstream, **{"level": "tokens", **options})
    report = record(config, [sys.executable, str(AGENTS / agent), *arguments], said.append)
    found = list(read_trajectories(config.out)) if config.out.exists() else []
    return found, report, said


def sampled(trajectory: Trajectory) -> list[tuple[tuple[int, ...], Any]]:
    return [(m.sampled.token_ids, m.sampled.logprobs) for m in trajectory.messages if m.sampled]


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["whole", "stream"])
def test_an_agent_on_the_openai_client_is_recorded_id_for_id(
    qwen3_server: ModelServer, tiny_qwen3_dir: Path, tmp_path: Path, stream: tuple[str, ...]
):
    """Catches ids that differ from what the server read and wrote, also where the agent read a stream of events."""
    (tmp_path / "a.log").write_text("x\n")
    script = by_turn(call(f"ls {tmp_path}"), call("echo one two") + "\n" + call("pwd"), "There is one log.")
    qwen3_server.reset(script)
    (found,), report, _ = run(qwen3_server, tmp_path, "with_openai.py", "How many logs?", *stream)
    assert (report.status, report.num_calls, report.num_failed_calls) == (0, 3, 0)
    (branch,) = found.branches
    last = qwen3_server.served[-1]
    assert branch.token_ids == last.prompt_ids + last.completion_ids
    assert sampled(found) == [(s.completion_ids, pytest.approx(s.logprobs)) for s in qwen3_server.served]
    roles = ["system", "user", "assistant", "tool", "assistant", "tool", "tool", "assistant"]
    assert [m.role for m in found.messages] == roles
    assert [s.source.value for m in found.messages for s in m.segments if s.text] == [
        "system", "task", "tool_result", "tool_result", "tool_result", "policy",
    ]  # fmt: skip
    assert (found.messages[3].content, found.messages[3].name) == ("a.log\n", "bash")
    assert found.messages[2].tool_calls[0].name == "bash"
    assert found.tools[0]["function"]["name"] == "bash"
    assert found.stop_reason is StopReason.COMPLETED

    tokenizer = ChatTokenizer.from_pretrained(tiny_qwen3_dir)
    (tokens,) = tokenize_trajectory(found, tokenizer)
    assert tuple(tokens.token_ids) == branch.token_ids
    policy = tokens.source_mask(Source.POLICY)
    assert np.isfinite(tokens.sampling_logprobs[policy]).all()
    assert policy.sum() == sum(len(s.completion_ids) for s in qwen3_server.served)
    results = tokens.token_ids[tokens.source_mask(Source.TOOL_RESULT)]
    # The last newline of each result shares its token with the template's, which makes that token context.
    assert tokenizer.hf.decode(results) == f"a.logone two{Path.cwd()}"


def test_what_was_recorded_trains_policy_and_environment(smollm2_server: ModelServer, tiny_dir: Path, tmp_path: Path):
    """Catches a recording that GRPO refuses, or whose environment tokens get no weight."""
    smollm2_server.reset(by_turn(block("echo seen"), "done"))
    tokenizer = ChatTokenizer.from_pretrained(tiny_dir)
    sequences: list[Any] = []
    for number in range(2):
        reward = tmp_path / "reward.txt"
        folder = tmp_path / str(number)
        folder.mkdir()
        options: dict[str, Any] = {"task_id": "look", "group_id": "look/0", "reward_file": reward}
        agent = f"echo {number} > {reward}; exec {sys.executable} {AGENTS / 'with_httpx.py'} plain 'Look around.'"
        config = RecordConfig(
            out=folder / "out.parquet", upstream=Upstream(url=smollm2_server.url), level="tokens", **options
        )
        report = record(config, ["bash", "-c", agent], lambda line: None)
        assert (report.status, report.reward) == (0, float(number))
        (found,) = read_trajectories(config.out)
        assert (found.task_id, found.group_id, found.reward) == ("look", "look/0", float(number))
        assert found.messages[2].segments[0].source is Source.TOOL_RESULT
        sequences += tokenize_trajectory(found, tokenizer)
    batch = compile_batch(sequences, EchoConfig(world_model_coeff=0.05)).batch
    policy = np.concatenate([s.source_mask(Source.POLICY) for s in sequences])
    results = np.concatenate([s.source_mask(Source.TOOL_RESULT) for s in sequences])
    assert (np.asarray(batch.policy_weights)[policy] != 0).all()
    assert (np.asarray(batch.env_weights)[results] > 0).all()
    assert policy.sum() > 0
    assert results.sum() > 0


def test_an_agent_that_speaks_anthropics_messages_is_recorded(qwen3_server: ModelServer, tmp_path: Path):
    """Catches a dialect whose tool results are lost on the way to chat messages."""
    qwen3_server.reset(by_turn(call("echo from bash"), "It says so."))
    (found,), report, _ = run(qwen3_server, tmp_path, "with_anthropic.py", "What does it say?", temperature=0.7)
    assert report.status == 0
    assert [m.role for m in found.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert found.messages[3].content == "from bash\n"
    assert found.messages[3].segments[0].source is Source.TOOL_RESULT
    last = qwen3_server.served[-1]
    assert found.branches[0].token_ids == last.prompt_ids + last.completion_ids
    assert [m.sampled.temperature for m in found.messages if m.sampled] == [0.7, 0.7]
    assert [s.body["top_p"] for s in qwen3_server.served] == [1.0, 1.0]


def test_a_retried_answer_stands_beside_the_episode(smollm2_server: ModelServer, tmp_path: Path):
    """Catches an answer that the agent threw away and that is trained with the episode's reward."""
    answers = iter([block("echo lost"), block("echo kept"), "done"])
    smollm2_server.reset(lambda messages: next(answers))
    (found,), report, _ = run(smollm2_server, tmp_path, "with_httpx.py", "retry", "Look.")
    assert [m.content for m in found.messages] == ["Look.", block("echo kept"), "kept\n", "done"]
    assert report.num_aside == 1
    (aside,) = read_trajectories(tmp_path / "out-aside.parquet")
    assert aside.metadata["record"]["calls_of"] == "discarded"
    assert sampled(aside) == [
        (smollm2_server.served[0].completion_ids, pytest.approx(smollm2_server.served[0].logprobs))
    ]
    assert (aside.reward, aside.task_id, aside.messages[-1].content) == (None, found.task_id, block("echo lost"))


def test_a_rewritten_history_is_a_branch_whose_summary_is_context(smollm2_server: ModelServer, tmp_path: Path):
    """Catches a summary of the harness that is taken for the world's words."""
    answers = iter([block("echo one"), block("echo two"), "done"])
    smollm2_server.reset(lambda messages: next(answers))
    (found,), _, _ = run(smollm2_server, tmp_path, "with_httpx.py", "rewrite", "Look.")
    first, _, third = smollm2_server.served
    assert [b.token_ids for b in found.branches] == [
        first.prompt_ids + first.completion_ids,
        third.prompt_ids + third.completion_ids,
    ]
    summary = next(m for m in found.messages if "So far" in m.content)
    assert summary.segments[0].source is Source.TASK
    assert [m.content for m in found.messages if m.segments[0].source is Source.TOOL_RESULT] == ["two\n"]


def test_parallel_conversations_keep_their_ids_apart(smollm2_server: ModelServer, tiny_dir: Path, tmp_path: Path):
    """Catches calls of agents that run at once and are spliced into each other."""
    smollm2_server.reset(lambda messages: "done" if len(messages) > 1 else block(f"echo {messages[0]['content'][-6:]}"))
    smollm2_server.delay_s = 0.1
    (found,), report, _ = run(smollm2_server, tmp_path, "with_httpx.py", "subagents", "Look at")
    assert report.num_calls == 6
    ends = {s.prompt_ids + s.completion_ids for s in smollm2_server.served}
    assert len(found.branches) == 3
    assert {branch.token_ids for branch in found.branches} <= ends
    assert sorted(s for s, _ in sampled(found)) == sorted(s.completion_ids for s in smollm2_server.served)
    sequences = tokenize_trajectory(found, ChatTokenizer.from_pretrained(tiny_dir))
    turns = [set(s.turns[s.source_mask(Source.TOOL_RESULT) & s.owned_mask()].tolist()) for s in sequences]
    assert sorted(found.messages[turn].content for (turn,) in turns) == ["ook at\n", "part 0\n", "part 1\n"]


def test_a_text_only_upstream_gives_text_and_says_so(smollm2_server: ModelServer, tmp_path: Path):
    """Catches a hosted model whose trajectories look trainable, and a probe that takes silence for ids."""
    smollm2_server.reset(by_turn(block("echo seen"), "done"), returns_ids=False)
    (found,), report, said = run(smollm2_server, tmp_path, "with_httpx.py", "plain", "Look.", level="auto")
    assert report.level == "text"
    assert any("at the level 'text'" in line for line in said)
    assert any("not for the policy's" in note for note in report.notes)
    assert found.branches == ()
    assert [(m.content, m.segments[0].source.value) for m in found.messages] == [
        ("Look.", "task"), (block("echo seen"), "policy"), ("seen\n", "tool_result"), ("done", "policy"),
    ]  # fmt: skip
    assert found.metadata["import"]["action_provenance"] == "proved"
    assert not any(m.sampled for m in found.messages)


def test_text_owns_each_observation_once_over_forks(smollm2_server: ModelServer, tmp_path: Path):
    """Catches an observation that two trajectories of text train."""
    answers = iter([block("echo lost"), block("echo kept"), "done"])
    smollm2_server.reset(lambda messages: next(answers), returns_ids=False)
    found, _, _ = run(smollm2_server, tmp_path, "with_httpx.py", "retry", "Look.", level="text")
    seen = [s.text for t in found for m in t.messages for s in m.segments if s.source is Source.TOOL_RESULT]
    assert seen == ["kept\n"]
    said = [s.text for t in found for m in t.messages for s in m.segments if s.source is Source.POLICY]
    assert sorted(said) == sorted([block("echo lost"), block("echo kept"), "done"])
    assert len({t.id for t in found}) == len(found)


def test_the_probe_measures_ids_and_names_the_only_model(smollm2_server: ModelServer, tmp_path: Path):
    """Catches a server with ids that is recorded as text."""
    smollm2_server.reset(by_turn("done"))
    (found,), report, _ = run(smollm2_server, tmp_path, "with_httpx.py", "plain", "Look.", level="auto")
    assert (report.level, len(found.branches)) == ("tokens", 1)
    assert found.metadata["record"]["model"] == MODEL


def test_the_result_that_no_call_answered_is_the_last_message(
    smollm2_server: ModelServer, tiny_dir: Path, tmp_path: Path
):
    """Catches the last observation of an episode that a limit of calls, or a failure of the upstream, swallows."""
    smollm2_server.reset(by_turn(block("echo one"), block("echo two"), block("echo three")))
    (found,), report, _ = run(smollm2_server, tmp_path, "with_httpx.py", "plain", "Look.", max_calls=2)
    assert report.num_calls == 2
    assert [m.content for m in found.messages[-2:]] == [block("echo two"), "two\n"]
    assert found.messages[-1].segments[0].source is Source.TOOL_RESULT
    assert found.stop_reason is StopReason.MAX_TURNS
    (tokens,) = tokenize_trajectory(found, ChatTokenizer.from_pretrained(tiny_dir))
    assert tokens.turns[tokens.source_mask(Source.TOOL_RESULT)][-1] == len(found.messages) - 1


def test_secrets_of_the_upstream_reach_neither_the_agent_nor_the_file(
    smollm2_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches a real key in the agent's environment, in its transcript, or in the recorded command line."""
    secret = "sk-proj-realkey0123456789abcdef0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    monkeypatch.setenv("MY_GATEWAY", f"https://user:{secret}@gateway")
    monkeypatch.setenv("OPENROUTER_API_KEY", "or-other-key")
    smollm2_server.reset(by_turn(block("true"), "done"))
    upstream = Upstream(url=smollm2_server.url, api_key=secret)
    extra = ["--api-key", secret, "--note=x"]
    (found,), report, said = run(smollm2_server, tmp_path, "with_httpx.py", "keys", "Look.", *extra, upstream=upstream)
    assert smollm2_server.keys == {f"Bearer {secret}"}
    assert any("MY_GATEWAY, OPENROUTER_API_KEY" in line for line in said)
    printed = found.messages[2]
    assert "ANTHROPIC_BASE_URL=http://127.0.0.1:" in printed.content
    assert "OPENROUTER" not in printed.content
    session_keys = [s for s in printed.segments if s.source is Source.REDACTED]
    assert len(session_keys) >= 3
    assert secret not in found.model_dump_json()
    assert secret not in json.dumps(report.as_json())
    assert found.metadata["record"]["command"][-3:] == ["--api-key", "[redacted:argument]", "--note=x"]
