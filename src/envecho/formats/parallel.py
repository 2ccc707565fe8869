"""`import_batches`: what `import_traces` yields, as rows of the store, read by several processes.

    files --> parcels of neighbouring files --> one process each --> Arrow files on disk --> rows, in the order of files

A parcel's rows wait on disk until those before it are taken, so memory does not grow with the work that is done ahead;
how far ahead is bounded too. A file is never cut: sessions and growing rows need their neighbours, so one large file
is the work of one process. Not here: what a file means (`importing`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.ipc

from envecho.errors import ConfigError, DataError, EnvechoError
from envecho.formats.assemble import ImportOptions
from envecho.formats.importing import ImportReport, chosen_formats, read_file
from envecho.formats.reading import InputFile, Problem, expand
from envecho.trajectory import Trajectory
from envecho.trajectory.columns import trajectory_bytes
from envecho.trajectory.schema import SCHEMA, encode

_FILES_PER_PARCEL: Final = 64
_BYTES_PER_PARCEL: Final = 4 * 2**20
_ROWS_PER_BATCH: Final = 64
_BYTES_PER_BATCH: Final = 2 * 2**20
_PARCELS_PER_WORKER: Final = 2
_PARCELS_AHEAD: Final = 8
_FEW_FILES: Final = 8
_FEW_BYTES: Final = 16 * 2**20


def import_batches(
    paths: Sequence[str | Path],
    report: ImportReport,
    *,
    format: str | None = None,
    options: ImportOptions | None = None,
    num_workers: int | None = None,
    spool: Path | None = None,
) -> Generator[pa.RecordBatch]:
    """Yield the rows of all trajectories of files, folders and globs, for `TrajectoryWriter.write_batch`.

    Rows, their order and the report are the same for any number of processes. A trajectory that cannot be stored is a
    problem in the report. Processes are spawned: a script that calls this with more than one worker needs the usual
    `if __name__ == "__main__":`, and a hook in `options` must be picklable.

    Args:
        num_workers: processes; None: one per core for over 8 files of together over 16 MiB, else this process alone.
        spool: the folder where results wait on disk; None: the system's for temporary files.

    Raises:
        ConfigError: the format is unknown.
        DataError: a path does not exist, or a process failed or was killed; it names the file.
    """
    chosen_formats(format)
    work = _Work(format=format, options=options or ImportOptions())
    files = expand(paths)
    num_workers = default_workers(files) if num_workers is None else num_workers
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}, expected at least 1")
    parcels = _parcels(files)
    if num_workers == 1:
        yield from _grouped(_rows_of_all(files, work, report))
        return
    if spool is not None:
        spool.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="envecho-import-", dir=spool, ignore_cleanup_errors=True) as folder,
        contextlib.closing(_Pool(work, parcels, Path(folder), min(num_workers, len(parcels)))) as pool,
    ):
        for number in range(len(parcels)):
            yield from pool.take(number)
            for part in pool.reports.pop(number):
                report.merge(part)


def default_workers(files: Sequence[InputFile]) -> int:
    """Return one process for a handful of files or little text, else one per core that this process may use."""
    if len(files) <= _FEW_FILES or sum(_size(path) for path, _, _ in files) <= _FEW_BYTES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it will say what is wrong


def _parcels(files: Sequence[InputFile]) -> list[list[InputFile]]:
    """Neighbouring files that one process reads in a row, so that thousands of small files cost no round trip each."""
    parcels: list[list[InputFile]] = []
    num_bytes = 0
    for file in files:
        size = _size(file[0])
        if not parcels or len(parcels[-1]) == _FILES_PER_PARCEL or num_bytes + size > _BYTES_PER_PARCEL:
            parcels.append([])
            num_bytes = 0
        parcels[-1].append(file)
        num_bytes += size
    return parcels


_Row = tuple[dict[str, object], int]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """How files are read."""

    format: str | None
    options: ImportOptions

    def rows(self, file: InputFile, report: ImportReport) -> Iterator[_Row]:
        """Yield row and size of each trajectory of a file that can be stored."""
        for trajectory in read_file(file, report, format=self.format, options=self.options):
            try:
                row = encode(trajectory)
            except DataError as error:
                report.problems.append(_problem(trajectory, error))
                continue
            report.add(trajectory)
            yield row, trajectory_bytes(trajectory)


def _problem(trajectory: Trajectory, error: DataError) -> Problem:
    facts = trajectory.metadata["import"]
    return Problem(file=facts["file"], line=facts.get("line"), message=str(error))


def _rows_of_all(files: Sequence[InputFile], work: _Work, report: ImportReport) -> Iterator[_Row]:
    for file in files:
        part = ImportReport()
        yield from work.rows(file, part)
        report.merge(part)


def _grouped(rows: Iterator[_Row]) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, object]] = []
    num_bytes = 0
    for row, size in rows:
        held.append(row)
        num_bytes += size
        if len(held) == _ROWS_PER_BATCH or num_bytes >= _BYTES_PER_BATCH:
            yield pa.RecordBatch.from_pylist(held, schema=SCHEMA)
            held, num_bytes = [], 0
    if held:
        yield pa.RecordBatch.from_pylist(held, schema=SCHEMA)


@dataclass(frozen=True, kw_only=True)
class _Begun:
    label: str


@dataclass(frozen=True, kw_only=True)
class _Done:
    number: int
    reports: list[ImportReport]


@dataclass(frozen=True, kw_only=True)
class _Failed:
    """`error` is one of ours and says enough; of any other there is the traceback."""

    label: str
    error: EnvechoError | None
    traceback: str


def _spool_file(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.arrow"


def _serve(connection: Connection, work: _Work, parcels: Sequence[list[InputFile]], folder: Path) -> None:
    """What a process does: numbers of parcels in, Arrow files on disk and reports out, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    label = ""
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        reports: list[ImportReport] = []

        def rows(files: list[InputFile], reports: list[ImportReport]) -> Iterator[_Row]:
            nonlocal label
            for file in files:
                label = file[1]
                connection.send(_Begun(label=label))
                reports.append(ImportReport())
                yield from work.rows(file, reports[-1])

        try:
            options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
            path = str(_spool_file(folder, number))
            with pa.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, SCHEMA, options=options) as stream:
                for batch in _grouped(rows(parcels[number], reports)):
                    stream.write_batch(batch)
            connection.send(_Done(number=number, reports=reports))
        except EnvechoError as error:
            connection.send(_Failed(label=label, error=error, traceback=""))
        except BrokenPipeError:
            return
        except Exception:
            # The parent raises it with the file's name; here nobody would see it.
            connection.send(_Failed(label=label, error=None, traceback=traceback.format_exc()))


@dataclass(kw_only=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    waiting: list[int] = field(default_factory=list[int])
    label: str = ""


class _Pool:
    """The processes, and which parcel each of them has; `reports[number]` of parcels that are done."""

    def __init__(self, work: _Work, parcels: list[list[InputFile]], folder: Path, num_workers: int) -> None:
        self.reports: dict[int, list[ImportReport]] = {}
        self._parcels, self._folder = parcels, folder
        self._next = 0
        self._ahead = _PARCELS_AHEAD * num_workers
        self._workers: list[_Worker] = []
        context = multiprocessing.get_context("spawn")  # a fork copies the locks of threads that it does not copy
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, parcels, folder), daemon=True)
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                self.close()
                raise ConfigError(
                    f"the options cannot be handed to another process: {error}; use functions of modules, or one worker"
                ) from error
            theirs.close()
            self._workers.append(_Worker(process=process, connection=ours))

    def take(self, number: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a parcel when it is done; meanwhile, and between batches, the processes get new work."""
        self._give(number)
        while number not in self.reports:
            self._listen(None)
            self._give(number)
        path = _spool_file(self._folder, number)
        with pa.OSFile(str(path), "rb") as source, pyarrow.ipc.open_stream(source) as stream:
            for batch in stream:
                yield batch
                self._listen(0)
                self._give(number)
        path.unlink()

    def _give(self, wanted: int) -> None:
        while self._next < min(len(self._parcels), wanted + self._ahead):
            worker = min(self._workers, key=lambda one: len(one.waiting))
            if len(worker.waiting) >= _PARCELS_PER_WORKER:
                return
            try:
                worker.connection.send(self._next)
            except OSError:
                raise self._died(worker) from None
            worker.waiting.append(self._next)
            self._next += 1

    def _listen(self, seconds: float | None) -> None:
        for ready in wait([worker.connection for worker in self._workers], seconds):
            worker = next(one for one in self._workers if one.connection is ready)
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                raise self._died(worker) from None
            if isinstance(message, _Begun):
                worker.label = message.label
            elif isinstance(message, _Done):
                worker.waiting.pop(0)
                self.reports[message.number] = message.reports
            elif message.error is not None:
                raise message.error
            else:
                raise DataError(
                    "reading this file failed in a way that envecho did not foresee; please report it with this\n"
                    + message.traceback,
                    file=message.label,
                )

    def _died(self, worker: _Worker) -> DataError:
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        label = worker.label or (self._parcels[worker.waiting[0]][0][1] if worker.waiting else None)
        return DataError(
            f"the process that read this file {how} (SIGKILL is often too little memory); nothing is kept of this "
            "import, so import again with fewer --workers",
            file=label,
        )

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
