"""`envecho split`: files between which nothing leaks, with what was done in split.json."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.recipes.split import SplitPlan, split_store
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.splits import keys_of
from envecho.trajectory.store import read_trajectories, write_trajectories

SPLITS = ("train", "validation", "held_out")


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["split", *map(str, args)])
    return int(ended.value.code or 0)


def sentence(rng: random.Random, num_words: int) -> str:
    return " ".join(f"w{rng.randrange(10**7)}" for _ in range(num_words))


def episode(identity: str, task: str, text: str, seen: str = "ok", **facts: str) -> Trajectory:
    parts = (("user", Source.TASK, text), ("assistant", Source.POLICY, "ls"), ("user", Source.STDOUT, seen))
    messages = tuple(Message(role=role, segments=(Segment(source=s, text=t),)) for role, s, t in parts)  # type: ignore[arg-type]
    return Trajectory(id=identity, task_id=task, messages=messages, metadata={"import": facts})


def store(path: Path, num_tasks: int = 60) -> list[Trajectory]:
    """Tasks of 6 repositories with 3 rollouts each; every tenth task is written again under another name."""
    rng = random.Random(5)
    found: list[Trajectory] = []
    for task in range(num_tasks):
        text = "You are an agent.\n" + sentence(rng, 60)
        for rollout in range(3):
            found.append(
                episode(f"{task}-{rollout}", f"o__r{task % 6}-{task}", text, sentence(rng, 40), session_id=f"s{task}")
            )
        if task % 10 == 0:
            changed = " ".join(["changed" if place == 20 else word for place, word in enumerate(text.split(" "))])
            found.append(episode(f"copy-{task}", f"renamed {task}", changed, sentence(rng, 40)))
    rng.shuffle(found)
    write_trajectories(path, found)
    return found


@pytest.mark.parametrize(("by", "kept"), [("task", "task"), ("repository", "repo"), ("session", "task")])
def test_nothing_is_shared_between_splits(tmp_path: Path, by: str, kept: str):
    """Catches a task, a repository or a reworded task that stands in training and in the held-out file."""
    everything = store(tmp_path / "all.parquet")
    plan = SplitPlan(shares={"held_out": 0.2, "validation": 0.2}, by=by, seed=3)  # type: ignore[arg-type]
    document = split_store([tmp_path / "all.parquet"], tmp_path / "out", plan)
    parts = {name: list(read_trajectories(tmp_path / "out" / f"{name}.parquet")) for name in SPLITS}
    assert sorted((t for part in parts.values() for t in part), key=lambda t: t.id) == sorted(
        everything, key=lambda t: t.id
    )
    order = {t.id: place for place, t in enumerate(everything)}
    home: dict[str, set[str]] = {}
    for name, part in parts.items():
        assert [order[t.id] for t in part] == sorted(order[t.id] for t in part)
        assert document["splits"][name]["num_trajectories"] == len(part)
        assert abs(len(part) / len(everything) - document["splits"][name]["wanted_share"]) < 0.1
        for t in part:
            number = t.id.removeprefix("copy-").split("-")[0]
            home.setdefault(f"task {number}", set()).add(name)
            if kept == "repo":
                home.setdefault(f"repo {int(number) % 6}", set()).add(name)
    assert all(len(names) == 1 for names in home.values())
    assert document["near_duplicates"]["num_merges"] == 6
    assert json.loads((tmp_path / "out" / "split.json").read_text()) == document


def test_a_split_is_the_same_again_and_another_with_another_seed(tmp_path: Path):
    """Catches an order of sets or of hashes that differs from one process to the next."""
    store(tmp_path / "all.parquet")
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(tmp_path / "all.parquet", "--out", tmp_path / out, "--by", "task", "--seed", seed) == 0
    files = {out: (tmp_path / out / "held_out.parquet").read_bytes() for out in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert (tmp_path / "a" / "split.json").read_bytes() == (tmp_path / "b" / "split.json").read_bytes()
    assert not (tmp_path / "a" / "validation.parquet").exists()


def test_short_tasks_are_told_apart_by_what_was_observed(tmp_path: Path):
    """Catches a game whose every episode begins with the same words taken for one task."""
    rng = random.Random(0)
    games = [episode(str(k), f"game {k}", "Play.", sentence(rng, 50)) for k in range(20)]
    write_trajectories(
        tmp_path / "x.parquet", [*games, episode("same", "other", "Play.", games[0].messages[2].content)]
    )
    document = split_store([tmp_path / "x.parquet"], tmp_path / "out", SplitPlan(shares={"held_out": 0.2}))
    assert (document["num_groups"], document["near_duplicates"]["num_merges"]) == (20, 1)


def test_one_huge_group_is_said_and_an_empty_split_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a held-out file of a tenth of what was asked for, or of nothing, without a word."""
    rng = random.Random(0)
    huge = [episode(f"h{k}", "huge", sentence(rng, 40)) for k in range(80)]
    small = [episode(f"s{k}", f"small {k}", sentence(rng, 40)) for k in range(2)]
    write_trajectories(tmp_path / "x.parquet", [*huge, *small])
    assert run(tmp_path / "x.parquet", "--out", tmp_path / "out", "--held-out", 0.2) == 0
    said = capsys.readouterr()
    assert "held_out has 2.4% and not 20.0%" in said.err
    assert "of 'h0', holds 97.6%" in said.err
    assert run(tmp_path / "x.parquet", "--out", tmp_path / "out", "--overwrite", "--held-out", 0.001) == 1
    assert "held_out would be empty: 82 trajectories make 3 groups" in capsys.readouterr().err
    assert len(list(read_trajectories(tmp_path / "out" / "held_out.parquet"))) == 2


def test_what_cannot_be_split_so_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches shares beyond the whole, a key that nothing states, and a split that is replaced unasked."""
    rng = random.Random(0)
    write_trajectories(tmp_path / "x.parquet", [episode(str(k), str(k), sentence(rng, 40)) for k in range(20)])
    for options, error in [
        (["--held-out", 1.5], "expected each above 0"),
        (["--held-out", 0.6, "--validation", 0.5], "all together below 1"),
        (["--similarity", 0.5], "expected above 0.75"),
        (["--by", "repository"], "no trajectory states its repository"),
    ]:
        assert run(tmp_path / "x.parquet", "--out", tmp_path / "out", *options) == 1
        assert error in capsys.readouterr().err
    assert run(tmp_path / "x.parquet", "--out", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == "envecho.split"
    assert run(tmp_path / "x.parquet", "--out", tmp_path / "out") == 1
    assert "pass --overwrite" in capsys.readouterr().err


def test_repositories_are_known_of_what_was_imported(tmp_path: Path):
    """Catches an importer that drops the column or the session's remote by which a data set must be split."""
    from envecho.formats import ImportReport, import_traces

    chat = [{"role": "user", "content": "Fix it."}, {"role": "assistant", "content": "ls"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"repo": f"O/r{k}", "messages": chat}) for k in range(3)))
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ls"}]}
    lines = [
        {"type": "session_meta", "payload": {"id": "s", "git": {"repository_url": "https://github.com/o/r1.git"}}},
        {"type": "response_item", "payload": {"type": "message", "role": "user", "content": chat[0]["content"]}},
        {"type": "response_item", "payload": said},
    ]
    (tmp_path / "session.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = import_traces([tmp_path / "rows.jsonl", tmp_path / "session.jsonl"], ImportReport())
    keys = [keys_of(t.id, t.task_id, t.group_id, t.metadata) for t in found]
    assert [key["repository"] for key in keys] == [["o/r0"], ["o/r1"], ["o/r2"], ["o/r1"]]
