"""What runs of one command disagree on counts less, and nothing else does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from step_builders import tokenized

from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError
from envecho.objective import EchoConfig, NoiseConfig, compile_batch, disagreement, disagreement_multipliers
from envecho.rollout import EpisodeJob, run_episode
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.tokens.chat import token_texts
from envecho.trajectory import Source
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.families import make_task
from envecho.worlds.terminal.tasks import split_box


def run(name: str, letters: str, ids: list[int], **changes):
    return tokenized(letters, name, token_ids=np.array(ids, dtype=np.int32), **changes)


def shares(*sequences) -> list[list[float | None]]:
    return [[None if np.isnan(x) else round(float(x), 3) for x in found] for found in disagreement(sequences)]


def test_only_tokens_that_another_run_of_the_same_actions_lacks_disagree():
    """Catches whole observations that are discounted, and a share of all runs instead of the others."""
    one = run("one", "ctaooo", [1, 2, 3, 10, 11, 12])
    two = run("two", "ctaooo", [1, 2, 3, 10, 15, 12])
    three = run("three", "ctaooo", [1, 2, 3, 10, 11, 12])
    nothing = [None] * 3
    assert shares(one, two, three) == [[*nothing, 0, 0.5, 0], [*nothing, 0, 1, 0], [*nothing, 0, 0.5, 0]]


def test_text_that_was_seen_once_counts_fully():
    """Catches a comparison over other actions, other tasks, or an opening that no action led to."""
    one = run("one", "ctaoo", [1, 2, 3, 10, 11])
    other_action = run("two", "ctaoo", [1, 2, 4, 12, 13])
    other_task = run("three", "ctaoo", [1, 2, 3, 14, 15], task_id="elsewhere")
    assert all(x is None for found in shares(one, other_action, other_task) for x in found)
    before = [run(name, "ctooa", [1, 2, first, 6, 7]) for name, first in (("four", 8), ("five", 9))]
    assert all(x is None for found in shares(*before) for x in found)


def test_a_longer_volatile_part_does_not_shift_what_follows():
    """Catches a comparison place by place: one more digit, and everything behind it disagrees."""
    one = run("one", "taoooo", [2, 3, 10, 7, 11, 12])
    two = run("two", "taooooo", [2, 3, 10, 8, 9, 11, 12])
    assert shares(one, two) == [[None, None, 0, 1, 0, 0], [None, None, 0, 1, 1, 0, 0]]


def test_what_was_done_before_is_compared_token_by_token_over_all_turns():
    """Catches a key of the last action alone: the same command after another one meets another world."""
    one = run("one", "taoaoo", [2, 3, 10, 4, 20, 21])
    same = run("two", "taoaoo", [2, 3, 10, 4, 20, 22])
    other = run("three", "taoaoo", [2, 5, 10, 4, 20, 22])
    assert shares(one, same, other) == [[None, None, 0, None, 0, 1], [None, None, 0, None, 0, 1], [None] * 6]


def test_windows_of_one_trajectory_are_one_run():
    """Catches an observation that is cut in two and compared with itself, or with a half of another."""
    whole = run("one", "taoooo", [2, 3, 10, 11, 12, 13])
    first = run("two", "taoo", [2, 3, 10, 11])
    second = dataclasses.replace(run("two", "taoooo", [2, 3, 10, 11, 12, 9]), window=1, owned_from=4)
    assert shares(whole, first, second) == [
        [None, None, 0, 0, 0, 1],
        [None, None, 0, 0],
        [None, None, None, None, 0, 1],
    ]


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.5), (0.2, 0.6), (1.0, 1.0)])
def test_the_weight_falls_with_the_share_of_runs_that_disagree(weight: float, expected: float):
    """Catches a weight that is applied all at once, or to tokens that agree."""
    runs = [run(name, "tao", [2, 3, last]) for name, last in (("one", 10), ("two", 11), ("three", 10))]
    found = disagreement_multipliers(runs, weight=weight)
    np.testing.assert_allclose(found[0], [1, 1, expected])
    np.testing.assert_allclose(found[1], [1, 1, weight])


def test_a_step_trains_what_the_runs_agree_on():
    """Catches an option that is read and not applied, a denominator that moves, and a count of untrained tokens."""
    runs = [run(name, "tooaoo", [2, 5, last, 3, 10, last]) for name, last in (("one", 8), ("two", 9))]
    config = EchoConfig(use_rl=False, world_model_coeff=1.0, normalizer="global_token_mean")
    plain = compile_batch(runs, config)
    quiet = compile_batch(runs, config.model_copy(update={"noise": NoiseConfig(disagreement_weight=0.25)}))
    factors = quiet.batch.env_weights / plain.batch.env_weights.where(
        plain.batch.env_weights > 0, plain.batch.env_weights + 1
    )
    assert factors.tolist() == pytest.approx([0, 1, 1, 0, 1, 0.25] * 2)
    assert quiet.counters["num_env_tokens_disagreeing"] == 2
    assert plain.counters["num_env_tokens_disagreeing"] == 0


def test_runs_of_the_shuffle_control_cannot_be_compared():
    """Catches a control whose observations are discounted because they stand behind another history."""
    with pytest.raises(ConfigError, match="disagreement_weight compares runs"):
        EchoConfig.from_table({"noise": {"disagreement_weight": 0.0, "shuffle_observations": True}})


def test_a_real_shell_disagrees_on_a_random_name_and_on_nothing_else():
    """Catches volatile text that the sandbox lets through and the comparison misses, with the model's own tokens."""
    tokenizer = ChatTokenizer.from_pretrained(str(resolve_model("smollm2-135m")))
    task = make_task(split_box("train", 0), "count_level")
    sequences = []
    for name in ("one", "two"):
        job = EpisodeJob(
            id=name,
            task_id=task.id,
            seed=0,
            make_world=lambda: TerminalWorld(lambda _: task),
            make_policy=lambda: ScriptedPolicy.oracle(("cat /proc/sys/kernel/random/uuid; echo the end", "answer: 1")),
        )
        sequences += tokenize_trajectory(run_episode(job), tokenizer)
    found = disagreement_multipliers(sequences, weight=0.0)
    for sequence, multipliers in zip(sequences, found, strict=True):
        output = sequence.source_mask(Source.STDOUT)
        text = token_texts(tokenizer, sequence.token_ids[output])
        trained = "".join(t for t, m in zip(text, multipliers[output], strict=True) if m == 1)
        assert trained.endswith("the end\n")
        assert (multipliers[output] == 0).sum() > 8
        assert (multipliers[~output] == 1).all()
