"""An episode token by token with the class of each: for people who want to see what a figure is over.

Not here: pools and scores (`facts`).
"""

from __future__ import annotations

from dataclasses import dataclass

from envecho.evaluation.facts_episodes import ChangedText, Episodes
from envecho.evaluation.facts_stream import episode_streams
from envecho.evaluation.results import TOKEN_CLASSES
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import SOURCES, Source, Trajectory


@dataclass(frozen=True, kw_only=True)
class ListedToken:
    """One token of an episode; `token_class` is None where the environment did not say it."""

    text: str
    turn: int
    source: Source
    token_class: str | None


def list_tokens(
    trajectory: Trajectory, tokenizer: ChatTokenizer, *, changed: ChangedText | None = None
) -> list[ListedToken]:
    """Return everything that was said in an episode, in order, without the chat template's own text.

    A token that holds a part of a character shows it as the replacement character.

    Raises:
        TemplateError: the chat template's text cannot be followed.
    """
    streams = episode_streams(tokenize_trajectory(trajectory, tokenizer), tokenizer)
    episodes = Episodes.read(streams, [trajectory])
    classes = episodes.token_classes(episodes.repeat_codes(changed or {}))
    return [
        ListedToken(
            text=streams.text[streams.starts[place] : streams.starts[place + 1]].decode(errors="replace"),
            turn=int(streams.turns[place]),
            source=SOURCES[int(streams.sources[place])],
            token_class=TOKEN_CLASSES[code] if code >= 0 else None,
        )
        for place, code in enumerate(classes.tolist())
    ]
