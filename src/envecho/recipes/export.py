"""`envecho export` as a job: a file of trajectories becomes the file of another project's format, one by one.

`TARGETS` says what each target needs; a target of text takes the trajectory alone, one of tokens its sequences too.
What a target cannot say is counted under a sentence that says what was lost, and a trajectory that it cannot hold is
left out with its reason. Not here: the formats themselves (`envecho.formats`, `envecho.tokens.trainers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from envecho.errors import ConfigError, EnvechoError
from envecho.formats import atif_export, chat_export, openenv_export, training_trace_export
from envecho.recipes.documents import DocumentWriter, checked_text
from envecho.recipes.progress import progress_bar
from envecho.recipes.traced_calls import traced_calls
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.trainers import prime_rl, rllm, skyrl, slime, tinker, trl, verl
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories

WriteText = Callable[[Trajectory, Counter[str]], dict[str, Any]]
WriteRow = Callable[[TokenizedTrajectory, Counter[str]], dict[str, Any] | None]

TEXT_TARGETS: Final[dict[str, WriteText]] = {
    "messages": chat_export.write,
    "atif": atif_export.write,
    "openenv": openenv_export.write,
}
TRACE_TARGET: Final = "openenv-trace"
ROW_TARGETS: Final[dict[str, WriteRow]] = {
    "trl": trl.row,
    "verl": verl.row,
    "skyrl": skyrl.row,
    "tinker": tinker.row,
    "slime": slime.row,
    "rllm": rllm.row,
    "prime-rl": prime_rl.row,
}
TARGETS: Final = (*TEXT_TARGETS, TRACE_TARGET, *ROW_TARGETS)


@dataclass(kw_only=True)
class ExportReport:
    """What an export wrote; `notes` counts what the target cannot say, `left_out` names trajectories and reasons."""

    target: str
    num_trajectories: int = 0
    num_exported: int = 0
    num_documents: int = 0
    notes: Counter[str] = field(default_factory=Counter[str])
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "target": self.target,
            "num_trajectories": self.num_trajectories,
            "num_exported": self.num_exported,
            "num_documents": self.num_documents,
            "not_expressed": {name: count for name, count in sorted(self.notes.items()) if count},
            "left_out": [{"id": name, "reason": reason} for name, reason in self.left_out],
        }


def export_file(file: Path, target: str, out: Path, *, model: str | None = None) -> ExportReport:
    """Write the trajectories of a file or folder for a target; `out` appears when it is whole.

    A path that ends in `.jsonl` becomes lines of JSON, another a folder with one document per file.

    Raises:
        ConfigError: the target needs a model's tokenizer and none is named.
        DataError: the file cannot be read.
    """
    needs_tokens = target not in TEXT_TARGETS
    if needs_tokens and model is None:
        raise ConfigError(f"--to {target} writes token ids: name the model whose tokenizer makes them with --model")
    tokenizer = _tokenizer(model) if needs_tokens and model is not None else None
    report = ExportReport(target=target)
    write = _writer(target, tokenizer)
    with DocumentWriter(out) as writer, progress_bar("exporting", total=_num_rows(file)) as advance:
        for trajectory in read_trajectories(file):
            report.num_trajectories += 1
            advance(1)
            notes: Counter[str] = Counter()
            try:
                texts = [checked_text(document) for document in write(trajectory, notes)]
            except (EnvechoError, ValueError) as error:
                report.left_out.append((trajectory.id, str(error)))
                continue
            report.notes.update(notes)
            if not texts:
                report.left_out.append((trajectory.id, _NO_CALL if target == TRACE_TARGET else _NO_TARGET))
                continue
            report.num_exported += 1
            report.num_documents += len(texts)
            for text in texts:
                writer.write(text)
    return report


def _num_rows(file: Path) -> int:
    """How many trajectories there are, for the progress bar; what cannot be read is said when it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        files = sorted(file.glob("*.parquet")) if file.is_dir() else [file]
        return sum(pq.read_metadata(one).num_rows for one in files)
    except (pa.ArrowException, OSError):
        return 0


_NO_CALL: Final = "no turn has sampled ids with log-probs, so there is no call to write"
_NO_TARGET: Final = "nothing in it can be trained on: no answer of the world, and no action with log-probs"


def _tokenizer(model: str) -> ChatTokenizer:
    from envecho.engines.pretrained import resolve_model

    return ChatTokenizer.from_pretrained(resolve_model(model))


Write = Callable[[Trajectory, Counter[str]], Iterator[dict[str, Any]]]


def _writer(target: str, tokenizer: ChatTokenizer | None) -> Write:
    """A function from a trajectory to its documents."""
    if target in TEXT_TARGETS:
        return lambda trajectory, notes: iter([TEXT_TARGETS[target](trajectory, notes)])
    assert tokenizer is not None
    repetitions: Counter[str] = Counter()

    def trace(trajectory: Trajectory, notes: Counter[str]) -> Iterator[dict[str, Any]]:
        calls = traced_calls(trajectory, tokenize_trajectory(trajectory, tokenizer))
        if calls:
            yield training_trace_export.write(trajectory, calls, notes)

    def rows(trajectory: Trajectory, notes: Counter[str]) -> Iterator[dict[str, Any]]:
        sequences = tokenize_trajectory(trajectory, tokenizer)
        found = [row for sequence in sequences if (row := ROW_TARGETS[target](sequence, notes)) is not None]
        if target == "skyrl":
            _number(found, repetitions)
        notes["rows whose reward is unknown: null"] += len(found) if trajectory.reward is None else 0
        notes["episodes of several branches: the trainer takes each row for a rollout"] += len(found) > 1
        notes["labels of messages"] += sum(len(message.labels) for message in trajectory.messages)
        yield from found

    return trace if target == TRACE_TARGET else rows


def _number(rows: Sequence[dict[str, Any]], repetitions: Counter[str]) -> None:
    """SkyRL names a rollout by its instance and a running number, and marks the last row of a rollout."""
    for place, row in enumerate(rows):
        name = row["trajectory_ids"]["instance_id"]
        row["trajectory_ids"]["repetition_id"] = repetitions[name]
        row["is_last_step"] = place == len(rows) - 1
        if row["is_last_step"]:
            repetitions[name] += 1
