"""`PoolSums`: what one predictor's scores of a pool add up to, per trajectory and slice; every figure is made of them.

Sums are additive: a pool is scored in parts of any size, and two finished evaluations are compared without a model.
Not here: what a token is (`facts`), scores (`scores`), means, intervals and comparisons (`summary`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.facts import ChangedText, FactColumn, TokenFacts, token_facts
from envecho.evaluation.results import TOKEN_CLASSES, Predictor
from envecho.evaluation.scores import ENV, SAID, PoolTokens, has_role, label_tokens, pool_tokens
from envecho.seam import Scores
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import SOURCES, Trajectory

FORMAT: Final = "envecho.sums"
VERSION: Final = 1

ALL: Final = "all"
"""The dimension of the whole pool: key `all` for what the world answered, key `boilerplate` for its harness."""

BOILERPLATE: Final = "boilerplate"
LABEL: Final = "label"
"""What a generator said about an answer: keys `first` and `derivable`; dimension `operation` divides the latter."""

OPERATION: Final = "operation"
TEMPERATURE: Final = "temperature"
"""`all` once more under another temperature, which is the key."""

SCHEMA: Final = pa.schema(
    [
        ("pool", pa.string()),
        ("predictor", pa.string()),
        ("trajectory_id", pa.string()),
        ("task_id", pa.string()),
        ("dimension", pa.string()),
        ("key", pa.string()),
        ("nats", pa.float64()),
        ("num_tokens", pa.int64()),
        ("num_bytes", pa.int64()),
        ("num_top1", pa.int64()),
    ],
    metadata={"format": FORMAT, "version": str(VERSION)},
)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The sums of one slice, `[trajectory]`; zeros where a trajectory has no such token."""

    nats: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_top1: NDArray[np.int64]


def add_totals(parts: Sequence[Totals]) -> Totals:
    """Return the sums of some slices together."""

    def column(name: str) -> NDArray[Any]:
        return np.sum([getattr(part, name) for part in parts], axis=0)

    return Totals(
        nats=column("nats"),
        num_tokens=column("num_tokens"),
        num_bytes=column("num_bytes"),
        num_top1=column("num_top1"),
    )


@dataclass(frozen=True, kw_only=True)
class PoolSums:
    """One predictor on one pool: a table with a row for each trajectory and slice that has tokens.

    `trajectory_ids` and `task_ids` are `[trajectory]`, sorted by id; `slices` are (dimension, key). The other arrays
    are `[row]`, by slice and then by trajectory: `trajectory_index` and `slice_index` point into these tuples, `nats`
    are -log p at T = 1, `num_top1` counts the tokens that were the predictor's first choice. The slice (`all`, `all`)
    has a row for every trajectory, be it of no token.

    Example: one trajectory of three answered tokens, one of them copied, behind two tokens of its harness.

        slices           ("all", "all")  ("all", "boilerplate")  ("token_class", "copied")  ("token_class", "novel")
        trajectory_index 0               0                       0                          0
        nats             4.1             .2                      .1                         4.0
        num_tokens       3               2                       1                          2
    """

    trajectory_ids: tuple[str, ...]
    task_ids: tuple[str, ...]
    slices: tuple[tuple[str, str], ...]
    trajectory_index: NDArray[np.int64]
    slice_index: NDArray[np.int64]
    nats: NDArray[np.float64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    num_top1: NDArray[np.int64]

    def keys(self, dimension: str) -> list[str]:
        """Return the keys of a dimension that some token has; none where the dimension was not asked for."""
        return [key for name, key in self.slices if name == dimension]

    @property
    def dimensions(self) -> list[str]:
        """All dimensions that some token has."""
        return list(dict.fromkeys(dimension for dimension, _ in self.slices))

    @property
    def task_index(self) -> NDArray[np.int64]:
        """The task of each trajectory, `[trajectory]`, numbered by name."""
        return np.unique(np.array(self.task_ids, dtype=np.str_), return_inverse=True)[1].astype(np.int64)

    def totals(self, dimension: str, key: str) -> Totals:
        """Return the sums of one slice; zeros for a slice that no token has."""
        size = len(self.trajectory_ids)
        rows = slice(0, 0)
        if (dimension, key) in self.slices:
            number = self.slices.index((dimension, key))
            rows = slice(*np.searchsorted(self.slice_index, [number, number + 1]))
        dense: dict[str, NDArray[Any]] = {}
        for name in ("nats", "num_tokens", "num_bytes", "num_top1"):
            column = getattr(self, name)
            dense[name] = np.zeros(size, dtype=column.dtype)
            dense[name][self.trajectory_index[rows]] = column[rows]
        return Totals(**dense)


def sum_scores(
    sequences: Sequence[TokenizedTrajectory],
    scores: Sequence[Scores],
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    at_temperature: Mapping[float, Sequence[Scores]] | None = None,
    changed: ChangedText | None = None,
) -> PoolSums:
    """Add up a predictor's scores of what the world and its harness said, with all facts about these tokens.

    `scores` are of `pool_requests(sequences, SAID)`, one per sequence; `at_temperature` are those at others than 1;
    `changed` is for `token_facts`.

    Raises:
        DataError, EngineError: as `pool_tokens` and `sum_tokens`.
    """
    tokens = pool_tokens(sequences, scores, roles=SAID)
    others = {at: pool_tokens(sequences, found, roles=SAID).nll for at, found in (at_temperature or {}).items()}
    facts = token_facts(tokens, sequences, trajectories, tokenizer, changed=changed)
    return sum_tokens(tokens, trajectories, facts=facts, nll_at=others)


def sum_tokens(
    tokens: PoolTokens,
    trajectories: Sequence[Trajectory],
    *,
    facts: TokenFacts | None = None,
    nll_at: Mapping[float, NDArray[np.float64]] | None = None,
) -> PoolSums:
    """Add a predictor's scores up; `tokens` of role warning count as boilerplate, and in no other slice.

    `facts` are those of the same tokens, `nll_at` the nats `[token]` at other temperatures.

    Raises:
        DataError: as `label_tokens`; a column of facts is not as long as the tokens.
    """
    columns = _own_columns(tokens, trajectories)
    if facts is not None:
        columns |= {dimension: column for dimension, column in facts.columns.items()}  # noqa: C416
    parts: list[_Rows] = []
    for dimension, column in columns.items():
        if column.codes.shape != tokens.nll.shape:
            raise DataError(
                f"expected a fact of {dimension} for each of {len(tokens)} tokens, found {len(column.codes)}"
            )
        parts += _add_up(dimension, column, tokens, tokens.nll)
    for temperature, nll in (nll_at or {}).items():
        everything = FactColumn(keys=(repr(float(temperature)),), codes=-columns[ALL].codes)
        parts += _add_up(TEMPERATURE, everything, tokens, nll)
    task_of = {trajectory.id: trajectory.task_id for trajectory in trajectories}
    return _table(parts, tokens.trajectory_ids, [task_of[name] for name in tokens.trajectory_ids])


def _own_columns(tokens: PoolTokens, trajectories: Sequence[Trajectory]) -> dict[str, FactColumn]:
    """The slices that need no facts: roles, labels, operations of derivable answers, and sources."""
    labels = label_tokens(tokens, trajectories)
    is_env = has_role(tokens.sources, ENV)
    operations, of_token = np.unique(labels.operations, return_inverse=True)
    named = labels.derivable & (labels.operations != "")
    return {
        ALL: FactColumn(keys=(ALL, BOILERPLATE), codes=np.where(is_env, 0, 1).astype(np.int32)),
        LABEL: FactColumn(keys=("first", "derivable"), codes=(labels.views - 1).astype(np.int32)),
        OPERATION: FactColumn(
            keys=tuple(str(name) for name in operations), codes=np.where(named, of_token, -1).astype(np.int32)
        ),
        "source": FactColumn(
            keys=tuple(source.value for source in SOURCES),
            codes=np.where(is_env, tokens.sources.astype(np.int32), -1).astype(np.int32),
        ),
    }


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of one slice before they are put in order; arrays `[row]`."""

    slice: tuple[str, str]
    trajectory_index: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]


def _add_up(dimension: str, column: FactColumn, tokens: PoolTokens, nll: NDArray[np.float64]) -> Iterator[_Rows]:
    at = np.flatnonzero(column.codes >= 0)
    size = len(tokens.trajectory_ids)
    cells = column.codes[at].astype(np.int64) * size + tokens.trajectory_index[at]
    shape = (len(column.keys), size)

    def add(weights: NDArray[Any] | None) -> NDArray[np.float64]:
        return np.bincount(cells, weights=weights, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    sums = {
        "nats": add(nll[at]),
        "num_tokens": add(None).astype(np.int64),
        "num_bytes": add(tokens.num_bytes[at]).astype(np.int64),
        "num_top1": add(tokens.top1[at].astype(np.float64)).astype(np.int64),
    }
    for number, key in enumerate(column.keys):
        has = sums["num_tokens"][number] > 0
        if (dimension, key) == (ALL, ALL):
            has[:] = True
        if has.any():
            yield _Rows(
                slice=(dimension, key),
                trajectory_index=np.flatnonzero(has).astype(np.int64),
                values={name: value[number][has] for name, value in sums.items()},
            )


def join_sums(parts: Iterable[PoolSums]) -> PoolSums:
    """Return the sums of a pool from those of its parts, whatever the order and the size of these.

    Raises:
        DataError: two parts have a trajectory id in common.
    """
    rows: list[_Rows] = []
    trajectory_ids: list[str] = []
    task_ids: list[str] = []
    for part in parts:
        offset = len(trajectory_ids)
        trajectory_ids += part.trajectory_ids
        task_ids += part.task_ids
        bounds = np.searchsorted(part.slice_index, np.arange(len(part.slices) + 1))
        for number, name in enumerate(part.slices):
            at = slice(bounds[number], bounds[number + 1])
            values = {column: getattr(part, column)[at] for column in ("nats", "num_tokens", "num_bytes", "num_top1")}
            rows.append(_Rows(slice=name, trajectory_index=part.trajectory_index[at] + offset, values=values))
    if len(set(trajectory_ids)) < len(trajectory_ids):
        raise DataError(
            f"expected unique trajectory ids, found {len(set(trajectory_ids))} among {len(trajectory_ids)} trajectories"
        )
    return _table(rows, trajectory_ids, task_ids)


def _table(rows: Sequence[_Rows], trajectory_ids: Sequence[str], task_ids: Sequence[str]) -> PoolSums:
    """Put rows in order: by slice, then by trajectory id."""
    order = sorted(range(len(trajectory_ids)), key=lambda number: trajectory_ids[number])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    slices = sorted({row.slice for row in rows}, key=_slice_order)
    number_of = {name: number for number, name in enumerate(slices)}
    at = np.concatenate([np.zeros(0, np.int64), *(place[row.trajectory_index] for row in rows)])
    of = np.repeat([number_of[row.slice] for row in rows], [len(row.trajectory_index) for row in rows])
    sort = np.lexsort([at, of])

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(row.values[name] for row in rows)])[sort]

    return PoolSums(
        trajectory_ids=tuple(trajectory_ids[number] for number in order),
        task_ids=tuple(task_ids[number] for number in order),
        slices=tuple(slices),
        trajectory_index=at[sort],
        slice_index=of[sort].astype(np.int64),
        nats=column("nats", np.float64),
        num_tokens=column("num_tokens", np.int64),
        num_bytes=column("num_bytes", np.int64),
        num_top1=column("num_top1", np.int64),
    )


def _slice_order(name: tuple[str, str]) -> tuple[int, str, int, list[tuple[int, str]]]:
    """`all` first; token classes in their order, other keys by name, numbers in them by size."""
    dimension, key = name
    known = TOKEN_CLASSES.index(key) if key in TOKEN_CLASSES else len(TOKEN_CLASSES)
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", key)]
    return int(dimension != ALL), dimension, known, parts


def write_sums(path: Path, sums: Mapping[str, Mapping[Predictor, PoolSums]]) -> None:
    """Write `sums.parquet`, pool by pool; the file appears under its name only when it is whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for pool, of_pool in sums.items():
                for predictor, found in of_pool.items():
                    writer.write_table(_to_table(pool, predictor, found))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _to_table(pool: str, predictor: str, sums: PoolSums) -> pa.Table:
    size = len(sums.nats)

    def named(names: Sequence[str], index: NDArray[np.int64]) -> pa.Array:
        return pa.array(names, pa.string()).take(pa.array(index))

    columns = {
        "pool": pa.repeat(pa.scalar(pool, pa.string()), size),
        "predictor": pa.repeat(pa.scalar(predictor, pa.string()), size),
        "trajectory_id": named(sums.trajectory_ids, sums.trajectory_index),
        "task_id": named(sums.task_ids, sums.trajectory_index),
        "dimension": named([dimension for dimension, _ in sums.slices], sums.slice_index),
        "key": named([key for _, key in sums.slices], sums.slice_index),
        **{name: pa.array(getattr(sums, name)) for name in ("nats", "num_tokens", "num_bytes", "num_top1")},
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def read_sums(path: Path) -> dict[str, dict[Predictor, PoolSums]]:
    """Read `sums.parquet`: pool, then predictor.

    Raises:
        DataError: there is no such file, it is no Parquet file, or it has another format, version or columns.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError("no such file; envecho eval --out writes it beside evaluation.json", file=path) from error
    except pa.ArrowInvalid as error:
        raise DataError(f"expected a Parquet file, found none: {error}", file=path) from error
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if (found.get("format"), found.get("version")) != (FORMAT, str(VERSION)) or not table.schema.equals(SCHEMA):
        raise DataError(
            f"expected format {FORMAT!r} version {VERSION} with its columns, found {found.get('format')!r} "
            f"{found.get('version')!r} with {', '.join(table.column_names)}",
            file=path,
        )
    rows: dict[tuple[str, Predictor], list[int]] = {}
    for number, name in enumerate(zip(table["pool"].to_pylist(), table["predictor"].to_pylist(), strict=True)):
        rows.setdefault(name, []).append(number)
    sums: dict[str, dict[Predictor, PoolSums]] = {}
    for (pool, predictor), numbers in rows.items():
        if predictor not in get_args(Predictor):
            known = ", ".join(get_args(Predictor))
            raise DataError(f"expected a predictor among {known}, found {predictor!r}", file=path)
        sums.setdefault(pool, {})[predictor] = _from_table(table.take(numbers))
    return sums


def _from_table(table: pa.Table) -> PoolSums:
    columns: dict[str, Any] = {
        name: table[name].to_pylist() for name in ("trajectory_id", "task_id", "dimension", "key")
    }
    task_of = dict(zip(columns["trajectory_id"], columns["task_id"], strict=True))
    place = {name: number for number, name in enumerate(task_of)}
    at = np.array([place[name] for name in columns["trajectory_id"]], dtype=np.int64)
    names = list(zip(columns["dimension"], columns["key"], strict=True))
    bounds = [n for n in range(len(names)) if n == 0 or names[n] != names[n - 1]]
    values = {name: table[name].to_numpy() for name in ("nats", "num_tokens", "num_bytes", "num_top1")}
    rows = [
        _Rows(slice=names[start], trajectory_index=at[start:stop], values={k: v[start:stop] for k, v in values.items()})
        for start, stop in zip(bounds, [*bounds[1:], len(names)], strict=True)
    ]
    return _table(rows, list(task_of), list(task_of.values()))
