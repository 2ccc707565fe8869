"""The tables of `envecho show` for people. Every string of a file passes `visible_text` and stands in a `Text`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from envecho.cli.printing import print_parts
from envecho.recipes.showing import PREDICTOR, ShownEpisode, Totals, by_role, in_order
from envecho.tokens.selection import Selection
from envecho.tokens.view import ROLE_STYLES, rich_counts, rich_legend, rich_view, visible_text
from envecho.trajectory import Role, Source

if TYPE_CHECKING:
    from envecho.recipes.episode_terms import EpisodeLosses, TermLoss, WeightRow

_MOST_WEIGHT_ROWS = 60
_TERM_STYLES = {"policy": ROLE_STYLES[Role.ACTION], "env": ROLE_STYLES[Role.ENV_OUTPUT]}


def list_table(rows: Iterable[Mapping[str, Any]], unit: str, *, with_hits: bool) -> Table:
    """Return the list of trajectories; a refused one has its reason in place of counts."""
    table = Table(box=None, pad_edge=False)
    for name in ("index", "id", "task", "turns"):
        table.add_column(name, justify="right" if name in ("index", "turns") else "left", overflow="fold")
    if with_hits:
        table.add_column("hits", justify="right")
    for role, style in ROLE_STYLES.items():
        table.add_column(role.value, justify="right", style=style, min_width=len(role.value))
    table.add_column("reward", justify="right", min_width=6)
    table.add_column("stop", min_width=10)
    for row in rows:
        counts = row[unit]
        cells = ["–"] * len(ROLE_STYLES) if counts is None else [f"{counts[role.value]:,}" for role in ROLE_STYLES]
        table.add_row(
            str(row["index"]),
            Text(visible_text(row["id"])),
            Text(visible_text(row["task_id"])),
            str(row["turns"]),
            *([f"{row['hits']:,}"] if with_hits else []),
            *cells,
            "–" if row["reward"] is None else f"{row['reward']:g}",
            row["stop_reason"],
        )
    return table


def summary_text(totals: Totals, unit: str, *, selected: bool) -> Text:
    """Return the lines under the list: the whole file by role and by source."""
    out = Text()
    of = f" of {totals.num_in_file:,}" if selected else ""
    out.append(f"{totals.num_trajectories:,}{of} trajectories, {totals.num_turns:,} turns", style="bold")
    if selected:
        out.append(f", {totals.num_hits:,} hits", style="bold")
    roles = by_role(totals.by_source)
    total = sum(roles.values()) or 1
    for role, style in ROLE_STYLES.items():
        out.append(f"   {role.value} ", style="dim").append(f"{roles[role.value]:,}", style=style)
        out.append(f" ({roles[role.value] / total:.0%})", style="dim")
    by_name = in_order(totals.by_source)
    out.append("\n" + "  ".join(f"{name} {count:,}" for name, count in by_name.items()), style="dim")
    out.append(f"\nCounted in {unit}. Show one with --index.", style="dim")
    if totals.num_refused:
        refused = (
            f"\n{totals.num_refused:,} cannot be rendered by this model's chat template; `envecho doctor` says why."
        )
        out.append(refused, style="yellow")
    return out


def print_episode(episode: ShownEpisode, selection: Selection, *, unit: str) -> None:
    """Print one trajectory: its views, its counts, what is trained, and the losses where they were asked for."""
    for item in episode.views:
        predictor = PREDICTOR if PREDICTOR in item.view.predictors else None
        selected = None if selection.is_empty else selection.apply(item.view)
        print_parts(
            Text(visible_text(item.heading), style="bold"),
            rich_view(item.view, predictor=predictor, weights=item.trained, selected=selected),
            rich_legend(shaded=predictor is not None),
            rich_counts(item.view, characters=unit == "characters"),
        )
        if selected is not None and selection.pattern is not None:
            print_parts(Text(f"{selected.num_hits:,} hits", style="bold"))
    if episode.terms is None:
        return
    print_parts(*_weights(episode))
    if episode.losses is not None:
        print_parts(Text(), _losses(episode.losses), *(Text(visible_text(note)) for note in episode.notes()))


def _weights(episode: ShownEpisode) -> Iterable[Text | Table]:
    assert episode.terms is not None
    from envecho.recipes.episode_terms import weight_rows

    rows = weight_rows(episode.terms)
    yield Text()
    yield _weight_table(rows[:_MOST_WEIGHT_ROWS])
    if len(rows) > _MOST_WEIGHT_ROWS:
        yield Text(f"{len(rows) - _MOST_WEIGHT_ROWS:,} more rows; --json has all.", style="dim")
    note = "Underlined: trained, were this trajectory the whole optimiser step."
    if episode.terms.policy_missing is not None and episode.losses is None:
        note += f" No policy term: {visible_text(episode.terms.policy_missing)}."
    if episode.terms.env_excluded is not None:
        note += f" A rollout filter leaves its observations out: {episode.terms.env_excluded}."
    yield Text(note, style="dim")


def _weight_table(rows: Iterable[WeightRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("turn", justify="right")
    table.add_column("source")
    table.add_column("term")
    for name in ("tokens", "weight", "per token"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.turn),
            Text(row.source, style=ROLE_STYLES[Source(row.source).role]),
            Text(row.term, style=_TERM_STYLES[row.term]),
            f"{row.num_tokens:,}",
            f"{row.weight:.4g}",
            "varies" if row.per_token is None else f"{row.per_token:.3g}",
        )
    return table


def _losses(losses: EpisodeLosses) -> Table:
    table = Table(
        box=None, pad_edge=False, title="Losses of one forward pass", title_justify="left", title_style="bold"
    )
    table.add_column("term", no_wrap=True)
    for name in ("loss", "tokens", "share", "nats per token", "gradient norm"):
        table.add_column(name, justify="right")
    names = {
        "policy": "GRPO",
        "env": "environment only",
        "echo": "ECHO = GRPO + environment",
    }
    for term in (losses.policy, losses.env, losses.echo):
        table.add_row(Text(names[term.name], style=_TERM_STYLES.get(term.name, "bold")), *_cells(term))
    return table


def _cells(term: TermLoss) -> list[str]:
    undefined = "undefined" if term.loss is None else "0" if term.loss == 0 else f"{term.loss:.6g}"
    norm = "–" if term.gradient_norm is None else "0" if term.gradient_norm == 0 else f"{term.gradient_norm:.4g}"
    mean = "–" if term.mean is None else f"{term.mean:.4f}"
    return [undefined, f"{term.num_tokens:,}", f"{term.share:.1%}", mean, norm]
