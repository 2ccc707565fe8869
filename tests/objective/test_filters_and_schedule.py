"""RFC 010's filters, lambda over the steps, and which observations of a step are trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_builders import tokenized

from envecho.errors import DataError
from envecho.objective import (
    EchoConfig,
    FilterConfig,
    NoiseConfig,
    PolicyConfig,
    ScheduleConfig,
    compile_batch,
    filter_rollouts,
    lambda_at,
    shuffle_observations,
)
from envecho.objective.shuffle import SUFFIX
from envecho.trajectory import Message, Role, Segment, Source, StopReason, Trajectory

SOURCE_OF = {"v": Source.STDOUT, "i": Source.TOOL_ERROR, "u": Source.FORMAT_WARNING}


def rollout(name: str, calls: str = "v", reward: float | None = 0.0, task: str = "k") -> Trajectory:
    """An episode whose calls fare as the letters say: valid, invalid, unparsed."""
    messages = [Message(role="user", segments=(Segment(source=Source.TASK, text="go"),))]
    for place, letter in enumerate(calls):
        messages.append(Message(role="assistant", segments=(Segment(source=Source.POLICY, text=f"{name} {place}"),)))
        body = Segment(source=SOURCE_OF[letter], text=f"{name}-{place}\n")
        status = Segment(source=Source.STATUS, text="[exit status 0]")
        messages.append(Message(role="user", segments=(body, status)))
    return Trajectory(id=name, task_id=task, messages=tuple(messages), reward=reward)


def test_shares_of_valid_and_parsed_calls_gate_the_environment_term():
    """Catches a filter that compares the wrong way, counts unparsed calls as valid, or drops a silent rollout."""
    pool = [rollout("good", "vv"), rollout("half", "vi"), rollout("bad", "uu"), rollout("silent", "")]
    found = filter_rollouts(pool, FilterConfig(min_valid_call_fraction=0.75, min_parse_clean_fraction=0.5))
    assert dict(found.excluded) == {"half": "invalid_calls", "bad": "invalid_calls"}
    found = filter_rollouts(pool, FilterConfig(min_parse_clean_fraction=0.5))
    assert dict(found.excluded) == {"bad": "parse_failures"}
    assert filter_rollouts(pool, FilterConfig()).excluded == {}


@settings(deadline=None, max_examples=60)
@given(
    rewards=st.lists(st.sampled_from([0.0, 1.0]), max_size=12),
    share=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 3),
)
def test_trap_24_a_share_of_correct_rollouts_is_reached_by_leaving_out_incorrect_ones_alone(rewards, share, seed):
    """Catches the division by zero at 0.0, a correct rollout that is left out, and a share that is missed by one."""
    pool = [rollout(f"r{n}", reward=reward) for n, reward in enumerate(rewards)]
    found = filter_rollouts(pool, FilterConfig(correct_fraction=share, seed=seed))
    num_correct = sum(rewards)
    assert all(rewards[int(name[1:])] == 0 for name in found.excluded)
    left = len(pool) - len(found.excluded)
    if not left:
        assert found.correct_fraction is None
        return
    assert found.correct_fraction == num_correct / left
    if share == 0:
        assert not found.excluded
    elif num_correct:
        assert found.correct_fraction >= share - 1e-9
        assert left == len(pool) or num_correct / (left + 1) < share
    assert filter_rollouts(pool[::-1], FilterConfig(correct_fraction=share, seed=seed)).excluded == found.excluded


def test_another_seed_leaves_out_other_rollouts():
    """Catches a choice that always takes the first ones: the same few failures would be trained for ever."""
    pool = [rollout(f"r{n}", reward=float(n < 3)) for n in range(30)]
    chosen = {frozenset(filter_rollouts(pool, FilterConfig(correct_fraction=0.5, seed=s)).excluded) for s in range(5)}
    assert len(chosen) == 5


def test_a_correct_filter_on_unknown_rewards_says_so():
    """Catches imported traces whose unknown reward silently counts as incorrect."""
    with pytest.raises(DataError, match="reward of trajectory 'b' is unknown"):
        filter_rollouts([rollout("a"), rollout("b", reward=None)], FilterConfig(correct_fraction=0.5))


@pytest.mark.parametrize("reason", [StopReason.WORLD_ERROR, StopReason.POLICY_ERROR, StopReason.TIMEOUT])
def test_trap_24_a_failed_rollout_does_not_stop_a_run_with_a_correct_filter(reason):
    """Catches one broken world that ends a run because its reward is unknown, or that counts as correct."""
    failed = rollout("b", reward=None).model_copy(update={"stop_reason": reason})
    found = filter_rollouts([rollout("a", reward=1.0), failed], FilterConfig(correct_fraction=1.0))
    assert (found.excluded, found.correct_fraction) == ({"b": "incorrect"}, 1.0)
    assert filter_rollouts([rollout("a", reward=1.0), failed], FilterConfig(correct_fraction=0.5)).excluded == {}


def test_an_excluded_rollout_keeps_its_policy_term_and_all_other_weights():
    """Catches a filter that drops the rollout from its group, or makes the others weigh more."""
    step = [tokenized("caaoo", "one", reward=1.0), tokenized("caoow", "two", reward=0.0)]
    whole = compile_batch(step, EchoConfig())
    left = compile_batch(step, EchoConfig(), excluded_env={"two": "incorrect"})
    assert torch.equal(whole.batch.policy_weights, left.batch.policy_weights)
    assert torch.equal(whole.batch.advantages, left.batch.advantages)
    assert torch.equal(whole.batch.env_weights[:5], left.batch.env_weights[:5])
    assert not left.batch.env_weights[5:].any()
    assert left.counters["num_rollouts_env_excluded_incorrect"] == 1
    assert left.counters["num_env_tokens_excluded"] == 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(), [0.1] * 5),
        (ScheduleConfig(kind="linear"), [0.1, 0.075, 0.05, 0.025, 0.0]),
        (ScheduleConfig(kind="linear", steps=3, end_coeff=0.02), [0.1, 0.06, 0.02, 0.02, 0.02]),
        (ScheduleConfig(kind="step", steps=3, end_coeff=0.5), [0.1, 0.1, 0.5, 0.5, 0.5]),
    ],
)
def test_lambda_follows_its_schedule(schedule, expected):
    """Catches a schedule that is a step late, or does not hold its end."""
    config = EchoConfig(world_model_coeff=0.1, schedule=schedule)
    assert [lambda_at(config, step, 5) for step in range(1, 6)] == pytest.approx(expected)


def test_observations_after_certain_actions_are_left_out():
    """Catches a selection by the action's probability, by the wrong action, or one that moves the denominator."""
    entropies = np.full(8, np.nan, dtype=np.float32)
    entropies[[1, 2]], entropies[5] = 0.1, 2.0
    step = [tokenized("caaocaoo", "one", sampling_entropies=entropies)]
    config = EchoConfig(use_rl=False, world_model_coeff=1.0, noise=NoiseConfig(after_entropy_quantile=0.9))
    batch = compile_batch(step, config)
    plain = compile_batch(step, EchoConfig(use_rl=False, world_model_coeff=1.0))
    assert batch.batch.env_weights.bool().tolist() == [False] * 6 + [True] * 2
    assert torch.equal(batch.batch.env_weights[6:], plain.batch.env_weights[6:])
    assert batch.counters["num_env_tokens_low_entropy"] == 1
    with pytest.raises(DataError, match="entropy of every action token"):
        compile_batch([tokenized("cao", "one")], config)


def test_failed_rollouts_keep_their_environment_term_and_leave_their_group():
    """Catches an errored rollout that counts as reward 0, and (METHOD trap 20) one whose observations are lost."""
    step = [
        tokenized("cao", "one", reward=1.0),
        tokenized("cao", "two", reward=0.0),
        tokenized("caoo", "lost", reward=None, stop_reason=StopReason.WORLD_ERROR),
    ]
    compiled = compile_batch(step, EchoConfig(policy=PolicyConfig(advantage="group_mean")))
    batch = compiled.batch
    assert batch.advantages.tolist() == [0.5] * 3 + [-0.5] * 3 + [0.0] * 4
    assert not batch.policy_weights[6:].any()
    assert batch.env_weights[8:].all()
    assert compiled.counters["num_rollouts_ungraded_world_error"] == 1
    with pytest.raises(DataError, match="reward for every trajectory"):
        compile_batch([*step[:2], tokenized("cao", "x", reward=None, stop_reason=StopReason.COMPLETED)], EchoConfig())


def test_imitation_asks_for_nothing_but_actions():
    """Catches SFT through a ratio (METHOD trap 17), and one that needs rewards."""
    config = EchoConfig(world_model_coeff=0.0, policy=PolicyConfig(loss="sft"))
    batch = compile_batch([tokenized("caao", "one", sampled=False, group_id=None)], config).batch
    assert (batch.policy_loss.name, batch.policy_loss.ratio_denominator, batch.temperature) == ("sft", "current", 1.0)
    assert batch.policy_weights.tolist() == [0, 0.5, 0.5, 0]
    assert batch.advantages[1:3].tolist() == [1, 1]


def test_kl_and_entropy_are_weighed_as_the_policy_term_is():
    """Catches a KL term with a normaliser of its own, or one on dropped actions."""
    step = [tokenized("caao", "one", reward=1.0), tokenized("cao", "two", reward=0.0, context_truncated=True)]
    batch = compile_batch(step, EchoConfig(policy=PolicyConfig(kl_coeff=0.5, entropy_coeff=0.25))).batch
    torch.testing.assert_close(batch.kl_weights, 0.5 * batch.policy_weights)
    torch.testing.assert_close(batch.entropy_weights, 0.25 * batch.policy_weights)
    assert not batch.kl_weights[4:].any()


def test_a_tool_has_its_own_coefficient():
    """Catches a coefficient on the wrong message, and results of two tools in one message that share one."""
    tools = ((), (), ("search",), (), ("shell",))
    step = [tokenized("caoao", "one", turn_tools=tools)]
    free = EchoConfig(use_rl=False, world_model_coeff=1.0)
    plain = compile_batch(step, free).batch.env_weights
    weighed = compile_batch(step, free.model_copy(update={"tool_coeffs": {"search": 0.5}})).batch.env_weights
    assert (weighed / plain)[[2, 4]].tolist() == [0.5, 1.0]
    both = [tokenized("cao", "one", turn_tools=((), (), ("search", "shell")))]
    with pytest.raises(DataError, match="message 2 holds results of search, shell"):
        compile_batch(both, free.model_copy(update={"tool_coeffs": {"search": 0.5}}))


def bodies(trajectory: Trajectory) -> list[str]:
    found = [[s.text for s in m.segments if s.source.role is Role.ENV_OUTPUT] for m in trajectory.messages]
    return [text for texts in found for text in texts]


def test_the_control_moves_every_observation_to_another_task_and_nothing_else():
    """Catches a shuffle within a group (the same box answers the same), one that loses an observation, and one that
    moves harness text or actions along."""
    pool = [rollout(f"r{n}", "vv", task=f"task-{n // 2}") for n in range(6)]
    shuffled = shuffle_observations(pool, seed=3)
    assert [t.id for t in shuffled] == [t.id + SUFFIX for t in pool]
    assert sorted(text for t in shuffled for text in bodies(t)) == sorted(text for t in pool for text in bodies(t))
    for true, control in zip(pool, shuffled, strict=True):
        for place, (one, other) in enumerate(zip(bodies(true), bodies(control), strict=True)):
            assert one.split("-")[1] == other.split("-")[1] == f"{place}\n"
            assert int(one[1]) // 2 != int(other[1]) // 2
        assert [m.content for m in true.messages if m.role == "assistant"] == [
            m.content for m in control.messages if m.role == "assistant"
        ]
        statuses = [[s.text for s in m.segments if s.source is Source.STATUS] for m in control.messages]
        assert statuses == [[s.text for s in m.segments if s.source is Source.STATUS] for m in true.messages]
    assert shuffle_observations(pool, seed=3) == shuffled
    assert shuffle_observations(pool, seed=4) != shuffled
