"""`envecho record`: however the command ends, and whatever the upstream does, what was captured is in the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from recorded_model import ModelServer

from envecho.errors import ConfigError, EngineError
from envecho.recipes import record as recipe
from envecho.recipes import record_command
from envecho.recipes.record import RecordConfig, RecordReport, record
from envecho.recipes.record_command import agent_environment, safe_argv
from envecho.recipes.record_export import trajectories_of
from envecho.recipes.record_proxy import Upstream
from envecho.recipes.record_watcher import is_model_route
from envecho.trajectory import StopReason, Trajectory
from envecho.trajectory.store import read_trajectories

AGENT = [sys.executable, str(Path(__file__).parent / "recorded_agents" / "with_httpx.py")]
LOOK = "I look.\n```bash\necho seen\n```"


QUICK = """
import json, os, urllib.request
body = json.dumps({"messages": [{"role": "user", "content": "Look."}], "temperature": 1.0}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers)).read()
"""
"""An agent that starts in a moment, makes one call, and ends."""


def script(messages: list[dict[str, Any]]) -> str:
    return "done" if len(messages) > 1 else LOOK


def run(server: ModelServer, out: Path, argv: list[str], **options: Any) -> tuple[list[Trajectory], RecordReport]:
    config = RecordConfig(out=out, upstream=Upstream(url=server.url), **{"level": "tokens", **options})
    report = record(config, argv, lambda line: None)
    return list(read_trajectories(out)) if out.exists() else [], report


def test_a_crash_of_the_command_is_its_status_and_costs_no_call(smollm2_server: ModelServer, tmp_path: Path):
    """Catches calls that are lost because the agent failed behind them."""
    smollm2_server.reset(script)
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "crash", "Look."])
    assert report.status == 3
    assert (found.stop_reason, found.metadata["record"]["exit_status"]) == (StopReason.UNKNOWN, 3)
    assert [m.content for m in found.messages] == ["Look.", LOOK]
    assert found.metadata["record"]["num_calls"] == 1
    assert found.metadata["record"]["command"] == [*AGENT, "crash", "Look."]


def test_a_timeout_ends_the_command_and_its_children(
    smollm2_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches an agent that goes on behind a shell that was killed, and one that ignores the polite signal."""
    monkeypatch.setattr(record_command, "GRACE_SECONDS", 0.2)
    smollm2_server.reset(script)
    mark, agent = tmp_path / "pid", tmp_path / "agent.py"
    agent.write_text(QUICK)
    shell = f"trap '' TERM; sleep 600 & echo $! > {mark}; {sys.executable} -S {agent}; wait"
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", ["bash", "-c", shell], timeout_s=3.0)
    assert (report.status, report.ended.how) == (124, "timeout")
    assert found.stop_reason is StopReason.TIMEOUT
    assert found.messages[-1].content == LOOK
    deadline = time.monotonic() + 5
    while is_running(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(mark.read_text()))


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_ctrl_c_writes_what_came_and_stdout_is_the_commands(smollm2_server: ModelServer, tmp_path: Path):
    """Catches an interrupt that reaches the recorder alone, or that ends it before the file is written."""
    smollm2_server.reset(script)
    out = tmp_path / "out.parquet"
    options = ["--out", str(out), "--upstream", smollm2_server.url, "--level", "tokens", "--json"]
    verb = [sys.executable, "-c", "from envecho.cli.record import command; command()", *options]
    process = subprocess.Popen(
        [*verb, "--", *AGENT, "hang", "Look."],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, error = process.communicate(timeout=60)
    assert first == "hanging\n", error
    assert process.returncode == 130, error
    report = json.loads(rest)
    assert (report["num_calls"], report["command"]["how"]) == (1, "interrupted")
    assert f"trajectories: 1 -> {out}" in error
    (found,) = read_trajectories(out)
    assert found.messages[-1].content == LOOK


def test_a_second_ctrl_c_does_not_cost_the_file(
    smollm2_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches an impatient user who loses an agent's hours while they are written."""

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return trajectories_of(*arguments, **options)

    monkeypatch.setattr(recipe, "trajectories_of", interrupted)
    smollm2_server.reset(script)
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "plain", "Look."])
    assert (len(found.messages), report.status) == (4, 0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["true"], None), ([*AGENT, "stranger", "Look."], "another key"), ([*AGENT, "embed", "x"], "/v1/embeddings")],
    ids=["silent", "stranger", "embeddings"],
)
def test_a_command_without_a_captured_call_fails_and_leaves_no_file(
    smollm2_server: ModelServer, tmp_path: Path, argv: list[str], words: str | None
):
    """Catches an agent that goes past the recorder, and embeddings that are taken for a chat."""
    smollm2_server.reset(script)
    found, report = run(smollm2_server, tmp_path / "out.parquet", argv)
    assert found == []
    assert (report.status, report.num_calls) == (1, 0)
    assert words is None or any(words in note for note in report.notes)
    assert list(tmp_path.iterdir()) == []
    assert smollm2_server.served == []


def test_a_refusal_of_the_upstream_is_counted_and_the_agent_goes_on(smollm2_server: ModelServer, tmp_path: Path):
    """Catches a failed call that ends the recording, or of which nobody hears."""
    smollm2_server.reset(script)
    smollm2_server.faults.append(422)
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "patient", "Look."])
    assert (report.status, report.num_calls, report.num_failed_calls) == (0, 2, 1)
    assert any("422" in note and "refused with 422" in note for note in report.notes)
    assert [m.content for m in found.messages] == ["Look.", LOOK, "seen\n", "done"]


def test_a_passing_failure_of_the_upstream_is_not_seen_by_the_agent(smollm2_server: ModelServer, tmp_path: Path):
    """Catches a single 500 that an agent without retries dies of."""
    smollm2_server.reset(script)
    smollm2_server.faults.append(500)
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "plain", "Look."])
    assert (report.status, report.num_failed_calls) == (0, 0)
    assert len(found.messages) == 4


def test_a_result_before_a_call_that_failed_is_kept(smollm2_server: ModelServer, tmp_path: Path):
    """Catches the observation that only the request of a failed call shows."""

    def answer(messages: list[dict[str, Any]]) -> str:
        smollm2_server.faults.append(413)
        return LOOK

    smollm2_server.reset(answer)
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "plain", "Look."])
    assert report.status == 1
    assert [m.content for m in found.messages] == ["Look.", LOOK, "seen\n"]


def test_an_upstream_that_is_away_is_told_before_the_command_runs(tmp_path: Path):
    """Catches an agent that is started for nothing."""
    mark = tmp_path / "started"
    config = RecordConfig(out=tmp_path / "out.parquet", upstream=Upstream(url="http://127.0.0.1:9", model="m"))
    with pytest.raises(EngineError, match="does not answer a test call"):
        record(config, ["touch", str(mark)], lambda line: None)
    assert not mark.exists()


def test_what_cannot_be_recorded_is_told_before_the_command_runs(smollm2_server: ModelServer, tmp_path: Path):
    """Catches an agent's work that is lost to a file in the way, and options that would do nothing."""
    smollm2_server.reset(script, returns_ids=False)
    mark = tmp_path / "started"
    (tmp_path / "old-aside.parquet").write_text("x")
    for out, options, words in (
        ("out.txt", {}, "ends in .parquet"),
        ("old.parquet", {}, "pass --overwrite"),
        ("new.parquet", {"level": "text", "temperature": 1.0}, "--temperature pins"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(smollm2_server, tmp_path / out, ["touch", str(mark)], **options)
    with pytest.raises(ConfigError, match="'no-such-agent' cannot be started"):
        run(smollm2_server, tmp_path / "new.parquet", ["no-such-agent"])
    assert not mark.exists()


def test_an_old_reward_is_no_reward_and_the_trajectory_is_written(smollm2_server: ModelServer, tmp_path: Path):
    """Catches the reward of the run before, which lies in the same file."""
    smollm2_server.reset(script)
    reward = tmp_path / "reward.txt"
    reward.write_text("1.0")
    os.utime(reward, (0, 0))
    (found,), report = run(smollm2_server, tmp_path / "out.parquet", [*AGENT, "plain", "Look."], reward_file=reward)
    assert (found.reward, report.status) == (None, 1)
    assert any("older than the command" in note for note in report.notes)


def test_the_agents_environment_leads_to_the_proxy_alone():
    """Catches a key of another service that stays, a proxy of the system in the way, and a path that agents double."""
    before = {
        "PATH": "/bin",
        "HTTP_PROXY": "http://gateway:3128",
        "no_proxy": "intranet",
        "ANTHROPIC_AUTH_TOKEN": "t",
        "AZURE_OPENAI_ENDPOINT": "https://x",
        "GITHUB_TOKEN": "kept",
        "ODD": "a real-key b",
    }
    found, removed = agent_environment(before, url="http://127.0.0.1:1", key="sk-1", upstream_key="real-key")
    assert removed == ["ANTHROPIC_AUTH_TOKEN", "AZURE_OPENAI_ENDPOINT", "ODD"]
    assert found["OPENAI_BASE_URL"] == found["OPENAI_API_BASE"] == "http://127.0.0.1:1/v1"
    assert found["ANTHROPIC_BASE_URL"] == found["GOOGLE_GEMINI_BASE_URL"] == "http://127.0.0.1:1"
    assert {found[name] for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")} == {"sk-1"}
    assert found["NO_PROXY"] == found["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert (found["GITHUB_TOKEN"], found["PATH"]) == ("kept", "/bin")


def test_a_key_that_is_a_word_hides_nothing_else():
    """Catches a PATH that is taken from an agent because the key of a local server is `x`."""
    before = {"PATH": "/bin/x", "KEY": "x"}
    found, removed = agent_environment(before, url="http://127.0.0.1:1", key="sk-1", upstream_key="x")
    assert (removed, found["PATH"]) == (["KEY"], "/bin/x")


def test_a_recorded_command_line_holds_no_secrets():
    """Catches a key on a command line that lands in the file, and an option that is taken for a key's value."""
    argv = [
        "agent",
        "--api-key",
        "abc",
        "--token=def",
        "--secret",
        "--verbose",
        "-m",
        "x sk-1234567 y",
        "--max-tokens",
        "5",
    ]
    assert safe_argv(argv, "sk-1234567", None) == [
        "agent", "--api-key", "[redacted:argument]", "--token=[redacted:argument]", "--secret", "--verbose",
        "-m", "x [redacted:key] y", "--max-tokens", "5",
    ]  # fmt: skip


def test_model_routes_are_told_from_others():
    """Catches a dialect that is refused, and a route that the proxy would take for a chat."""
    for path in ("/v1/chat/completions", "/chat/completions/", "/v1/messages", "/v1/responses",
                 "/v1beta/models/gemini-2.5-pro:streamGenerateContent"):  # fmt: skip
        assert is_model_route(path), path
    for path in ("/v1/embeddings", "/v1/completions", "/v1/audio/speech", "/"):
        assert not is_model_route(path), path
