"""From the sums of a pool to its figures: means with intervals over tasks, comparisons, and where a difference lies.

All of it is arithmetic on `PoolSums`, so a finished evaluation needs no model to be read again or set beside another.
Not here: how sums come about (`sums`, `streaming`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.facts import fold_keys
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import (
    TOKEN_CLASSES,
    Attribution,
    AttributionPart,
    Comparison,
    Dimension,
    OperationResult,
    PoolFacts,
    Predictor,
    PredictorResult,
    SliceResult,
    Stat,
)
from envecho.evaluation.sums import ALL, BOILERPLATE, LABEL, OPERATION, TEMPERATURE, PoolSums, Totals, add_totals

_COMPARED: Final[Mapping[Literal["derivable", "all"], tuple[str, str]]] = {
    "derivable": (LABEL, "derivable"),
    "all": (ALL, ALL),
}
"""What two predictors are compared over."""


def summarize_sums(sums: PoolSums, *, seed: int = 0) -> PredictorResult:
    """Return the figures of one predictor on one pool, all but controls and probes.

    Means are pooled over tokens; `ce_per_trajectory` and `nats_per_trajectory` over the trajectories that have some.
    Intervals are over tasks, drawn with `seed`.
    """
    figures = _Figures(sums=sums, tasks=sums.task_index, seed=seed)
    whole = sums.totals(ALL, ALL)
    num_tokens = int(whole.num_tokens.sum())
    some = whole.num_tokens > 0
    dimensions: tuple[Dimension, ...] = get_args(Dimension)
    sources = {key: figures.ce("source", key) for key in sums.keys("source")}
    temperatures = sums.keys(TEMPERATURE)
    return PredictorResult(
        ce_per_token=figures.ce(ALL, ALL),
        ce_per_byte=figures.ratio(whole.nats, whole.num_bytes, num_tokens),
        ce_first_view=figures.ce(LABEL, "first"),
        ce_derivable=figures.ce(LABEL, "derivable"),
        top1_accuracy=figures.accuracy(whole),
        action_swap_gap=None,
        num_tokens=num_tokens,
        by_source={key: stat for key, stat in sources.items() if stat is not None},
        by_operation=figures.operations(),
        ce_per_trajectory=figures.ratio(whole.nats / np.maximum(whole.num_tokens, 1), some, num_tokens),
        nats_per_trajectory=figures.ratio(whole.nats, some, num_tokens),
        ce_boilerplate=figures.ce(ALL, BOILERPLATE),
        ce_at_temperature=figures.ce(TEMPERATURE, temperatures[0]) if len(temperatures) == 1 else None,
        slices={dimension: found for dimension in dimensions if (found := figures.slices(dimension))},
    )


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """The figures of single slices; `tasks` `[trajectory]` is what intervals are over."""

    sums: PoolSums
    tasks: NDArray[np.int64]
    seed: int

    def ratio(self, numerators: NDArray[Any], denominators: NDArray[Any], num_tokens: int) -> Stat | None:
        return ratio_stat(numerators, denominators, self.tasks, num_tokens=num_tokens, seed=self.seed)

    def cost(self, found: Totals) -> Stat | None:
        return self.ratio(found.nats, found.num_tokens, int(found.num_tokens.sum()))

    def accuracy(self, found: Totals) -> Stat | None:
        return self.ratio(found.num_top1, found.num_tokens, int(found.num_tokens.sum()))

    def ce(self, dimension: str, key: str) -> Stat | None:
        return self.cost(self.sums.totals(dimension, key))

    def slices(self, dimension: str) -> dict[str, SliceResult]:
        parts = {key: self.sums.totals(dimension, key) for key in self.sums.keys(dimension)}
        names = fold_keys({key: int(part.num_tokens.sum()) for key, part in parts.items()})
        folded = {
            name: add_totals([part for key, part in parts.items() if names[key] == name])
            for name in sorted(dict.fromkeys(names.values()), key=lambda name: name not in parts)
        }
        total = sum(int(part.num_tokens.sum()) for part in folded.values())
        return {
            name: SliceResult(ce=cost, top1_accuracy=self.accuracy(part), share=cost.num_tokens / total)
            for name, part in folded.items()
            if (cost := self.cost(part)) is not None
        }

    def operations(self) -> dict[str, OperationResult]:
        total = int(self.sums.totals(LABEL, "derivable").num_tokens.sum())
        results: dict[str, OperationResult] = {}
        for key in self.sums.keys(OPERATION):
            found = self.sums.totals(OPERATION, key)
            cost, accuracy = self.cost(found), self.accuracy(found)
            if cost is not None and accuracy is not None:
                results[key] = OperationResult(ce=cost, top1_accuracy=accuracy, share=cost.num_tokens / total)
        return results


_LEAST_NET = 0.5
"""A saving has shares where it is more than this part of all that moved; else its parts cancel."""


def pool_facts(file: str, sums: PoolSums) -> PoolFacts:
    """Return what a pool is: how many trajectories, tasks and tokens of each role."""
    return PoolFacts(
        file=file,
        num_trajectories=len(sums.trajectory_ids),
        num_tasks=len(set(sums.task_ids)),
        num_env_tokens=int(sums.totals(ALL, ALL).num_tokens.sum()),
        num_boilerplate_tokens=int(sums.totals(ALL, BOILERPLATE).num_tokens.sum()),
    )


def compare_sums(
    pool: str,
    ours: PoolSums,
    theirs: PoolSums,
    *,
    predictor: Predictor = "trained",
    reference: Predictor = "base",
    seed: int = 0,
) -> list[Comparison]:
    """Compare two predictors on the same tokens: over derivable ones, and over all; paired over tasks.

    A comparison over no token is left out. Two finished evaluations are compared so, too: take both sums from files.

    Raises:
        DataError: the sums are not over the same tokens.
    """
    _require_same_tokens(pool, ours, theirs, (predictor, reference), _COMPARED.values())
    comparisons: list[Comparison] = []
    for tokens, name in _COMPARED.items():
        a, b = ours.totals(*name), theirs.totals(*name)
        count = int(a.num_tokens.sum())
        difference = ratio_stat(a.nats - b.nats, a.num_tokens, ours.task_index, num_tokens=count, seed=seed)
        ratio = ratio_stat(a.nats, b.nats, ours.task_index, num_tokens=count, seed=seed)
        if difference is not None and ratio is not None:
            comparisons.append(
                Comparison(
                    pool=pool,
                    predictor=predictor,
                    reference=reference,
                    tokens=tokens,
                    difference=difference,
                    ratio=ratio,
                )
            )
    return comparisons


def attribute(
    pool: str,
    ours: PoolSums,
    theirs: PoolSums,
    *,
    predictor: Predictor = "trained",
    reference: Predictor = "base",
    seed: int = 0,
) -> Attribution | None:
    """Return where the lower cross-entropy comes from: the harness's phrases, and the four token classes.

    Every part is over all tokens of role env_output or warning, so that the parts add up to the whole. None for a pool
    without such a token.

    Raises:
        DataError: the sums are not over the same tokens, or a token of the environment has no token class.
    """
    parts = {BOILERPLATE: (ALL, BOILERPLATE), **{key: ("token_class", key) for key in TOKEN_CLASSES}}
    _require_same_tokens(pool, ours, theirs, (predictor, reference), parts.values())
    counts = {name: ours.totals(*key).num_tokens for name, key in parts.items()}
    everything = np.sum(list(counts.values()), axis=0)
    unclassed = int((ours.totals(ALL, ALL).num_tokens + counts[BOILERPLATE] - everything).sum())
    if unclassed:
        raise DataError(
            f"expected a token class for every environment token of pool {pool!r}, found {unclassed} without one; "
            "sum the tokens with their facts"
        )
    saved = {name: theirs.totals(*key).nats - ours.totals(*key).nats for name, key in parts.items()}
    total = int(everything.sum())

    def stat(nats: NDArray[np.float64], num_tokens: int) -> Stat | None:
        return ratio_stat(nats, everything, ours.task_index, num_tokens=num_tokens, seed=seed)

    whole = stat(np.sum(list(saved.values()), axis=0), total)
    if whole is None:
        return None
    found = {name: (stat(nats, count), count) for name, nats in saved.items() if (count := int(counts[name].sum()))}
    moved = sum(abs(part.value) for part, _ in found.values() if part is not None)
    has_shares = abs(whole.value) > _LEAST_NET * moved
    results = {
        name: AttributionPart(saved=part, share=part.value / whole.value if has_shares else None, tokens=count / total)
        for name, (part, count) in found.items()
        if part is not None
    }
    return Attribution(pool=pool, predictor=predictor, reference=reference, saved=whole, parts=results)


def compare_all(pool: str, sums: Mapping[Predictor, PoolSums], *, seed: int = 0) -> list[Comparison]:
    """Compare the trained model (or the base model alone) with every other predictor of the pool, as `compare_sums`."""
    first = first_predictor(sums)
    return [
        comparison
        for reference in sums
        if first is not None and reference != first
        for comparison in compare_sums(
            pool, sums[first], sums[reference], predictor=first, reference=reference, seed=seed
        )
    ]


def attribute_all(pool: str, sums: Mapping[Predictor, PoolSums], *, seed: int = 0) -> list[Attribution]:
    """Attribute what the trained model (or the base model alone) saves on every other predictor, as `attribute`."""
    first = first_predictor(sums)
    found = [
        attribute(pool, sums[first], sums[reference], predictor=first, reference=reference, seed=seed)
        for reference in sums
        if first is not None and reference != first
    ]
    return [attribution for attribution in found if attribution is not None]


def first_predictor(found: Mapping[Predictor, Any]) -> Predictor | None:
    """Return the model that others are references for: the trained one, else the base."""
    names: tuple[Predictor, ...] = ("trained", "base")
    return next((name for name in names if name in found), None)


def _require_same_tokens(
    pool: str,
    ours: PoolSums,
    theirs: PoolSums,
    names: tuple[Predictor, Predictor],
    slices: Iterable[tuple[str, str]],
) -> None:
    who = f"{names[0]} and {names[1]} on the same tokens of pool {pool!r}"
    if (ours.trajectory_ids, ours.task_ids) != (theirs.trajectory_ids, theirs.task_ids):
        shared = len(set(ours.trajectory_ids) & set(theirs.trajectory_ids))
        raise DataError(
            f"expected {who}, found {len(ours.trajectory_ids)} and {len(theirs.trajectory_ids)} trajectories with "
            f"{shared} ids in common; evaluate both on one file"
        )
    for name in slices:
        a, b = ours.totals(*name), theirs.totals(*name)
        differs = np.flatnonzero((a.num_tokens != b.num_tokens) | (a.num_bytes != b.num_bytes))
        if len(differs):
            first = int(differs[0])
            raise DataError(
                f"expected {who}, found other tokens in {len(differs)} trajectories: {ours.trajectory_ids[first]} has "
                f"{a.num_tokens[first]} and {b.num_tokens[first]} of {name[0]} {name[1]}; evaluate both with one "
                "tokenizer, context length and floor"
            )
