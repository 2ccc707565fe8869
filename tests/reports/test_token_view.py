"""The coloured view: control characters are visible, counts are right, the VIEW record round-trips."""

from __future__ import annotations

import io
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_run import HOSTILE

from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.view import (
    NLL_LEVELS,
    TokenView,
    ViewToken,
    count_roles,
    count_sources,
    nll_level,
    rich_counts,
    rich_legend,
    rich_view,
    segment_view,
    token_view,
    visible_text,
)
from envecho.trajectory import Message, Role, Segment, Source, Trajectory


def tokenized(sources: list[Source]) -> TokenizedTrajectory:
    n = len(sources)
    return TokenizedTrajectory(
        trajectory_id="t", task_id="t", group_id=None, reward=None, branch=0, window=0, owned_from=0,
        context_truncated=False, token_ids=np.arange(n, dtype=np.int32),
        sources=np.array([s.code for s in sources], dtype=np.uint8), turns=np.arange(n, dtype=np.int32),
        num_bytes=np.ones(n, dtype=np.uint16), sampling_logprobs=np.full(n, np.nan, dtype=np.float32),
        sampling_entropies=np.full(n, np.nan, dtype=np.float32),
    )  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters()))
def test_visible_text_leaves_no_character_that_acts_instead_of_showing(text: str):
    """Catches a control, bidi or surrogate character that reaches the terminal or the page."""
    bad = [
        c for c in visible_text(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"
    ]
    assert bad == []


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_visible_text_does_not_change_ordinary_text(text: str):
    """Catches a rule so broad that it spells out letters, accents or symbols of real output."""
    assert visible_text(text) == text


def test_the_terminal_view_sends_no_escape_of_the_tool_to_the_terminal():
    """Catches a tool that clears the reader's screen or sets its title through `envecho show`."""
    view = TokenView(pool="", trajectory_id="t", tokens=(ViewToken(text=HOSTILE, source=Source.STDOUT, turn=0),))
    out = io.StringIO()
    Console(file=out, color_system=None, width=200).print(rich_view(view))
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "\u202e" not in shown
    assert "␛[31mred" in shown


def test_text_that_looks_like_rich_markup_is_shown_as_it_is():
    """Catches printing tool output as markup, which would swallow `[bold]` or fail on `[/x]`."""
    view = TokenView(pool="", trajectory_id="t", tokens=(ViewToken(text="[bold]x[/y]", source=Source.STDOUT, turn=0),))
    out = io.StringIO()
    Console(file=out, color_system=None).print(rich_view(view))
    assert "[bold]x[/y]" in out.getvalue()


def test_a_token_view_is_the_view_of_evaluation_json_and_reads_back():
    """Catches a VIEW record that evaluation writes and the report cannot read."""
    made = token_view(
        tokenized([Source.TASK, Source.STDOUT]), ["a", "b"], pool="p", nll={"base": np.array([np.nan, 0.5])}
    )
    record = made.model_dump(mode="json")
    assert record["tokens"][1] == {"text": "b", "source": "stdout", "turn": 1, "nll": {"base": 0.5}}
    assert record["tokens"][0]["nll"] == {"base": None}
    assert TokenView.model_validate(record) == made
    assert made.predictors == ("base",)


def test_a_token_view_refuses_lists_of_another_length():
    """Catches texts or losses of another sequence being drawn over this one."""
    with pytest.raises(ValueError, match="texts has 1 entries for 2 tokens"):
        token_view(tokenized([Source.TASK, Source.STDOUT]), ["a"])
    with pytest.raises(ValueError, match="base has 3 entries"):
        token_view(tokenized([Source.TASK, Source.STDOUT]), ["a", "b"], nll={"base": np.zeros(3)})


def test_counts_add_up_over_sources_and_roles():
    """Catches a source that is counted under another role, or not at all."""
    view = token_view(
        tokenized([Source.TASK, Source.POLICY, Source.STDOUT, Source.STDERR, Source.STATUS]), list("abcde")
    )
    assert count_sources(view) == dict.fromkeys(
        [Source.TASK, Source.POLICY, Source.STDOUT, Source.STDERR, Source.STATUS], 1
    )
    assert count_roles(view) == {Role.CONTEXT: 1, Role.WARNING: 1, Role.ENV_OUTPUT: 2, Role.ACTION: 1}


def test_a_segment_view_counts_characters_and_keeps_every_segment():
    """Catches a view without a tokenizer that drops text or counts segments as if they were tokens."""
    message = Message(
        role="user", segments=(Segment(source=Source.STDOUT, text="abc"), Segment(source=Source.STATUS, text="[0]"))
    )
    view = segment_view(Trajectory(id="t", task_id="t", messages=(message,)))
    assert "".join(token.text for token in view.tokens) == "abc[0]"
    assert count_roles(view, characters=True)[Role.ENV_OUTPUT] == 3


def test_shades_deepen_with_the_loss_and_stay_away_from_unscored_tokens():
    """Catches an unscored token that looks as if the model had expected it."""
    assert nll_level(None) is None
    levels = [nll_level(x) for x in (0.0, 0.1, 0.3, 0.7, 1.5, 3.0, 9.0)]
    assert levels == list(range(len(NLL_LEVELS) + 1))


def test_trained_tokens_are_underlined_and_each_turn_states_its_weight():
    """Catches a view that hides which tokens carry weight."""
    view = token_view(tokenized([Source.TASK, Source.STDOUT]), ["task", "out"])
    text = rich_view(view, weights=np.array([0.0, 0.25]))
    underlined = "".join(text.plain[span.start : span.end] for span in text.spans if "underline" in str(span.style))
    assert underlined == "out"
    assert "turn 1 · weight 0.25" in text.plain


def test_the_legend_and_the_table_name_every_role_that_is_drawn():
    """Catches a colour without an explanation."""
    view = token_view(tokenized([Source.TASK, Source.POLICY, Source.STDOUT, Source.STATUS]), list("abcd"))
    out = io.StringIO()
    Console(file=out, color_system=None, width=120).print(rich_legend(shaded=True), rich_counts(view))
    for role in Role:
        assert role.value in out.getvalue()
    assert ">4" in out.getvalue()
