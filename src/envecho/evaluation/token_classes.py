"""Token classes: was a token of the environment noise, a copy, determined by what was shown, or new?

Each environment token is in one class, whoever predicts it; the first that fits, in this order:

- `volatile`: it holds a byte of a stretch that came out otherwise in another run; where nobody ran the message again,
  of a time, process id, hash or random name (`facts_volatile`) that no earlier message of the episode had shown.
- `copied`: the last `COPY_TOKENS` tokens occurred before in the episode, and the most recent time this token followed.
- `predictable`: the world's generator labels the answer `derivable`; where no label says `derivable` or `first`, every
  word that the token touches stood in an earlier message of the episode. White space and the marks between words go
  with the word behind them.
- `novel`: everything else.

"Before in the episode" leaves out the chat template's own text, and does not depend on windows. docs/slices.md says why
these rules, and what they cannot tell. Not here: other dimensions (`facts`), and who predicts what (`scores`).
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.facts_stream import EpisodeStreams
from envecho.evaluation.facts_volatile import volatile_spans
from envecho.evaluation.results import TOKEN_CLASSES
from envecho.trajectory import Role

COPY_TOKENS: Final = 4
"""How many tokens have to repeat before the next one counts as copied."""

_COPIED, _PREDICTABLE, _NOVEL, _VOLATILE = (
    TOKEN_CLASSES.index(name) for name in ("copied", "predictable", "novel", "volatile")
)
_WORD: Final = re.compile(rb"[^\s\"'`()\[\]{}<>,;:=|]+")
_SENTENCE_ENDS: Final = b".!?"
"""What does not make another word of a word, at its ends: `done.` is `done`; inside, as in `a.log`, it does."""


def token_classes(
    streams: EpisodeStreams,
    *,
    derivable: NDArray[np.bool_],
    first: NDArray[np.bool_],
    different: NDArray[np.bool_],
    same: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """Return the class of every token of the streams, `[token]` into `TOKEN_CLASSES`; -1 where it is no env_output.

    Masks are `[token]`: `derivable` and `first` what labels say of a token, `different` and `same` how it came out in
    another run; all False where nobody said or measured.
    """
    volatile, known = _shown_before(streams)
    predictable = np.where(derivable | first, derivable, known)
    classes = np.full(len(streams), _NOVEL, dtype=np.int8)
    classes[predictable] = _PREDICTABLE
    classes[copied_mask(streams.token_ids, streams.episodes)] = _COPIED
    classes[different | (volatile & ~same)] = _VOLATILE
    classes[~streams.role_mask(Role.ENV_OUTPUT)] = -1
    return classes


def copied_mask(
    token_ids: NDArray[np.int64], episodes: NDArray[np.int64], num_tokens: int = COPY_TOKENS
) -> NDArray[np.bool_]:
    """Return the mask `[token]` of tokens that continue a verbatim repetition of `num_tokens` tokens.

    The `num_tokens` tokens before it occurred earlier in the same episode, and this token followed them the last time
    they did. `episodes` `[token]` names the episode; each is one run.

    Example, with 2 tokens:

        tokens  a b c d a b c d
        copied              1 1
    """
    mask = np.zeros(len(token_ids), dtype=np.bool_)
    if len(token_ids) <= num_tokens:
        return mask
    _, ranks = np.unique(token_ids, return_inverse=True)
    grams = ranks
    for _ in range(1, num_tokens):
        grams = np.unique(grams[:-1] * np.int64(len(ranks)) + ranks[-len(grams) + 1 :], return_inverse=True)[1]
    # Gram g ends at token g + num_tokens - 1, and is the context of the token behind it.
    here = np.arange(num_tokens, len(token_ids))
    here = here[episodes[here] == episodes[here - num_tokens]]
    keys = episodes[here] * np.int64(len(ranks)) + grams[here - num_tokens]
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    now, before = here[order[1:]][same], here[order[:-1]][same]
    mask[now] = token_ids[now] == token_ids[before]
    return mask


def _shown_before(streams: EpisodeStreams) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks `[token]`: tokens of volatile stretches that no earlier message shows, and tokens of known words alone."""
    volatile: list[tuple[int, int]] = []
    spoken: list[tuple[int, int]] = []
    strange: list[tuple[int, int]] = []
    words: set[bytes] = set()
    stretches: set[bytes] = set()
    episode = -1
    for run in streams.runs:
        if run.episode != episode:
            episode, words, stretches = run.episode, set(), set()
        offset, text = int(streams.starts[run.start]), streams.run_text(run)
        spans = [(offset + start, offset + end, text[start:end]) for start, end, _ in volatile_spans(text)]
        volatile += [(start, end) for start, end, stretch in spans if stretch not in stretches]
        stretches.update(stretch for _, _, stretch in spans)
        found = [(offset + match.start(), offset + match.end(), _bare(match.group())) for match in _WORD.finditer(text)]
        spoken += [(start, end) for start, end, _ in found]
        strange += [(start, end) for start, end, word in found if word not in words]
        words.update(word for _, _, word in found)
    known = _with_the_word_behind(streams, ~streams.tokens_over(strange), streams.tokens_over(spoken))
    return streams.tokens_over(volatile), known


def _bare(word: bytes) -> bytes:
    return word.strip(_SENTENCE_ENDS) or word


def _with_the_word_behind(
    streams: EpisodeStreams, known: NDArray[np.bool_], has_word: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Give each token without a word what the next word of its message has, at the end the last; False for no word."""
    anchors = np.flatnonzero(has_word)
    if not len(anchors):
        return np.zeros(len(streams), dtype=np.bool_)
    lengths = [run.end - run.start for run in streams.runs]
    starts = np.repeat([run.start for run in streams.runs], lengths)
    ends = np.repeat([run.end for run in streams.runs], lengths)
    behind = np.searchsorted(anchors, np.arange(len(streams)))
    after = anchors[np.minimum(behind, len(anchors) - 1)]
    before = anchors[np.maximum(behind - 1, 0)]
    place = np.where((behind < len(anchors)) & (after < ends), after, before)
    return known[place] & (place >= starts) & (place < ends)
