"""Runs of terminal-bench before Harbor: the `agent-logs` of a trial, `episode-N/{prompt.txt, response.txt}`.

A response is what the model wrote, word for word; the next prompt is what the terminal then showed, with the harness's
headers. `reading` brings the folder as one document. Not here: `sessions/*.cast`, which have no turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.folders import EPISODES
from envecho.formats.reading import Document
from envecho.formats.turns import Turn
from envecho.trajectory import Trajectory

NAME = "terminal-bench"


def recognises(data: Any) -> bool:
    """Whether the document is such a folder, as `reading` brings it."""
    return isinstance(data, Mapping) and isinstance(data.get(EPISODES), list)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: no episode has a response.
    """
    turns: list[Turn] = []
    num_without = 0
    for episode in document.data[EPISODES]:
        prompt, response = (
            episode.get(name) if isinstance(episode, Mapping) else None for name in ("prompt", "response")
        )
        if isinstance(prompt, str):
            turns.append(Turn(kind="user", text=prompt))
        if isinstance(response, str):
            turns.append(Turn(kind="assistant", text=response))
        num_without += not isinstance(response, str)
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected episode-N/response.txt in agent-logs, found none")
    results = document.data.get("results")
    facts: Mapping[str, Any] = results if isinstance(results, Mapping) else {}
    resolved = facts.get("is_resolved")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=facts["task_id"] if isinstance(facts.get("task_id"), str) else None,
        reward=float(resolved) if isinstance(resolved, bool | int | float) else None,
        pack="terminus",
        world_speaks_as_user=True,
        action_provenance="proved",
        facts={
            "trial_name": facts.get("trial_name"),
            "failure_mode": facts.get("failure_mode"),
            "num_episodes_without_response": num_without,
        },
    )
    yield assemble(turns, origin, options)
