"""Message lists wherever they lie: bare, in a row of a data set, in a recorded exchange, or as JSON text in a column.

    {"messages": [...]}                       OpenAI chat, SWE-smith (a JSON string), API requests of Anthropic
    {"conversations": [...]}                  ShareGPT, CodeAct, AgentInstruct, exports of Harbor
    {"trajectory": [{"role": ...}, ...]}      nebius
    {"prompt": [...], "completion": [...]}    results of verifiers
    {"input": [...]}                          requests of the Responses API
    {"messages": [...], "response": {...}}    logs of API calls
    {"interactions": [...]}                   recorded exchanges (`cassettes`)

Not here: what a single message looks like (`turns`), what other columns say (`message_rows`), and whose words a message
holds (`assemble`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats import cassettes, chat_export
from envecho.formats.assemble import ImportOptions, assemble
from envecho.formats.message_rows import NAME, holds_messages, is_message_list, messages_of, row_origin
from envecho.formats.reading import Document, Refused
from envecho.formats.turns import turns_of
from envecho.trajectory import Trajectory

__all__ = ["NAME", "read", "recognises"]


def recognises(data: Any) -> bool:
    """Whether this is a message list, or a document that holds one under a known name."""
    if isinstance(data, Mapping):
        return cassettes.recognises(data) or holds_messages(data)
    return is_message_list(data)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episode of a document, or those of its exchanges.

    Raises:
        DataError: the messages cannot be read; the error names the turn.
    """
    data = document.data
    if chat_export.recognises(data):
        yield from chat_export.read(document, options, number=number)
    elif cassettes.recognises(data):
        yield from cassettes.read(document, options, number=number)
    else:
        yield _row(document, data if isinstance(data, Mapping) else {"messages": data}, options, number)


def _row(document: Document, row: Mapping[str, Any], options: ImportOptions, number: int | None) -> Trajectory:
    if row.get("previous_response_id") is not None:
        raise DataError(
            "the request continues another answer (previous_response_id), so the prompt is not in the record; "
            "export the whole input"
        )
    turns = turns_of(messages_of(row))
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError(f"expected at least one answer of a model, found none in {len(turns)} messages")
    return assemble(turns, row_origin(document, row, number), options)
