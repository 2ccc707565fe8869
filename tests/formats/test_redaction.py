"""Secrets: found wherever they stand, taken out before anything is a target, and nothing else is touched."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from format_samples import SAMPLES
from hypothesis import given
from hypothesis import strategies as st
from secret_lookalikes import AFTER, ALNUM, LOOKALIKES, ORDINARY, draw

from envecho.errors import ConfigError
from envecho.formats import ImportOptions, ImportReport, Redactor, import_traces, load_hook, load_patterns, load_rules
from envecho.formats.secret_patterns import SecretPattern, known_patterns
from envecho.trajectory import ExactBranch, Message, SampledTokens, Segment, Source, SpanKind, TokenSpan, ToolCall
from envecho.trajectory import Trajectory as Record
from envecho.trajectory.redacted import redaction_mark
from envecho.trajectory.store import read_trajectories, write_trajectories

SHARED = Path(__file__).parents[3] / "shared" / "samples"
WORDS = st.sampled_from(["", "ls\n", "total 3\n", "ok ", "été 雪 ", "x = 1;\n\n", "$ "])
SOURCES = st.sampled_from([Source.TASK, Source.POLICY, Source.STDOUT, Source.STATUS, Source.TOOL_RESULT])


def github(rng: random.Random) -> str:
    return LOOKALIKES["github"][1](rng)[1]


def record(*messages: Message, **keys: Any) -> Record:
    return Record(id="t", task_id="task", messages=messages, **keys)


def says(role: Any, *segments: tuple[Source, str], **keys: Any) -> Message:
    return Message(role=role, segments=tuple(Segment(source=s, text=t) for s, t in segments), **keys)


def characters(message: Message) -> list[tuple[str, Source]]:
    return [(c, s.source) for s in message.segments for c in s.text]


@pytest.mark.parametrize("kind", LOOKALIKES)
@given(
    rng=st.randoms(use_true_random=False), before=WORDS, after=WORDS, cuts=st.sets(st.integers(0, 400)), data=st.data()
)
def test_no_known_secret_is_left_and_every_other_character_keeps_its_source(kind, rng, before, after, cuts, data):
    """Catches a kind that is missed, a secret over the border of two segments, and text lost or moved around one."""
    name, lookalike = LOOKALIKES[kind]
    lead, secret = lookalike(rng)
    start = len(before) + len(lead)
    text = before + lead + secret + AFTER.get(kind, "") + ("\n" + after)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    parts = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    message = says("tool", *[(data.draw(SOURCES), part) for part in parts])
    done = Redactor().redact(record(message))
    (new,) = done.trajectory.messages
    assert new.content == text[:start] + redaction_mark(name) + text[start + len(secret) :]
    assert done.counts == {name: 1}
    old = characters(message)
    kept = [pair for pair in characters(new) if pair[1] is not Source.REDACTED]
    assert kept == old[:start] + old[start + len(secret) :]
    assert secret not in done.trajectory.model_dump_json()
    assert Redactor().redact(done.trajectory).trajectory == done.trajectory


@given(text=st.text("aeXYZ019 \n.-_/é雪") | st.lists(st.sampled_from(ORDINARY.splitlines()), max_size=6).map("\n".join))
def test_ordinary_text_is_not_touched(text: str):
    """Catches a pattern that takes hashes, ids, listings or code about secrets for secrets."""
    trajectory = record(says("tool", (Source.STDOUT, text)))
    assert Redactor().redact(trajectory).trajectory is trajectory


def test_nothing_in_a_page_of_ordinary_outputs_is_a_secret():
    """Catches a pattern that reaches over lines."""
    assert Redactor().find(ORDINARY) == []
    assert Redactor().find(json.dumps(ORDINARY)) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples lie beside the project and are not here")
def test_real_traces_without_secrets_have_none_found():
    """Catches a false alarm on what agents, harnesses and repositories really print."""
    report = ImportReport()
    for _ in import_traces([SHARED], report):
        pass
    assert report.num_trajectories > 200
    assert report.redacted == {}


@pytest.mark.parametrize("kind", [kind for kind in LOOKALIKES if kind not in AFTER])
def test_a_secret_in_the_arguments_of_a_call_is_replaced_and_they_stay_json(kind: str):
    """Catches a token behind an escaped newline, an escaped key block, and arguments that no template can read."""
    lead, secret = LOOKALIKES[kind][1](random.Random(1))
    command = f"cd x\n{lead}{secret}\necho 'é' \"done\""
    call = ToolCall(name="bash", arguments=json.dumps({"command": command, "timeout": 3}))
    done = Redactor().redact(record(says("assistant", (Source.POLICY, "I look."), tool_calls=(call,))))
    (message,) = done.trajectory.messages
    arguments = json.loads(message.tool_calls[0].arguments)
    assert arguments == {"command": command.replace(secret, redaction_mark(LOOKALIKES[kind][0])), "timeout": 3}
    assert message.labels == {"redacted": LOOKALIKES[kind][0]}
    assert done.counts.total() == 1


def test_a_secret_is_found_again_where_nothing_tells_it():
    """Catches a password that an output prints alone after a file named it, in any turn, escaped or in a URL."""
    rng = random.Random(2)
    secret = draw(rng, 14) + '"%'
    trajectory = record(
        says("user", (Source.TASK, f"Log in with {secret} now.")),
        says("assistant", (Source.POLICY, "cat .env"), reasoning=f"Is it {secret}?"),
        says("user", (Source.STDOUT, f"DB_PASSWORD='{secret}'\n")),
        says("assistant", (Source.POLICY, ""), tool_calls=(ToolCall(name="f", arguments=json.dumps({"p": secret})),)),
        metadata={"import": {"note": f"used {secret}"}, "list": [secret]},
        tools=({"type": "function", "function": {"name": "f", "description": f"default {secret}"}},),
    )
    done = Redactor().redact(trajectory)
    text = done.trajectory.model_dump_json()
    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text
    assert done.counts == {"assigned-secret": 7}
    assert done.trajectory.metadata["list"] == [redaction_mark("assigned-secret")]
    words = record(
        says("user", (Source.STDOUT, "postgres://app:postgres@db/x")), says("user", (Source.STDOUT, "postgres is up"))
    )
    assert Redactor().redact(words).trajectory.messages[1].content == "postgres is up"


def test_lines_of_a_key_are_found_without_its_header():
    """Catches `tail key.pem` after `cat key.pem`."""
    _, block = LOOKALIKES["key block"][1](random.Random(3))
    line = block.splitlines()[2]
    done = Redactor().redact(record(says("user", (Source.STDOUT, block)), says("user", (Source.STDOUT, f"> {line}\n"))))
    assert done.trajectory.messages[1].content == f"> {redaction_mark('private-key')}\n"
    cut = block[: len(block) // 2]
    assert [name for _, _, name in Redactor().find(f"$ head key\n{cut}")] == ["private-key"]


def test_arguments_are_searched_as_what_their_json_says_and_each_secret_counts_once():
    """Catches a pattern for whole lines that an escaped newline hides, and places that are counted twice."""
    secret = github(random.Random(10))
    call = ToolCall(name="bash", arguments=json.dumps({"command": f"x\nACME é\n{secret}"}))
    acme = SecretPattern(name="acme", pattern=re.compile("^ACME.*$", re.MULTILINE))
    done = Redactor(patterns=(acme,)).redact(record(says("assistant", (Source.POLICY, "go"), tool_calls=(call,))))
    command = f"x\n{redaction_mark('acme')}\n{redaction_mark('github-token')}"
    assert json.loads(done.trajectory.messages[0].tool_calls[0].arguments) == {"command": command}
    assert done.counts == {"acme": 1, "github-token": 1}


@pytest.mark.parametrize("before", ["a\\n", "a\\t", "\x1b[01;31m", "\x1b[m\x1b[K", "=", '"', "é ", ""])
def test_a_token_behind_an_escape_or_a_colour_stands_alone(before: str):
    """Catches JSON that a command printed, and the matches that `grep --color` sets off."""
    secret = github(random.Random(12))
    assert Redactor().find(before + secret) == [(len(before), len(before) + len(secret), "github-token")]
    assert Redactor().find("a" + secret) == []


def test_a_mark_is_no_secret():
    """Catches a second import that takes the mark of the first for a secret."""
    secret = github(random.Random(11))
    word = SecretPattern(name="word", pattern=re.compile("github"))
    done = Redactor(patterns=(word,)).redact(record(says("user", (Source.STDOUT, f"{secret} of github"))))
    assert done.trajectory.messages[0].content == f"{redaction_mark('github-token')} of {redaction_mark('word')}"
    again = Redactor(patterns=(word,)).redact(done.trajectory)
    assert (again.trajectory, again.counts) == (done.trajectory, {})


def exact(secret: str) -> Record:
    """One call whose prompt is message 0, the answer sampled, and an observation in a second prompt."""
    return record(
        says("user", (Source.TASK, "Go.")),
        says(
            "assistant", (Source.POLICY, f"echo {secret}"), sampled=SampledTokens(token_ids=(3, 4), logprobs=(-1, -1))
        ),
        says("user", (Source.STDOUT, f"got {secret}\n"), (Source.STATUS, "[0]")),
        branches=(
            ExactBranch(
                token_ids=(1, 2, 3, 4, 5, 6),
                spans=(
                    TokenSpan(end=2, kind=SpanKind.CONTENT, turn=0, num_turns=1),
                    TokenSpan(end=4, kind=SpanKind.SAMPLED, turn=1, num_turns=1),
                    TokenSpan(end=6, kind=SpanKind.CONTENT, turn=2, num_turns=1),
                ),
            ),
        ),
        metadata={"import": {"format": "calls"}, "note": secret},
    )


def test_text_with_exact_ids_stays_and_its_secret_is_nobodys():
    """Catches text that no longer says what its ids say, and a secret that stays a target there."""
    secret = github(random.Random(4))
    trajectory = exact(secret)
    done = Redactor().redact(trajectory)
    new = done.trajectory
    assert [m.content for m in new.messages] == [m.content for m in trajectory.messages]
    assert new.branches == trajectory.branches
    assert [(s.source, s.text) for s in new.messages[2].segments] == [
        (Source.STDOUT, "got "),
        (Source.REDACTED, secret),
        (Source.STDOUT, "\n"),
        (Source.STATUS, "[0]"),
    ]
    assert new.messages[1].labels == {"redacted": "github-token"}
    assert new.metadata["note"] == redaction_mark("github-token")
    assert (done.counts, done.num_kept) == ({"github-token": 3}, 2)


def test_what_a_user_names_is_a_secret_too(tmp_path: Path):
    """Catches a pattern or hook that is read and not asked."""
    path = tmp_path / "rules.toml"
    path.write_text(
        "[[redact]]\npattern = 'ticket (?P<secret>T-\\d+)'\nname = \"ticket\"\n"
        "[[redact]]\npattern = '^ACME.*$'\nname = \"acme\"\n"
    )
    assert load_rules(path) == ()
    redactor = Redactor(patterns=load_patterns(path), hook=lambda text: [(0, 2, "hooked")] if text[:2] == "id" else [])
    assert redactor.find("id ticket T-12\nACME 1") == [(0, 2, "hooked"), (10, 14, "ticket"), (15, 21, "acme")]
    done = redactor.redact(record(says("user", (Source.STDOUT, "id ticket T-12\nACME 1"))))
    assert redactor.redact(done.trajectory).counts == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[redact]]\npattern = '('\nname = 'x'\n", "does not compile"),
        ("[[redact]]\npattern = 'a*'\nname = 'x'\n", "matches the empty text"),
        ("[[redact]]\npattern = 'a'\nname = 'My Key'\n", "expected a name of lower-case letters"),
        ("[[redact]]\npattern = 'a'\n", "needs pattern and name"),
        ("[[redacted]]\npattern = 'a'\nname = 'x'\n", "Did you mean 'redact'"),
    ],
)
def test_a_pattern_that_cannot_work_is_named(tmp_path: Path, text: str, message: str):
    """Catches a pattern of a user that is dropped silently."""
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_patterns(tmp_path / "rules.toml")


@pytest.mark.parametrize("span", [(0, 99, "x"), (2, 1, "x"), (0, 1, "Not a name"), "ab", None, (0, "1x", "x")])
def test_a_hook_that_returns_nonsense_is_named(span: Any):
    """Catches a hook whose answer is ignored, so that its secrets stay."""
    with pytest.raises(ConfigError, match=r"the redaction hook returned .* for a text of 5 characters"):
        Redactor(hook=lambda text: [span]).find("abcde")


def test_a_hook_is_loaded_by_name(tmp_path: Path):
    """Catches a wrong name that would leave secrets in."""
    path = tmp_path / "my_hook.py"
    path.write_text("def find(text):\n    return [(0, 1, 'first')] if text else []\n")
    assert Redactor(hook=load_hook(f"{path}:find")).find("ab") == [(0, 1, "first")]
    for name, message in (
        (f"{path}:none", "has no function 'none'"),
        (f"{tmp_path}/gone.py:find", "cannot be imported: no such file"),
        ("no_such_module:find", "cannot be imported"),
        ("nothing", "expected MODULE:FUNCTION"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_hook(name)


LINES = ("claude-code", "codex", "codex-stream", "openhands-1")


def load(tmp_path: Path, data: Any, *, lines: bool = False, **options: Any) -> tuple[list[Record], ImportReport]:
    path = tmp_path / "trace"
    path.write_text("\n".join(map(json.dumps, data)) if lines else json.dumps(data))
    report = ImportReport()
    return list(import_traces([path], report, options=ImportOptions(**options))), report


TEXT_KEYS = {"content", "text", "value", "observation", "output", "aggregated_output", "message", "response"}
TEXT_KEYS |= {"tool_result", "error", "q", "cmd", "h"}


def with_secret(data: Any, secret: str) -> Any:
    """A sample in which every text of a message, and some arguments of calls, end with a secret."""
    if isinstance(data, dict):
        return {
            key: f"{part} {secret}" if key in TEXT_KEYS and _is_text(part) else with_secret(part, secret)
            for key, part in data.items()
        }
    return [with_secret(part, secret) for part in data] if isinstance(data, list) else data


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) > 1 and not value.startswith("attachment:")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_searched_and_the_report_counts(tmp_path: Path, name: str):
    """Catches a format whose texts reach the file without a search, or whose secrets are not counted."""
    secret = github(random.Random(5))
    data = with_secret(SAMPLES[name], secret)
    lines = isinstance(data, list) and name in LINES
    found, report = load(tmp_path, data, lines=lines)
    assert found
    assert secret not in "".join(trajectory.model_dump_json() for trajectory in found)
    assert report.redacted["github-token"] >= 2
    assert report.redacted == {
        "github-token": sum(t.metadata["import"]["redacted"].get("github-token", 0) for t in found)
    }


def test_redaction_can_be_turned_off_and_the_report_says_so(tmp_path: Path):
    """Catches a file with secrets that looks like one that was searched."""
    secret = github(random.Random(6))
    data = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": secret}]}
    (plain,), off = load(tmp_path, data, redactor=None)
    assert plain.messages[1].content == secret
    assert "redacted" not in plain.metadata["import"]
    assert (off.num_trajectories_not_searched, off.redacted) == (1, {})
    (clean,), on = load(tmp_path, data)
    assert clean.metadata["import"]["redacted"] == {"github-token": 1}
    assert clean.metadata["import"]["action_text_lossy"] is True
    assert (on.num_trajectories_not_searched, on.num_trajectories_redacted) == (0, 1)
    assert on.as_json()["redacted"] == {"github-token": 1}
    write_trajectories(tmp_path / "x.parquet", [clean])
    assert secret.encode() not in (tmp_path / "x.parquet").read_bytes()
    assert list(read_trajectories(tmp_path / "x.parquet")) == [clean]


def test_every_known_pattern_is_shown_by_a_lookalike_or_comes_from_the_library():
    """Catches a kind of our own that nobody ever saw match."""
    shown = {name for name, _ in LOOKALIKES.values()}
    library = {"azure-storage-key", "square-secret", "twilio-key", "google-oauth"}
    assert {pattern.name for pattern in known_patterns()} == shown | library
    rng = random.Random(7)
    assert [n for *_, n in Redactor().find("ya" + "29." + draw(rng, 60, ALNUM + "_-"))] == ["google-oauth"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        "eyJ-",
        "-----BEGIN " + "PRIVATE" + " KEY-----\n",
        "://a:",
        "TOKEN=",
        "token: ",
        'password="',
        "s" + "k-",
        "bearer ",
    ],
)
def test_hostile_repetition_costs_little(unit: str):
    """Catches a pattern whose time grows with the square of the text."""
    Redactor().find(unit * (200_000 // len(unit)))
