"""Splits without leaks: keys, near-duplicates, groups, and shares as near as groups allow."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.trajectory.near_duplicates import LOWEST_THRESHOLD, minima, near_duplicates, signature, similarity
from envecho.trajectory.openings import CommonLines
from envecho.trajectory.splits import assign_groups, connected_groups, key_hash, keys_of, pairs_of_keys, seeded_order


@pytest.mark.parametrize(
    ("metadata", "task", "repository", "sessions"),
    [
        ({"import": {"instance_id": "django__django-11163"}}, "x", "django/django", []),
        ({"import": {"instance_id": "12rambau__sepal_ui-411_17"}}, "x", "12rambau/sepal_ui", []),
        ({}, "oauthlib__oauthlib.1fd52536.combine_file__09vlzwgc", "oauthlib/oauthlib", []),
        ({}, "instance_NodeBB__NodeBB-04998908ba6721d64eba79ae3b65a351dcfbc5b5-vnan", "nodebb/nodebb", []),
        ({"import": {"file": "runs/a__b-1/a__b-1.traj.json"}}, "0123", "a/b", []),
        ({"repo": "Django/Django"}, "x", "django/django", []),
        ({"import": {"repository_url": "git@github.com:me/it.git"}}, "x", "me/it", []),
        ({"repository": "https://github.com/me/it/"}, "x", "me/it", []),
        (
            {"import": {"format": "codex", "file": "a.jsonl", "session_id": "s"}},
            "x",
            None,
            ["session s", "file a.jsonl"],
        ),
        ({"import": {"format": "messages", "file": "a.jsonl", "line": 3}}, "x", None, []),
        ({"import": {"format": "atif", "file": "a.json"}}, "x", None, ["document a.json:None"]),
        ({"import": "text"}, "__init__", None, []),
        ({"import": {"file": "src/__init__-1.py"}}, "hello-world", None, []),
    ],
)
def test_keys_come_from_what_the_data_set_states(metadata, task, repository, sessions):
    """Catches instances of one repository that land on both sides, and rows of a data set taken for one session."""
    keys = keys_of("id", task, "g", metadata)
    assert keys["repository"] == ([] if repository is None else [repository])
    assert keys["session"] == sessions
    assert keys["task"] == [f"task {task}", "group g"]


words = st.lists(st.sampled_from([f"w{k}" for k in range(30)]), max_size=30)


def shingles(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[k : k + 3]) for k in range(max(1, len(text) - 2))} if text else set()


def test_agreement_of_signatures_estimates_the_similarity_of_sets():
    """Catches hashes that are not independent: the estimate would be off by more than its spread."""
    rng = random.Random(1)
    errors = []
    for _ in range(300):
        one = [f"x{rng.randrange(10**6)}" for _ in range(200)]
        cut = rng.randrange(200)
        other = one[:cut] + [f"y{rng.randrange(10**6)}" for _ in range(200 - cut)]
        a, b = shingles(one), shingles(other)
        found = float(similarity(signature(minima(one)), signature(minima(other))))
        errors.append(found - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.06  # 0.5 / sqrt(64) at most


@given(one=words, other=words)
def test_the_minima_of_two_texts_together_are_the_smaller_ones(one, other):
    """Catches a signature of task and observations that depends on where the one ends."""
    both = np.minimum(minima(one), minima(other))
    smaller = [min(a, b) for a, b in zip(minima(one).tolist(), minima(other).tolist(), strict=True)]
    assert both.tolist() == smaller
    assert (signature(both) == 0).all() == (not one and not other)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.76, 0.8, 0.9, 1.0]))
def test_no_two_similar_rows_are_left_in_different_groups(seed, threshold):
    """Catches pairs that the bands miss: groups are compared with a loop over all pairs."""
    rng = random.Random(seed)
    base = [[f"w{rng.randrange(10**6)}" for _ in range(rng.randrange(1, 60))] for _ in range(4)]
    texts = [[]]
    for _ in range(40):
        text = list(rng.choice(base))
        for _ in range(rng.choice([0, 0, 1, 2, 8])):
            text[rng.randrange(len(text))] = f"w{rng.randrange(10**6)}"
        texts.append(text)
    signatures = np.stack([signature(minima(text)) for text in texts])
    found = connected_groups(len(texts), near_duplicates(signatures, threshold))
    close = [
        (i, j)
        for i in range(1, len(texts))
        for j in range(i + 1, len(texts))
        if similarity(signatures[i], signatures[j]) >= threshold
    ]
    slow = connected_groups(len(texts), np.array(close, dtype=np.int64).reshape(-1, 2))
    assert found.tolist() == slow.tolist()
    assert (found == found[0]).sum() == 1, "a row without text has no partner"


def test_a_threshold_at_which_pairs_could_be_missed_is_refused():
    """Catches a similarity for which the promise of completeness does not hold."""
    with pytest.raises(ValueError, match=r"above 0\.75"):
        near_duplicates(np.zeros((1, 64), dtype=np.uint16), LOWEST_THRESHOLD)


def test_a_harness_s_lines_are_left_out_and_a_task_of_nothing_else_is_kept_whole():
    """Catches all tasks of a harness taken for one because they share its instructions."""
    common = CommonLines()
    template = ["You can execute bash commands.", "Submit when you are done with everything."]
    for task in range(40):
        common.add(task, [*template, f"Issue {task}"])
        common.add(task, ["counted once per task"])
    assert common.own_words([*template, "Fix the broken parser of dates now"]) == [
        "fix",
        "the",
        "broken",
        "parser",
        "of",
        "dates",
        "now",
    ]
    assert len(common.own_words([*template, "Fix"])) == 13
    assert common.own_words(["counted once per task", "Fix the broken parser now"])[:2] == ["counted", "once"]


@given(keys=st.lists(st.lists(st.integers(0, 6), max_size=3), max_size=20))
def test_rows_that_share_a_key_are_one_group_and_others_are_not(keys):
    """Catches a chain of keys that is followed for one step only, and groups that nothing connects."""
    rows = np.array([row for row, some in enumerate(keys) for _ in some], dtype=np.int64)
    hashes = np.array([key_hash("task", str(key)) for some in keys for key in some], dtype=np.int64)
    groups = connected_groups(len(keys), pairs_of_keys(rows, hashes)).tolist()
    slow = list(range(len(keys)))
    for _ in keys:
        for i, some in enumerate(keys):
            for j, other in enumerate(keys):
                if set(some) & set(other):
                    slow[i] = slow[j] = min(slow[i], slow[j])
    assert [slow.index(group) for group in slow] == [groups.index(group) for group in groups]
    assert groups == [sorted(set(groups)).index(group) for group in groups]
    assert all(groups.index(group) >= group for group in groups)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    held_out=st.floats(0.05, 0.5),
    validation=st.floats(0.05, 0.4),
    seed=st.integers(0, 5),
)
def test_shares_are_as_near_as_single_groups_allow(sizes, held_out, validation, seed):
    """Catches a split that misses its share although moving one group would mend it."""
    counts = np.array(sizes, dtype=np.int64)
    order = seeded_order([str(k) for k in range(len(sizes))], seed)
    split = assign_groups(counts, order, {"held_out": held_out, "validation": validation})
    assert (split == assign_groups(counts, order, {"held_out": held_out, "validation": validation})).all()
    total = counts.sum()
    missing = held_out * total - counts[split == 0].sum()
    # Validation is filled after held-out and only from training, so held-out is judged with validation given back.
    for size, place in zip(counts, split, strict=True):
        assert abs(missing) <= abs(missing + size if place == 0 else missing - size) + 1e-9
    missing = validation * total - counts[split == 1].sum()
    for size, place in zip(counts, split, strict=True):
        if place != 0:
            assert abs(missing) <= abs(missing + size if place == 1 else missing - size) + 1e-9


def test_the_seed_draws_who_is_held_out():
    """Catches a held-out set that is the smallest groups, or the first ones, whatever the seed."""
    sizes = np.array([1] * 100, dtype=np.int64)
    names = [str(k) for k in range(100)]
    chosen = {
        seed: frozenset(np.flatnonzero(assign_groups(sizes, seeded_order(names, seed), {"h": 0.1}) == 0).tolist())
        for seed in range(5)
    }
    assert all(len(some) == 10 for some in chosen.values())
    assert len(set(chosen.values())) == 5
