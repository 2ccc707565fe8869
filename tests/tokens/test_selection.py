"""Searching a view: hits are where the text is, over the borders of tokens, and never over those of turns."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import ConfigError
from envecho.tokens import ChatTokenizer
from envecho.tokens.selection import Selected, Selection
from envecho.tokens.view import TokenView, ViewToken, joint_texts
from envecho.trajectory import Source


def view_of(*pieces: tuple[Source, int, str]) -> TokenView:
    tokens = tuple(ViewToken(text=text, source=source, turn=turn) for source, turn, text in pieces)
    return TokenView(pool="", trajectory_id="t", tokens=tokens)


def marked(view: TokenView, selected: Selected) -> str:
    """All characters of a view that lie in a hit, joined."""
    return "".join(view.tokens[k].text[a:b] for k in sorted(selected.hits) for a, b in selected.hits[k])


def test_a_text_is_found_over_the_borders_of_tokens_whatever_its_case():
    """Catches a search token by token, which finds almost nothing in tokens."""
    view = view_of((Source.STDOUT, 3, "No su"), (Source.STDOUT, 3, "ch fi"), (Source.STDOUT, 3, "le: no such"))
    selected = Selection.of("NO SUCH").apply(view)
    assert selected.num_hits == 2
    assert marked(view, selected) == "No suchno such"
    assert selected.hits[0] == ((0, 5),)
    assert selected.hits[1] == ((0, 2),)


def test_a_hit_lies_within_one_turn_and_within_text_that_stands_side_by_side():
    """Catches a hit that nobody said: half of it in the command, half in the answer, or around hidden text."""
    view = view_of(
        (Source.POLICY, 2, "ab"), (Source.STDOUT, 3, "cd"), (Source.STATUS, 3, "x"), (Source.STDOUT, 3, "ef")
    )
    assert Selection.of("abcd").apply(view).num_hits == 0
    assert Selection.of("cdef", sources=["stdout"]).apply(view).num_hits == 0
    assert Selection.of("cdxef").apply(view).num_hits == 1


def test_plain_text_is_no_pattern_and_a_pattern_matches_at_lines():
    """Catches `a.b` that finds `axb`, and `^` that matches at the beginning of a trajectory alone."""
    view = view_of((Source.STDOUT, 0, "axb\n[a.b]\n"))
    assert Selection.of("a.b").apply(view).num_hits == 1
    assert Selection.of("a.b", regex=True).apply(view).num_hits == 2
    assert Selection.of(r"^\[", regex=True).apply(view).num_hits == 1
    assert Selection.of("A.B", regex=True).apply(view).num_hits == 0


def test_sources_alone_choose_what_is_shown():
    """Catches a filter that shows the others too, or counts text that is empty."""
    view = view_of((Source.TASK, 0, "t"), (Source.STDERR, 1, "e"), (Source.STDERR, 1, ""), (Source.STDOUT, 1, "o"))
    selected = Selection.of(sources=["stderr"]).apply(view)
    assert selected.shown == (False, True, True, False)
    assert selected.num_hits == 1
    assert Selection.of().is_empty


def test_what_cannot_be_searched_for_is_refused_by_name():
    """Catches a mistyped source that silently finds nothing, and a traceback for a broken pattern."""
    with pytest.raises(ConfigError, match=r"no source 'stdot'.*Did you mean 'stdout'"):
        Selection.of(sources=["stdot"])
    with pytest.raises(ConfigError, match="does not compile"):
        Selection.of("(", regex=True)
    with pytest.raises(ConfigError, match="empty"):
        Selection.of("")
    Selection.of("(")


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="aAb\n.", max_size=30), st.text(alphabet="ab.", min_size=1, max_size=3), st.data())
def test_hits_are_those_of_the_joined_text_however_it_is_cut(text: str, wanted: str, data: Any):
    """Catches offsets that are off by one at the border of a token, and matches that are dropped there."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    view = view_of(*((Source.STDOUT, 0, piece) for piece in pieces))
    selected = Selection.of(wanted).apply(view)
    expected = re.findall(re.escape(wanted), text, re.IGNORECASE)
    assert selected.num_hits == len(expected)
    assert marked(view, selected) == "".join(expected)


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=40))
def test_texts_of_tokens_join_to_the_text(smollm2_tokenizer: Any, text: str):
    """Catches replacement characters for every emoji and accent that a tokenizer cuts, which no search would find."""
    tokenizer = ChatTokenizer(smollm2_tokenizer)
    ids = np.array(tokenizer.encode_text(text)[0], dtype=np.int32)
    whole = b"".join(tokenizer.token_bytes(int(token)) for token in ids).decode(errors="replace")
    assert "".join(joint_texts(tokenizer, ids)) == whole
    if not any(character in "\x04\x06\x13\x14\x16\x1d" for character in text) and "\ufffd" not in whole:
        assert whole == text
    assert len(joint_texts(tokenizer, ids)) == len(ids)
