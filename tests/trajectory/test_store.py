"""The Parquet store: what goes in comes out, whole or not at all, in constant memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envecho.errors import ConfigError, DataError
from envecho.trajectory import Message, SampledTokens, Segment, Source, StopReason, ToolCall, Trajectory
from envecho.trajectory.schema import SCHEMA, encode
from envecho.trajectory.store import TrajectoryWriter, read_trajectories, write_trajectories

texts = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_tables = st.dictionaries(texts, json_values, max_size=3)
token_ids = st.integers(0, 2**31 - 1)
logprobs = st.floats(max_value=0, allow_nan=False, allow_infinity=False)


@st.composite
def sampled_tokens(draw) -> SampledTokens:
    ids = draw(st.lists(token_ids, max_size=4))
    known = draw(st.booleans())
    values = draw(st.lists(logprobs, min_size=len(ids), max_size=len(ids))) if known else None
    return SampledTokens(token_ids=ids, logprobs=values, temperature=draw(st.none() | st.just(0.8)))


messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    segments=st.lists(
        st.builds(Segment, source=st.sampled_from(list(Source)), text=texts, tool=st.none() | texts), max_size=3
    ),
    reasoning=st.none() | texts,
    tool_calls=st.lists(st.builds(ToolCall, name=texts, arguments=texts, id=st.none() | texts), max_size=2),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
    sampled=st.none() | sampled_tokens(),
    labels=st.dictionaries(texts, texts, max_size=2),
)
trajectories = st.builds(
    Trajectory,
    id=texts,
    task_id=texts,
    messages=st.lists(messages, max_size=4),
    group_id=st.none() | texts,
    tools=st.lists(json_tables, max_size=2),
    reward=st.none() | st.floats(allow_nan=False),
    stop_reason=st.sampled_from(list(StopReason)),
    metadata=json_tables,
)


def episode(number: int, text: str = "2 errors\n") -> Trajectory:
    """A short episode with one action and one observation."""
    return Trajectory(
        id=f"episode-{number}",
        task_id="count-errors",
        messages=(
            Message(role="user", segments=(Segment(source=Source.TASK, text="How many errors?"),)),
            Message(
                role="assistant",
                segments=(Segment(source=Source.POLICY, text="grep -c ERROR a.log"),),
                sampled=SampledTokens(token_ids=(7, 8), logprobs=(-0.5, -0.25), temperature=1.0),
            ),
            Message(
                role="user",
                segments=(Segment(source=Source.STDOUT, text=text), Segment(source=Source.STATUS, text="[exit 0]")),
                labels={"view": "derivable", "operation": "count"},
            ),
        ),
        reward=1.0,
        stop_reason=StopReason.COMPLETED,
        metadata={"seed": number},
    )


def rewrite(path: Path, change) -> None:
    """Pass the table of a file through `change` and write it back."""
    pq.write_table(change(pq.read_table(path)), path)


# --- round trip ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trajectories, max_size=3))
def test_any_trajectory_comes_back_equal(tmp_path_factory, written: list[Trajectory]):
    """Catches a lost None, an empty list that turns into None, a rounded log-prob, text that changes."""
    path = tmp_path_factory.mktemp("store") / "t.parquet"
    assert write_trajectories(path, written) == len(written)
    assert list(read_trajectories(path)) == written


def test_log_probs_keep_every_bit(tmp_path: Path):
    """Catches storage as 32-bit floats: importance ratios need what the sampler said."""
    value = -0.1234567890123456789
    sampled = SampledTokens(token_ids=(1,), logprobs=(value,), temperature=0.7)
    message = Message(role="assistant", segments=(), sampled=sampled)
    write_trajectories(tmp_path / "t.parquet", [Trajectory(id="a", task_id="b", messages=(message,))])
    (back,) = read_trajectories(tmp_path / "t.parquet")
    assert back.messages[0].sampled is not None
    assert back.messages[0].sampled.logprobs == (value,)


def test_a_folder_holds_shards_of_the_asked_size_and_reads_in_order(tmp_path: Path):
    """Catches a shard that is one row too long, an empty last shard, and shards read in directory order."""
    with TrajectoryWriter(tmp_path / "episodes", rows_per_shard=2) as writer:
        for number in range(6):
            writer.write(episode(number))
    names = sorted(file.name for file in (tmp_path / "episodes").iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [t.metadata["seed"] for t in read_trajectories(tmp_path / "episodes")] == list(range(6))


def test_lists_and_globs_read_in_the_order_given(tmp_path: Path):
    """Catches a glob taken as a literal name, and a list that is sorted behind the caller's back."""
    for number in (1, 2, 3):
        write_trajectories(tmp_path / f"{number}.parquet", [episode(number)])
    found = read_trajectories([tmp_path / "3.parquet", str(tmp_path / "[12].parquet")])
    assert [t.metadata["seed"] for t in found] == [3, 1, 2]


def test_nothing_written_reads_back_as_nothing(tmp_path: Path):
    """Catches a writer without rows that leaves no file, so that the next step fails with 'no such file'."""
    for path in (tmp_path / "empty.parquet", tmp_path / "empty"):
        assert write_trajectories(path, []) == 0
        assert list(read_trajectories(path)) == []


# --- whole or not at all ------------------------------------------------------------------------------------------


def test_an_exception_keeps_complete_shards_and_no_temporary(tmp_path: Path):
    """Catches a half shard under a final name, and temporaries that pile up after failed runs."""

    def episodes_of_a_world_that_breaks():
        yield from (episode(number) for number in range(3))
        raise RuntimeError("the world broke")

    with pytest.raises(RuntimeError, match="the world broke"), TrajectoryWriter(tmp_path, rows_per_shard=2) as writer:
        list(map(writer.write, episodes_of_a_world_that_breaks()))
    assert [file.name for file in tmp_path.iterdir()] == ["part-00000.parquet"]
    assert len(list(read_trajectories(tmp_path))) == 2


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path):
    """Catches a writer that truncates the file in place before the new one is whole."""
    path = tmp_path / "t.parquet"
    write_trajectories(path, [episode(1)])

    def broken():
        yield episode(2)
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError):
        write_trajectories(path, broken())
    assert [t.id for t in read_trajectories(path)] == ["episode-1"]


KILLED_WRITER = """
import os, signal, sys
from envecho.trajectory import Message, Segment, Trajectory
from envecho.trajectory.store import TrajectoryWriter
with TrajectoryWriter(sys.argv[1], rows_per_shard=300) as writer:
    for number in range(1000):
        message = Message(role="user", segments=(Segment(source="stdout", text="x" * 100),))
        writer.write(Trajectory(id=str(number), task_id="t", messages=(message,)))
        if number == 880:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_only_whole_shards_under_final_names(tmp_path: Path):
    """Catches shards written in place: after a kill the last one would be cut and carry a final name."""
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert sorted(file.name for file in tmp_path.glob("*.parquet")) == ["part-00000.parquet", "part-00001.parquet"]
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    assert [t.id for t in read_trajectories(tmp_path)] == [str(number) for number in range(600)]


# --- torn shards --------------------------------------------------------------------------------------------------


@pytest.fixture
def torn_folder(tmp_path: Path) -> Path:
    """Three shards of which the middle one is cut short."""
    with TrajectoryWriter(tmp_path, rows_per_shard=1) as writer:
        for number in range(3):
            writer.write(episode(number))
    os.truncate(tmp_path / "part-00001.parquet", 500)
    return tmp_path


def test_a_torn_shard_is_reported_by_name_and_skipped(torn_folder: Path):
    """Catches one cut file that stops a run over a thousand, and one that vanishes without a word."""
    reported: list[DataError] = []
    found = [t.id for t in read_trajectories(torn_folder, on_torn=reported.append)]
    assert found == ["episode-0", "episode-2"]
    assert [error.file for error in reported] == [torn_folder / "part-00001.parquet"]
    with pytest.warns(UserWarning, match=r"part-00001\.parquet"):
        assert len(list(read_trajectories(torn_folder / "*.parquet"))) == 2


def test_a_torn_file_that_was_named_is_an_error(torn_folder: Path):
    """Catches a reader that answers 'no trajectories' for the one file that the user asked for."""
    with pytest.raises(DataError, match=r"part-00001\.parquet.*torn after row 0"):
        list(read_trajectories(torn_folder / "part-00001.parquet"))


def test_a_flipped_byte_is_found(tmp_path: Path):
    """Catches a file without page checksums, whose damaged text would become training targets."""
    write_trajectories(tmp_path / "t.parquet", [episode(number) for number in range(20)])
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    text = next(column for column in columns if column.path_in_schema.endswith("segments.list.element.text"))
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[text.dictionary_page_offset + text.total_compressed_size - 2] ^= 1
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(DataError, match="torn"):
        list(read_trajectories(tmp_path / "t.parquet"))


# --- refusals -----------------------------------------------------------------------------------------------------


def test_an_unknown_column_is_refused_by_name(tmp_path: Path):
    """Catches a reader that drops a column which it does not know."""
    path = tmp_path / "t.parquet"
    write_trajectories(path, [episode(1)])
    rewrite(path, lambda table: table.append_column("rewards", pa.array([1.0])))
    with pytest.raises(DataError, match=r"t\.parquet: unknown column 'rewards'. Did you mean 'reward'\?"):
        list(read_trajectories(path))


def test_an_unknown_field_inside_a_message_is_refused_by_name(tmp_path: Path):
    """Catches a check of the top level alone: a new field of a segment would be lost."""
    segments = pa.list_(pa.struct([("source", pa.string()), ("text", pa.string()), ("colour", pa.string())]))
    kind = pa.list_(pa.struct([("role", pa.string()), ("segments", segments)]))
    rows = [{**encode(episode(1)), "messages": [{"role": "user", "segments": []}]}]
    fields = [pa.field("messages", kind) if field.name == "messages" else field for field in SCHEMA]
    schema = pa.schema(fields, metadata=SCHEMA.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"(unknown column 'messages\.segments\.colour'|'messages\.reasoning' is missing)"
    ):
        list(read_trajectories(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"envecho.format": "envecho.trajectory", "envecho.version": "4"}, "version 1 to 3, found 4; upgrade"),
        ({"envecho.format": "envecho.trajectory"}, "version 1 to 3, found none"),
        ({"envecho.format": "other"}, "expected format 'envecho.trajectory'.*found 'other'"),
        ({}, "found 'none'; bring foreign traces in with `envecho import`"),
    ],
)
def test_other_formats_and_newer_versions_are_refused(tmp_path: Path, metadata: dict[str, str], message: str):
    """Catches a reader that takes any Parquet file with the right column names."""
    path = tmp_path / "t.parquet"
    write_trajectories(path, [episode(1)])
    rewrite(path, lambda table: table.replace_schema_metadata(metadata))
    with pytest.raises(DataError, match=message):
        list(read_trajectories(path))


def test_an_unknown_source_is_an_error_that_names_the_trajectory(tmp_path: Path):
    """Catches a traceback of the validation library in place of file and record."""
    rows = [encode(episode(1))]
    rows[0]["messages"][0]["segments"][0]["source"] = "stdoot"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: trajectory 'episode-1' does not fit"):
        list(read_trajectories(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"when": object()}},
        {"metadata": {"loss": float("nan")}},
        {"metadata": {"by_step": {1: "a"}}},
        {"metadata": {"half": "\ud800"}},
        {"id": "half \ud800"},
        {"messages": (Message(role="assistant", segments=(), sampled=SampledTokens(token_ids=(2**31,))),)},
    ],
)
def test_what_cannot_come_back_is_refused_when_it_is_written(tmp_path: Path, change: dict[str, object]):
    """Catches values that change on the way: number keys that become text, NaN that is no JSON, half characters."""
    bad = episode(1).model_copy(update=change)
    with pytest.raises(DataError, match="trajectory"):
        write_trajectories(tmp_path / "t.parquet", [bad])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_path_says_what_was_missing(tmp_path: Path):
    """Catches an empty run in place of an error for a mistyped path, and an error that waits for the first row."""
    for path, message in [("none.parquet", "no such file"), ("*.parquet", "no file matches"), ("", "without Parquet")]:
        with pytest.raises(DataError, match=message):
            read_trajectories(str(tmp_path / path))


def test_a_writer_does_not_mix_with_older_shards(tmp_path: Path):
    """Catches a second run into one folder, whose shards would be read together with the first run's."""
    write_trajectories(tmp_path / "episodes", [episode(1)])
    with pytest.raises(DataError, match="holds Parquet files already"):
        write_trajectories(tmp_path / "episodes", [episode(2)])


def test_rows_per_shard_needs_a_folder(tmp_path: Path):
    """Catches an option that is ignored without a word."""
    for path, rows in [("t.parquet", 10), ("episodes", 0)]:
        with pytest.raises(ConfigError, match="rows_per_shard"):
            TrajectoryWriter(tmp_path / path, rows_per_shard=rows)


# --- size, and other readers --------------------------------------------------------------------------------------

STREAM = """
import resource, sys
from envecho.trajectory import Message, Segment, Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories
def rows(count):
    for number in range(count):
        message = Message(role="user", segments=(Segment(source="stdout", text=f"{number} " * 30_000),))
        yield Trajectory(id=str(number), task_id="t", messages=(message,))
count = int(sys.argv[2])
assert write_trajectories(sys.argv[1], rows(count)) == count
assert sum(1 for _ in read_trajectories(sys.argv[1])) == count
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path):
    """Catches a writer or reader that gathers the whole file: 100 MB of text against 25 MB of it."""
    peaks: list[int] = []
    for count in (200, 900):
        out = subprocess.check_output([sys.executable, "-c", STREAM, str(tmp_path / f"{count}.parquet"), str(count)])
        peaks.append(int(out))
    assert peaks[1] - peaks[0] < 40, f"peak RSS in MiB: {peaks}"


def test_datasets_opens_the_file_with_nested_columns(tmp_path: Path, monkeypatch):
    """Catches an Arrow type that the `datasets` library cannot hold, such as a map."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import Dataset

    write_trajectories(tmp_path / "t.parquet", [episode(number) for number in range(3)])
    table = Dataset.from_parquet(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(table, Dataset)
    assert table.column_names == SCHEMA.names
    row = table[2]
    assert row["id"] == "episode-2"
    assert row["messages"][2]["segments"][0] == {"source": "stdout", "text": "2 errors\n", "tool": None}
    assert row["messages"][1]["sampled"]["logprobs"] == [-0.5, -0.25]
    assert json.loads(row["metadata"]) == {"seed": 2}


def test_duckdb_counts_environment_text_by_source(tmp_path: Path):
    """Catches columns that a query cannot reach: the shards of a folder are one table with typed, nested fields."""
    import duckdb

    with TrajectoryWriter(tmp_path / "episodes", rows_per_shard=2) as writer:
        for number in range(3):
            writer.write(episode(number))
    query = f"""
        with messages as (select unnest(messages) as message from '{tmp_path}/episodes/*.parquet'),
             segments as (select unnest(message.segments) as segment from messages)
        select segment.source, count(*), sum(length(segment.text)) from segments group by 1 order by 1
    """
    assert duckdb.sql(query).fetchall() == [("policy", 3, 57), ("status", 3, 24), ("stdout", 3, 27), ("task", 3, 48)]
    labels = (
        f"select distinct json_extract_string(messages[3].labels, '$.operation') from '{tmp_path}/episodes/*.parquet'"
    )
    assert duckdb.sql(labels).fetchall() == [("count",)]
