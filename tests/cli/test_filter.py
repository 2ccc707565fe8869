"""`envecho filter`: stores copied by conditions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["filter", *map(str, args)])
    return int(ended.value.code or 0)


def store(path: Path) -> Path:
    sources = (Source.STDOUT, Source.STDERR)
    write_trajectories(
        path,
        [
            Trajectory(
                id=str(k),
                task_id=f"task-{k % 3}",
                reward=None if k == 5 else k % 2,
                messages=(Message(role="user", segments=(Segment(source=sources[k // 3], text="x"),)),),
                metadata={"import": {"format": "atif" if k < 2 else "messages"}},
            )
            for k in range(6)
        ],
    )
    return path


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], "012345"),
        (["--min-reward", 1], "13"),
        (["--max-reward", 0], "024"),
        (["--task", "task-0", "--task", "task-1"], "0134"),
        (["--source", "stderr", "--min-reward", 0], "34"),
        (["--format", "atif"], "01"),
    ],
)
def test_what_passes_every_condition_is_copied(tmp_path: Path, options: list[object], kept: str):
    """Catches an option that does not reach the filter, or one that is an alternative to another."""
    out = tmp_path / "out.parquet"
    assert run(store(tmp_path / "x.parquet"), "--out", out, *options) == 0
    everything = {t.id: t for t in read_trajectories(tmp_path / "x.parquet")}
    assert list(read_trajectories(out)) == [everything[k] for k in kept]


def test_stores_are_joined_counted_and_never_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a file that is replaced unasked, by nothing, or by itself."""
    one, out = store(tmp_path / "x.parquet"), tmp_path / "out.parquet"
    assert run(one, one, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"num_read": 12, "num_written": 12}
    assert run(one, "--out", out) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert run(one, "--out", out, "--overwrite", "--task", "none") == 1
    assert "none of 6 trajectories passes" in capsys.readouterr().err
    assert run(one, "--out", one, "--overwrite") == 1
    assert "choose another --out" in capsys.readouterr().err
    assert run(one, "--out", out, "--overwrite", "--source", "stdot") == 1
    assert "Did you mean 'stdout'" in capsys.readouterr().err
    assert len(list(read_trajectories(out))) == 12
    assert run(one, "--out", out, "--overwrite", "--min-reward", 1) == 0
    assert "2 of 6 trajectories" in capsys.readouterr().out
