"""Was the world learnt, or only the harness's phrases? What the figures of an evaluation answer, question by question.

Each answer is a rule on one figure and its interval, the same for a good and for a bad model, and "not measured" where
the figure is not there. Not here: computing figures (`envecho.evaluation`) and how they look (`templates/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Attribution, Comparison, Evaluation, PredictorResult, Stat
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.charts import best_copier
from envecho.reports.numbers import Cell
from envecho.reports.palette import PART_LABELS, PREDICTOR_LABELS, ordered_pools, pool_label, pool_title

YES: Final = "yes"
NO: Final = "no"
OPEN: Final = "not told apart from 0"
ALONE: Final = "no interval: one task"
UNKNOWN: Final = "not measured"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question, the nats per token that answer it (above 0: yes; None: not measured), and the answer."""

    question: str
    figure: Stat | None
    text: str


def read_sign(figure: Stat | None) -> str:
    """Return yes or no where the figure's whole interval lies on one side of 0, else why neither can be said."""
    if figure is None:
        return UNKNOWN
    if figure.low is None or figure.high is None:
        return ALONE
    if figure.low <= 0 <= figure.high:
        return OPEN
    return YES if figure.low > 0 else NO


def answers(evaluation: Evaluation, pool: str) -> list[Answer]:
    """Return what the figures of one pool say of the trained model."""
    trained = evaluation.pools.get(pool, {}).get("trained")
    found = attribution_of(evaluation, pool)
    is_of_base = found is not None and (found.predictor, found.reference) == ("trained", "base")
    parts = {name: part.saved for name, part in found.parts.items()} if found and is_of_base else {}
    asked: list[tuple[str, Stat | None]] = [
        ("Are the harness’s phrases cheaper for it than for the base model?", parts.get("boilerplate")),
        ("Is the world’s own output cheaper for it?", _saved(evaluation, pool, "base", "all")),
        ("Is predictable output cheaper (earlier messages determine it, and it is no copy)?", parts.get("predictable")),
        ("Is novel output cheaper (nothing in the episode told it)?", parts.get("novel")),
        ("Is it cheaper than the best copier, on the same tokens?", _beyond_copying(evaluation, pool)),
        ("Does it pay for another command in place of the true one?", _control(trained, "action_swap")),
        ("Does it pay where the command is blank?", _control(trained, "action_blank")),
        ("Does it pay where the output stands behind another episode?", _control(trained, "observation_shuffle")),
    ]
    return [Answer(question=question, figure=stat, text=read_sign(stat)) for question, stat in asked]


def _saved(evaluation: Evaluation, pool: str, reference: str, tokens: str) -> Stat | None:
    """The paired difference as a saving: reference minus trained model."""
    item = _comparison(evaluation, pool, reference, tokens)
    if item is None:
        return None
    low, high = item.difference.low, item.difference.high
    return item.difference.model_copy(
        update={
            "value": -item.difference.value,
            "low": None if high is None else -high,
            "high": None if low is None else -low,
        }
    )


def _comparison(evaluation: Evaluation, pool: str, reference: str, tokens: str) -> Comparison | None:
    wanted = (pool, "trained", reference, tokens)
    return next(
        (item for item in evaluation.comparisons if (item.pool, item.predictor, item.reference, item.tokens) == wanted),
        None,
    )


def _beyond_copying(evaluation: Evaluation, pool: str) -> Stat | None:
    for tokens, figure in (("derivable", "ce_derivable"), ("all", "ce_per_token")):
        copier = best_copier(evaluation.pools.get(pool, {}), figure)
        found = _saved(evaluation, pool, copier[0], tokens) if copier else None
        if found:
            return found
    return None


def _control(result: PredictorResult | None, name: str) -> Stat | None:
    if result is None:
        return None
    control = {str(key): value for key, value in result.controls.items()}.get(name)
    if control is None and name == "action_swap":
        return result.action_swap_gap
    return control.gap if control else None


def attribution_of(evaluation: Evaluation, pool: str) -> Attribution | None:
    """Return the attribution of the trained model's saving against the base model, else another one of the pool."""
    found = [item for item in evaluation.attributions if item.pool == pool]
    ours = [item for item in found if (item.predictor, item.reference) == ("trained", "base")]
    return next(iter((*ours, *found)), None)


def answers_table(evaluation: Evaluation) -> Table | None:
    """Return questions x pools with answer and figure; None where nothing of them was measured."""
    pools = [pool for pool in ordered_pools(evaluation.pools) if "trained" in evaluation.pools[pool]]
    lines = list(zip(*(answers(evaluation, pool) for pool in pools), strict=True))
    known = [line for line in lines if any(answer.figure for answer in line)]
    rows = tuple(Row(label=line[0].question, cells=tuple(map(_answer_cell, line))) for line in known)
    caption = (
        "What was learnt, of the trained model, in nats per token that it saves or pays: yes or no where the 95 %"
        " interval lies on one side of 0. No single line decides: phrases can be learnt beside a world."
    )
    if len(known) < len(lines):
        caption += f" Of {len(lines)} questions {len(lines) - len(known)} were not measured."
    group = Group(label="", rows=rows)
    return Table(caption=caption, head=tuple(map(pool_title, pools)), groups=(group,)) if rows else None


def _answer_cell(answer: Answer) -> Cell:
    found = numbers.cell(answer.figure, "gap")
    if answer.figure is None:
        return Cell(text=answer.text)
    interval = f" ({found.interval})" if found.interval else ""
    return Cell(text=answer.text, interval=f"{found.text}{interval}", value=found.value)


def attribution_sentence(evaluation: Evaluation, pool: str) -> str:
    """Return where the saving lies, in nats and shares; empty where it was not attributed."""
    found = attribution_of(evaluation, pool)
    if found is None:
        return ""
    saved = found.saved
    interval = ""
    if saved.low is not None and saved.high is not None:
        interval = f" (95 % interval {numbers.gap(saved.low)} to {numbers.gap(saved.high)})"
    parts = [
        f"{numbers.gap(part.saved.value)} on {label}"
        + (f" ({round(100 * part.share)}\u00a0%)".replace("-", "−") if part.share is not None else "")
        for name, label in PART_LABELS.items()
        if (part := found.parts.get(name))
    ]
    whole = (
        f"Over all that the world and its harness said on {pool_label(pool)}, the {PREDICTOR_LABELS[found.predictor]}"
        f" saves {numbers.gap(saved.value)} nats per token against the {PREDICTOR_LABELS[found.reference]}{interval}"
    )
    return f"{whole}: {', '.join(parts)}." if parts else f"{whole}."
