"""Sessions when something goes wrong: garbage, full, dead and hanging servers, wrong addresses, large and odd text."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openenv_odd_shapes import HOSTILE
from openenv_server import GARBAGE

from envecho.errors import ConfigError, WorldCapacityError, WorldError, WorldLostError
from envecho.rollout import EpisodeJob, run_episode
from envecho.seam import PolicyTurn, World
from envecho.trajectory import Message, Source, StopReason
from envecho.worlds.openenv.address import parse_address
from envecho.worlds.openenv.connection import Connection, Overdue, Refusal, Reply
from envecho.worlds.openenv.maps import ConnectionMap
from envecho.worlds.openenv.suite import open_openenv
from envecho.worlds.options import SuiteOptions
from envecho.worlds.scripts import ScriptedPolicy

Start = Callable[..., World]
QUICK = ConnectionMap(connect_seconds=5, reset_seconds=5, capacity_seconds=0)


def connect(url: str, limits: ConnectionMap = QUICK) -> Connection:
    """Return a connection that was not opened yet."""
    return Connection(parse_address(url), limits)


@pytest.mark.parametrize("kind", [*GARBAGE, "close", "bytes", "deep"])
def test_garbage_is_a_lost_world(url: str, kind: str):
    """Catches an answer without an observation that is taken for an empty one, and a traceback of a JSON parser."""
    connection = connect(f"{url}/garbage/{kind}")
    with pytest.raises(WorldLostError, match=f"garbage/{kind}: .*reset"):
        connection.reset({})
    assert not connection.is_open


def test_a_message_says_what_was_found(url: str):
    """Catches an error from which nobody sees that a proxy's words came instead of the server's."""
    with pytest.raises(WorldLostError, match="found what is none: 'hello, I am no JSON'"):
        connect(f"{url}/garbage/text").reset({})


def test_a_full_server_is_full_and_later_is_not(url: str):
    """Catches a full server reported as broken, and a session that is not given back."""
    first, second = connect(f"{url}/single"), connect(f"{url}/single")
    first.reset({})
    with pytest.raises(WorldCapacityError, match="no room for another session"):
        second.reset({})
    first.close()
    patient = connect(f"{url}/single", ConnectionMap(capacity_seconds=5))
    assert isinstance(patient.reset({}), Reply)
    patient.close()


def test_a_full_server_that_hangs_up_first_is_still_full(url: str):
    """Catches a refusal that is lost because the server closed before the first message was sent."""
    holder, late = connect(f"{url}/single"), connect(f"{url}/single")
    holder.reset({})
    late.open()
    time.sleep(0.3)
    with pytest.raises(WorldCapacityError):
        late.reset({})
    holder.close()


def test_one_episode_after_the_other_fits_a_server_for_one(start: Start):
    """Catches the race between a server that still ends a session and the client's next one."""
    for _ in range(5):
        world = start("single")
        world.reset()
        world.step("x")
        world.close()


def test_a_hanging_step_ends_the_session_in_time(start: Start):
    """Catches a rollout that waits for ever, and a late answer that is read as that of the next step."""
    world = start("coding_env")
    world.reset()
    started = time.monotonic()
    told = world.step("sleep 3", timeout_s=0.2)
    assert time.monotonic() - started < 2.5
    assert (told.done, told.timed_out, told.reward) == (True, True, None)
    assert [segment.source for segment in told.segments] == [Source.TIMEOUT_NOTICE]
    with pytest.raises(WorldError, match="call reset first"):
        world.step("x")
    world.reset()
    assert world.step("x").segments[0].text == "ran 'x'\n"


def test_an_exception_of_the_environment_is_a_world_error_and_the_session_goes_on(start: Start):
    """Catches a failing environment that is shown to the policy as its own output."""
    world = start("coding_env")
    world.reset()
    with pytest.raises(WorldError, match="the environment broke: badly"):
        world.step("raise badly")
    assert world.step("x").segments[0].source is Source.STDOUT


def test_a_map_may_let_an_exception_be_the_answer(start: Start):
    """Catches games that raise on an illegal move, where every mistake of a policy would end the episode."""
    world = start("coding_env", toml='extends = "coding_env"\n[action]\nerrors_are_answers = true\n')
    world.reset()
    told = world.step("raise badly")
    assert [(segment.source, segment.text) for segment in told.segments] == [
        (Source.TOOL_ERROR, "the environment broke: badly")
    ]
    assert told.labels == {"call": "invalid"}


@pytest.mark.parametrize("action", ['{"move": "up"}', '{"move": 7}', '{"fly": true}', "{}"])
def test_an_action_that_fits_no_schema_is_the_policys_fault(start: Start, action: str):
    """Catches a server's refusal of an action that ends the episode as if the server had failed."""
    world = start("maze")
    with pytest.warns(UserWarning, match="does not name"):
        world.reset()
    told = world.step(action)
    assert [segment.source for segment in told.segments] == [Source.FORMAT_WARNING]
    assert told.labels["call"] == "invalid"


def test_a_large_answer_is_cut_with_a_notice(start: Start):
    """Catches an answer that fills every context, and one that stops early without a word."""
    world = start("coding_env")
    world.reset()
    told = world.step("repeat 3000000")
    assert [segment.source for segment in told.segments] == [Source.STDOUT, Source.TRUNCATION_NOTICE]
    assert len(told.segments[0].text) == 100_000
    assert "2900000 more characters" in told.segments[1].text


def test_an_answer_over_the_limit_says_which_limit(url: str):
    """Catches a closed connection without a hint at the size, which nobody guesses."""
    connection = connect(f"{url}/coding_env", ConnectionMap(max_message_mb=0.1))
    connection.reset({})
    with pytest.raises(WorldLostError, match="max_message_mb"):
        connection.step({"code": "repeat 1000000"}, 10)


def test_odd_text_travels_both_ways(start: Start):
    """Catches control characters, template markers or a lone surrogate that break a session."""
    world = start("coding_env", max_turns=9)
    world.reset()
    for text in (HOSTILE, "a lone surrogate \ud800", "", "\x00"):
        told = world.step(text)
        assert told.segments[0].text == f"ran {text.encode('utf-8', 'replace').decode()!r}\n"


def test_an_escaped_surrogate_travels_too(start: Start):
    """Catches a lone surrogate in JSON, which openenv's server cannot even refuse: it ends the session over it."""
    world = start("coding_env", max_turns=9)
    world.reset()
    assert world.step('{"code": "\\ud800"}').segments[0].text == "ran '?'\n"
    assert world.step("x").segments[0].text == "ran 'x'\n"


@pytest.fixture
def own_process(tmp_path: Path):
    """Start the server in a process of its own: returns a function that does, and gives process and URL."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        script = Path(__file__).with_name("openenv_server.py")
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_server_that_dies_mid_episode_leaves_the_transcript(own_process: Callable[[], tuple]):
    """Catches an exception that throws away an episode, and a connection error under another name."""
    process, url = own_process()

    class Killing:
        """Ends the server while its second action runs."""

        def __init__(self) -> None:
            self._script = ScriptedPolicy.oracle(["first", "sleep 30", "never"])

        def act(self, messages: Sequence[Message]) -> PolicyTurn:
            turn = self._script.act(messages)
            if turn.message.content == "sleep 30":
                threading.Timer(0.5, process.kill).start()
            return turn

    job = EpisodeJob(
        id="e",
        task_id="t",
        seed=0,
        make_world=lambda: open_openenv(f"{url}/coding_env", SuiteOptions()).make_world("train", 0),
        make_policy=Killing,
    )
    record = run_episode(job, timeout_s=20)
    assert record.stop_reason is StopReason.WORLD_ERROR
    assert [message.segments[0].source for message in record.messages[2:]] == [
        Source.STDOUT,
        Source.POLICY,
        Source.HARNESS_ERROR,
    ]
    assert "connection broke during step" in record.messages[-1].content


def test_a_lost_connection_is_no_new_session(url: str):
    """Catches openenv's silent reconnect: the next step would act on an environment that was never reset."""
    from envecho.worlds.openenv.connection import run_on_loop

    connection = connect(f"{url}/coding_env")
    connection.reset({})
    run_on_loop(connection._wire._ws.close())  # type: ignore[attr-defined]
    with pytest.raises(WorldLostError, match=r"connection broke during step"):
        connection.step({"code": "x"}, 5)
    assert not connection.is_open


def test_a_hundred_sessions_share_one_thread(url: str):
    """Catches a thread or a loop for each session."""
    connections = [connect(f"{url}/coding_env") for _ in range(100)]
    with ThreadPoolExecutor(max_workers=20) as pool:
        list(pool.map(lambda connection: connection.reset({}), connections))
        answers = list(pool.map(lambda pair: pair[1].step({"code": str(pair[0])}, 20), enumerate(connections)))
    own = [thread for thread in threading.enumerate() if thread.name == "envecho-openenv"]
    with ThreadPoolExecutor(max_workers=20) as pool:
        list(pool.map(Connection.close, connections))
    assert len(own) == 1
    told = [answer.observation["stdout"] for answer in answers if isinstance(answer, Reply)]
    assert told == [f"ran '{number}'\n" for number in range(100)]


def test_a_forked_process_has_sessions_of_its_own(url: str, tmp_path: Path):
    """Catches a child that waits for its parent's loop, which it does not have, or writes into its parent's session."""
    code = f"""
import os, sys
from envecho.errors import WorldLostError
from envecho.worlds.openenv.address import parse_address
from envecho.worlds.openenv.connection import Connection
from envecho.worlds.openenv.maps import ConnectionMap
old = Connection(parse_address({url!r} + "/coding_env"), ConnectionMap())
old.reset({{}})
child = os.fork()
if child == 0:
    try:
        old.step({{"code": "x"}}, 5)
    except WorldLostError as error:
        assert "forked" in str(error), error
    fresh = Connection(parse_address({url!r} + "/coding_env"), ConnectionMap())
    fresh.reset({{}})
    text = fresh.step({{"code": "child"}}, 5).observation["stdout"]
    fresh.close()
    old.close()
    os._exit(0 if "child" in text else 1)
status = os.waitpid(child, 0)[1]
assert old.step({{"code": "parent"}}, 5).observation["stdout"] == "ran 'parent'\\n"
old.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("tail", ["", "/", "/ws", "/web", "?a=b"])
def test_every_form_of_an_address_is_the_same_server(url: str, scheme: str, tail: str):
    """Catches `/ws/ws`, and a WebSocket URL whose health is asked by WebSocket."""
    address = f"{scheme}{url.removeprefix('http')}/tasked{tail}"
    assert open_openenv(address, SuiteOptions()).num_tasks("train") == 3


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://127.0.0.1:8000", "http, https, ws or wss"),
        ("http:///path", "without a host"),
        ("http://127.0.0.1:port", "no port that is a number"),
        ("https://huggingface.co/spaces/openenv/echo_env", "https://openenv-echo-env.hf.space"),
    ],
)
def test_a_wrong_address_says_what_is_right(address: str, words: str):
    """Catches an error about sockets for what is a typing mistake."""
    with pytest.raises(ConfigError, match=words):
        parse_address(address)


def test_nothing_at_the_address(url: str):
    """Catches a traceback where a server was not started."""
    with pytest.raises(WorldLostError, match="is the server running"):
        open_openenv("http://127.0.0.1:9", SuiteOptions())
    with pytest.raises(WorldLostError, match="is the server running"):
        connect("http://127.0.0.1:9").reset({})


def test_a_web_page_at_the_address(url: str):
    """Catches a proxy's error page that is reported as a JSON error at column 1."""
    with pytest.raises(WorldLostError, match=r"the page '502 Bad & Gateway'"):
        open_openenv(f"{url}/page", SuiteOptions())
    with pytest.raises(WorldLostError, match="no OpenEnv server"):
        connect(f"{url}/page").reset({})


def test_the_wrong_scheme_says_the_right_one(url: str):
    """Catches "WRONG_VERSION_NUMBER" as all that is said about https where there is http."""
    encrypted = f"https{url.removeprefix('http')}/coding_env"
    with pytest.raises(WorldLostError, match="has http:// in its URL"):
        open_openenv(encrypted, SuiteOptions())
    with pytest.raises(WorldLostError, match="has http:// in its URL"):
        connect(encrypted).reset({})


def test_a_token_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch):
    """Catches a token in a file, and a missing one that is sent as "Bearer None"."""
    limits = ConnectionMap(bearer_env="ENVECHO_TEST_TOKEN")
    monkeypatch.delenv("ENVECHO_TEST_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="ENVECHO_TEST_TOKEN, which is not set"):
        connect(f"{url}/coding_env", limits).reset({})
    monkeypatch.setenv("ENVECHO_TEST_TOKEN", "s3cret")
    assert limits.headers() == {"Authorization": "Bearer s3cret"}


def test_what_a_server_says_no_to_is_data(url: str):
    """Catches a refusal or a deadline that is an exception on one path and an answer on the other."""
    connection = connect(f"{url}/coding_env")
    connection.reset({})
    assert connection.step({"cod": "x"}, 5) == Refusal(code="VALIDATION_ERROR", message="Invalid message")
    assert connection.step({"code": "raise x"}, 5) == Refusal(
        code="EXECUTION_ERROR", message="the environment broke: x"
    )
    assert connection.step({"code": "sleep 2"}, 0.1) == Overdue(seconds=0.1)
    assert not connection.is_open


def test_a_secret_is_in_no_message(url: str):
    """Catches a password of the address, or a key among the arguments of `reset`, in errors that are stored."""
    port = url.rpartition(":")[2]
    with pytest.raises(WorldLostError) as caught:
        connect(f"http://me:s3cret@127.0.0.1:{port}/page?token=s3cret").reset({"llm_api_key": "s3cret"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(WorldLostError) as caught:
        open_openenv(f"http://me:s3cret@127.0.0.1:{port}/page?token=s3cret", SuiteOptions())
    assert "s3cret" not in str(caught.value)
    with pytest.raises(WorldError, match="seed, llm_api_key") as caught:
        connect(f"{url}/fragile").reset({"seed": -1, "llm_api_key": "s3cret"})
    assert "s3cret" not in str(caught.value)
