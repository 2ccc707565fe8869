"""`envecho show`: look at trajectories: who wrote what, what of it is trained, and what a model found hard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import RenderableType

    from envecho.tokens import ChatTokenizer, TokenizedTrajectory
    from envecho.tokens.view import TokenView
    from envecho.trajectory import Trajectory

MAX_LISTED: Final = 200
MAX_ON_PAGE: Final = 12
PIPED_WIDTH: Final = 200
PREDICTOR: Final = "model"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One view to print: its heading and, where a tokenizer was given, env weights `[token]`."""

    heading: str
    view: TokenView
    weights: NDArray[np.float32] | None = None


@click.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Show tokens as this model sees them: smollm2-135m, a hub name or a folder.")
@click.option("--index", type=click.IntRange(min=0), help="Show the trajectory at this place, from 0.")
@click.option("--losses", is_flag=True, help="Shade each token by its negative log-likelihood under --model.")
@click.option("--html", "html", type=click.Path(path_type=Path, dir_okay=False), help="Write a self-contained page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, model: str | None, index: int | None, losses: bool, html: Path | None, as_json: bool) -> None:
    """List the trajectories of a file or folder, or show one with its text coloured by who wrote it.

    With --model the text is shown as tokens, and those that the objective trains (with its defaults, verifier-free)
    are underlined.

    \b
    envecho show explore.parquet
    envecho show explore.parquet --index 0 --model smollm2-135m --losses
    envecho show explore.parquet --index 0 --model smollm2-135m --losses --html episode.html
    """
    if losses and model is None:
        raise click.UsageError("--losses needs --model: the losses are that model's")
    if losses and index is None and html is None:
        raise click.UsageError("--losses needs --index: which trajectory is to be scored?")
    viewer = Viewer(model, losses=losses)
    if html is not None:
        _write_page(viewer, file, index, html)
        click.echo(json.dumps({"html": str(html)}) if as_json else str(html))
    elif index is None:
        _list(viewer, file, as_json)
    else:
        _show(viewer, file, index, as_json)


class Viewer:
    """Turns trajectories into views: by segment without a model, by token with one, shaded if losses are asked for.

    The tokenizer and the engine are loaded on construction.
    """

    def __init__(self, model: str | None, *, losses: bool) -> None:
        self.tokenizer: ChatTokenizer | None = None
        self._engine: Any = None
        if model is None:
            return
        from envecho.engines.pretrained import resolve_model
        from envecho.tokens import ChatTokenizer

        with _status(f"loading {model}"):
            folder = resolve_model(model)
            self.tokenizer = ChatTokenizer.from_pretrained(folder)
            if losses:
                from envecho.engines.local import LocalEngine

                self._engine = LocalEngine(folder, trains=False)

    @property
    def unit(self) -> str:
        """What a view's counts count."""
        return "characters" if self.tokenizer is None else "tokens"

    def show(self, trajectory: Trajectory) -> list[Shown]:
        """Return one view without a tokenizer, else one per branch and window."""
        from envecho.tokens.view import segment_view, token_view

        if self.tokenizer is None:
            return [Shown(heading=trajectory.id, view=segment_view(trajectory))]
        from envecho.tokens import token_texts, tokenize_trajectory

        limit = self._engine.capabilities.max_context_tokens if self._engine is not None else None
        sequences = tokenize_trajectory(trajectory, self.tokenizer, max_tokens=limit)
        nlls = self._score(sequences)
        shown: list[Shown] = []
        for sequence, nll, weights in zip(sequences, nlls, _env_weights(sequences), strict=True):
            texts = token_texts(self.tokenizer, sequence.token_ids)
            heading = trajectory.id
            if len(sequences) > 1:
                heading += f" · branch {sequence.branch}, window {sequence.window}"
            shown.append(Shown(heading=heading, view=token_view(sequence, texts, nll=nll), weights=weights))
        return shown

    def _score(self, sequences: Sequence[TokenizedTrajectory]) -> list[dict[str, NDArray[np.float32]]]:
        if self._engine is None:
            return [{} for _ in sequences]
        import numpy as np

        from envecho.seam import ScoreRequest

        requests = [ScoreRequest(token_ids=s.token_ids, read=np.arange(len(s)) > 0) for s in sequences]
        with _status(f"scoring {sum(len(s) for s in sequences):,} tokens"):
            return [{PREDICTOR: -scores.logprobs} for scores in self._engine.logprobs(requests)]


def _env_weights(sequences: Sequence[TokenizedTrajectory]) -> list[NDArray[np.float32]]:
    """Return per sequence the env weights `[token]`, as if this trajectory were the whole optimiser step."""
    import numpy as np

    from envecho.objective import EchoConfig, compile_batch

    weights = compile_batch(sequences, EchoConfig(use_rl=False)).batch.env_weights.numpy()
    return np.split(weights, np.cumsum([len(sequence) for sequence in sequences])[:-1])


def _status(what: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(what)


def _print(*parts: RenderableType) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    for part in parts:
        console.print(part, soft_wrap=True)


def _trajectories(file: Path) -> Iterator[Trajectory]:
    from envecho.trajectory.store import read_trajectories

    return read_trajectories(file)


def _at(file: Path, index: int) -> Trajectory:
    from envecho.errors import DataError

    count = 0
    for trajectory in _trajectories(file):
        if count == index:
            return trajectory
        count += 1
    raise DataError(f"expected a trajectory at index {index}, found {count} in all; the first is 0", file=file)


def _facts(viewer: Viewer, index: int, trajectory: Trajectory) -> dict[str, Any]:
    """Return one line of the list; roles are counted in tokens that are owned, or in characters."""
    from envecho.tokens.view import count_roles, segment_view
    from envecho.trajectory import Role

    if viewer.tokenizer is None:
        counts = count_roles(segment_view(trajectory), characters=True)
    else:
        from envecho.tokens import tokenize_trajectory

        sequences = tokenize_trajectory(trajectory, viewer.tokenizer)
        counts = {role: sum(int(s.role_mask(role)[s.owned_from :].sum()) for s in sequences) for role in Role}
    return {
        "index": index,
        "id": trajectory.id,
        "task_id": trajectory.task_id,
        "turns": len(trajectory.messages),
        "reward": trajectory.reward,
        "stop_reason": trajectory.stop_reason.value,
        viewer.unit: {role.value: count for role, count in counts.items()},
    }


def _list(viewer: Viewer, file: Path, as_json: bool) -> None:
    rows = (_facts(viewer, index, trajectory) for index, trajectory in enumerate(_trajectories(file)))
    if as_json:
        click.echo(json.dumps(list(rows), indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    from envecho.tokens.view import ROLE_STYLES, visible_text

    table = Table(box=None, pad_edge=False)
    for name in ("index", "id", "task", "turns"):
        table.add_column(name, justify="right" if name in ("index", "turns") else "left", overflow="fold")
    for role, style in ROLE_STYLES.items():
        table.add_column(role.value, justify="right", style=style, min_width=len(role.value))
    table.add_column("reward", justify="right", min_width=6)
    table.add_column("stop", min_width=10)
    for row in islice(rows, MAX_LISTED):
        table.add_row(
            str(row["index"]),
            Text(visible_text(row["id"])),
            Text(visible_text(row["task_id"])),
            str(row["turns"]),
            *(f"{row[viewer.unit][role.value]:,}" for role in ROLE_STYLES),
            "–" if row["reward"] is None else f"{row['reward']:g}",
            row["stop_reason"],
        )
    left_out = sum(1 for _ in rows)
    _print(table, Text(f"Roles are counted in {viewer.unit}. Show one with --index.", style="dim"))
    if left_out:
        _print(Text(f"{left_out:,} more are not listed; --json lists all.", style="dim"))


def _show(viewer: Viewer, file: Path, index: int, as_json: bool) -> None:
    from rich.text import Text

    from envecho.tokens.view import count_roles, count_sources, rich_counts, rich_legend, rich_view, visible_text

    characters = viewer.tokenizer is None
    trajectory = _at(file, index)
    shown = viewer.show(trajectory)
    if as_json:
        views = [
            {
                **item.view.model_dump(mode="json"),
                "by_role": count_roles(item.view, characters=characters),
                "by_source": count_sources(item.view, characters=characters),
                "env_weights": None if item.weights is None else [float(weight) for weight in item.weights],
            }
            for item in shown
        ]
        click.echo(json.dumps({**_facts(viewer, index, trajectory), "views": views}, indent=1))
        return
    for item in shown:
        predictor = PREDICTOR if PREDICTOR in item.view.predictors else None
        _print(
            Text(visible_text(item.heading), style="bold"),
            rich_view(item.view, predictor=predictor, weights=item.weights),
            rich_legend(shaded=predictor is not None),
            rich_counts(item.view, characters=characters),
        )
        if item.weights is not None:
            note = (
                "Underlined: trained under EchoConfig's defaults, verifier-free, were this trajectory the whole step."
            )
            _print(Text(note, style="dim"))


def _write_page(viewer: Viewer, file: Path, index: int | None, html: Path) -> None:
    from envecho.reports import write_token_page

    if index is not None:
        chosen = [_at(file, index)]
    else:
        chosen = list(islice(_trajectories(file), MAX_ON_PAGE + 1))
        if len(chosen) > MAX_ON_PAGE:
            click.echo(f"the page holds the first {MAX_ON_PAGE} trajectories; --index chooses another", err=True)
    views = [
        item.view.model_copy(update={"trajectory_id": item.heading})
        for trajectory in chosen[:MAX_ON_PAGE]
        for item in viewer.show(trajectory)
    ]
    write_token_page(views, html, title=f"Trajectories of {file.name}", unit=viewer.unit)
