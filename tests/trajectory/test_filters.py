"""Filters of a store: the same rows as a loop over all of them, without decoding what is dropped."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envecho.errors import ConfigError
from envecho.trajectory import Message, SampledTokens, Segment, Source, Trajectory
from envecho.trajectory import store as store_module
from envecho.trajectory.branches import ExactBranch, SpanKind, TokenSpan
from envecho.trajectory.columns import encode_batch, row_bytes, trajectory_bytes
from envecho.trajectory.filters import TrajectoryFilter
from envecho.trajectory.store import TrajectoryWriter, read_batches, read_trajectories, write_trajectories

SOURCES = (Source.STDOUT, Source.STDERR, Source.POLICY)
TASKS = ("a", "b", "ä")
FORMATS = ("atif", "messages")


def trajectory(number: int, task: str, reward: float | None, sources: list[Source], form: str | None) -> Trajectory:
    sampled = SampledTokens(token_ids=tuple(range(number % 3))) if number % 2 else None
    span = TokenSpan(end=number, kind=SpanKind.SCAFFOLD)
    branches = (ExactBranch(token_ids=tuple(range(number)), spans=(span,)),) if number % 4 == 3 else ()
    return Trajectory(
        id=str(number),
        task_id=task,
        reward=reward,
        messages=tuple(
            Message(role="user", segments=(Segment(source=source, text="é" * number),), sampled=sampled)
            for source in sources
        ),
        metadata={"import": {"format": form}} if form else {"note": "import"},
        branches=branches,
    )


rows = st.lists(
    st.tuples(
        st.sampled_from(TASKS),
        st.none() | st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
        st.lists(st.sampled_from(SOURCES), max_size=3),
        st.none() | st.sampled_from(FORMATS),
    ),
    max_size=12,
)
wheres = st.builds(
    TrajectoryFilter,
    task_ids=st.none() | st.sets(st.sampled_from((*TASKS, "zz"))),
    min_reward=st.none() | st.sampled_from([-1.0, 0.0]),
    max_reward=st.none() | st.sampled_from([0.5, 1.0]),
    sources=st.none() | st.sets(st.sampled_from(SOURCES)),
    formats=st.none() | st.sets(st.sampled_from(FORMATS)),
)


def passes(one: Trajectory, where: TrajectoryFilter) -> bool:
    """The filter, one trajectory at a time."""
    if where.task_ids is not None and one.task_id not in where.task_ids:
        return False
    if (where.min_reward is not None or where.max_reward is not None) and one.reward is None:
        return False
    if where.min_reward is not None and one.reward < where.min_reward:  # type: ignore[operator]
        return False
    if where.max_reward is not None and one.reward > where.max_reward:  # type: ignore[operator]
        return False
    found = {segment.source for message in one.messages for segment in message.segments}
    if where.sources is not None and not found & set(where.sources):
        return False
    return where.formats is None or one.metadata.get("import", {}).get("format") in where.formats


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=rows, where=wheres, group=st.integers(1, 5))
def test_a_filter_keeps_what_a_loop_over_everything_keeps(tmp_path: Path, rows, where, group, monkeypatch):
    """Catches a row group that is skipped although it holds a match, masks off by one batch, and unknown rewards."""
    monkeypatch.setattr(store_module, "_ROWS_PER_GROUP", group)
    monkeypatch.setattr(store_module, "_ROWS_PER_READ", 2)
    everything = [trajectory(number, *row) for number, row in enumerate(rows)]
    write_trajectories(tmp_path / "x.parquet", everything)
    expected = [one for one in everything if passes(one, where)]
    assert list(read_trajectories(tmp_path / "x.parquet", where=where)) == expected
    ids = [one for batch in read_batches(tmp_path / "x.parquet", where=where, columns=["id"]) for one in batch[0]]
    assert [one.as_py() for one in ids] == [one.id for one in expected]


def test_no_message_of_a_dropped_row_is_decoded(tmp_path: Path):
    """Catches a filter that decodes everything first: the dropped row here would not decode."""
    good, bad = trajectory(1, "a", 1.0, [Source.STDOUT], None), trajectory(2, "b", 0.0, [Source.STDOUT], None)
    write_trajectories(tmp_path / "x.parquet", [good, bad])
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    table[1]["messages"][0]["role"] = "nobody"
    batch = encode_batch([good, bad])
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(table, schema=batch.schema), tmp_path / "x.parquet")
    assert list(read_trajectories(tmp_path / "x.parquet", where=TrajectoryFilter(min_reward=0.5))) == [good]


@pytest.mark.parametrize("name", ["x.parquet", "shards"])
@pytest.mark.parametrize("group", [3, 256])
def test_rows_that_come_in_batches_make_the_same_bytes(tmp_path: Path, name: str, group: int, monkeypatch):
    """Catches files that depend on how many processes imported them, or on how large their batches were."""
    monkeypatch.setattr(store_module, "_ROWS_PER_GROUP", group)
    monkeypatch.setattr(store_module, "_BYTES_PER_GROUP", 500)
    everything = [
        trajectory(n, TASKS[n % 3], None if n % 5 == 0 else n / 7, list(SOURCES[: n % 4]), FORMATS[n % 2])
        for n in range(40)
    ]
    shard = None if name.endswith("parquet") else 7
    with TrajectoryWriter(tmp_path / "one" / name, rows_per_shard=shard) as writer:
        for one in everything:
            writer.write(one)
    for size in (1, 5, 40):
        out = tmp_path / f"batches-of-{size}"
        with TrajectoryWriter(out / name, rows_per_shard=shard) as writer:
            writer.write(everything[0])
            for start in range(1, 40, size):
                writer.write_batch(encode_batch(everything[start : start + size]))
        assert writer.num_written == 40
        files = {
            path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.parquet")
        }
        assert files == {path.relative_to(out): path.read_bytes() for path in out.rglob("*.parquet")}
        assert len(files) == (1 if shard is None else 6)


@settings(max_examples=60, deadline=None)
@given(rows=rows)
def test_sizes_of_columns_are_sizes_of_trajectories(rows):
    """Catches two definitions of a row's size, after which row groups of one and many processes differ."""
    everything = [trajectory(number, *row) for number, row in enumerate(rows)]
    assert row_bytes(encode_batch(everything)) == [trajectory_bytes(one) for one in everything]


def test_what_no_filter_can_mean_is_refused():
    """Catches a misspelt source and a text in place of a list, which would match nothing in silence."""
    with pytest.raises(ConfigError, match="Did you mean 'stdout'"):
        TrajectoryFilter(sources={"stdot"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected several values"):
        TrajectoryFilter(task_ids="a")
    with pytest.raises(ConfigError, match="no reward passes"):
        TrajectoryFilter(min_reward=1.0, max_reward=0.0)
