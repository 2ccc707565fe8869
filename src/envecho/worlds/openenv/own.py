"""Answers of a server of ours (`envecho serve`): segments come typed and are taken exactly as they are.

Not here: what such a server does (`server`), and every other server (`reading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from envecho.errors import WorldLostError
from envecho.seam import Observation
from envecho.trajectory import Segment
from envecho.worlds.openenv.connection import Reply

_SHAPE: Final = "segments [{source, text, tool}], tools, timed_out and labels"


def own_observation(reply: Reply, where: object) -> Observation:
    """Return the observation that a server of ours sent.

    Raises:
        WorldLostError: it is none.
    """
    fields = reply.observation
    try:
        return Observation(
            segments=tuple(Segment.model_validate(segment) for segment in fields["segments"]),
            done=reply.done,
            reward=reply.reward,
            timed_out=bool(fields["timed_out"]),
            labels={str(key): str(value) for key, value in fields["labels"].items()},
            tools=tuple(_objects(fields.get("tools") or ())),
            metadata=dict(fields.get("metadata") or {}),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        found = f"{type(error).__name__} {error}"
        raise WorldLostError(f"{where}: expected an observation with {_SHAPE}, found {found[:200]}") from error


def _objects(values: Any) -> list[Mapping[str, Any]]:
    if not all(isinstance(value, Mapping) for value in values):
        raise TypeError("tools are not objects")
    return cast("list[Mapping[str, Any]]", list(values))
