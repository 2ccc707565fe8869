"""`envecho show`: lists and shows trajectories, with and without a model, and never lets tool output act."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from envecho.cli.show import command
from envecho.errors import DataError
from envecho.trajectory import Message, Role, Segment, Source, StopReason, ToolCall, Trajectory
from envecho.trajectory.store import write_trajectories

OUTPUT = "\x1b[2J3 errors\n<script>alert(1)</script>\n"


def episode(number: int) -> Trajectory:
    return Trajectory(
        id=f"episode-{number}",
        task_id=f"task-{number}\x1b[31m",
        messages=(
            Message(role="system", segments=(Segment(source=Source.SYSTEM, text="You are at a shell."),)),
            Message(role="user", segments=(Segment(source=Source.TASK, text="Count the errors."),)),
            Message(role="assistant", segments=(Segment(source=Source.POLICY, text="grep -c ERROR log"),)),
            Message(
                role="user",
                segments=(
                    Segment(source=Source.STDOUT, text=OUTPUT),
                    Segment(source=Source.STATUS, text="[exit status 0]"),
                ),
            ),
        ),
        reward=None if number == 0 else 1.0,
        stop_reason=StopReason.COMPLETED,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "episodes.parquet"
    write_trajectories(path, [episode(number) for number in range(3)])
    return path


@pytest.fixture(scope="module")
def tiny_model(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of one narrow layer with SmolLM2's real tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    for source in smollm2_dir.iterdir():
        if source.suffix in (".json", ".jinja", ".txt") and source.name not in ("config.json",):
            shutil.copy(source, folder)
    vocab = json.loads((smollm2_dir / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def show(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def test_a_file_is_listed_with_what_each_trajectory_is(file: Path):
    """Catches a list that drops a trajectory, its reward or its stop reason, or counts roles wrongly."""
    rows = json.loads(show(file, "--json").stdout)["trajectories"]
    assert [row["id"] for row in rows] == ["episode-0", "episode-1", "episode-2"]
    assert rows[0]["reward"] is None
    assert rows[1] | {"id": "", "task_id": "", "index": 0} == {
        "index": 0, "id": "", "task_id": "", "turns": 4, "reward": 1.0, "stop_reason": "completed",
        "characters": {"context": 36, "warning": 15, "env_output": len(OUTPUT), "action": 17},
        "by_source": {"system": 19, "task": 17, "policy": 17, "stdout": len(OUTPUT), "status": 15},
    }  # fmt: skip


def test_the_list_ends_with_what_the_whole_file_holds(file: Path):
    """Catches a summary of the rows that fit on the screen, or one that forgets a source."""
    summary = json.loads(show(file, "--json").stdout)["summary"]
    assert summary["num_trajectories"] == 3
    assert summary["num_turns"] == 12
    assert summary["by_role"] == {"context": 108, "warning": 45, "env_output": 3 * len(OUTPUT), "action": 51}
    assert summary["by_source"]["status"] == 45
    out = show(file).stdout
    assert "3 trajectories, 12 turns" in out
    assert f"stdout {3 * len(OUTPUT):,}" in out


def test_the_list_for_people_shows_no_escape_of_the_file(file: Path):
    """Catches an id or task that moves the reader's cursor."""
    out = show(file).stdout
    assert "\x1b" not in out
    assert "episode-2" in out


def test_one_trajectory_is_shown_by_segments_without_a_model(file: Path):
    """Catches text that is lost, or tool output that reaches the terminal as commands."""
    out = show(file, "--index", 1).stdout
    assert "\x1b" not in out
    assert "␛[2J3 errors\n<script>alert(1)</script>\n[exit status 0]" in out
    assert "turn 3 · stdout, status" in out
    for role in Role:
        assert role.value in out


def test_nothing_of_a_file_acts_in_the_terminal(tmp_path: Path):
    """Catches links, overrides, bells and rich's own markup that a trace brings along, in text, ids and tasks."""
    hostile = "\x1b]8;;http://evil\x07click\x1b]8;;\x07 [bold red]markup[/nope] :smile: \u202egnp.exe \u200b"
    message = Message(role="user", segments=(Segment(source=Source.STDOUT, text=hostile),))
    path = tmp_path / "hostile.parquet"
    write_trajectories(path, [Trajectory(id=f"[red]{hostile}", task_id="[/x]\u2066", messages=(message,))])
    everything = ("--find", "(?s).+", "--regex")
    for options in ((), ("--index", 0), everything, ("--index", 0, *everything)):
        out = show(path, *options).stdout
        assert not {"\x1b", "\x07", "\u202e", "\u200b", "\u2066"} & set(out)
    one = show(path, "--index", 0).stdout
    assert "[bold red]markup[/nope] :smile:" in one
    assert "⟨U+202E⟩gnp.exe" in one
    assert "␛]8;;http://evil␇click" in one
    assert json.loads(show(path, "--index", 0, "--json").stdout)["views"][0]["tokens"][0]["text"] == hostile


def test_nothing_of_a_file_acts_in_the_page(tmp_path: Path):
    """Catches a script, a closing tag or an attribute that a trace, an id or a search brings into the page."""
    hostile = '</span></script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\'"'
    message = Message(role="user", segments=(Segment(source=Source.STDOUT, text=hostile),))
    path = tmp_path / "hostile.parquet"
    write_trajectories(path, [Trajectory(id=hostile, task_id="t", messages=(message,))])
    show(path, "--find", '"', "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == page.count("</script") == 1
    assert "<img" not in page
    assert 'onerror="' not in page
    assert "&lt;img src=x onerror=&#34;alert(2)&#34;&gt;&amp;amp;&#39;&#34;" in page
    assert 'value="&#34;"' in page


def test_reasoning_and_calls_are_shown_without_a_model(tmp_path: Path):
    """Catches a tool-calling trace in which nobody seems to act, because calls are no segments."""
    acting = Message(
        role="assistant", segments=(), reasoning="Let me look.",
        tool_calls=(ToolCall(name="bash", arguments='{"command": "ls"}'),),
    )  # fmt: skip
    path = tmp_path / "calls.parquet"
    write_trajectories(path, [Trajectory(id="1", task_id="t", messages=(acting,))])
    assert 'Let me look.\nbash({"command": "ls"})\n' in show(path, "--index", 0).stdout
    assert json.loads(show(path, "--json").stdout)["trajectories"][0]["characters"]["action"] == 12 + 23


def test_redacted_text_is_recognisable_in_both_views(tmp_path: Path):
    """Catches a secret's place that looks like anything else that nobody trains."""
    parts = (("the key is ", Source.STDOUT), ("[redacted:api-key]", Source.REDACTED), ("\n", Source.STDOUT))
    message = Message(role="user", segments=tuple(Segment(source=source, text=text) for text, source in parts))
    path = tmp_path / "redacted.parquet"
    write_trajectories(path, [Trajectory(id="1", task_id="t", messages=(message,))])
    out = show(path, "--index", 0, "--html", tmp_path / "page.html") and show(path, "--index", 0).stdout
    assert "the key is ⟦[redacted:api-key]⟧\n" in out
    assert "turn 0 · stdout, redacted" in out
    page = (tmp_path / "page.html").read_text()
    assert '<span class="t context redacted" data-source="redacted"' in page
    assert "taken out of the trace, never trained" in page


def test_an_index_beyond_the_file_says_how_many_there_are(file: Path):
    """Catches a traceback, or the last trajectory in place of the one that was asked for."""
    with pytest.raises(DataError, match="index 3, found 3"):
        show(file, "--index", 3)


def test_what_a_model_cannot_take_is_counted_and_named(file: Path, tiny_model: Path, tmp_path: Path):
    """Catches a list or page that dies at the first tool call of a trace, or leaves it out without a word."""
    call = ToolCall(name="bash", arguments="{}")
    acting = Message(role="assistant", segments=(), tool_calls=(call,))
    path = tmp_path / "mixed.parquet"
    refused = Trajectory(id="calls", task_id="t", messages=(*episode(0).messages, acting))
    write_trajectories(path, [refused, episode(1)])
    document = json.loads(show(path, "--model", tiny_model, "--json").stdout)
    assert document["trajectories"][0]["tokens"] is None
    assert "does not show the call of tool 'bash'" in document["trajectories"][0]["refused"]
    assert document["summary"]["num_refused"] == 1
    assert "1 cannot be rendered" in show(path, "--model", tiny_model).stdout
    result = show(path, "--model", tiny_model, "--html", tmp_path / "page.html")
    assert "not on the page: calls: " in result.stderr
    assert "episode-1" in (tmp_path / "page.html").read_text()


def test_losses_without_a_model_are_a_usage_error(file: Path):
    """Catches a request for losses that is silently not fulfilled."""
    result = show(file, "--index", 0, "--losses")
    assert result.exit_code == 2
    assert "--losses needs --model" in result.stderr
    assert show(file, "--model", "x", "--losses").exit_code == 2


def test_a_page_holds_the_first_trajectories_and_says_so(tmp_path: Path):
    """Catches a page of a whole data set, or one that leaves trajectories out without a word."""
    path = tmp_path / "many.parquet"
    write_trajectories(path, [episode(number) for number in range(202)])
    result = show(path, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert result.stdout.strip() == str(tmp_path / "page.html")
    assert "first 200 trajectories" in result.stderr
    assert "episode-199" in page
    assert "episode-200" not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_model_shows_tokens_with_roles_and_weights(file: Path, tiny_model: Path):
    """Catches tokens that do not spell the text, roles on the wrong tokens, or weight on text that is not trained."""
    (view,) = json.loads(show(file, "--index", 0, "--model", tiny_model, "--json").stdout)["views"]
    output = "".join(token["text"] for token in view["tokens"] if token["source"] == "stdout")
    assert output == OUTPUT
    trained = {t["source"] for t, weight in zip(view["tokens"], view["env_weights"], strict=True) if weight > 0}
    assert trained == {"stdout"}
    assert view["by_role"]["env_output"] == sum(weight > 0 for weight in view["env_weights"])


def test_a_model_lists_tokens_per_role(file: Path, tiny_model: Path):
    """Catches a list whose token counts are those of characters, or count a shared prefix twice."""
    rows = json.loads(show(file, "--model", tiny_model, "--json").stdout)["trajectories"]
    view = json.loads(show(file, "--index", 0, "--model", tiny_model, "--json").stdout)["views"][0]
    assert rows[0]["tokens"] == view["by_role"]


def test_losses_shade_every_token_but_the_first(file: Path, tiny_model: Path, tmp_path: Path):
    """Catches losses of the wrong sign, scale or place: an untrained model is near ln(vocabulary) everywhere."""
    out = json.loads(show(file, "--index", 0, "--model", tiny_model, "--losses", "--json").stdout)
    values = [token["nll"]["model"] for token in out["views"][0]["tokens"]]
    assert values[0] is None
    assert all(value == pytest.approx(10.8, abs=0.5) for value in values[1:])
    show(file, "--index", 0, "--model", tiny_model, "--losses", "--html", tmp_path / "page.html")
    assert "model 10." in (tmp_path / "page.html").read_text()
