"""Trajectories at rest: Parquet files of one row per trajectory, streamed in and out in constant memory.

A file appears under its name only when it is whole: it is written to a temporary name, synced and renamed. Not here:
the columns (`schema`) and foreign formats (`envecho.formats`).
"""

from __future__ import annotations

import contextlib
import glob
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from envecho.errors import ConfigError, DataError
from envecho.trajectory.record import Trajectory
from envecho.trajectory.schema import SCHEMA, check_schema, decode, encode

ROWS_PER_SHARD = 10_000
_ROWS_PER_GROUP = 256
_BYTES_PER_GROUP = 8 * 2**20
_ROWS_PER_READ = 64


class TrajectoryWriter:
    """Writes trajectories to one `.parquet` file, or to a folder of shards: `part-00000.parquet`, `part-00001.parquet`.

    A path that ends in `.parquet` is a file; any other is a folder, which must hold no Parquet file yet. When the block
    ends by an exception, the shards that were complete stay and the unfinished one is removed; after a kill it lies
    beside them under a name that ends in `.tmp`, which no reader takes.

    Example:
        with TrajectoryWriter("episodes", rows_per_shard=1000) as writer:
            writer.write(trajectory)

    Raises:
        ConfigError: `rows_per_shard` for a single file, or below 1.
        DataError: the folder holds Parquet files already, or a trajectory that cannot be stored.
    """

    def __init__(self, path: str | Path, rows_per_shard: int | None = None) -> None:
        self._path = Path(path)
        self._sharded = self._path.suffix != ".parquet"
        if rows_per_shard is not None and (not self._sharded or rows_per_shard < 1):
            raise ConfigError(
                f"rows_per_shard is {rows_per_shard} for {self._path}: it takes a number from 1 on, and a folder; "
                "a path that ends in .parquet is one file"
            )
        self._rows_per_shard = rows_per_shard or ROWS_PER_SHARD
        self._shard: _ShardFile | None = None
        self._num_shards = 0
        self.num_written = 0

    def __enter__(self) -> Self:
        if self._sharded:
            self._path.mkdir(parents=True, exist_ok=True)
            if any(self._path.glob("*.parquet")):
                raise DataError("holds Parquet files already; write to a new folder or remove them", file=self._path)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._shard = self._open()
        return self

    def write(self, trajectory: Trajectory) -> None:
        """Add one trajectory; it is on disk for good when its shard is full or the block ends."""
        if self._shard is None:
            raise ValueError("expected to be inside the writer's `with` block")
        if self._sharded and self._shard.num_rows == self._rows_per_shard:
            self._shard.finish()
            self._num_shards += 1
            self._shard = self._open()
        self._shard.write(trajectory)
        self.num_written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        try:
            if error is None:
                shard.finish()
        finally:
            shard.discard()

    def _open(self) -> _ShardFile:
        return _ShardFile(self._path / f"part-{self._num_shards:05d}.parquet" if self._sharded else self._path)


class _ShardFile:
    """One file in the making: rows wait here until they fill a row group, so memory is bounded by one row group."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        self._file = self._temporary.open("xb")
        self._parquet = pq.ParquetWriter(self._file, SCHEMA, compression="zstd", write_page_checksum=True)
        self._rows: list[dict[str, Any]] = []
        self._num_buffered_bytes = 0
        self.num_rows = 0

    def write(self, trajectory: Trajectory) -> None:
        self._rows.append(encode(trajectory))
        self._num_buffered_bytes += _approximate_bytes(trajectory)
        self.num_rows += 1
        if len(self._rows) == _ROWS_PER_GROUP or self._num_buffered_bytes >= _BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._num_buffered_bytes = [], 0

    def finish(self) -> None:
        """Write what waits, sync the file to disk and give it its name."""
        self._flush()
        self._parquet.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Remove the file unless it has its name already."""
        with contextlib.suppress(OSError):  # a full disk may refuse the footer of a file that goes away anyway
            self._parquet.close()
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def _approximate_bytes(trajectory: Trajectory) -> int:
    text = sum(len(segment.text) for message in trajectory.messages for segment in message.segments)
    ids = sum(len(message.sampled.token_ids) for message in trajectory.messages if message.sampled)
    ids += sum(len(branch.token_ids) for branch in trajectory.branches)
    return text + 12 * ids


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> int:
    """Write all trajectories to a file or folder, as `TrajectoryWriter` does, and return how many they were."""
    with TrajectoryWriter(path) as writer:
        for trajectory in trajectories:
            writer.write(trajectory)
    return writer.num_written


class _Torn(Exception):
    """A file that is no whole Parquet file."""


def read_trajectories(
    paths: str | Path | Iterable[str | Path], *, on_torn: Callable[[DataError], None] | None = None
) -> Iterator[Trajectory]:
    """Stream the trajectories of files, folders (their `*.parquet`, by name) and globs, in this order.

    Memory is bounded by one row group of one file, however many there are. A torn shard (cut short or damaged) in a
    folder or glob is reported by name and skipped: to `on_torn`, else as a warning. A file that is named itself is
    never skipped.

    Raises:
        DataError: nothing there, a torn file that was named itself, another format, a newer version, an unknown
            column, or a row that does not fit the record.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [entry for path in several for entry in _resolve(path)]
    return _stream(files, on_torn or _warn)


def _warn(error: DataError) -> None:
    warnings.warn(f"skipped a torn shard: {error}", stacklevel=3)


def _resolve(path: str | Path) -> list[tuple[Path, bool]]:
    """Return the files that a path names, and for each whether it may be skipped where it is torn."""
    if Path(path).is_file():
        return [(Path(path), False)]
    if Path(path).is_dir():
        found = sorted(Path(path).glob("*.parquet"))
        missing = "a folder without Parquet files; expected `*.parquet` in it"
    elif any(sign in str(path) for sign in "*?["):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        missing = "no file matches; check the pattern"
    else:
        found, missing = [], "no such file or folder; check the path"
    if not found:
        raise DataError(missing, file=path)
    return [(file, True) for file in found]


def _stream(files: list[tuple[Path, bool]], on_torn: Callable[[DataError], None]) -> Iterator[Trajectory]:
    for file, may_skip in files:
        try:
            yield from _read_file(file)
        except _Torn as torn:
            error = DataError(f"{torn}; remove the file, or make it again", file=file)
            if not may_skip:
                raise error from torn
            on_torn(error)


def _read_file(file: Path) -> Iterator[Trajectory]:
    num_read = 0
    with file.open("rb") as handle:
        try:
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
            check_schema(parquet.schema_arrow, file)
            for batch in parquet.iter_batches(batch_size=_ROWS_PER_READ):
                for row in batch.to_pylist():
                    yield decode(row, file)
                    num_read += 1
        except (pa.ArrowException, OSError) as error:
            raise _Torn(f"expected a whole Parquet file, found one torn after row {num_read} ({error})") from error
