"""`RunFolder`: what a report knows of a run, with everything that is missing said rather than assumed.

Not here: what is drawn of it (`page`, `charts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envecho.errors import DataError
from envecho.evaluation.results import Evaluation, read_evaluation
from envecho.reports.looks import Look, read_looks
from envecho.reports.schema import Metrics, Summary, read_metrics, read_summary


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The parts of a run folder; None means that the file is not there (yet)."""

    path: Path
    config: str | None
    metrics: Metrics | None
    evaluation: Evaluation | None
    summary: Summary | None
    looks: Mapping[int, Look]
    last_checkpoint: str | None

    @property
    def is_evaluation(self) -> bool:
        """Whether this is what `envecho eval --out` wrote, and no run."""
        return self.evaluation is not None and not (self.config or self.metrics or self.summary)

    @property
    def command(self) -> str:
        """The command that makes such a folder again, as far as the folder says."""
        if not self.is_evaluation or self.evaluation is None:
            return "envecho train config.toml --out NEW_FOLDER"
        models = {str(name): model for name, model in self.evaluation.models.items()}
        base = f" --base {models['base']}" if "base" in models else ""
        files = [facts.file for facts in self.evaluation.facts.values()] or ["HELD_OUT.parquet"]
        pools = "".join(f" --data {file}" for file in files)
        return f"envecho eval --model {models.get('trained', 'MODEL')}{base}{pools} --out NEW_FOLDER"

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(what is missing, the command that makes it) for each part that is not there."""
        if self.is_evaluation:
            return []
        where = self.path.as_posix()
        model = f"{where}/checkpoints/{self.last_checkpoint}" if self.last_checkpoint else "CHECKPOINT"
        train = f"envecho train CONFIG.toml --out {where}"
        held_out = [
            file.as_posix()
            for file in sorted(self.path.glob("trajectories/*.parquet"))
            if file.stem not in ("train", "validation") and not file.stem.startswith("step-")
        ]
        pools = " ".join(f"--data {pool}" for pool in held_out or ["HELD_OUT.parquet"])
        copiers = f"--train {where}/trajectories/train.parquet"
        parts = {
            "metrics.jsonl (the training curve)": (self.metrics, train),
            "evaluation.json (held-out figures, readouts, coloured tokens)": (
                self.evaluation,
                f"envecho eval --model {model} --base BASE {pools} {copiers} --out {where}",
            ),
            "summary.json (seed, time, memory)": (self.summary, train),
            "config.toml (the resolved configuration)": (self.config, train),
        }
        if self.metrics is not None and self.metrics.evaluation:  # an on-policy run looked at held-out tasks itself
            del parts["evaluation.json (held-out figures, readouts, coloured tokens)"]
        return [(name, command) for name, (part, command) in parts.items() if part is None]


def read_run_folder(path: Path) -> RunFolder:
    """Read what there is of a run folder.

    Raises:
        DataError: the folder does not exist, holds none of a run's files, or one of them cannot be read.
    """
    if not path.is_dir():
        raise DataError("expected a run folder, found none; `envecho train` and `envecho demo` make one", file=path)
    files = {name: path / name for name in ("config.toml", "metrics.jsonl", "evaluation.json", "summary.json")}
    if not any(file.is_file() for file in files.values()):
        raise DataError(f"expected a run folder with at least one of {', '.join(files)}, found none", file=path)

    def there(name: str) -> Path | None:
        return files[name] if files[name].is_file() else None

    config, metrics, evaluation, summary = (there(name) for name in files)
    checkpoints = sorted(entry.name for entry in path.glob("checkpoints/step-*") if entry.is_dir())
    return RunFolder(
        path=path,
        config=config.read_text(encoding="utf-8", errors="replace") if config else None,
        metrics=read_metrics(metrics) if metrics else None,
        evaluation=read_evaluation(evaluation) if evaluation else None,
        summary=read_summary(summary) if summary else None,
        looks=read_looks(path / "evaluations"),
        last_checkpoint=checkpoints[-1] if checkpoints else None,
    )
