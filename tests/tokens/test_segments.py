"""RFC 010's `tokenize_segments`."""

from __future__ import annotations

import pytest
import torch

from envecho.errors import ConfigError, DataError
from envecho.tokens import RoleSegment, SegmentTrajectory, tokenize_segments

SEGMENTS = (
    RoleSegment("context", "Count the errors."),
    RoleSegment("action", "grep -c ERROR a.log"),
    RoleSegment("warning", "[stdout]\n"),
    RoleSegment("env_output", "3\n"),
    RoleSegment("env_output", ""),
)


def test_every_token_has_the_role_of_its_segment(smollm2_tokenizer):
    """Catches ids and masks that drift apart at a segment boundary."""
    ids, action, observed, warned = tokenize_segments(smollm2_tokenizer, SegmentTrajectory(segments=SEGMENTS))
    assert ids.dtype == torch.int64
    assert action.dtype == observed.dtype == warned.dtype == torch.bool
    assert smollm2_tokenizer.decode(ids) == "".join(segment.text for segment in SEGMENTS)
    assert smollm2_tokenizer.decode(ids[action]) == "grep -c ERROR a.log"
    assert smollm2_tokenizer.decode(ids[observed]) == "3\n"
    assert smollm2_tokenizer.decode(ids[warned]) == "[stdout]\n"
    assert not (action & observed | action & warned | observed & warned).any()


def test_each_segment_is_tokenised_alone():
    """Catches merging over segments: RFC 010 calls the tokenizer once per segment, without special tokens."""
    calls = []

    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        calls.append((text, add_special_tokens))
        return {"input_ids": [len(word) for word in text.split()]}

    out = tokenize_segments(tokenizer, SegmentTrajectory(segments=SEGMENTS))
    assert calls == [(segment.text, False) for segment in SEGMENTS]
    assert out.input_ids.tolist() == [5, 3, 7, 4, 2, 5, 5, 8, 1]


def test_all_makes_warnings_targets_and_still_names_them(smollm2_tokenizer):
    """Catches `all` that does nothing, or that hides which targets are warnings."""
    trajectory = SegmentTrajectory(segments=SEGMENTS)
    only = tokenize_segments(smollm2_tokenizer, trajectory)
    both = tokenize_segments(smollm2_tokenizer, trajectory, world_loss_target="all")
    assert both.obs_mask.equal(only.obs_mask | only.warning_mask)
    assert both.warning_mask.equal(only.warning_mask)


def test_no_segments_give_empty_tensors(smollm2_tokenizer):
    """Catches an index error for an episode that never began."""
    assert [len(part) for part in tokenize_segments(smollm2_tokenizer, SegmentTrajectory(segments=()))] == [0] * 4


def test_unknown_names_are_refused(smollm2_tokenizer):
    """Catches a misspelt role or target that trains nothing."""
    with pytest.raises(DataError, match="Did you mean 'env_output'"):
        RoleSegment("env_outputs", "x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="segments have roles"):
        tokenize_segments(smollm2_tokenizer, SegmentTrajectory(segments=()), world_loss_target="stdout")  # type: ignore[arg-type]
