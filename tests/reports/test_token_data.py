"""The data of trajectories in a page: it says what the view says, none of it is markup, and there is an end to it."""

from __future__ import annotations

import json
from itertools import chain, repeat
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import HOSTILE

from envecho.reports import token_views
from envecho.reports.token_views import PageView, token_block, view_data, view_section
from envecho.tokens.view import TokenView, ViewToken, visible_text
from envecho.trajectory import SOURCES, Source

nats = st.none() | st.floats(min_value=0, max_value=50)
tokens = st.builds(
    ViewToken,
    text=st.text(max_size=4) | st.sampled_from(["</script>", "<!--", "&lt;", "\u2028", "\x00", "\n"]),
    source=st.sampled_from(list(SOURCES)),
    turn=st.integers(min_value=-1, max_value=3),
    nll=st.fixed_dictionaries({"base": nats, "trained": nats}),
)


def flat(runs: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(repeat(value, count) for value, count in runs))


def spread(runs: list[list[int]], size: int) -> list[float | None]:
    values: list[float | None] = [None] * size
    for start, *found in runs:
        values[start : start + len(found)] = [thousandths / 1000 for thousandths in found]
    return values


@settings(deadline=None, max_examples=60)
@given(st.lists(tokens, max_size=12))
def test_the_data_says_of_each_token_what_the_view_says(found: list[ViewToken]):
    """Catches runs that are off by one, so that the page shows another token's writer, turn or cost."""
    view = TokenView(pool="", trajectory_id="t", tokens=tuple(found))
    data = json.loads(view_data(view))
    assert data["texts"] == [visible_text(token.text) for token in found]
    assert [SOURCES[code] for code in flat(data["sources"])] == [token.source for token in found]
    assert flat(data["turns"]) == [token.turn for token in found]
    for name, runs in zip(data["predictors"], data["nll"], strict=True):
        expected = [None if token.nll[name] is None else round(token.nll[name] * 1000) / 1000 for token in found]
        assert spread(runs, len(found)) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(tokens, max_size=6), st.text(max_size=6))
def test_nothing_in_the_data_can_end_its_script_tag(found: list[ViewToken], name: str):
    """Catches a tool's output that leaves the data and becomes part of the page."""
    data = str(view_data(TokenView(pool=name, trajectory_id=name, tokens=tuple(found))))
    assert not set(data) & set("<>&\x00\x1b\u2028\u2029\u202e")


def test_hostile_output_is_in_the_data_as_what_the_reader_sees():
    """Catches data with raw escapes or bidi overrides, which the page's script would put into the page."""
    view = TokenView(pool="", trajectory_id="t", tokens=(ViewToken(text=HOSTILE, source=Source.STDOUT, turn=0),))
    (text,) = json.loads(view_data(view))["texts"]
    assert text == visible_text(HOSTILE)
    assert "␛[31mred" in text


def test_weights_and_counts_are_those_of_the_drawn_trajectory():
    """Catches data that marks other tokens as trained than the first, server-drawn trajectory does."""
    view = TokenView(
        pool="p", trajectory_id="t",
        tokens=tuple(ViewToken(text="x", source=s, turn=0) for s in (Source.TASK, Source.STDOUT, Source.STDOUT)),
    )  # fmt: skip
    weights = np.array([0.0, 0.25, 1 / 3])
    data = json.loads(view_data(view, weights=weights))
    block = token_block(view, weights=weights)
    assert flat(data["weights"]) == ["", "0.25", "0.333"]
    assert data["trained"] == block.num_trained == 2
    assert data["counts"] == [list(row) for row in block.sources]
    assert [count for _, _, count in data["roles"]] == [count for _, _, count in block.roles]


def test_a_page_holds_so_many_trajectories_and_counts_the_rest(monkeypatch):
    """Catches a page of a gigabyte, or trajectories that vanish without a word."""
    view = TokenView(pool="", trajectory_id="t", tokens=(ViewToken(text="x" * 500, source=Source.STDOUT, turn=0),))
    section = view_section([PageView(view=view)] * 205, num_left_out=3)
    assert section is not None
    assert (len(section.listed), section.num_left_out) == (200, 8)
    monkeypatch.setattr(token_views, "MAX_DATA", 5000)
    section = view_section([PageView(view=view)] * 20)
    assert section is not None
    assert len(section.listed) + section.num_left_out == 20
    assert sum(len(item.data) for item in section.listed) <= 5000


def test_one_trajectory_needs_no_list_and_no_data():
    """Catches a page that repeats its only trajectory as data."""
    view = TokenView(pool="", trajectory_id="t", tokens=(ViewToken(text="x", source=Source.STDOUT, turn=0),))
    section = view_section([PageView(view=view)])
    assert section is not None
    assert section.listed == ()
    assert view_section([]) is None


def test_the_list_says_what_each_trajectory_costs():
    """Catches a mean over tokens that nobody scored, and a predictor's column under another's name."""
    scored = ViewToken(text="a", source=Source.STDOUT, turn=1, nll={"base": 1.0, "trained": 0.5})
    free = ViewToken(text="b", source=Source.TASK, turn=0, nll={"base": None})
    views = [TokenView(pool="", trajectory_id=name, tokens=(free, scored)) for name in "xy"]
    section = view_section([PageView(view=view) for view in views])
    assert section is not None
    assert section.head == ("Turns", "Pieces of text", "base, nats per token", "trained, nats per token")
    assert [cell.text for cell in section.listed[0].cells] == ["2", "2", "1.000", "0.500"]
