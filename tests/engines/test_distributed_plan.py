"""Plans of several ranks: everything is done once, passes match, and equal prompts stay together."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from batches import random_batch
from hypothesis import given
from hypothesis import strategies as st

from envecho.engines.distributed_plan import split_evenly, split_prompts, split_requests, split_step
from envecho.engines.micro_batches import PassOptions
from envecho.engines.torchrun import world_size
from envecho.seam import ScoreRequest

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)
RANKS = st.integers(1, 5)


@given(LENGTHS, RANKS, st.integers(1, 60), st.booleans())
def test_every_token_is_computed_once_and_all_ranks_have_the_same_passes(
    lengths: list[int], num_ranks: int, max_tokens: int, packing: bool
):
    """Catches a token that two ranks train, or none, and ranks that would wait for each other (METHOD trap 19)."""
    batch = random_batch(lengths)
    batch = dataclasses.replace(batch, env_targets=batch.positions > 0)
    parts = split_step(batch, num_ranks, PassOptions(tokens_per_micro_batch=max_tokens, packing=packing))
    assert sorted(torch.cat([part.places for part in parts]).tolist()) == list(range(sum(lengths)))
    assert len({len(part.passes) for part in parts}) == 1
    assert len({part.with_gradient for part in parts}) == 1
    for part in parts:
        assert torch.equal(part.batch.token_ids, batch.token_ids[part.places])
    computed = [
        place
        for part in parts
        for micro in part.passes
        if micro is not None
        for place in part.places[micro.tokens].tolist()
    ]
    assert len(set(computed)) == len(computed)
    assert set(torch.nonzero(batch.env_targets).flatten().tolist()) <= set(computed)


def test_a_pass_that_only_logs_has_no_backward_pass_on_any_rank():
    """Catches ranks of which one runs a backward pass and the others do not."""
    batch = random_batch([9, 9, 9, 9])
    first = (batch.sequence_index == 0).float()
    weighed = dataclasses.replace(batch, env_weights=batch.env_weights * first)
    parts = split_step(weighed, 2, PassOptions(tokens_per_micro_batch=9))
    assert sorted(parts[0].with_gradient) == [False, True]
    silent = dataclasses.replace(batch, env_weights=torch.zeros_like(first), env_targets=torch.zeros_like(first) != 0)
    assert split_step(silent, 2, PassOptions())[1].passes == ()


@given(st.lists(st.integers(1, 100), max_size=20), RANKS)
def test_shares_are_even(sizes: list[int], num_ranks: int):
    """Catches a rank that does the work of all: no share exceeds the mean by more than the largest piece."""
    shares = split_evenly(sizes, num_ranks)
    assert sorted(n for share in shares for n in share) == list(range(len(sizes)))
    loads = [sum(sizes[n] for n in share) for share in shares]
    assert max(loads) <= sum(sizes) / num_ranks + max(sizes, default=0)


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=15), RANKS)
def test_equal_prompts_stay_together_and_every_request_has_one_rank(ids: list[list[int]], num_ranks: int):
    """Catches equal prompts on two ranks, which would draw the same continuation twice."""
    prompts = [np.array(tokens, dtype=np.int32) for tokens in ids]
    shares = split_prompts(prompts, num_ranks)
    assert sorted(n for share in shares for n in share) == list(range(len(ids)))
    ranks = [{tuple(ids[n]) for n in share} for share in shares]
    assert sum(map(len, ranks)) == len(set(map(tuple, ids)))
    requests = [ScoreRequest(token_ids=p, read=np.arange(len(p)) > 0) for p in prompts]
    dealt = split_requests(requests, num_ranks)
    assert sorted(n for share in dealt for n in share) == list(range(len(ids)))


def test_without_torchrun_there_is_one_process():
    """Catches a WORLD_SIZE that a job scheduler left in the environment of a command that runs alone."""
    assert world_size({}) == 1
    assert world_size({"WORLD_SIZE": "4"}) == 1
    assert world_size({"WORLD_SIZE": "4", "RANK": "0"}) == 4
