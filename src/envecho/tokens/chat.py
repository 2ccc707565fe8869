"""`ChatTokenizer`: a Hugging Face tokenizer and its chat template, asked only for what can be checked.

It renders messages as text, encodes text without added tokens, knows which added tokens exist, how an assistant turn
opens and closes, and how many bytes each token stands for. Not here: who wrote which character (`spans`), and how a
rendering becomes ids (`render`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from envecho.collector import paused_collector
from envecho.errors import TemplateError
from envecho.trajectory import Message

ChatDict = dict[str, Any]
"""One message as a chat template takes it."""

# At most 70 MB in all, where every text is the longest: its characters, ids and edges.
_KEPT_RUNS = 1024
_KEPT_CHARACTERS = 4096

_PROBE = ("\U000ff000", "\U000ff001", "\U000ff002")


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A string that the tokenizer cuts out before BPE; `special` ones vanish when ids are decoded for people."""

    id: int
    special: bool


@dataclass(frozen=True, kw_only=True)
class EncodedRun:
    """Text as tokens: their ids, begin and end of each in the text one after the other, and whether one is control."""

    ids: tuple[int, ...]
    edges: tuple[int, ...]
    has_control: bool


@dataclass(frozen=True, kw_only=True)
class TurnFormat:
    """How the template writes an assistant turn.

    `header` stands before what the policy wrote earlier, `generation_prompt` before what it writes next (they differ
    where the prompt opens a thinking block). `end_of_turn` is the token that the policy closes its turn with, `footer`
    that token and the text after it up to the next turn.
    """

    header: str
    generation_prompt: str
    end_of_turn: str
    footer: str


@final
class ChatTokenizer:
    """A fast Hugging Face tokenizer with a chat template.

    Args:
        hf: the transformers tokenizer; it must be a fast one (backed by the `tokenizers` package).

    Raises:
        TemplateError: it is not a fast tokenizer, has no chat template, or encodes plain text differently when added
            tokens are kept out of it.
    """

    def __init__(self, hf: Any) -> None:
        from tokenizers import Tokenizer

        if not getattr(hf, "is_fast", False):
            raise TemplateError(f"expected a fast tokenizer, found {type(hf).__name__}; load it with AutoTokenizer")
        if not getattr(hf, "chat_template", None):
            raise TemplateError(f"{hf.name_or_path!r} has no chat template; use the instruct model or set one")
        self.hf = hf
        backend = hf.backend_tokenizer
        self.added: dict[str, AddedToken] = {
            token.content: AddedToken(id=int(token_id), special=bool(token.special))
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        self.added_ids = frozenset(token.id for token in self.added.values())
        longest_first = sorted((text for text in self.added if text), key=len, reverse=True)
        self.added_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # The model with its normaliser and pre-tokeniser but without the added vocabulary: here `<|im_end|>` is text.
        self._text = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._text.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._text.pre_tokenizer = backend.pre_tokenizer
        self._runs: dict[str, EncodedRun] = {}
        self._check_text_encoding()

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path) -> ChatTokenizer:
        """Load the tokenizer of a hub name or a local folder."""
        with paused_collector():
            from transformers import AutoTokenizer

            return cls(AutoTokenizer.from_pretrained(name_or_dir))

    def _check_text_encoding(self) -> None:
        probe = "drwxr-xr-x 2 root\n\n  total: 12.5 é日本😀\t(x)\r\n"
        expected = self.hf(probe, add_special_tokens=False)["input_ids"]
        if self.encode_text(probe)[0] != list(expected):
            raise TemplateError(
                f"{self.hf.name_or_path!r} does not encode plain text as its model alone does; "
                "exact sources need a tokenizer that is BPE with added tokens and nothing else"
            )

    def encode_text(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode text in which nothing is a control token: ids and character offsets `[token]`."""
        encoding = self._text.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_run(self, text: str) -> EncodedRun:
        """Encode text like `encode_text`; one that is not long, which templates repeat, is encoded once."""
        run = self._runs.get(text)
        if run is not None:
            return run
        ids, offsets = self.encode_text(text)
        edges = tuple(chain.from_iterable(offsets))
        run = EncodedRun(ids=tuple(ids), edges=edges, has_control=not self.added_ids.isdisjoint(ids))
        if len(text) <= _KEPT_CHARACTERS:
            if len(self._runs) >= _KEPT_RUNS:
                self._runs.clear()
            self._runs[text] = run
        return run

    def template_text(
        self,
        messages: Sequence[ChatDict],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool = False,
    ) -> str:
        """Render messages with the chat template.

        Raises:
            TemplateError: the template refuses these messages.
        """
        from jinja2 import TemplateError as JinjaError

        if not messages:
            raise TemplateError("expected at least one message, found none")
        try:
            return self.hf.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=generation_prompt
            )
        except (JinjaError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateError(
                f"the chat template of {self.hf.name_or_path!r} refuses these messages ({roles}): {error}; "
                "change the roles to what it accepts, or use another template"
            ) from error

    @cached_property
    def turn_format(self) -> TurnFormat:
        """How an assistant turn opens and closes, read off four renderings of a probe conversation.

        Raises:
            TemplateError: the opening or the closing cannot be told apart from the content.
        """
        ask, answer, after = _PROBE
        user, assistant = {"role": "user", "content": ask}, {"role": "assistant", "content": answer}
        asked = self.template_text([user])
        prompt = self.template_text([user], generation_prompt=True)
        last = self.template_text([user, assistant])
        middle = self.template_text([user, assistant, {"role": "user", "content": after}])
        tail = asked.partition(ask)[2]
        opening = _common_prefix(middle.partition(ask)[2].partition(answer)[0], prompt.partition(ask)[2])
        header = opening.removeprefix(tail) or opening
        closings = [last.partition(answer)[2], middle.partition(answer)[2].partition(after)[0]]
        ends = [self.added_pattern.match(closing) for closing in closings]
        end = ends[0].group() if ends[0] else ""
        if not (header and end and prompt.startswith(asked) and ends[1] and ends[1].group() == end):
            raise TemplateError(
                f"the chat template of {self.hf.name_or_path!r} does not open assistant turns with its generation "
                f"prompt and close them with one token (opening {opening!r}, closings {closings}); exact action "
                "spans need both, so use a template that has them"
            )
        footer = _common_prefix(*closings)
        return TurnFormat(
            header=header,
            generation_prompt=prompt[len(asked) :] or header,
            end_of_turn=end,
            footer=footer,
        )

    @property
    def end_of_turn_id(self) -> int:
        """The id of the token with which an assistant turn ends; sampling stops there."""
        return self.added[self.turn_format.end_of_turn].id

    @cached_property
    def _byte_level(self) -> bool:
        return type(self.hf.backend_tokenizer.decoder).__name__ == "ByteLevel"

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token stands for, exact for byte-level BPE; none for an id without a token."""
        piece = self.hf.backend_tokenizer.id_to_token(int(token_id))
        if piece is None:
            return b""
        if piece in self.added:
            return piece.encode()
        if self._byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()

    @cached_property
    def _byte_counts(self) -> NDArray[np.uint16]:
        backend = self.hf.backend_tokenizer
        ids = backend.get_vocab(with_added_tokens=True).values()
        counts = np.zeros(max(ids) + 1, dtype=np.uint16)
        for token_id in ids:
            counts[token_id] = len(self.token_bytes(token_id))
        return counts

    def num_bytes(self, token_ids: NDArray[np.int32]) -> NDArray[np.uint16]:
        """UTF-8 bytes `[token]` that each id stands for, 0 for an id without a token."""
        counts = self._byte_counts
        known = token_ids < len(counts)
        return np.where(known, counts[np.where(known, token_ids, 0)], 0).astype(np.uint16)


def token_texts(tokenizer: ChatTokenizer, token_ids: Sequence[int] | NDArray[np.int32]) -> list[str]:
    """Text of each token alone, for people; bytes that are no whole character become the replacement character."""
    return [tokenizer.token_bytes(int(token_id)).decode(errors="replace") for token_id in token_ids]


def chat_dict(message: Message, content: str | None = None) -> ChatDict:
    """Return a message as a chat template takes it, with other content where that is given.

    Arguments of a tool call that are a JSON object are passed as an object, as inference servers do; other text as it
    is.
    """
    chat: ChatDict = {"role": message.role, "content": message.content if content is None else content}
    if message.reasoning:
        chat["reasoning_content"] = message.reasoning
    if message.tool_calls:
        chat["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        chat["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        chat["name"] = message.name
    return chat


def _common_prefix(one: str, other: str) -> str:
    same = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:same]


def _arguments(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _byte_of_character() -> dict[str, int]:
    """The table of GPT-2's byte-level BPE, inverted: which byte each visible stand-in character means."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
