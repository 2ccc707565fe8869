"""The coloured view of a trajectory: which token came from whom, and what a model found hard.

Here: `TokenView`, the record that the terminal and the HTML page both draw; its rich form; the rule that makes control
characters visible. Not here: how tokens get their sources (`spans`), what they are worth (`envecho.objective`; weights
come in as an array), and HTML (`envecho.reports`).
"""

from __future__ import annotations

import codecs
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

from envecho.tokens.chat import ChatTokenizer
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.trajectory import SOURCES, Message, Role, Source, Trajectory

if TYPE_CHECKING:
    from envecho.tokens.selection import Selected

ROLE_STYLES: Final[Mapping[Role, str]] = {
    Role.CONTEXT: "bright_black",
    Role.ACTION: "bold blue",
    Role.ENV_OUTPUT: "green",
    Role.WARNING: "yellow",
}
"""Terminal style per role; the same hues as the HTML page's."""

REDACTED_STYLE: Final = "reverse bright_black"
"""What was taken out of a trace is drawn as a bar; `REDACTED_BRACKETS` show it where there is no colour."""

REDACTED_BRACKETS: Final = ("⟦", "⟧")

HIT_STYLE: Final = "bold black on yellow"
"""Terminal style of a text that was searched for."""

NLL_LEVELS: Final[tuple[float, ...]] = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Upper ends, in nats, of the shades of a token; a token above the last has the deepest shade."""

_SHADES: Final = ("", "on #2a1420", "on #4a1a35", "on #6e2049", "on #93265e", "on #bb2d75", "on #e0368d")


class ViewToken(BaseModel):
    """One token (or one segment): its text, who wrote it, its message, and nats per predictor (None: not scored)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: str
    source: Source
    turn: int
    nll: dict[str, float | None] = {}


class TokenView(BaseModel):
    """One trajectory, ready to be drawn.

    Example:
        >>> TokenView(pool="new_boxes", trajectory_id="t1", tokens=(
        ...     ViewToken(text="ls", source=Source.POLICY, turn=2),
        ...     ViewToken(text="a.log\\n", source=Source.STDOUT, turn=3, nll={"base": 2.5, "trained": 0.1}),
        ... )).predictors
        ('base', 'trained')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str
    trajectory_id: str
    tokens: tuple[ViewToken, ...]

    @property
    def predictors(self) -> tuple[str, ...]:
        """Names of the predictors that scored at least one token, in order of appearance."""
        return tuple(dict.fromkeys(name for token in self.tokens for name, x in token.nll.items() if x is not None))

    def turns(self) -> Iterator[tuple[int, list[tuple[int, ViewToken]]]]:
        """Yield each run of tokens of one turn as (turn, [(place in the sequence, token)])."""
        for turn, run in groupby(enumerate(self.tokens), key=lambda pair: pair[1].turn):
            yield turn, list(run)


def visible_text(text: str) -> str:
    """Return the text with every control, format and unpaired character spelled out; newline and tab stay.

    Escape becomes ␛, NUL ␀, carriage return ␍; others, such as a right-to-left override, become ⟨U+202E⟩. What a world
    printed can therefore not move a terminal's cursor, reorder a line or hide in a page.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or (0x20 <= code < 0x7F):
        return char
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return char


def nll_level(nll: float | None) -> int | None:
    """Return the shade 0 (expected) to 6 (surprising) of a negative log-likelihood in nats; None where not scored."""
    return None if nll is None else int(np.searchsorted(NLL_LEVELS, nll))


def token_view(
    tokenized: TokenizedTrajectory,
    texts: Sequence[str],
    *,
    pool: str = "",
    nll: Mapping[str, NDArray[np.floating[Any]]] | None = None,
) -> TokenView:
    """Join a tokenized trajectory with its token texts and, per predictor, nats `[token]` (NaN: not scored).

    `texts` are `token_texts(tokenizer, tokenized.token_ids)`. `token_view(...).model_dump(mode="json")` is the VIEW of
    `evaluation.json`.

    Raises:
        ValueError: a list or array is not as long as the sequence.
    """
    nll = nll or {}
    for name, values in {"texts": texts, **nll}.items():
        if len(values) != len(tokenized):
            raise ValueError(f"{name} has {len(values)} entries for {len(tokenized)} tokens")
    tokens = tuple(
        ViewToken(
            text=text,
            source=SOURCES[int(source)],
            turn=int(turn),
            nll={name: _number(values[place]) for name, values in nll.items()},
        )
        for place, (text, source, turn) in enumerate(zip(texts, tokenized.sources, tokenized.turns, strict=True))
    )
    return TokenView(pool=pool, trajectory_id=tokenized.trajectory_id, tokens=tokens)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def joint_texts(tokenizer: ChatTokenizer, token_ids: NDArray[np.int32]) -> list[str]:
    """Return the text of each token such that they join to what all of them say together.

    A character whose bytes lie in several tokens belongs to the last of them; the others are empty.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [tokenizer.token_bytes(int(token_id)) for token_id in token_ids]
    texts = [decoder.decode(piece) for piece in pieces]
    rest = decoder.decode(b"", final=True)
    return [*texts[:-1], texts[-1] + rest] if texts else []


def segment_view(trajectory: Trajectory, *, pool: str = "") -> TokenView:
    """Return a view with one entry per segment, for files that are looked at without a tokenizer.

    Reasoning stands before an answer's text and calls behind it, as `name(arguments)`: the template of a model will
    write them in its own way.
    """
    tokens = tuple(
        ViewToken(text=text, source=source, turn=turn)
        for turn, message in enumerate(trajectory.messages)
        for text, source in _parts(message)
    )
    return TokenView(pool=pool, trajectory_id=trajectory.id, tokens=tokens)


def _parts(message: Message) -> Iterator[tuple[str, Source]]:
    """The texts of a message with their writers; reasoning and calls are by whoever wrote its content."""
    writers = [segment.source for segment in message.segments]
    writer = next((source for source in writers if source is not Source.REDACTED), (*writers, Source.POLICY)[0])
    if message.reasoning:
        yield message.reasoning, writer
        if message.segments or message.tool_calls:
            yield "\n", Source.SCAFFOLD
    yield from ((segment.text, segment.source) for segment in message.segments)
    for number, call in enumerate(message.tool_calls):
        if number or message.content:
            yield "\n", Source.SCAFFOLD
        yield f"{call.name}({call.arguments})", writer


def count_sources(view: TokenView, *, characters: bool = False) -> dict[Source, int]:
    """Return the number of tokens (or, for a segment view, of characters) per source, in the order of `Source`."""
    counts: Counter[Source] = Counter()
    for token in view.tokens:
        counts[token.source] += len(token.text) if characters else 1
    return {source: counts[source] for source in SOURCES if counts[source]}


def count_roles(view: TokenView, *, characters: bool = False) -> dict[Role, int]:
    """Return the number of tokens (or characters) per RFC 010 role; every role is present."""
    counts = dict.fromkeys(Role, 0)
    for source, count in count_sources(view, characters=characters).items():
        counts[source.role] += count
    return counts


def rich_view(
    view: TokenView,
    *,
    predictor: str | None = None,
    weights: NDArray[np.floating[Any]] | None = None,
    selected: Selected | None = None,
) -> Text:
    """Return the view for a terminal: a line per turn, tokens coloured by role and shaded by the predictor's nats.

    `weights` `[token]` are what an EchoConfig made of the tokens: those above 0 are underlined, and each turn's line
    states their sum. Of `selected` only what is shown is drawn, and hits are set off.
    """
    out = Text()
    for turn, run in view.turns():
        shown = [(place, token) for place, token in run if selected is None or selected.shown[place]]
        if not shown:
            continue
        sources = ", ".join(dict.fromkeys(token.source.value for _, token in shown))
        head = f"── turn {turn}" if turn >= 0 else "── outside every turn"
        if weights is not None:
            head += f" · weight {sum(float(weights[place]) for place, _ in shown):.4g}"
        out.append(f"{head} · {sources}\n", style="dim")
        for number, (place, token) in enumerate(shown):
            before, after = (shown[k][1].source if 0 <= k < len(shown) else None for k in (number - 1, number + 1))
            style = _style(token, predictor, trained=weights is not None and weights[place] > 0)
            if token.source is Source.REDACTED and before is not Source.REDACTED:
                out.append(REDACTED_BRACKETS[0], style=style)
            _append(out, token.text, style, () if selected is None else selected.hits.get(place, ()))
            if token.source is Source.REDACTED and after is not Source.REDACTED:
                out.append(REDACTED_BRACKETS[1], style=style)
        if not out.plain.endswith("\n"):
            out.append("\n")
    return out


def _style(token: ViewToken, predictor: str | None, *, trained: bool) -> str:
    style = REDACTED_STYLE if token.source is Source.REDACTED else ROLE_STYLES[token.source.role]
    level = nll_level(token.nll.get(predictor)) if predictor else None
    return style + (f" {_SHADES[level]}" if level else "") + (" underline" if trained else "")


def _append(out: Text, text: str, style: str, hits: Sequence[tuple[int, int]]) -> None:
    """Append a token's text; its characters within `hits` are set off."""
    done = 0
    for start, end in hits:
        out.append(visible_text(text[done:start]), style=style)
        out.append(visible_text(text[start:end]), style=HIT_STYLE)
        done = end
    out.append(visible_text(text[done:]), style=style)


def rich_legend(*, shaded: bool = False) -> Text:
    """Return one line that names the role colours, and the shades if the view is shaded."""
    out = Text()
    for role, style in ROLE_STYLES.items():
        out.append("■ ", style=style).append(f"{role.value}  ", style=style)
    out.append("".join(REDACTED_BRACKETS), style=REDACTED_STYLE).append(" redacted", style="bright_black")
    if shaded:
        out.append("   nats ")
        for level, shade in enumerate(_SHADES):
            bound = f"≤{NLL_LEVELS[level]:g}" if level < len(NLL_LEVELS) else f">{NLL_LEVELS[-1]:g}"
            out.append(f" {bound} ", style=shade)
    return out


def rich_counts(view: TokenView, *, characters: bool = False) -> Table:
    """Return a table of how many tokens (or characters) each source wrote, with its role and share."""
    counts = count_sources(view, characters=characters)
    total = sum(counts.values())
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("role")
    table.add_column("characters" if characters else "tokens", justify="right")
    table.add_column("share", justify="right")
    for source, count in counts.items():
        table.add_row(
            source.value, source.role.value, f"{count:,}", f"{count / total:.0%}", style=ROLE_STYLES[source.role]
        )
    return table
