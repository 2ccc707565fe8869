"""A served world as OpenEnv's own clients see it: the wire form, tasks, tools, errors, sessions and their end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from served_worlds import TOOLS, CounterSuite
from world_server import PATIENCE_SECONDS, SERVE, WorldServer, wait_until

from envecho.worlds.suites import open_suite

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import requests
    from openenv.core.generic_client import GenericEnvClient
    from openenv.core.mcp_client import MCPToolClient
    from websockets.sync.client import connect


def client(url: str) -> Any:
    return GenericEnvClient(base_url=url).sync()


def test_the_wire_form_is_what_the_docs_state(depot_server: WorldServer):
    """Catches a field that is renamed or left out: every client of ours and of others would read another answer."""
    with client(depot_server.url) as session:
        start = session.reset(seed=4)
        assert set(start.observation) == {"segments", "text", "tools", "timed_out", "labels", "metadata"}
        assert (start.done, start.reward) == (False, None)
        answer = session.step({"message": "go red"})
    assert [segment["source"] for segment in answer.observation["segments"]] == ["command_echo", "stdout", "status"]
    assert answer.observation["text"] == "".join(segment["text"] for segment in answer.observation["segments"])
    assert answer.observation["labels"] == {"call": "valid"}


@pytest.mark.parametrize(
    ("arguments", "split", "number"),
    [
        ({"seed": 4}, "train", 4),
        ({"index": 3}, "train", 3),
        ({"split": "held_out", "index": 1, "seed": 9}, "held_out", 1),
    ],
)
def test_reset_starts_the_task_that_the_suite_numbers_so(
    depot_server: WorldServer, arguments: dict[str, Any], split: str, number: int
):
    """Catches a served task that is another than the one of the same number in process."""
    with client(depot_server.url) as session:
        started = session.reset(**arguments)
    assert started.metadata == {"task_id": open_suite("depot", max_turns=2).task_id(split, number)}


def test_a_reset_without_a_number_draws_a_task(depot_server: WorldServer):
    """Catches a server that gives every generic client the same task for ever."""
    with client(depot_server.url) as session:
        assert len({session.reset().metadata["task_id"] for _ in range(20)}) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "number the tasks of a split from 0, found -1"),
        ({"index": "3"}, "found '3'"),
        ({"index": True}, "found True"),
        ({"split": "trian"}, "has the splits train, held_out, found 'trian'"),
        ({"task": 3}, r"takes seed, episode_id, split and index, found \['task'\]"),
    ],
)
def test_a_reset_that_is_wrong_is_refused_with_the_reason(
    depot_server: WorldServer, arguments: dict[str, Any], message: str
):
    """Catches a wrong key that is dropped without a word, after which the client plays another task than it thinks."""
    with client(depot_server.url) as session, pytest.raises(RuntimeError, match=message):
        session.reset(**arguments)


@pytest.mark.parametrize("action", [{}, {"message": 3}, {"message": None}, {"mesage": "ls"}, {"message": "a", "b": 1}])
def test_an_action_of_another_shape_leaves_the_session_alive(depot_server: WorldServer, action: dict[str, Any]):
    """Catches OpenEnv's server ending a session over a refusal that it cannot put into JSON."""
    with client(depot_server.url) as session:
        session.reset(seed=0)
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            session.step(action)
        assert session.step({"message": "go red"}).observation["segments"]


def test_tasks_are_listed_as_the_suite_has_them(depot_server: WorldServer):
    """Catches a task list that disagrees with what `reset` starts."""
    suite = open_suite("depot", max_turns=2)

    def post(path: str, **body: Any) -> Any:
        return requests.post(f"{depot_server.url}/depot/{path}", json=body, timeout=10)

    splits = requests.get(f"{depot_server.url}/depot/splits", timeout=10).json()
    assert [split["name"] for split in splits] == ["train", "held_out"]
    assert post("num_tasks", split="train").json() == {"num_tasks": suite.num_tasks("train")}
    listed = post("tasks", split="held_out").json()["tasks"]
    assert [task["id"] for task in listed] == [suite.task_id("held_out", n) for n in range(len(listed))]
    assert post("task", split="train", index=2).json()["task"] == {
        "id": suite.task_id("train", 2),
        "split": "train",
        "index": 2,
    }
    last = post("task_range", split="train", start=-2).json()["tasks"]
    assert [task["index"] for task in last] == [suite.num_tasks("train") - 2, suite.num_tasks("train") - 1]  # type: ignore[operator]
    assert post("task", split="train", index=10_000).status_code == 400
    refused = post("task", split="trian", index=0)
    assert (refused.status_code, "found 'trian'" in refused.json()["detail"]) == (400, True)


def test_a_split_without_an_end_is_not_counted(terminal_server: WorldServer):
    """Catches an invented number of tasks: clients would draw from a part and believe that it is all."""
    url = f"{terminal_server.url}/terminal"
    assert requests.post(f"{url}/num_tasks", json={"split": "train"}, timeout=10).status_code == 501
    tasks = requests.post(f"{url}/task_range", json={"split": "train", "start": 7, "stop": 9}, timeout=10).json()
    suite = open_suite("terminal")
    assert [task["id"] for task in tasks["tasks"]] == [suite.task_id("train", 7), suite.task_id("train", 8)]


def test_a_timeout_of_the_action_reaches_the_world(terminal_server: WorldServer):
    """Catches a bound that is lost on the way: OpenEnv's WebSocket has no place for one."""
    with client(terminal_server.url) as session:
        session.reset(seed=0)
        started = time.monotonic()
        assert session.step({"message": "sleep 8", "timeout_s": 0.2}).observation["timed_out"]
        assert time.monotonic() - started < 4


def test_tools_are_mcp_for_generic_clients(counter_server: WorldServer):
    """Catches a world with tools that OpenEnv's MCP client, in its production mode, cannot list or call."""
    with MCPToolClient(base_url=counter_server.url).sync() as session:
        session.reset(seed=2)
        listed = session.list_tools()
        assert [(tool.name, tool.description) for tool in listed] == [
            ("add", "Add to the counter."),
            ("read", "Read the counter."),
        ]
        assert listed[0].input_schema == TOOLS[0]["function"]["parameters"]
        assert session.call_tool("add", number=5) == "counter 7"
        assert session.call_tool("read") == "counter 7"


def test_call_tool_and_list_tools_are_actions_too(counter_server: WorldServer):
    """Catches an observation of a call that lacks what MCP's clients read, or our segments."""
    with client(counter_server.url) as session:
        before = session.step({"type": "list_tools"}).observation["tools"]
        session.reset(seed=1)
        assert session.step({"type": "list_tools"}).observation["tools"] == before
        call = {"type": "call_tool", "tool_name": "add", "arguments": {"number": 1}, "metadata": {}}
        seen = session.step(call).observation
        assert (seen["tool_name"], seen["error"], seen["result"]["data"]) == ("add", None, "counter 2")
        assert seen["segments"] == [{"source": "tool_result", "text": "counter 2", "tool": "add"}]
        assert "tools" not in seen
        own = session.step({**call, "arguments": {"number": -1}}).observation
        assert (own["error"], own["result"]["is_error"], own["result"]["data"]) == (None, True, "only upwards")
        kinds = [
            session.step({**call, **change}).observation["error"]["error_type"]
            for change in ({"tool_name": "subtract"}, {"arguments": {"number": "one"}})
        ]
        assert kinds == ["tool_not_found", "invalid_args"]
        assert session.step({"message": '{"name": "read", "arguments": {}}'}).observation["text"] == "counter 2"
        for wrong in ({"type": "call_tool"}, {"type": "list_tools", "message": "a"}, {"tool_name": "add"}):
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                session.step(wrong)
        assert session.step({"message": "answer: 2"}).reward == 1.0


def test_a_text_world_never_runs_a_tool_call(terminal_server: WorldServer):
    """Catches a call that reaches a shell as a line of text."""
    with client(terminal_server.url) as session:
        session.reset(seed=0)
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            session.step({"type": "call_tool", "tool_name": "ls", "arguments": {}})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("error", "the machine is gone"),
        ("bug", "the world has a bug: step raised KeyError: 'missing'"),
        ("infinite", "reward inf, expected None or a finite number"),
    ],
)
def test_a_failure_of_the_world_is_told_and_the_session_goes_on(faulty_server: WorldServer, action: str, message: str):
    """Catches a failure that ends the session, or that arrives without its reason."""
    with client(faulty_server.url) as session:
        session.reset(seed=0)
        with pytest.raises(RuntimeError, match=message):
            session.step({"message": action})
        assert session.step({"message": "go on"}).observation["text"] == "fine"


def test_a_bug_stands_in_the_log_with_its_traceback(faulty_server: WorldServer):
    """Catches a bug of a world that nobody can find: OpenEnv's server sends its last line and forgets the rest."""
    with client(faulty_server.url) as session:
        session.reset(seed=0)
        with pytest.raises(RuntimeError, match="bug"):
            session.step({"message": "bug"})
    assert 'raise KeyError("missing")' in faulty_server.log.read_text()


def test_a_bug_in_closing_stands_in_the_log(faulty_server: WorldServer):
    """Catches worlds that do not end, which OpenEnv's server passes over in silence."""
    with client(faulty_server.url) as session:
        session.reset(seed=0)
        session.step({"message": "at the end"})
    assert wait_until(lambda: 'ZeroDivisionError("while closing")' in faulty_server.log.read_text())


def test_a_task_that_cannot_start_is_told_and_another_can(faulty_server: WorldServer):
    """Catches a session that is lost, or half open, after one task failed to start."""
    with client(faulty_server.url) as session:
        with pytest.raises(RuntimeError, match="task 13 cannot start"):
            session.reset(seed=13)
        assert session.reset(seed=14).observation["text"] == "Fail."


def test_a_full_server_says_so_and_a_closed_session_makes_room(depot_server: WorldServer):
    """Catches sessions that are never given back: the server is full for ever after its first clients."""
    sessions = [client(depot_server.url) for _ in range(3)]
    try:
        for session in sessions:
            session.connect()
            session.reset(seed=0)
        with pytest.raises(RuntimeError, match="CAPACITY_REACHED"):
            client(depot_server.url).reset(seed=0)
    finally:
        for session in sessions:
            session.close()

    def has_room() -> bool:
        try:
            with client(depot_server.url) as session:
                session.reset(seed=0)
        except RuntimeError:
            return False
        return True

    assert wait_until(has_room, 5)


@pytest.mark.parametrize("command", ["sleep 300 &", "sleep 1.5"])
def test_a_cut_client_leaves_no_sandbox(terminal_server: WorldServer, command: str):
    """Catches the sandbox of a client that vanished without a word, between two commands or in the middle of one."""
    others = set(terminal_server.descendants())
    with connect(terminal_server.url.replace("http", "ws") + "/ws") as session:
        session.send(json.dumps({"type": "reset", "data": {"seed": 0}}))
        session.recv()
        session.send(json.dumps({"type": "step", "data": {"message": command}}))
        if command.endswith("&"):
            session.recv()
        mine = set(terminal_server.descendants()) - others
        assert mine
        session.socket.shutdown(socket.SHUT_RDWR)
        assert wait_until(lambda: not mine & set(terminal_server.descendants()))


def test_an_idle_session_is_ended_and_its_client_told(tmp_path: Path):
    """Catches sandboxes that a hung client holds for ever, and a session that comes back after its end.

    OpenEnv looks for idle sessions every five seconds, so this takes as long.
    """
    server = WorldServer("terminal", "--session-seconds", "1", log=tmp_path / "log.txt")
    try:
        with client(server.url) as session:
            session.reset(seed=0)
            assert server.descendants()
            assert wait_until(lambda: not server.descendants())
            for again in (lambda: session.step({"message": "ls"}), lambda: session.reset(seed=0)):
                with pytest.raises(RuntimeError, match="this session is over"):
                    again()
            assert not server.descendants()
    finally:
        server.stop()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_server_and_every_sandbox(tmp_path: Path, number: int, status: int):
    """Catches sandboxes and background jobs that outlive their server, and a server that waits for its clients."""
    server = WorldServer("terminal", log=tmp_path / "log.txt")
    session = client(server.url)
    session.connect()
    session.reset(seed=0)
    session.step({"message": "sleep 300 &"})
    below = server.descendants()
    assert below
    started = time.monotonic()
    assert server.stop(number) == status
    assert time.monotonic() - started < 8
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 2)
    session.close()


def test_a_step_that_does_not_end_does_not_hold_the_server(tmp_path: Path):
    """Catches a server that waits for a world's hung step, until somebody kills it and its sandboxes are left."""
    server = WorldServer("served_worlds:CounterSuite", log=tmp_path / "log.txt")
    with connect(server.url.replace("http", "ws") + "/ws") as session:
        session.send(json.dumps({"type": "reset", "data": {"seed": 0}}))
        session.recv()
        hang = {"type": "call_tool", "tool_name": "sleep", "arguments": {"seconds": 60}}
        session.send(json.dumps({"type": "step", "data": hang}))
        time.sleep(0.3)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
    assert "1 steps did not end in time" in server.log.read_text()


def test_one_line_on_standard_output_says_where_it_runs():
    """Catches logs between the lines that a program reads, and an address that is no address."""
    argv = [sys.executable, "-c", SERVE, "serve", "depot", "--port", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.split()[-1]
    assert line == f"depot at {url}\n"
    assert requests.get(f"{url}/health", timeout=10).ok
    process.send_signal(signal.SIGINT)
    rest, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, rest, log) == (0, "", "")


def test_counter_suite_is_what_the_server_serves(counter_server: WorldServer):
    """Catches a server that answers for another suite than it was started for."""
    assert counter_server.facts["world"] == CounterSuite.name
    assert requests.get(f"{counter_server.url}/health", timeout=10).json() == {"status": "healthy"}


def test_the_page_for_people_is_off(depot_server: WorldServer):
    """Catches OpenEnv's web page, which loads parts from other hosts, on a server that nobody asked for it."""
    assert requests.get(f"{depot_server.url}/web", timeout=10).status_code == 404
