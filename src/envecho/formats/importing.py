"""`import_traces`: files of any known format -> trajectories, with everything that was refused and what was found.

The format of a document is recognised by its content. A list of documents (rows of a data set) is read row by row, and
a bad row is reported while the others go on. Not here: writing the store (`envecho.trajectory.store`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from envecho.errors import ConfigError, did_you_mean
from envecho.formats import harbor_results, inspect_logs, refused, rfc010
from envecho.formats.assemble import ImportOptions
from envecho.formats.known import FORMATS, Format, Recognise
from envecho.formats.message_rows import decoded
from envecho.formats.reading import MALFORMED, Document, InputFile, Problem, Refused, expand, read_documents, refuse
from envecho.formats.redaction import redacted
from envecho.trajectory import Role, Trajectory

_MOST_LINES = 50_000
_SHOWN_LINES = 8


@dataclass(kw_only=True)
class ImportReport:
    """What an import found; `repeated_lines` are the commonest lines of observations that no rule cut.

    `num_growing_rows` counts rows that the next row of their file repeats and continues; the longest is kept.
    `redacted` are secrets by kind; `num_redacted_in_ids` of them still stand in trajectories with exact ids, and
    `num_calls_not_searched` calls of a model have ids without a text to search.
    """

    num_files: int = 0
    num_trajectories: int = 0
    num_messages: int = 0
    num_observations: int = 0
    num_observations_without_rule: int = 0
    num_turns_of_a_person: int = 0
    num_parts_dropped: int = 0
    num_growing_rows: int = 0
    num_trajectories_redacted: int = 0
    num_trajectories_not_searched: int = 0
    num_redacted_in_ids: int = 0
    num_calls_not_searched: int = 0
    redacted: Counter[str] = field(default_factory=Counter[str])
    formats: Counter[str] = field(default_factory=Counter[str])
    characters: Counter[str] = field(default_factory=Counter[str])
    problems: list[Problem] = field(default_factory=list[Problem])
    lines: Counter[str] = field(default_factory=Counter[str])

    def repeated_lines(self) -> list[tuple[str, int]]:
        """Return the commonest lines and in how many observations they stood, those of three and more."""
        return [(line, count) for line, count in self.lines.most_common(_SHOWN_LINES) if count >= 3]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values; of the lines the repeated ones."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return counts | {
            "formats": dict(self.formats),
            "redacted": dict(self.redacted),
            "characters": dict(self.characters),
            "repeated_lines": [list(pair) for pair in self.repeated_lines()],
            "problems": [vars(problem) for problem in self.problems],
        }

    def add(self, trajectory: Trajectory) -> None:
        """Count one trajectory."""
        facts = trajectory.metadata["import"]
        self.num_trajectories += 1
        self.num_messages += len(trajectory.messages)
        self.formats[facts["format"]] += 1
        self.num_turns_of_a_person += facts["num_turns_of_a_person"]
        self.num_parts_dropped += facts["num_parts_dropped"]
        self.num_observations_without_rule += facts["num_observations_without_rule"]
        self._add_redacted(facts)
        for message in trajectory.messages:
            bodies = [segment for segment in message.segments if segment.source.role is Role.ENV_OUTPUT]
            self.num_observations += any(bodies)
            for segment in message.segments:
                self.characters[segment.source.value] += len(segment.text)
            if len(bodies) == len(message.segments):
                found = [line for segment in bodies for line in segment.text.splitlines() if 8 <= len(line) <= 200]
                self.lines.update(dict.fromkeys(found, 1))  # in order, so that ties fall alike in every process
        self._forget_rare_lines()

    def _add_redacted(self, facts: Mapping[str, Any]) -> None:
        self.redacted.update(facts.get("redacted", {}))
        self.num_trajectories_redacted += bool(facts.get("redacted"))
        self.num_trajectories_not_searched += "redacted" not in facts
        self.num_redacted_in_ids += facts.get("num_redacted_in_ids", 0)
        self.num_calls_not_searched += facts.get("num_calls_without_text", 0) if "redacted" in facts else 0

    def merge(self, later: ImportReport) -> None:
        """Add what was found in the files behind those of this report; one report per file, merged in order, is exact.

        Raises:
            TypeError: a field that nobody said how to merge.
        """
        for item in fields(self):
            mine, other = getattr(self, item.name), getattr(later, item.name)
            if isinstance(mine, int | float):
                setattr(self, item.name, mine + other)
            elif isinstance(mine, Counter):
                mine.update(other)
            elif isinstance(mine, list):
                mine.extend(other)
            else:
                raise TypeError(f"expected a number, Counter or list in {item.name}, found {type(mine).__name__}")
        self._forget_rare_lines()

    def _forget_rare_lines(self) -> None:
        if len(self.lines) > _MOST_LINES:
            self.lines = Counter(dict(self.lines.most_common(_MOST_LINES // 2)))


def import_traces(
    paths: Sequence[str | Path],
    report: ImportReport,
    *,
    format: str | None = None,
    options: ImportOptions | None = None,
) -> Iterator[Trajectory]:
    """Yield the trajectories of files, folders and globs, in order; `report` grows by a file when that file is read.

    Args:
        paths: what to read; files of a folder that hold no JSON are passed over.
        report: counts, and every file and row that was refused, with its reason.
        format: a name in `FORMATS`; None recognises each document by its content.
        options: the user's rules, and whose words user turns after an answer are.

    Raises:
        ConfigError: the format is unknown.
        DataError: a path does not exist.
    """
    chosen_formats(format)
    for file in expand(paths):
        part = ImportReport()
        try:
            for trajectory in read_file(file, part, format=format, options=options or ImportOptions()):
                part.add(trajectory)
                yield trajectory
        finally:
            report.merge(part)


def read_file(
    file: InputFile, report: ImportReport, *, format: str | None, options: ImportOptions
) -> Iterator[Trajectory]:
    """Yield the trajectories of one file; `report` gets everything but what `ImportReport.add` counts.

    Raises:
        ConfigError: the format is unknown.
    """
    reader = _Reader(chosen_formats(format), options, report)
    report.num_files += 1
    path, label, named = file
    held: Trajectory | None = None
    for found in reader.episodes(read_documents(path, report.problems.append, label=label, named=named)):
        trajectory = harbor_results.with_result(found, path)
        if held is not None and _continues(trajectory, held):
            report.num_growing_rows += 1
        elif held is not None and _continues(held, trajectory):  # an export that begins with its longest row
            report.num_growing_rows += 1
            continue
        elif held is not None:
            yield redacted(held, options.redactor)
        held = trajectory
    if held is not None:
        yield redacted(held, options.redactor)


def chosen_formats(format: str | None) -> dict[str, Format]:
    """Return the format of this name; all of them for None.

    Raises:
        ConfigError: there is no such format.
    """
    if format is None:
        return dict(FORMATS)
    if format not in FORMATS:
        raise ConfigError(f"no format {format!r}; known: {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}")
    return {format: FORMATS[format]}


def _continues(longer: Trajectory, shorter: Trajectory) -> bool:
    """Whether one row of a file repeats the one before and goes on: exports with a row per step."""
    if longer.task_id != shorter.task_id or len(longer.messages) <= len(shorter.messages) or shorter.branches:
        return False
    if rfc010.KEY in shorter.metadata["import"]:  # such a file says itself what an episode is
        return False
    pairs = zip(longer.messages, shorter.messages, strict=False)
    return all((a.role, a.content, a.tool_calls) == (b.role, b.content, b.tool_calls) for a, b in pairs)


class _Reader:
    """Turns the documents of a file into episodes; a session's lines are read together."""

    def __init__(self, formats: Mapping[str, Format], options: ImportOptions, report: ImportReport) -> None:
        self._formats, self._options, self._report = formats, options, report

    def episodes(self, documents: Iterator[Document]) -> Iterator[Trajectory]:
        """Yield the episodes of one file; what cannot be read is reported."""
        waiting = next(documents, None)
        while waiting is not None:
            first, waiting = waiting, None
            if "!" in first.file and inspect_logs.is_part(first.data):
                waiting = next(documents, None)
                continue
            found = self._find(first.data)
            if found is not None and found.read_lines and found.recognises_line and isinstance(first.data, Mapping):
                session = _Session(first, documents, found.recognises_line)
                yield from self._guarded(first, None, found.read_lines(session, self._options))
                waiting = session.rest()
                continue
            for row, number in _rows(first, found):
                yield from self._document(row, number)
            waiting = next(documents, None)
            while waiting is not None and refused.goes_on(first.data, waiting.data):
                waiting = next(documents, None)

    def _find(self, data: Any) -> Format | None:
        return next((format for format in self._formats.values() if format.recognises(data)), None)

    def _column(self, document: Document) -> tuple[Document, Format] | None:
        """A trace that stands in a column of a row, as a value or as JSON text."""
        row = document.data if isinstance(document.data, Mapping) else {}
        for value in row.values():
            inner = decoded(value)
            if isinstance(inner, Mapping | list) and (found := self._find(inner)) is not None:
                return replace(document, data=inner), found
        return None

    def _document(self, document: Document, number: int | None) -> Iterator[Trajectory]:
        found = self._find(document.data)
        if found is None and (why := refused.reason(document.data)) is not None:
            self._problem(document, number, why)
            return
        if found is None and (inner := self._column(document)) is not None:
            document, found = inner
        if found is not None and found.read is not None:
            yield from self._guarded(document, number, found.read(document, self._options, number=number))
            return
        expected = (
            f"one of {', '.join(self._formats)}"
            if len(self._formats) > 1
            else f"the format {next(iter(self._formats))}"
        )
        self._problem(document, number, f"expected {expected}; found {_looks_like(document.data)}")

    def _guarded(
        self, document: Document, number: int | None, found: Iterator[Trajectory | Refused] | Iterator[Trajectory]
    ) -> Iterator[Trajectory]:
        num_found = 0
        try:
            for trajectory in found:
                num_found += 1
                if isinstance(trajectory, Refused):
                    self._problem(trajectory.document, None, str(trajectory.error))
                else:
                    yield trajectory
        except MALFORMED as error:
            # A reader may believe a type: the row is reported like any other that is not what its format says.
            self._problem(document, number, str(refuse(document, error).error))
        else:
            if not num_found:
                self._problem(document, number, "expected at least one answer of a model, found none")

    def _problem(self, document: Document, number: int | None, message: str) -> None:
        """Report it; a run of lines with the same problem is one entry."""
        text = message if number is None else f"row {number}: {message}"
        problems = self._report.problems
        last = problems[-1] if problems else None
        if last and last.line and document.line and (last.file, last.message) == (document.file, text):
            problems[-1] = replace(last, num_lines=last.num_lines + 1)
        else:
            problems.append(Problem(file=document.file, line=document.line, message=text))


class _Session:
    """The lines of one session, read as they are asked for; the line behind it is kept."""

    def __init__(self, first: Document, documents: Iterator[Document], recognises_line: Recognise) -> None:
        self._first, self._documents, self._recognises_line = first, documents, recognises_line
        self._behind: Document | None = None

    def __iter__(self) -> Iterator[Document]:
        yield self._first
        for document in self._documents:
            if not self._recognises_line(document.data):
                self._behind = document
                return
            yield document

    def rest(self) -> Document | None:
        """Return the first line that is not of the session; lines that a failed reader left are passed over."""
        while self._behind is None:
            document = next(self._documents, None)
            if document is None or not self._recognises_line(document.data):
                return document
        return self._behind


def _rows(document: Document, found: Format | None) -> Iterator[tuple[Document, int | None]]:
    """A list of documents is read one by one; a list that is one document, such as messages, as it is."""
    data = document.data
    if found is None and isinstance(data, list) and data and all(isinstance(row, Mapping | list) for row in data):
        for number, row in enumerate(data):
            yield Document(file=document.file, line=document.line, data=row), number
    else:
        yield document, None


def _looks_like(data: Any) -> str:
    if isinstance(data, Mapping):
        keys = ", ".join(sorted(map(str, data))[:8])
        return f"an object with the keys {keys}" if keys else "an empty object"
    return f"a list of {len(data)}" if isinstance(data, list) else f"{type(data).__name__} {data!r:.40}"
