"""Agent Data Protocol, standard form: `{"id", "content": [{"class_": "text_observation" | "code_action" | ...}]}`.

Actions were parsed anew from other data sets, so their text is not what was sampled. `source: "user"` also stands on
the words of an environment, so the place decides: an observation behind an action that does something is the world's,
behind a message it is the world's only where the file says environment. Not here: the raw forms of the data sets
(`messages`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, pack_of, split
from envecho.formats.turns import Turn
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "agent-data-protocol"


def recognises(data: Any) -> bool:
    """Whether the document holds a list of such actions and observations."""
    content = data.get("content") if isinstance(data, Mapping) else None
    return isinstance(content, list) and any(isinstance(e, Mapping) and "class_" in e for e in content)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: an entry is of an unknown class, or there is no action.
    """
    data = document.data
    turns: list[Turn] = []
    segments: dict[int, tuple[Segment, ...]] = {}
    for place, entry in enumerate(data["content"]):
        kind = entry.get("class_") if isinstance(entry, Mapping) else None
        if kind in ("code_action", "api_action", "message_action"):
            turns.append(_action(entry, kind, place))
        elif kind in ("text_observation", "web_observation", "image_observation"):
            turn = _observation(entry, kind, place)
            acts = bool(turns) and (turns[-1].kind == "tool" or bool(turns[-1].tool_calls))
            if acts or entry.get("source") == "environment":
                pack = pack_of(turn.text) or "codeact"
                segments[len(turns)] = split(
                    turn.text, options.rules + PACKS[pack], body=Source.TOOL_RESULT, tool=turn.name
                )
                turns.append(turn)
            else:
                turns.append(Turn(kind="user", text=turn.text, num_dropped_parts=turn.num_dropped_parts))
        else:
            raise DataError(f"expected an action or observation with a class_, found {kind!r}", turn=place)
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected at least one action, found none")
    details = data.get("details")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(data["id"]) if isinstance(data.get("id"), str | int) else None,
        action_text_lossy=True,
        segments=segments,
        facts={"details": dict(details) if isinstance(details, Mapping) and details else None},
    )
    yield assemble(turns, origin, options)


def _action(entry: Mapping[str, Any], kind: str, place: int) -> Turn:
    text = str(entry.get("description") or "")
    calls: tuple[ToolCall, ...] = ()
    if kind == "message_action":
        text = "\n".join(filter(None, (text, str(entry.get("content") or ""))))
    elif kind == "code_action":
        arguments = json.dumps({"code": entry.get("content")}, ensure_ascii=False)
        calls = (ToolCall(name=str(entry.get("language") or "code"), arguments=arguments, id=f"call_{place}"),)
    else:
        arguments = json.dumps(entry.get("kwargs") or {}, ensure_ascii=False)
        calls = (ToolCall(name=str(entry.get("function")), arguments=arguments, id=f"call_{place}"),)
    return Turn(kind="assistant", text=text, tool_calls=calls, is_lossy=True)


def _observation(entry: Mapping[str, Any], kind: str, place: int) -> Turn:
    """Text as it is; of a page its tree or source; a picture alone is a placeholder."""
    keys = ("content",) if kind == "text_observation" else ("axtree", "html", "content")
    text = next((entry[key] for key in keys if entry.get(key)), "")
    if not isinstance(text, str):
        if kind == "text_observation":
            raise DataError(f"expected text as the content, found {type(text).__name__}", turn=place)
        text = ""
    has_picture = bool(entry.get("image_observation")) or kind == "image_observation"
    name = entry["name"] if isinstance(entry.get("name"), str) else None
    return Turn(kind="tool", text=text or ("[image]" if has_picture else ""), name=name, num_dropped_parts=has_picture,
                placeholders=((0, 7),) if has_picture and not text else ())  # fmt: skip
