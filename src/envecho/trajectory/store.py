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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envecho.errors import ConfigError, DataError
from envecho.trajectory.columns import conform, row_bytes, trajectory_bytes
from envecho.trajectory.filters import TrajectoryFilter
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
    beside them under a name that ends in `.tmp`, which no reader takes. A single file is replaced when the new one is
    whole; `overwrite` removes the shards of an earlier writer before the first is written.

    Example:
        with TrajectoryWriter("episodes", rows_per_shard=1000) as writer:
            writer.write(trajectory)

    Raises:
        ConfigError: `rows_per_shard` for a single file, or below 1.
        DataError: the folder holds Parquet files already, or a trajectory that cannot be stored.
    """

    def __init__(self, path: str | Path, rows_per_shard: int | None = None, *, overwrite: bool = False) -> None:
        self._path = Path(path)
        self._overwrite = overwrite
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
            old = list(self._path.glob("part-*.parquet")) if self._overwrite else []
            if set(self._path.glob("*.parquet")) - set(old):
                raise DataError("holds Parquet files already; write to a new folder or remove them", file=self._path)
            for shard in old:
                shard.unlink()
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._shard = self._open()
        return self

    def write(self, trajectory: Trajectory) -> None:
        """Add one trajectory; it is on disk for good when its shard is full or the block ends."""
        self._room().write(trajectory)
        self.num_written += 1

    def write_batch(self, rows: pa.RecordBatch) -> None:
        """Add rows as `read_batches` yields them; the file is the same as if each had been written by itself."""
        sizes, done = row_bytes(rows), 0
        while done < rows.num_rows:
            shard = self._room()
            end = min(rows.num_rows, done + self._rows_per_shard - shard.num_rows) if self._sharded else rows.num_rows
            shard.write_rows(rows.slice(done, end - done), sizes[done:end])
            done = end
        self.num_written += rows.num_rows

    def _room(self) -> _ShardFile:
        """The file that the next row goes to."""
        if self._shard is None:
            raise ValueError("expected to be inside the writer's `with` block")
        if self._sharded and self._shard.num_rows == self._rows_per_shard:
            self._shard.finish()
            self._num_shards += 1
            self._shard = self._open()
        return self._shard

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
        self._batches: list[pa.RecordBatch] = []
        self._num_buffered = self._num_buffered_bytes = 0
        self.num_rows = 0

    def write(self, trajectory: Trajectory) -> None:
        self._rows.append(encode(trajectory))
        self._count(trajectory_bytes(trajectory))

    def write_rows(self, rows: pa.RecordBatch, sizes: list[int]) -> None:
        self._settle()
        start = 0
        for place, size in enumerate(sizes, start=1):
            if self._num_buffered + 1 == _ROWS_PER_GROUP or self._num_buffered_bytes + size >= _BYTES_PER_GROUP:
                self._batches.append(rows.slice(start, place - start))
                start = place
            self._count(size)
        if start < rows.num_rows:
            self._batches.append(rows.slice(start))

    def _count(self, size: int) -> None:
        """Count one more row, and write the row group when it is full."""
        self.num_rows += 1
        self._num_buffered += 1
        self._num_buffered_bytes += size
        if self._num_buffered == _ROWS_PER_GROUP or self._num_buffered_bytes >= _BYTES_PER_GROUP:
            self._flush()

    def _settle(self) -> None:
        """Put single rows behind the batches, so that order is kept."""
        if self._rows:
            self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def _flush(self) -> None:
        self._settle()
        if self._batches:
            # One chunk, so that the bytes do not depend on how the rows came.
            self._parquet.write_table(pa.Table.from_batches(self._batches).combine_chunks())
        self._batches = []
        self._num_buffered = self._num_buffered_bytes = 0

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
    paths: str | Path | Iterable[str | Path],
    *,
    where: TrajectoryFilter | None = None,
    on_torn: Callable[[DataError], None] | None = None,
) -> Iterator[Trajectory]:
    """Stream the trajectories of files, folders (their `*.parquet`, by name) and globs, in this order.

    Memory is bounded by one row group of one file, however many there are. A torn shard (cut short or damaged) in a
    folder or glob is reported by name and skipped: to `on_torn`, else as a warning. A file that is named itself is
    never skipped. Of rows that `where` drops, no message is decoded; row groups without a match are not read.

    Raises:
        DataError: nothing there, a torn file that was named itself, another format, a newer version, an unknown
            column, or a row that does not fit the record.
    """
    found = _stream(_files(paths), on_torn or _warn, lambda file: _read_file(file, where))
    return (decode(row, file) for file, batch in found for row in batch.to_pylist())


def read_batches(
    paths: str | Path | Iterable[str | Path],
    *,
    where: TrajectoryFilter | None = None,
    columns: Sequence[str] | None = None,
    on_torn: Callable[[DataError], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows that `read_trajectories` would decode, as Arrow batches of at most 64; `columns`: only these.

    Rows of earlier versions come in the columns of this one, unless `columns` are chosen.

    Raises:
        DataError: as `read_trajectories`.
    """
    found = _stream(_files(paths), on_torn or _warn, lambda file: _read_file(file, where, columns))
    return (batch if columns else conform(batch, file) for file, batch in found)


def count_trajectories(paths: str | Path | Iterable[str | Path]) -> int:
    """Return how many trajectories files, folders and globs hold, from the files' footers; torn files count as 0.

    Raises:
        DataError: nothing there.
    """
    total = 0
    for file, _ in _files(paths):
        with contextlib.suppress(pa.ArrowException, OSError):
            total += pq.read_metadata(file).num_rows
    return total


def _files(paths: str | Path | Iterable[str | Path]) -> list[tuple[Path, bool]]:
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    return [entry for path in several for entry in _resolve(path)]


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


_Read = Callable[[Path], Iterator[pa.RecordBatch]]


def _stream(
    files: list[tuple[Path, bool]], on_torn: Callable[[DataError], None], read: _Read
) -> Iterator[tuple[Path, pa.RecordBatch]]:
    for file, may_skip in files:
        try:
            for batch in read(file):
                yield file, batch
        except _Torn as torn:
            error = DataError(f"{torn}; remove the file, or make it again", file=file)
            if not may_skip:
                raise error from torn
            on_torn(error)


def _read_file(
    file: Path, where: TrajectoryFilter | None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    num_read = 0
    with file.open("rb") as handle:
        try:
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
            check_schema(parquet.schema_arrow, file)
            for group in range(parquet.num_row_groups):
                kept = None if where is None else _kept(parquet, group, where)
                if kept is None or kept.any():
                    yield from _batches(parquet, group, kept, columns)
                num_read += parquet.metadata.row_group(group).num_rows
        except (pa.ArrowException, OSError) as error:
            raise _Torn(f"expected a whole Parquet file, found one torn after row {num_read} ({error})") from error


def _kept(parquet: pq.ParquetFile, group: int, where: TrajectoryFilter) -> NDArray[np.bool_]:
    """Mask `[row]` of the rows of a row group that pass, from the few columns that decide."""
    if not where.may_match(parquet.metadata.row_group(group)):
        return np.zeros(0, dtype=np.bool_)
    if not where.columns:
        return np.ones(parquet.metadata.row_group(group).num_rows, dtype=np.bool_)
    return where.mask(parquet.read_row_group(group, columns=where.columns))


def _batches(
    parquet: pq.ParquetFile, group: int, kept: NDArray[np.bool_] | None, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    done = 0
    chosen = None if columns is None else list(columns)
    for batch in parquet.iter_batches(batch_size=_ROWS_PER_READ, row_groups=[group], columns=chosen):
        mask = None if kept is None else kept[done : done + batch.num_rows]
        done += batch.num_rows
        if mask is None or mask.all():
            yield batch
        elif mask.any():
            yield batch.filter(pa.array(mask))
