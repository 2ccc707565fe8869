"""Stored rows as Arrow columns, without decoding a message: for filters, splits and copies of large stores.

Not here: the schema (`schema`), and files (`store`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from envecho.trajectory.record import Trajectory
from envecho.trajectory.schema import SCHEMA, decode, encode

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers


@dataclass(frozen=True, kw_only=True)
class SegmentColumns:
    """All segments of some rows, one after the other.

    `rows` and `messages` are `[segment]`: the row and the message (counted over all rows) of each.
    """

    segments: pa.StructArray
    rows: NDArray[np.int64]
    messages: NDArray[np.int64]

    def field(self, name: str) -> pa.Array:
        """Return a field of every segment, such as `text` or `source`."""
        return self.segments.field(name)


def segments_of(rows: pa.RecordBatch | pa.Table) -> SegmentColumns:
    """Return the segments of rows that hold at least `messages.segments`."""
    column = rows.column("messages")
    messages = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    row_of_message = _owners(messages)
    segments = messages.flatten().field("segments")
    message_of_segment = _owners(segments)
    return SegmentColumns(
        segments=segments.flatten(), rows=row_of_message[message_of_segment], messages=message_of_segment
    )


def _owners(lists: pa.ListArray) -> NDArray[np.int64]:
    """The place of the list that each element belongs to."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths)


def encode_batch(trajectories: Iterable[Trajectory]) -> pa.RecordBatch:
    """Return the rows of trajectories.

    Raises:
        DataError: a trajectory cannot be stored.
    """
    return pa.RecordBatch.from_pylist([encode(trajectory) for trajectory in trajectories], schema=SCHEMA)


def conform(batch: pa.RecordBatch, file: Path) -> pa.RecordBatch:
    """Return rows that an earlier version wrote in the columns of this one.

    Raises:
        DataError: a row does not fit the record.
    """
    if batch.schema.equals(SCHEMA):
        return batch
    return encode_batch(decode(row, file) for row in batch.to_pylist())


def row_bytes(batch: pa.RecordBatch) -> list[int]:
    """Return about how many bytes each row takes: characters of its segments, and 12 for each exact token id."""
    segments = segments_of(batch)
    sizes = _sum(segments.rows, pc.utf8_length(segments.field("text")), batch.num_rows)
    messages, branches = batch.column("messages"), batch.column("branches")
    sampled = pc.list_value_length(messages.flatten().field("sampled").field("token_ids"))
    sizes += 12 * _sum(_owners(messages), sampled, batch.num_rows)
    exact = pc.list_value_length(branches.flatten().field("token_ids"))
    sizes += 12 * _sum(_owners(branches), exact, batch.num_rows)
    return [int(size) for size in sizes]


def trajectory_bytes(trajectory: Trajectory) -> int:
    """Return what `row_bytes` says of the row of this trajectory."""
    text = sum(len(segment.text) for message in trajectory.messages for segment in message.segments)
    ids = sum(len(message.sampled.token_ids) for message in trajectory.messages if message.sampled)
    ids += sum(len(branch.token_ids) for branch in trajectory.branches)
    return text + 12 * ids


def _sum(owners: NDArray[np.int64], values: pa.Array, num_rows: int) -> NDArray[np.float64]:
    weights = np.asarray(pc.fill_null(values, 0).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.bincount(owners, weights=weights, minlength=num_rows).astype(np.float64)
