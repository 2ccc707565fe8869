"""Splits without leaks: units that share a key or nearly the same opening stay together, and shares are met.

Not here: near-duplicates of texts (`near_duplicates`), and reading and writing stores (`envecho.recipes.split`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

SplitBy = Literal["task", "repository", "session", "auto"]
KeyKind = Literal["id", "task", "repository", "session"]

KINDS: Final[dict[SplitBy, tuple[KeyKind, ...]]] = {
    "task": ("id", "task"),
    "repository": ("id", "task", "repository"),
    "session": ("id", "task", "session"),
    "auto": ("id", "task", "repository", "session"),
}
"""Which keys keep trajectories together under each choice."""

_REPOSITORY_FIELDS = ("repository", "repo", "repo_name", "repository_url")
_INSTANCE_FIELDS = ("instance_id", "task_id")
_FILE_IS_SESSION = ("claude-code", "codex", "openhands")
_INSTANCE = re.compile(
    r"(?:^|/)(?:instance_)?(?P<owner>[A-Za-z0-9][\w.-]*?)__(?P<name>[A-Za-z0-9][\w.-]*?)"
    r"(?:-(?:\d+(?:_\d+)?|[0-9a-f]{7,40}(?:-v\w+)?)|\.[0-9a-f]{7,40}\.\w+)(?=$|\.|/)"
)


def keys_of(identity: str, task_id: str, group_id: str | None, metadata: Mapping[str, Any]) -> dict[KeyKind, list[str]]:
    """Return what a trajectory may share with another, by kind; a kind that nobody stated is an empty list.

    `repository` is stated by a column of the data set, or follows from an instance's name: `django__django-11163` is of
    `django/django`. `session` is a session's id, or the file where a file holds one session.
    """
    stated = metadata.get("import")
    facts = {**metadata, **stated} if isinstance(stated, Mapping) else dict(metadata)
    tasks = [f"task {task_id}"] + ([] if group_id is None else [f"group {group_id}"])
    return {
        "id": [identity],
        "task": tasks,
        "repository": [found] if (found := _repository(task_id, facts)) else [],
        "session": _sessions(facts),
    }


def _repository(task_id: str, facts: Mapping[str, Any]) -> str | None:
    for name in _REPOSITORY_FIELDS:
        if isinstance(value := facts.get(name), str) and value.strip():
            path = re.sub(r"^(?:\w+://[^/]+/|git@[^:]+:)", "", value.strip()).removesuffix(".git").strip("/")
            return path.replace("__", "/", 1).lower()
    for value in (*(facts.get(name) for name in _INSTANCE_FIELDS), task_id, facts.get("file")):
        if isinstance(value, str) and (found := _INSTANCE.search(value)):
            return f"{found['owner']}/{found['name']}".lower()
    return None


def _sessions(facts: Mapping[str, Any]) -> list[str]:
    found = [f"session {facts['session_id']}"] if isinstance(facts.get("session_id"), str) else []
    if facts.get("format") in _FILE_IS_SESSION:
        found.append(f"file {facts.get('file')}")
    elif facts.get("format") == "atif":  # sub-agents stand in the document of their parent
        found.append(f"document {facts.get('file')}:{facts.get('line')}")
    return found


def key_hash(kind: str, key: str) -> int:
    """Return 63 bits that stand for a key, never 0."""
    digest = hashlib.blake2b(f"{kind}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) | 1


def pairs_of_keys(rows: NDArray[np.int64], hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs `[pair, 2]` that connect all rows of each key; `hashes[k]` is a key of `rows[k]`."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    return np.stack([rows[order[same]], rows[order[same + 1]]], axis=1)


def connected_groups(num_rows: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group `[row]` of each row, counted in the order of the groups' first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=np.int32), (pairs[:, 0], pairs[:, 1])), shape=(num_rows, num_rows))
    labels = np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    return place[inverse]


def seeded_order(names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return a permutation of names that the seed draws: the same on every platform."""
    drawn = [hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "replace"), digest_size=8).digest() for name in names]
    return np.array(sorted(range(len(names)), key=drawn.__getitem__), dtype=np.int64)


def assign_groups(sizes: NDArray[np.int64], order: NDArray[np.int64], shares: Mapping[str, float]) -> NDArray[np.int8]:
    """Return the split `[group]` of each group: k for the k-th of `shares`, -1 for training, which gets the rest.

    Groups are taken in the given order while they fit; then single groups go in or out as long as that brings a split
    nearer to its share. No group that goes in or out alone would bring it nearer still.
    """
    split = np.full(len(sizes), -1, dtype=np.int8)
    total = int(sizes.sum())
    for number, share in enumerate(shares.values()):
        target, taken = share * total, 0
        for group in order:
            if split[group] == -1 and taken + sizes[group] <= target:
                split[group] = number
                taken += int(sizes[group])
        _move_single_groups(sizes, split, number, target)
    return split


def _move_single_groups(sizes: NDArray[np.int64], split: NDArray[np.int8], number: int, target: float) -> None:
    while True:
        missing = target - int(sizes[split == number].sum())
        movable = np.flatnonzero((split == -1) | (split == number))
        change = np.where(split[movable] == -1, sizes[movable], -sizes[movable])
        if not len(movable):
            return
        best = int(np.argmin(np.abs(missing - change)))
        if abs(missing - change[best]) >= abs(missing):
            return
        split[movable[best]] = number if split[movable[best]] == -1 else -1
