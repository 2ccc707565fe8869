"""What a page says of an evaluation, the same parts in a run's page and in a page of its own.

Not here: each table (`blocks`, `evaluation_tables`, `answers`) and picture (`dot_charts`), and how they look
(`templates/_evaluation.html`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Evaluation
from envecho.reports.answers import answers_table
from envecho.reports.blocks import (
    ReadoutBlock,
    Table,
    headline_table,
    operation_table,
    readout_block,
    source_table,
)
from envecho.reports.dot_charts import (
    attribution_bars,
    attribution_chart,
    classes_chart,
    controls_chart,
    has_classes,
    has_controls,
    operations_chart,
)
from envecho.reports.evaluation_tables import (
    TitledTable,
    attribution_table,
    controls_table,
    floors_table,
    paired_table,
    pooled_table,
    pools_table,
    probe_tables,
    side_by_side_table,
    slice_tables,
)
from envecho.reports.pictures import Picture, draw

MAX_READOUTS_OPEN: Final = 4


@dataclass(frozen=True, kw_only=True)
class EvaluationParts:
    """The tables of an evaluation; None or empty where the file has nothing of it."""

    answers: Table | None
    attribution: Table | None
    pools: Table | None
    headline: Table
    side_by_side: Table | None
    pooled: Table | None
    paired: Table | None
    by_source: Table
    by_operation: Table
    slices: tuple[TitledTable, ...]
    controls: Table | None
    probes: tuple[TitledTable, ...]
    floors: Table | None
    readouts: tuple[ReadoutBlock, ...]
    more_readouts: tuple[ReadoutBlock, ...]
    models: tuple[tuple[str, str], ...]


def evaluation_parts(evaluation: Evaluation | None) -> EvaluationParts | None:
    """Return the parts; None without an evaluation, or for one without a pool."""
    if evaluation is None or not evaluation.pools:
        return None
    readouts = tuple(readout_block(readout) for readout in evaluation.readouts)
    return EvaluationParts(
        answers=answers_table(evaluation),
        attribution=attribution_table(attribution_bars(evaluation)),
        pools=pools_table(evaluation),
        headline=headline_table(evaluation),
        side_by_side=side_by_side_table(evaluation),
        pooled=pooled_table(evaluation),
        paired=paired_table(evaluation),
        by_source=source_table(evaluation),
        by_operation=operation_table(evaluation),
        slices=tuple(slice_tables(evaluation)),
        controls=controls_table(evaluation),
        probes=tuple(probe_tables(evaluation)),
        floors=floors_table(evaluation),
        readouts=readouts[:MAX_READOUTS_OPEN],
        more_readouts=readouts[MAX_READOUTS_OPEN:],
        models=tuple((str(name), model) for name, model in evaluation.models.items()),
    )


def evaluation_pictures(evaluation: Evaluation | None) -> dict[str, Picture]:
    """Draw what the evaluation has, by the name of the PNG."""
    pictures: dict[str, Picture] = {}
    if evaluation is None:
        return pictures
    if evaluation.attributions:
        pictures["attribution"] = draw(
            "attribution",
            lambda narrow: attribution_chart(attribution_bars(evaluation), narrow=narrow),
            title="Where the saving lies",
            description="Its figures are in the table under the picture",
        )
    if has_classes(evaluation):
        pictures["classes"] = draw(
            "classes",
            lambda narrow: classes_chart(evaluation, narrow=narrow),
            title="Cross-entropy by token class",
            description="Its figures are in the table under the picture",
        )
    if has_controls(evaluation):
        pictures["controls"] = draw(
            "controls",
            lambda narrow: controls_chart(evaluation, narrow=narrow),
            title="What each control costs",
            description="Its figures are in the table under the picture",
        )
    if any(result.by_operation for of_pool in evaluation.pools.values() for result in of_pool.values()):
        pictures["operations"] = draw(
            "operations",
            lambda narrow: operations_chart(evaluation, narrow=narrow),
            title="Cross-entropy by operation",
            description="Its figures are in the table under the picture",
        )
    return pictures
