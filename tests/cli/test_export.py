"""`envecho export`: what it writes, counts, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.cli import export
from envecho.cli.main import main
from envecho.formats import ImportReport, import_traces
from envecho.recipes.export import TARGETS
from envecho.trajectory import ExactBranch, Message, SampledTokens, Segment, Source, SpanKind, TokenSpan, Trajectory
from envecho.trajectory.store import write_trajectories


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, args)])
    return int(ended.value.code or 0)


def episode(name: str, *, source: Source = Source.STDOUT, temperatures: tuple[float, ...] = ()) -> Trajectory:
    said = [
        Message(
            role="assistant",
            segments=(Segment(source=Source.POLICY, text="ls"),),
            sampled=SampledTokens(token_ids=(1,), logprobs=(-0.5,), temperature=temperature),
        )
        for temperature in temperatures
    ] or [Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),))]
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Look."),))
    answer = Message(role="user", segments=(Segment(source=source, text="a.log\n"),))
    return Trajectory(id=name, task_id="t", messages=(task, *said, answer), metadata={"seed": 1})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "episodes.parquet"
    write_trajectories(path, [episode("one"), episode("two", source=Source.STATUS)])
    return path


def test_the_command_offers_exactly_the_targets_of_the_job():
    """Catches a target that was added to the job and that no user can name."""
    assert export.TARGETS == TARGETS


@pytest.mark.parametrize("target", ["messages", "atif", "openenv"])
@pytest.mark.parametrize("place", ["out.jsonl", "out"])
def test_a_file_goes_out_and_comes_back(file: Path, tmp_path: Path, target: str, place: str):
    """Catches a writer of lines and one of folders that do not write the same, and episodes of one task merged."""
    assert run(file, "--to", target, "--out", tmp_path / place) == 0
    if place == "out":
        assert sorted(entry.name for entry in (tmp_path / place).iterdir()) == ["000000.json", "000001.json"]
    found = list(import_traces([tmp_path / place], ImportReport()))
    assert [t.metadata.pop("import")["format"] for t in found] == [target, target]
    assert found == [episode("one"), episode("two", source=Source.STATUS)]
    assert not list(tmp_path.glob("*.tmp"))


def test_an_episode_that_goes_on_where_another_ended_stays_an_episode(tmp_path: Path):
    """Catches exports of rollouts of one task, of which the importer keeps the longest as if they were growing rows."""
    long = episode("long")
    short = long.model_copy(update={"id": "short", "messages": long.messages[:2]})
    write_trajectories(tmp_path / "e.parquet", [short, long])
    assert run(tmp_path / "e.parquet", "--to", "messages", "--out", tmp_path / "out.jsonl") == 0
    assert [t.id for t in import_traces([tmp_path / "out.jsonl"], ImportReport())] == ["short", "long"]


@pytest.mark.parametrize("target", ["trl", "verl", "skyrl", "tinker"])
def test_rows_of_trainers_hold_what_the_world_said(
    file: Path, tmp_path: Path, smollm2_dir: Path, target: str, capsys: pytest.CaptureFixture[str]
):
    """Catches a target that is offered and does not run, and losses that the report leaves out."""
    out = tmp_path / "rows.jsonl"
    assert run(file, "--to", target, "--out", out, "--model", smollm2_dir, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["target"], report["num_trajectories"], report["num_exported"]) == (target, 2, 2)
    assert report["not_expressed"]["rows whose reward is unknown: null"] == 2
    assert report["not_expressed"]["tokens of source stdout: the masks say env_output"] > 0
    assert len(out.read_text().splitlines()) == 2


def test_skyrl_rows_are_numbered_within_their_instance(file: Path, tmp_path: Path, smollm2_dir: Path):
    """Catches rollouts of one task under one name, which SkyRL would take for one another."""
    out = tmp_path / "rows.jsonl"
    assert run(file, "--to", "skyrl", "--out", out, "--model", smollm2_dir) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["trajectory_ids"] for row in rows] == [
        {"instance_id": "t", "repetition_id": 0},
        {"instance_id": "t", "repetition_id": 1},
    ]
    assert [row["is_last_step"] for row in rows] == [True, True]


def test_branches_become_rows_of_one_rollout(tmp_path: Path, smollm2_dir: Path, smollm2_tokenizer):
    """Catches an observation that two branches train, a branch that is lost, and a last step in the middle."""
    ids = tuple(smollm2_tokenizer.encode("ls", add_special_tokens=False))
    told = tuple(smollm2_tokenizer.encode("a.log\n", add_special_tokens=False))
    text = tuple(smollm2_tokenizer.encode("Look.", add_special_tokens=False))
    one = episode("one")
    sampled = SampledTokens(token_ids=ids, logprobs=(-0.5,) * len(ids), temperature=1.0)
    said = one.messages[1].model_copy(update={"sampled": sampled})

    def branch(*pieces: tuple[tuple[int, ...], SpanKind, int], owned_from: int = 0) -> ExactBranch:
        token_ids: tuple[int, ...] = ()
        spans: list[TokenSpan] = []
        for piece, kind, turn in pieces:
            token_ids += piece
            num_turns = 0 if kind is SpanKind.SCAFFOLD else 1
            spans.append(TokenSpan(end=len(token_ids), kind=kind, turn=turn if num_turns else -1, num_turns=num_turns))
        return ExactBranch(token_ids=token_ids, spans=tuple(spans), owned_from=owned_from)

    first = branch((text, SpanKind.CONTENT, 0), (ids, SpanKind.SAMPLED, 1), (told, SpanKind.CONTENT, 2))
    second = branch((text, SpanKind.SCAFFOLD, -1), (ids, SpanKind.SAMPLED, 3))
    trajectory = one.model_copy(update={"messages": (one.messages[0], said, one.messages[2], said)})
    trajectory = trajectory.model_copy(update={"branches": (first, second), "reward": 1.0})
    write_trajectories(tmp_path / "e.parquet", [trajectory])
    out = tmp_path / "rows.jsonl"
    assert run(tmp_path / "e.parquet", "--to", "skyrl", "--out", out, "--model", smollm2_dir) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["is_last_step"] for row in rows] == [False, True]
    assert [sum(row["loss_masks"]) for row in rows] == [len(ids), len(ids)]
    assert [sum(row["world_loss_masks"]) for row in rows] == [len(told), 0]
    assert rows[0]["trajectory_ids"] == rows[1]["trajectory_ids"]


def test_what_cannot_be_exported_is_named_and_the_rest_is_written(
    tmp_path: Path, smollm2_dir: Path, capsys: pytest.CaptureFixture[str]
):
    """Catches one episode that costs the others, or is lost in silence; its id cannot drive the terminal."""
    bad = episode("bad\x1b[2J", temperatures=(0.5, 1.0))
    write_trajectories(tmp_path / "e.parquet", [bad, episode("good")])
    out = tmp_path / "rows.jsonl"
    assert run(tmp_path / "e.parquet", "--to", "verl", "--out", out, "--model", smollm2_dir) == 0
    said = capsys.readouterr()
    assert "1 of 2 trajectories" in said.out
    assert "not exported: bad" in said.err
    assert "sampled at temperatures" in said.err
    assert "\x1b[2J" not in said.err


def test_a_target_of_tokens_needs_a_model(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a traceback where a word would do, and a file that appears all the same."""
    assert run(file, "--to", "trl", "--out", tmp_path / "rows.jsonl") == 1
    assert "name the model whose tokenizer makes them with --model" in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


def test_what_stands_there_is_replaced_only_on_request(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches an export over somebody's work: other files in a folder are never removed."""
    out = tmp_path / "out"
    assert run(file, "--to", "atif", "--out", out) == 0
    assert run(file, "--to", "atif", "--out", out) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert run(file, "--to", "atif", "--out", out, "--overwrite") == 0
    (out / "notes.txt").write_text("mine")
    assert run(file, "--to", "atif", "--out", out, "--overwrite") == 1
    assert "'notes.txt' in it" in capsys.readouterr().err
    assert (out / "notes.txt").exists()
    assert run(file, "--to", "atif", "--out", tmp_path / "out.json") == 1
    assert "ends in .jsonl, or a folder" in capsys.readouterr().err


def test_an_export_of_nothing_is_an_error_and_leaves_what_stood_there(
    tmp_path: Path, smollm2_dir: Path, capsys: pytest.CaptureFixture[str]
):
    """Catches an empty file in the place of a good one."""
    write_trajectories(tmp_path / "e.parquet", [episode("one")])
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    args = ("--to", "openenv-trace", "--out", out, "--model", smollm2_dir, "--overwrite")
    assert run(tmp_path / "e.parquet", *args) == 1
    assert "no turn has sampled ids with log-probs" in capsys.readouterr().err
    assert out.read_text() == "old\n"
    assert not list(tmp_path.glob("*.tmp"))
