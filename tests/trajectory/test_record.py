"""The record: sources and roles, and what a trajectory refuses to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from envecho.trajectory import SOURCES, Message, Role, SampledTokens, Segment, Source, Trajectory, source_precedence

SOURCES_OF_ROLE = {
    Role.CONTEXT: ["system", "task", "shell_prompt", "scaffold", "grader", "padding", "redacted"],
    Role.ACTION: ["policy"],
    Role.ENV_OUTPUT: ["stdout", "stderr", "tool_result", "tool_error", "user_reply"],
    Role.WARNING: [
        "command_echo",
        "status",
        "wrapper",
        "truncation_notice",
        "timeout_notice",
        "format_warning",
        "harness_notice",
        "harness_error",
    ],
}


def test_every_source_has_the_role_that_rfc_010_gives_it():
    """Catches harness text that is trained as environment output, and a grader that becomes a target."""
    found = {role: [source.value for source in Source if source.role is role] for role in Role}
    assert found == SOURCES_OF_ROLE


def test_the_codes_of_sources_are_pinned():
    """Catches a source inserted in the middle: token arrays hold codes, so old ones would change their meaning."""
    names = ["context", "action", "env_output", "warning"]
    first = [name for role in names for name in SOURCES_OF_ROLE[Role(role)] if name != "redacted"]
    assert [source.value for source in SOURCES] == [*first, "redacted"]
    assert [SOURCES[source.code] for source in Source] == list(Source)


def test_a_token_over_two_spans_takes_context_then_warning_then_output_then_action():
    """Catches a token of half an observation and half an action that is trained as an action."""
    spans = [Source.POLICY, Source.STDOUT, Source.STATUS, Source.TASK]
    assert sorted(spans, key=source_precedence) == [Source.TASK, Source.STATUS, Source.STDOUT, Source.POLICY]
    assert min([Source.STDERR, Source.STDOUT], key=source_precedence) is Source.STDOUT


@given(st.lists(st.text(max_size=10), max_size=5))
def test_content_is_the_joined_text_of_the_segments(parts: list[str]):
    """Catches a separator between segments: spans are cut from this text, character by character."""
    segments = tuple(Segment(source=Source.STDOUT, text=part) for part in parts)
    assert Message(role="user", segments=segments).content == "".join(parts)


def test_an_unknown_field_is_refused():
    """Catches a mistyped field that is dropped: a reward spelled `rewards` would be an ungraded episode."""
    with pytest.raises(ValidationError, match="rewards"):
        Trajectory.model_validate({"id": "a", "task_id": "b", "messages": [], "rewards": 1.0})


def test_a_record_cannot_be_changed():
    """Catches a policy that rewrites what was said after it was recorded."""
    trajectory = Trajectory(id="a", task_id="b", messages=())
    with pytest.raises(ValidationError, match="frozen"):
        trajectory.reward = 1.0


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        ((-0.5,), "2 token ids but 1 log-probs"),
        ((-0.5, 0.3), "at most 0"),
        ((-0.5, float("nan")), "finite"),
        ((-0.5, float("-inf")), "finite"),
    ],
)
def test_log_probs_that_no_sampler_can_give_are_refused(logprobs: tuple[float, ...], message: str):
    """Catches placeholder and shifted log-probs, which turn into importance ratios without a warning."""
    with pytest.raises(ValidationError, match=message):
        SampledTokens(token_ids=(1, 2), logprobs=logprobs)


def test_unknown_log_probs_are_not_zero():
    """Catches None that becomes 0.0: a log-prob of 0 says that the sampler was certain."""
    assert SampledTokens(token_ids=(1, 2)).logprobs is None
    assert Trajectory(id="a", task_id="b", messages=()).reward is None
