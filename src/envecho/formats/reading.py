"""Files of any packing as JSON documents: folders, globs, `.zip`, `.gz`, JSON, JSON lines, Parquet, YAML cassettes.

What a file is, its content says and never its name. A row that cannot be read is reported with file and line, and the
others go on. Not here: what a document means (`detect` and the formats).
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from envecho.errors import DataError
from envecho.formats import folders

MAX_LINE_BYTES = 128 * 2**20
MAX_DOCUMENT_BYTES = 2**30
_LFS = b"version https://git-lfs"
_LINES_TO_TRY = 5
_CASSETTE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:version: \d+\s+)?interactions:")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One JSON value. `file` is the path, with `!MEMBER` for a member of an archive; `line` counts from 1."""

    file: str
    data: Any
    line: int | None = None

    @property
    def place(self) -> str:
        """File and line, as errors and ids name them."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An episode that could not be read, among others of its file that can: a reader of sessions yields it."""

    document: Document
    error: DataError


MALFORMED: Final = (
    DataError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RecursionError
)  # fmt: skip
"""What reading an episode raises where it is not what its format says."""


def refuse(document: Document, error: Exception, *, place: str = "") -> Refused:
    """Return the episode as refused; `place` says which it is in a document of many."""
    if not isinstance(error, DataError):
        error = DataError(f"a field is not what the format says: {type(error).__name__}: {error}")
    return Refused(document=document, error=DataError(f"{place}: {error}") if place else error)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that could not be imported: where, what was expected, and what was found; of how many lines."""

    file: str
    message: str
    line: int | None = None
    num_lines: int = 1

    def __str__(self) -> str:
        """The place and the message in one line."""
        more = f" (and {self.num_lines - 1} more lines)" if self.num_lines > 1 else ""
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.message}{more}"


OnProblem = Callable[[Problem], None]
InputFile = tuple[Path, str, bool]
"""A file, the label that names it, and whether the user named it itself."""


def expand(paths: Sequence[str | Path]) -> list[InputFile]:
    """Return (file, label, whether it was named itself) for paths, folders and globs, in order, each file once.

    Labels are the paths from the folder that holds all of them; they name episodes on any machine alike.

    Raises:
        DataError: a path does not exist, or nothing matches.
    """
    found: dict[Path, bool] = {}
    for given in map(str, paths):
        path = Path(given)
        if path.is_dir():
            files = [(file, False) for file in folders.inside(path)]
        elif path.exists():
            files = [(path, True)]
        else:
            files = [(Path(name), True) for name in sorted(glob.glob(given, recursive=True)) if Path(name).is_file()]
        if not files:
            raise DataError("expected a file, a folder with files or a glob that matches, found none", file=given)
        for file, named in files:
            whole = file.resolve()
            found[whole] = found.get(whole, False) or named
    folder = os.path.commonpath([str(file.parent) for file in found])
    return [(file, Path(os.path.relpath(file, folder)).as_posix(), named) for file, named in found.items()]


def read_documents(
    path: Path, on_problem: OnProblem, *, label: str | None = None, named: bool = True
) -> Iterator[Document]:
    """Yield the documents of a file; what cannot be read goes to `on_problem`, under `label` or the path.

    `named` False, for files of a folder, passes over files that hold no JSON at all (pictures, logs).
    """
    name = label or str(path)
    try:
        if path.is_dir() and path.name == "agent-logs":
            yield Document(file=name, data=folders.agent_logs(path))
        elif path.is_dir():
            for event in folders.event_files(path):
                yield from read_documents(event, on_problem, label=f"{name}/{event.name}", named=named)
        else:
            with path.open("rb") as file:
                yield from _stream(file, name, on_problem, named=named)
    except OSError as error:
        on_problem(Problem(file=name, message=f"cannot be read: {error.strerror or error}"))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        on_problem(Problem(file=name, message=f"the archive is broken or cut short: {error}"))


def _stream(file: IO[bytes], name: str, on_problem: OnProblem, *, named: bool) -> Iterator[Document]:
    head = file.read(512)
    file.seek(0)
    if head.startswith(_LFS):
        message = "this is a Git LFS pointer, not the data: run `git lfs pull` where it came from"
        on_problem(Problem(file=name, message=message))
    elif head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from _stream(cast("IO[bytes]", unpacked), name, on_problem, named=named)
    elif head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    yield from _member(archive, member, name, on_problem)
    elif head.startswith(b"PAR1"):
        yield from _parquet_rows(file, name, on_problem)
    elif not head.strip():
        if named:
            on_problem(Problem(file=name, message="the file is empty"))
    elif _CASSETTE.match(head):
        yield from _cassette(file, name, on_problem)
    elif _may_be_json(head):
        yield from _json(file, name, on_problem)
    elif _has_broken_start(head):
        yield from _lines(file, name, on_problem)
    elif named:
        on_problem(Problem(file=name, message=f"expected JSON, JSON lines, Parquet or an archive, found {head[:20]!r}"))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, on_problem: OnProblem) -> Iterator[Document]:
    place = f"{name}!{member.filename}"
    if member.file_size > MAX_DOCUMENT_BYTES:
        on_problem(Problem(file=place, message=f"{member.file_size} bytes, at most {MAX_DOCUMENT_BYTES} are read"))
        return
    try:
        data = archive.read(member)
    except (NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        on_problem(
            Problem(file=place, message=f"cannot be unpacked ({error}); unpack it by hand and import the folder")
        )
        return
    yield from _stream(io.BytesIO(data), place, on_problem, named=False)


def _may_be_json(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _has_broken_start(head: bytes) -> bool:
    """Whether lines of JSON objects follow on first lines that are none."""
    return any(line.lstrip().startswith(b'{"') for line in head.split(b"\n")[1 : _LINES_TO_TRY + 1])


def _json(file: IO[bytes], name: str, on_problem: OnProblem) -> Iterator[Document]:
    """A JSON document, or JSON lines: where the first line is a whole value and another follows."""
    first = file.readline(MAX_LINE_BYTES + 1)
    second = file.readline(MAX_LINE_BYTES + 1)
    while second and not second.strip():
        second = file.readline(MAX_LINE_BYTES + 1)
    file.seek(0)
    if len(first) > MAX_LINE_BYTES or (
        second and (_is_value(first) or _is_closed(first) or (first.strip()[:1] == b"{" and _is_value(second)))
    ):
        yield from _lines(file, name, on_problem)
        return
    data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        on_problem(
            Problem(file=name, message=f"one JSON document of over {MAX_DOCUMENT_BYTES} bytes; write JSON lines")
        )
        return
    value, problem = _parse(data)
    if problem is None:
        yield Document(file=name, data=value)
    else:
        on_problem(Problem(file=name, message=problem))


def _is_closed(line: bytes) -> bool:
    """Whether a line begins and ends as a value does, so that it is one, whatever is wrong inside."""
    text = line.strip()
    return len(text) > 1 and text[:1] + text[-1:] in (b"{}", b"[]")


def _is_value(line: bytes) -> bool:
    value, problem = _parse(line)
    return problem is None and isinstance(value, dict | list)


def _lines(file: IO[bytes], name: str, on_problem: OnProblem) -> Iterator[Document]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            message = f"the line has over {MAX_LINE_BYTES} bytes; write one trajectory per line or file"
            on_problem(Problem(file=name, line=number, message=message))
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)
            continue
        if not line.strip():
            continue
        value, problem = _parse(line)
        if problem is None:
            yield Document(file=name, line=number, data=value)
        else:
            on_problem(Problem(file=name, line=number, message=problem))


def _parse(data: bytes) -> tuple[Any, str | None]:
    """Return the value, or what is wrong with it."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a half of a surrogate pair is no text
        return value, None
    except UnicodeEncodeError as error:
        found = str(error.object)[error.start : error.start + 1]
        return None, f"holds half of a surrogate pair ({found!r}), which is no text; decode with errors='replace'"
    except UnicodeDecodeError as error:
        return None, f"expected {encoding}, found the byte 0x{data[error.start]:02x} at byte {error.start}"
    except json.JSONDecodeError as error:
        cut = " (the file may be cut short)" if error.pos >= len(error.doc.rstrip()) - 1 else ""
        return None, f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}{cut}"
    except (ValueError, RecursionError) as error:
        return None, f"no JSON that can be read: {error}"


def _parquet_rows(file: IO[bytes], name: str, on_problem: OnProblem) -> Iterator[Document]:
    """The rows of a data set; those of our own files are refused, they need no import."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        if (parquet.schema_arrow.metadata or {}).get(b"envecho.format"):
            on_problem(Problem(file=name, message="this is an envecho file already; no import is needed"))
            return
        number = 0
        for batch in parquet.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield Document(file=name, line=number, data=row)
    except (pa.ArrowException, OSError) as error:
        on_problem(Problem(file=name, message=f"the Parquet file cannot be read: {error}"))


def _cassette(file: IO[bytes], name: str, on_problem: OnProblem) -> Iterator[Document]:
    """Recorded HTTP exchanges with a model's API (VCR), which are YAML."""
    import yaml

    try:
        yield Document(file=name, data=yaml.safe_load(file.read(MAX_DOCUMENT_BYTES)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        on_problem(Problem(file=name, message=f"no YAML that can be read: {error}"))
