"""The probes `file_exists` and `line_count`: a command that nobody ran, appended to a real history.

`file_exists` asks `ls -d PATH` and compares the answer of a path that exists, `PATH`, with the error of one that does
not. The same command is asked whatever is true. `line_count` asks `wc -l FILE` right after the file was shown whole.
The last newline is in no answer: some harnesses strip it.
What is true is proved by the episode itself (`probe_record`). Not here: how questions are put (`probe_asking`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

from envecho.evaluation.probe_asking import Choice, OpenQuestion, Question
from envecho.evaluation.probe_commands import shell_turn
from envecho.evaluation.probe_record import FileRecord, Listing, PathProof, file_record, shell_exchanges
from envecho.evaluation.probe_status import StatusHabit, opening_segments, status_habit
from envecho.trajectory import Message, Role, Source, Trajectory

_MISSING: Final = (
    "ls: cannot access '{path}': No such file or directory",
    "ls: cannot access {path}: No such file or directory",
    "ls: {path}: No such file or directory",
)
"""How GNU (new and old), BusyBox and BSD say it; a model may know any of them."""


def existence_questions(trajectories: Sequence[Trajectory], *, seed: int) -> tuple[list[Choice], Counter[str]]:
    """Return one question for each path that an episode proves to exist or not, and why others have none.

    Each stands at a drawn place between the proof and the next change. Of each whole listing one more path is asked, of
    which it proves that it is not there: a name that the episode has elsewhere, or, where it has none, the pool.
    """
    habit = pool_habit(trajectories)
    records = {trajectory.id: file_record(trajectory, habit) for trajectory in trajectories}
    names = _names(list(records.values()))
    questions: list[Choice] = []
    counts: Counter[str] = Counter()
    for trajectory in trajectories:
        exchanges = [exchange.turn for exchange in shell_exchanges(trajectory)]
        for proof in _asked(trajectory, records[trajectory.id], names, seed):
            rng = random.Random(f"{seed}-{trajectory.id}-{proof.path}-{proof.exists}")
            at = rng.choice([turn for turn in exchanges if proof.turn <= turn <= proof.until])
            found = _appended(trajectory, at, f"ls -d {proof.path}", like=proof.turn)
            if isinstance(found, str):
                counts[found] += 1
            elif any(segment.source is Source.STATUS for segment in found.reply.segments):
                counts["num_status_first"] += 1
            else:
                missing = tuple(text.format(path=proof.path) for text in _MISSING)
                questions.append(Choice(**vars(found), truth=proof.exists, yes=(proof.path,), no=missing))
    return questions, counts


def line_questions(trajectories: Sequence[Trajectory]) -> tuple[list[OpenQuestion], Counter[str]]:
    """Return one question for each file that an episode shows whole for the first time, and why others have none."""
    habit = pool_habit(trajectories)
    questions: list[OpenQuestion] = []
    counts: Counter[str] = Counter()
    for trajectory in trajectories:
        record = file_record(trajectory, habit)
        counts["num_without_last_newline"] += record.num_unended
        asked: set[str] = set()
        for shown in record.shown:
            if shown.path in asked:
                continue
            asked.add(shown.path)
            found = _appended(trajectory, shown.turn, f"wc -l {shown.path}", like=shown.turn)
            if isinstance(found, str):
                counts[found] += 1
            else:
                questions.append(OpenQuestion(**vars(found), truth=f"{shown.num_lines} {shown.path}"))
    return questions, +counts


def pool_habit(trajectories: Sequence[Trajectory]) -> StatusHabit:
    """Return how the harness of a pool states exit statuses."""
    return status_habit(e.answer for trajectory in trajectories for e in shell_exchanges(trajectory))


def _appended(trajectory: Trajectory, turn: int, command: str, *, like: int) -> Question | str:
    """Ask `command` after message `turn`, in the form of the exchange that message `like` answers."""
    history = trajectory.messages[: turn + 1]
    if any(e.command == command for e in shell_exchanges(trajectory) if e.turn <= turn):
        return "num_already_answered"
    said = shell_turn(trajectory.messages[like - 1])
    if said is None:
        return "num_unread_commands"
    answer = trajectory.messages[like]
    opening = _before_output(answer)
    source = answer.segments[opening].source if opening < len(answer.segments) else Source.STDOUT
    reply = answer.model_copy(update={"segments": answer.segments[:opening], "labels": {}})
    return Question(
        trajectory=trajectory,
        turn=turn,
        command=command,
        history=(*history, said.saying(command)),
        reply=reply,
        source=source if source in (Source.STDOUT, Source.TOOL_RESULT) else Source.STDOUT,
    )


def _before_output(answer: Message) -> int:
    """How many segments stand before the first output of a whole answer; only wrappers where there is no output."""
    outputs = [place for place, segment in enumerate(answer.segments) if segment.source.role is Role.ENV_OUTPUT]
    return outputs[0] if outputs else opening_segments(answer)


def _asked(trajectory: Trajectory, record: FileRecord, names: Sequence[str], seed: int) -> list[PathProof]:
    """The first proof that each path exists, and that it does not; then what the listings leave out."""
    found: dict[tuple[str, bool], PathProof] = {}
    for proof in record.proofs:
        found.setdefault((proof.path, proof.exists), proof)
    known = {path for path, _ in found}
    for listing in record.listings:
        proof = _absent(listing, (_names([record]), names), f"{seed}-{trajectory.id}-{listing.folder}-{listing.turn}")
        if proof is not None and proof.path not in known:
            found.setdefault((proof.path, False), proof)
    return list(found.values())


def _names(records: Sequence[FileRecord]) -> list[str]:
    """The names of everything that exists somewhere in these records."""
    names = {name for record in records for listing in record.listings for name in listing.names}
    read = {proof.path.rsplit("/", 1)[-1] for record in records for proof in record.proofs if proof.exists}
    return sorted(names | read)


def _absent(listing: Listing, names: tuple[Sequence[str], Sequence[str]], seed: str) -> PathProof | None:
    """A path that a whole listing shows not to exist; `names` are those of the episode, and of the pool."""
    kinds = [[name for name in of if name not in listing.names and not name.startswith(".")] for of in names]
    foreign = kinds[0] or kinds[1]
    if not foreign:
        return None
    name = random.Random(seed).choice(foreign)
    path = name if listing.folder is None else f"{listing.folder.rstrip('/')}/{name}"
    return PathProof(path=path, exists=False, turn=listing.turn, until=listing.until)
