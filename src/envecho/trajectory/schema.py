"""The Parquet form of a trajectory: the Arrow schema, and the way from record to row and back.

Documented for readers of the files in docs/formats/parquet.md. Not here: files, shards and streaming (`store`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from envecho.errors import DataError, did_you_mean
from envecho.trajectory.branches import ExactBranch
from envecho.trajectory.record import Message, SampledTokens, Trajectory

FORMAT_NAME = "envecho.trajectory"
FORMAT_VERSION = 3
FORMAT_KEY = b"envecho.format"
VERSION_KEY = b"envecho.version"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


_SEGMENT = pa.struct([_required("source", pa.string()), _required("text", pa.string()), pa.field("tool", pa.string())])
_TOOL_CALL = pa.struct(
    [_required("name", pa.string()), _required("arguments", pa.string()), pa.field("id", pa.string())]
)
_SAMPLED = pa.struct(
    [
        _required("token_ids", _list(pa.int32())),
        pa.field("logprobs", _list(pa.float64())),
        pa.field("temperature", pa.float64()),
        pa.field("entropies", _list(pa.float64())),
    ]
)
_SPAN = pa.struct(
    [
        _required("end", pa.int32()),
        _required("kind", pa.string()),
        _required("turn", pa.int32()),
        _required("num_turns", pa.int32()),
    ]
)
_BRANCH = pa.struct(
    [
        _required("token_ids", _list(pa.int32())),
        _required("spans", _list(_SPAN)),
        _required("owned_from", pa.int32()),
    ]
)
_MESSAGE = pa.struct(
    [
        _required("role", pa.string()),
        _required("segments", _list(_SEGMENT)),
        pa.field("reasoning", pa.string()),
        _required("tool_calls", _list(_TOOL_CALL)),
        pa.field("tool_call_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("sampled", _SAMPLED),
        _required("labels", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        _required("id", pa.string()),
        _required("task_id", pa.string()),
        pa.field("group_id", pa.string()),
        pa.field("reward", pa.float64()),
        _required("stop_reason", pa.string()),
        _required("messages", _list(_MESSAGE)),
        _required("tools", pa.string()),
        _required("metadata", pa.string()),
        _required("branches", _list(_BRANCH)),
    ],
    metadata={FORMAT_KEY: FORMAT_NAME.encode(), VERSION_KEY: str(FORMAT_VERSION).encode()},
)
"""One row per trajectory. `labels`, `tools` and `metadata` are JSON text; every other field keeps its own type."""


def check_schema(found: pa.Schema, file: Path) -> None:
    """Refuse a file that this version cannot read without losing something.

    Raises:
        DataError: another format, a newer version, or a column that is unknown, missing or of another type.
    """
    metadata: dict[bytes, bytes] = found.metadata or {}
    if metadata.get(FORMAT_KEY) != FORMAT_NAME.encode():
        other = metadata.get(FORMAT_KEY, b"none").decode(errors="replace")
        raise DataError(
            f"expected format {FORMAT_NAME!r} in the Parquet metadata, found {other!r}; "
            "bring foreign traces in with `envecho import`",
            file=file,
        )
    version = metadata.get(VERSION_KEY, b"none").decode(errors="replace")
    if not version.isdecimal() or not 1 <= int(version) <= FORMAT_VERSION:
        raise DataError(
            f"expected {FORMAT_NAME} version 1 to {FORMAT_VERSION}, found {version}; upgrade envecho to read it",
            file=file,
        )
    problem = _difference(pa.struct(list(SCHEMA)), pa.struct(list(found)), "", absent=_ADDED_LATER[int(version)])
    if problem:
        raise DataError(f"{problem}; remove what is not of this format or upgrade envecho", file=file)


_ADDED_LATER = ((), ("messages.sampled.entropies", "branches"), ("branches",), ())
"""`_ADDED_LATER[v]`: the optional columns that files of version v do not have yet."""


def _difference(expected: pa.DataType, found: pa.DataType, path: str, *, absent: Collection[str]) -> str | None:
    if expected.equals(found):
        return None
    if isinstance(expected, pa.ListType) and isinstance(found, pa.ListType):
        return _difference(expected.value_type, found.value_type, path, absent=absent)
    if isinstance(expected, pa.StructType) and isinstance(found, pa.StructType):
        known, present = [field.name for field in expected], [field.name for field in found]
        prefix = f"{path}." if path else ""
        for name in present:
            if name not in known:
                return f"unknown column {prefix + name!r}.{did_you_mean(name, known)} Known here: {', '.join(known)}"
        for name in known:
            if name not in present and prefix + name not in absent:
                return f"column {prefix + name!r} is missing"
        parts = (
            _difference(expected.field(n).type, found.field(n).type, prefix + n, absent=absent)
            for n in known
            if n in present
        )
        return next((part for part in parts if part), None)
    return f"column {path!r} has type {found}, expected {expected}"


def encode(trajectory: Trajectory) -> dict[str, Any]:
    """Return the row of a trajectory, in the types that `SCHEMA` takes.

    Raises:
        DataError: a value that the file could not give back: text that is not Unicode, metadata that is not JSON, a
            token id beyond 32 bits.
    """
    try:
        return {
            "id": _text(trajectory.id),
            "task_id": _text(trajectory.task_id),
            "group_id": _text(trajectory.group_id),
            "reward": trajectory.reward,
            "stop_reason": trajectory.stop_reason.value,
            "messages": [_encode_message(message) for message in trajectory.messages],
            "tools": _json_text(trajectory.tools),
            "metadata": _json_text(trajectory.metadata),
            "branches": [_encode_branch(branch) for branch in trajectory.branches],
        }
    except UnicodeEncodeError as error:
        raise DataError(
            f"trajectory {trajectory.id!a} holds half of a surrogate pair, which is no text, near "
            f"{error.object[max(error.start - 20, 0) : error.end + 20]!a}; decode its bytes with errors='replace'"
        ) from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"trajectory {trajectory.id!r} cannot be stored: {error}") from error


def _encode_message(message: Message) -> dict[str, Any]:
    return {
        "role": message.role,
        "segments": [
            {"source": s.source.value, "text": _text(s.text), "tool": _text(s.tool)} for s in message.segments
        ],
        "reasoning": _text(message.reasoning),
        "tool_calls": [
            {"name": _text(call.name), "arguments": _text(call.arguments), "id": _text(call.id)}
            for call in message.tool_calls
        ],
        "tool_call_id": _text(message.tool_call_id),
        "name": _text(message.name),
        "sampled": _encode_sampled(message.sampled) if message.sampled else None,
        "labels": _json_text(message.labels),
    }


def _encode_branch(branch: ExactBranch) -> dict[str, Any]:
    return {
        "token_ids": np.array(branch.token_ids, dtype=np.int32),
        "spans": [{"end": s.end, "kind": s.kind.value, "turn": s.turn, "num_turns": s.num_turns} for s in branch.spans],
        "owned_from": branch.owned_from,
    }


def _encode_sampled(sampled: SampledTokens) -> dict[str, Any]:
    return {
        "token_ids": np.array(sampled.token_ids, dtype=np.int32),
        "logprobs": None if sampled.logprobs is None else np.array(sampled.logprobs, dtype=np.float64),
        "temperature": sampled.temperature,
        "entropies": None if sampled.entropies is None else np.array(sampled.entropies, dtype=np.float64),
    }


def _text(text: str | None) -> str | None:
    # A Python string may hold half of a surrogate pair, which the record accepts and UTF-8 does not.
    if text is not None and not text.isascii():
        text.encode()
    return text


def _json_text(value: Any) -> str | None:
    return _text(json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")))


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back (tuples as lists), or say what JSON would change or lose."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise ValueError(f"expected JSON values with text keys in metadata and tools, found {value!r:.80}")


def decode(row: dict[str, Any], file: Path) -> Trajectory:
    """Return the trajectory of a row of `file`.

    Raises:
        DataError: a value that no trajectory can hold, such as an unknown source; it names the row.
    """
    try:
        messages = [{**message, "labels": json.loads(message["labels"])} for message in row["messages"]]
        parsed = {"messages": messages, "tools": json.loads(row["tools"]), "metadata": json.loads(row["metadata"])}
        return Trajectory.model_validate({**row, **parsed})
    except (ValidationError, json.JSONDecodeError, TypeError) as error:
        raise DataError(f"trajectory {row['id']!r} does not fit the record: {error}", file=file) from error
