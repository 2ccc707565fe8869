"""How an action fared: from the world's label, else from who wrote the answer."""

from __future__ import annotations

import pytest

from envecho.trajectory import CallOutcome, Message, Segment, Source, Trajectory, call_outcome, call_outcomes


def answer(source: Source, **labels: str) -> Message:
    return Message(role="user", segments=(Segment(source=source, text="x"),), labels=labels)


ACTION = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),))


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (answer(Source.STDOUT), CallOutcome.VALID),
        (answer(Source.STDERR), CallOutcome.VALID),
        (answer(Source.TOOL_ERROR), CallOutcome.INVALID),
        (answer(Source.FORMAT_WARNING), CallOutcome.UNPARSED),
        (answer(Source.STDOUT, call="invalid"), CallOutcome.INVALID),
        (answer(Source.FORMAT_WARNING, call="valid"), CallOutcome.VALID),
    ],
)
def test_the_label_goes_before_the_sources(message, outcome):
    """Catches a failing command counted as an invalid call, and a guess that overrules what the world stated."""
    assert call_outcome(message) is outcome


def test_an_unknown_label_is_refused():
    """Catches a spelling that would silently count as valid."""
    with pytest.raises(ValueError, match="ok"):
        call_outcome(answer(Source.STDOUT, call="ok"))


def test_every_answered_action_counts_once_with_its_worst_answer():
    """Catches parallel tool results counted as several calls, the opening counted as an answer, and a last action
    that nothing answered counted as failed."""
    opening = Message(role="user", segments=(Segment(source=Source.TASK, text="go"),))
    messages = (
        opening,
        ACTION,
        answer(Source.STDOUT),
        answer(Source.TOOL_ERROR),
        ACTION,
        answer(Source.STDOUT),
        ACTION,
    )
    found = call_outcomes(Trajectory(id="t", task_id="k", messages=messages))
    assert found == [CallOutcome.INVALID, CallOutcome.VALID]
