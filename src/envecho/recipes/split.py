"""`envecho split`: a store becomes training, validation and held-out files between which nothing leaks.

Three passes over the store, none of which decodes a message: common lines, then keys and signatures, then writing.
Memory holds some numbers per trajectory, and one row group. Not here: the rules (`envecho.trajectory.splits` and
`near_duplicates`).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from envecho.errors import ConfigError, DataError
from envecho.trajectory.near_duplicates import (
    LOWEST_THRESHOLD,
    NUM_BANDS,
    NUM_POSITIONS,
    SHINGLE_WORDS,
    minima,
    near_duplicates,
    signature,
)
from envecho.trajectory.openings import (
    COMMON_SHARE,
    COMMON_TASKS,
    NUM_OBSERVATIONS,
    OPENING_COLUMNS,
    CommonLines,
    observed_words,
    openings,
)
from envecho.trajectory.splits import (
    KINDS,
    KeyKind,
    SplitBy,
    assign_groups,
    connected_groups,
    key_hash,
    keys_of,
    pairs_of_keys,
    seeded_order,
)
from envecho.trajectory.store import TrajectoryWriter, read_batches

TASK_WORDS: Final = 30
"""A task text of at least this many words of its own is compared by itself; shorter ones with what was observed."""

TRAIN: Final = "train"
_KEY_COLUMNS: Final = ("id", "task_id", "group_id", "metadata")
_LARGEST: Final = 20
_SHARE_TOLERANCE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """What is asked for: `shares` of the trajectories by split, training has the rest.

    Raises:
        ConfigError: shares or similarity that cannot be.
    """

    shares: Mapping[str, float]
    by: SplitBy = "auto"
    seed: int = 0
    similarity: float = 0.8

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.shares.values()) or sum(self.shares.values()) >= 1:
            raise ConfigError(f"shares are {dict(self.shares)}, expected each above 0 and all together below 1")
        if not LOWEST_THRESHOLD < self.similarity <= 1:
            raise ConfigError(f"similarity is {self.similarity}, expected above {LOWEST_THRESHOLD} and at most 1")


@dataclass(kw_only=True)
class _Facts:
    """Numbers per trajectory, in the order of the store."""

    num_rows: int = 0
    rows: dict[KeyKind, array[int]] = field(default_factory=lambda: {kind: array("q") for kind in KINDS["auto"]})
    hashes: dict[KeyKind, array[int]] = field(default_factory=lambda: {kind: array("q") for kind in KINDS["auto"]})
    signatures: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def add(self, keys: Mapping[KeyKind, Sequence[str]], task: NDArray[np.uint16], both: NDArray[np.uint16]) -> None:
        for kind, found in keys.items():
            for key in found:
                self.rows[kind].append(self.num_rows)
                self.hashes[kind].append(key_hash(kind, key))
        self.signatures[0].extend(task.tobytes())
        self.signatures[1].extend(both.tobytes())
        self.num_rows += 1

    def key_pairs(self, kinds: Sequence[KeyKind]) -> NDArray[np.int64]:
        pairs = [pairs_of_keys(np.array(self.rows[k], np.int64), np.array(self.hashes[k], np.int64)) for k in kinds]
        return np.concatenate(pairs)

    def near_pairs(self, threshold: float) -> NDArray[np.int64]:
        """Pairs of near-duplicates; the signatures are then forgotten."""
        found = [np.frombuffer(some, dtype=np.uint16).reshape(-1, NUM_POSITIONS) for some in self.signatures]
        pairs = [near_duplicates(some, threshold) for some in found]
        self.signatures = (bytearray(), bytearray())
        return np.concatenate(pairs)


def split_store(paths: Sequence[str | Path], out: Path, plan: SplitPlan, *, overwrite: bool = False) -> dict[str, Any]:
    """Write `OUT/train.parquet`, a file per split and `OUT/split.json`, and return what the latter holds.

    Raises:
        ConfigError: `out` holds a split already and `overwrite` is not set, or no trajectory states its key.
        DataError: the store cannot be read, or the groups leave a split empty.
    """
    if (out / "split.json").exists() and not overwrite:
        raise ConfigError(f"{out} holds a split already; pass --overwrite to replace it, or another --out")
    facts = _facts(paths, _common_lines(paths))
    if plan.by in ("repository", "session") and not facts.hashes[plan.by]:
        raise ConfigError(f"no trajectory states its {plan.by}; use --by task, or auto for what is known")
    pairs = facts.key_pairs(KINDS[plan.by])
    by_keys = connected_groups(facts.num_rows, pairs)
    groups = connected_groups(facts.num_rows, np.concatenate([pairs, facts.near_pairs(plan.similarity)]))
    sizes = np.bincount(groups)
    names = _first_ids(paths, groups)
    split = assign_groups(sizes, seeded_order(names, plan.seed), plan.shares)
    document = _document(plan, facts, by_keys, groups, split, names)
    _require_filled(document, sizes)
    _write(paths, out, split[groups], list(plan.shares))
    (out / "split.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def _common_lines(paths: Sequence[str | Path]) -> CommonLines:
    common = CommonLines()
    for batch in read_batches(paths, columns=["task_id", *OPENING_COLUMNS]):
        for task, opening in zip(batch.column("task_id").to_pylist(), openings(batch), strict=True):
            common.add(key_hash("task", task), opening.task)
    return common


def _facts(paths: Sequence[str | Path], common: CommonLines) -> _Facts:
    facts = _Facts()
    for batch in read_batches(paths, columns=[*_KEY_COLUMNS, *OPENING_COLUMNS]):
        for keys, opening in zip(_keys(batch), openings(batch), strict=True):
            words = common.own_words(opening.task)
            task = minima(words)
            both = np.minimum(task, minima(observed_words(opening)))
            alone = task if len(words) >= TASK_WORDS else minima([])
            facts.add(keys, signature(alone), signature(both))
    if not facts.num_rows:
        raise DataError("expected trajectories, found none", file=str(paths[0]))
    return facts


def _keys(batch: pa.RecordBatch) -> Iterator[dict[KeyKind, list[str]]]:
    for identity, task, group, metadata in zip(*(batch.column(c).to_pylist() for c in _KEY_COLUMNS), strict=True):
        yield keys_of(identity, task, group, json.loads(metadata))


def _first_ids(paths: Sequence[str | Path], groups: NDArray[np.int64]) -> list[str]:
    """The id of the first trajectory of each group, which names the group."""
    names: list[str] = []
    ids = (identity for batch in read_batches(paths, columns=["id"]) for identity in batch.column("id").to_pylist())
    for group, identity in zip(groups, ids, strict=True):
        if group == len(names):
            names.append(identity)
    return names


def _write(paths: Sequence[str | Path], out: Path, split: NDArray[np.int8], names: Sequence[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    with ExitStack() as stack:
        writers = {
            number: stack.enter_context(TrajectoryWriter(out / f"{name}.parquet"))
            for number, name in enumerate((*names, TRAIN))
        }
        for batch in read_batches(paths):
            mine = split[done : done + batch.num_rows]
            done += batch.num_rows
            for number, writer in writers.items():
                mask = mine == (number if number < len(names) else -1)
                if mask.any():
                    writer.write_batch(batch if mask.all() else batch.filter(pa.array(mask)))


def _document(
    plan: SplitPlan,
    facts: _Facts,
    by_keys: NDArray[np.int64],
    groups: NDArray[np.int64],
    split: NDArray[np.int8],
    names: Sequence[str],
) -> dict[str, Any]:
    sizes = np.bincount(groups)
    num_parts = np.bincount(groups[np.unique(by_keys, return_index=True)[1]], minlength=len(sizes))
    merged = np.flatnonzero(num_parts > 1)
    splits = {
        name: _facts_of_split(split == number, sizes, share, facts.num_rows)
        for number, name, share in [
            (-1, TRAIN, 1 - sum(plan.shares.values())),
            *((number, name, share) for number, (name, share) in enumerate(plan.shares.items())),
        ]
    }
    return {
        "format": "envecho.split",
        "version": 1,
        "by": plan.by,
        "seed": plan.seed,
        "num_trajectories": facts.num_rows,
        "num_groups": len(sizes),
        "splits": splits,
        "keys": {
            kind: {
                "num_trajectories": len(np.unique(np.array(facts.rows[kind], np.int64))),
                "num_values": len(np.unique(np.array(facts.hashes[kind], np.int64))),
                "used": kind in KINDS[plan.by],
            }
            for kind in facts.rows
        },
        "near_duplicates": {
            "similarity": plan.similarity,
            "shingle_words": SHINGLE_WORDS,
            "positions": NUM_POSITIONS,
            "bands": NUM_BANDS,
            "task_words": TASK_WORDS,
            "observations": NUM_OBSERVATIONS,
            "common_line_share": COMMON_SHARE,
            "common_line_tasks": COMMON_TASKS,
            "num_merges": int(by_keys.max()) + 1 - len(sizes),
            "num_merged_groups": len(merged),
            "largest": _largest(merged, sizes, num_parts, names),
        },
        "largest_groups": _largest(np.arange(len(sizes)), sizes, num_parts, names),
        "notes": _notes(splits, sizes, names),
    }


def _facts_of_split(chosen: NDArray[np.bool_], sizes: NDArray[np.int64], share: float, total: int) -> dict[str, Any]:
    num = int(sizes[chosen].sum())
    return {"num_trajectories": num, "num_groups": int(chosen.sum()), "share": num / total, "wanted_share": share}


def _largest(
    some: NDArray[np.int64], sizes: NDArray[np.int64], num_parts: NDArray[np.int64], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The largest groups; `num_merged` is of how many groups by keys alone near-duplicates made it."""
    order = some[np.argsort(-sizes[some], kind="stable")][:_LARGEST]
    return [{"first_id": names[g], "num_trajectories": int(sizes[g]), "num_merged": int(num_parts[g])} for g in order]


def _notes(splits: Mapping[str, Mapping[str, Any]], sizes: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    notes: list[str] = []
    largest = int(sizes.argmax())
    for name, facts in splits.items():
        if abs(facts["share"] - facts["wanted_share"]) > _SHARE_TOLERANCE * facts["wanted_share"]:
            notes.append(
                f"{name} has {facts['share']:.1%} and not {facts['wanted_share']:.1%}: groups stay whole, and the"
                f" largest of {len(sizes):,}, that of {names[largest]!r}, holds {sizes[largest] / sizes.sum():.1%}"
            )
    return notes


def _require_filled(document: Mapping[str, Any], sizes: NDArray[np.int64]) -> None:
    for name, facts in document["splits"].items():
        if not facts["num_trajectories"]:
            raise DataError(
                f"{name} would be empty: {document['num_trajectories']:,} trajectories make {len(sizes):,} groups that"
                f" must stay whole, and the largest holds {sizes.max() / sizes.sum():.1%}. Use --by task, a larger"
                " share, or a higher --similarity, or collect more tasks"
            )
