"""Plans of what is read apart, and of what is read once for several rows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.engines import prefill
from envecho.engines.prefill import plan_passes, plan_sharing
from envecho.engines.token_forest import common_length


def ids(*parts: tuple[int, int]) -> np.ndarray:
    """Runs of (token, how often)."""
    return np.concatenate([np.full(num, token, dtype=np.int32) for token, num in parts])


def cost(lengths, groups, *, num_rows):
    """Padded tokens of all passes and what passes cost, as `plan_passes` counts them; None where one is too large."""
    apart = {row for group in groups for row in group}
    width = max([lengths[row] for row in range(num_rows) if row not in apart], default=1)
    total = num_rows * width
    if width > 1 and total > prefill.TOKENS_PER_PASS:
        return None
    for group in groups:
        tokens = len(group) * (max(lengths[row] for row in group) - 1)
        if len(group) > 1 and tokens > prefill.TOKENS_PER_PASS:
            return None
        total += tokens + prefill._PASS_TOKENS
    return total


@settings(deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_no_other_grouping_costs_less(lengths):
    """Catches a plan that pads short rows to a long one, or that spends a pass on every row."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    costs = []
    for stop in range(len(order) + 1):
        for cuts in itertools.product((False, True), repeat=max(0, stop - 1)):
            groups, group = [], order[:1] if stop else []
            for row, is_cut in zip(order[1:stop], cuts, strict=True):
                if is_cut:
                    groups.append(group)
                    group = []
                group = [*group, row]
            groups += [group] if group else []
            costs.append(cost(lengths, groups, num_rows=len(lengths)))
    assert cost(lengths, plan_passes(lengths), num_rows=len(lengths)) == min(c for c in costs if c is not None)


def test_a_new_episode_among_short_answers_reads_its_prompt_apart():
    """Catches fifteen rows that are padded to the prompt of a sixteenth."""
    assert plan_passes([20] * 7 + [500] + [20] * 8) == [[7]]
    assert plan_passes([30] * 16) == []


def test_a_group_reads_its_prompt_once_and_worlds_their_instructions():
    """Catches instructions that each group reads anew, and a group of which two read the prompt."""
    system, first, second = (7, 40), (1, 30), (2, 25)
    prompts = {row: ids(system, first if row < 3 else second) for row in range(6)}
    plan = plan_sharing(prompts, {})
    assert plan.waves == [[0], [3], [1, 2, 4, 5]]
    assert {row: (found.source, found.num) for row, found in plan.beginnings.items()} == {
        1: (0, 69),
        2: (0, 69),
        3: (0, 40),
        4: (3, 64),
        5: (3, 64),
    }


def test_what_a_living_row_holds_is_not_read_again_and_a_short_beginning_is():
    """Catches an episode that starts late and reads what its group holds, and a pass for a handful of tokens."""
    held = {9: ids((7, 40), (1, 30), (5, 200)), 8: ids((7, 40), (3, 10))}
    prompts = {1: ids((7, 40), (1, 30)), 2: ids((7, prefill.LEAST_SHARED - 1), (4, 30)), 3: ids((4, 50))}
    plan = plan_sharing(prompts, held)
    assert plan.waves == [[1, 2, 3]]
    (found,) = plan.beginnings.values()
    assert (found.source, found.num) == (9, 69)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=8))
def test_every_beginning_is_there_when_its_row_needs_it(texts):
    """Catches a row that is to copy what is not read yet, a copy of other tokens, and a prompt without a last token."""
    prompts = {row: np.repeat(np.array(text, dtype=np.int32), 8) for row, text in enumerate(texts)}
    plan = plan_sharing(prompts, {})
    wave_of = {row: number for number, wave in enumerate(plan.waves) for row in wave}
    assert sorted(wave_of) == sorted(prompts)
    for row, found in plan.beginnings.items():
        assert wave_of[found.source] < wave_of[row]
        assert found.num <= common_length(prompts[row][:-1], prompts[found.source][:-1])
        assert found.num >= prefill.LEAST_SHARED
