"""What RFC 010's example tests pin about masks, and that the masks and the loss fit together; on a real tokenizer."""

from __future__ import annotations

import pytest
import torch

from envecho.losses import echo_loss
from envecho.tokens import RoleSegment, SegmentTrajectory, tokenize_segments

EPISODE = SegmentTrajectory(
    segments=[
        RoleSegment("context", "You run a shop.\nTask: which orders are late?\n"),
        RoleSegment("action", 'list_orders {"state": "open"}'),
        RoleSegment("warning", "[tool_response]\n"),
        RoleSegment(
            "env_output",
            '{"orders": [{"id": 1841, "due": "2026-03-02", "paid": true}, {"id": 1877, "due": "2026-03-09"}]}\n',
        ),
        RoleSegment("warning", "prices may change at checkout\n"),
        RoleSegment("action", 'get_order {"id": 1841}'),
        RoleSegment("env_output", '{"id": 1841, "lines": ["lamp", "cable"], "carrier": "none yet"}\n'),
    ]
)


@pytest.fixture(scope="module")
def tokens(smollm2_tokenizer):
    return {target: tokenize_segments(smollm2_tokenizer, EPISODE, target) for target in ("env_only", "all")}


def test_masks_are_disjoint_and_as_long_as_the_ids(tokens):
    """RFC 010: catches a token with two roles, and masks that drift from the ids."""
    t = tokens["env_only"]
    assert t.action_mask.shape == t.obs_mask.shape == t.warning_mask.shape == t.input_ids.shape
    assert not (t.action_mask & t.obs_mask).any()
    assert not (t.action_mask & t.warning_mask).any()
    assert not (t.obs_mask & t.warning_mask).any()


def test_each_mask_covers_exactly_its_segments(tokens, smollm2_tokenizer):
    """RFC 010: catches a mask that is shifted, or a warning that is folded into the environment's output."""
    t = tokens["env_only"]
    for role, mask in (("action", t.action_mask), ("env_output", t.obs_mask), ("warning", t.warning_mask)):
        text = "".join(segment.text for segment in EPISODE.segments if segment.role == role)
        assert smollm2_tokenizer.decode(t.input_ids[mask]) == text


def test_context_comes_first_and_an_action_before_its_output(tokens):
    """RFC 010: catches an order in which the model would predict the world before it acted."""
    t = tokens["env_only"]
    first_action, first_output = (int(torch.nonzero(mask)[0]) for mask in (t.action_mask, t.obs_mask))
    assert not (t.action_mask | t.obs_mask | t.warning_mask)[0]
    assert 0 < first_action < first_output


def test_observations_outnumber_actions(tokens):
    """RFC 010's free signal: catches masks that swap the two roles."""
    t = tokens["env_only"]
    assert 0 < t.action_mask.sum() < t.obs_mask.sum()


def test_target_all_is_env_only_and_the_warnings(tokens):
    """RFC 010: catches warnings that are trained by default, or that `all` leaves out."""
    alone, everything = tokens["env_only"], tokens["all"]
    assert torch.equal(everything.obs_mask, alone.obs_mask | alone.warning_mask)
    assert alone.warning_mask.any()


def test_the_masks_go_straight_into_the_loss(tokens):
    """Catches dtypes or shapes of one function that the other refuses."""
    t = tokens["env_only"]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, len(t.input_ids), int(t.input_ids.max()) + 2, generator=generator, requires_grad=True)
    row = (t.input_ids[None], t.action_mask[None], t.obs_mask[None], torch.tensor([1.0]))
    loss, parts = echo_loss(logits, *row)
    assert parts["loss"] == pytest.approx(parts["l_grpo"] + 0.05 * parts["l_env"], rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    read = torch.nonzero(logits.grad[0].abs().sum(dim=-1)).flatten()
    assert torch.equal(read + 1, torch.nonzero(t.action_mask | t.obs_mask).flatten())
