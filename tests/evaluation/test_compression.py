"""Compressors on text whose cost is known in advance."""

from __future__ import annotations

import math
import random

import pytest
from pool_builders import answer, command, episode

from envecho.errors import DataError
from envecho.evaluation.compression import CONTEXT_BYTES, TRAIN_BYTES, compress, lzma_bytes, zstd_bytes
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory


def noise(number: int, size: int = 4000) -> str:
    """Hexadecimal digits that nothing announces: ln 16 nats per byte, and no compressor can do better."""
    return "".join(random.Random(number).choices("0123456789abcdef", k=size))


def nats(*trajectories: Trajectory, train: list[Trajectory] | None = None, seed: int = 0) -> dict[str, float]:
    return {name: r.ce_per_byte.value for name, r in compress(trajectories, train=train, seed=seed).items()}


def test_what_nothing_announces_costs_its_entropy():
    """Catches bits taken for nats or bytes, and headers that are charged to the observation."""
    for value in nats(episode("a", [("cat x", answer(noise(0)))])).values():
        assert math.log(16) <= value < 1.08 * math.log(16)


def test_what_was_seen_before_costs_next_to_nothing():
    """Catches a context that does not reach the compressor, or not from its beginning."""
    seen = noise(0)
    first, again = ("cat x", answer(seen)), ("cat x again", answer(seen))
    once, twice = nats(episode("a", [first])), nats(episode("a", [first, again]))
    for name, value in twice.items():
        assert value < 0.51 * once[name]


@pytest.mark.parametrize("cost", [zstd_bytes, lzma_bytes])
def test_the_whole_context_can_be_copied_from(cost):
    """Catches a window that is smaller than the dictionary, so that a long context is paid for and not read."""
    context = noise(1, CONTEXT_BYTES + TRAIN_BYTES).encode()
    assert cost(context, context[:2000]) < 40
    assert cost(context, noise(2, 2000).encode()) > 900
    assert (cost(context, b""), cost(b"", b"")) == (0, 0)


def test_the_action_and_what_stands_before_the_output_are_seen_and_are_not_paid_for():
    """Catches a compressor that is asked to guess what the model reads: command, echo, thoughts, arguments, tools."""
    text = noise(3, 400)
    own = Message(
        role="user",
        segments=(Segment(source=Source.COMMAND_ECHO, text=text), Segment(source=Source.STDOUT, text=text)),
    )
    alone = nats(episode("a", [("print it", answer(text))]))
    call = ToolCall(name="show", arguments=text, id="1")
    told = [
        episode("a", [(text, answer(text))]),
        episode("a", [("print it", own)]),
        episode("a", [("print it", answer(text))]).model_copy(update={"tools": ({"description": text},)}),
    ]
    for changes in ({"reasoning": text}, {"tool_calls": (call,)}):
        said = command("print it").model_copy(update=changes)
        told.append(Trajectory(id="a", task_id="a", messages=(said, answer(text))))
    for trajectory in told:
        for name, value in nats(trajectory).items():
            assert value < 0.2 * alone[name]


def test_what_comes_later_is_not_seen():
    """Catches a compressor that is shown the observation itself, or what repeats it."""
    first, later = ("cat x", answer(noise(4))), ("cat y", answer(noise(4)[:2000]))
    alone, both = compress([episode("a", [first])]), compress([episode("a", [first, later])])
    for name, result in both.items():
        total = result.ce_per_byte.value * 6000
        assert total == pytest.approx(alone[name].ce_per_byte.value * 4000, rel=0.02)


def test_training_text_is_at_hand_up_to_its_bound():
    """Catches training text that is ignored, and a training set of any size in every dictionary."""
    held_out = episode("held-out", [("cat x", answer(noise(5)))])
    train = [episode("train", [("cat x", answer(noise(5)))])]
    without, with_it = nats(held_out), nats(held_out, train=train)
    assert all(with_it[name] < 0.05 * without[name] for name in without)
    long = episode("long", [("cat x", answer(noise(5))), ("cat y", answer(noise(6, TRAIN_BYTES)))])
    assert nats(held_out, train=[long])["lzma"] > 1
    buried = [episode(f"other-{n}", [("cat y", answer(noise(100 + n, TRAIN_BYTES)))]) for n in range(3)]
    assert {nats(held_out, train=[*train, *buried], seed=seed)["lzma"] > 1 for seed in range(12)} == {True, False}


def test_only_what_the_environment_said_is_paid_for():
    """Catches statuses and notices among the bytes, and a figure that hides how much it is over."""
    reply = answer("out\n", stderr="err\n", status="[exit status 1]")
    for result in compress([episode("a", [("run", reply)])]).values():
        assert result.num_tokens == result.ce_per_byte.num_tokens == len("out\nerr\n")
        assert result.ce_per_token is None
        assert result.action_swap_gap is None


def test_intervals_are_over_tasks_and_the_order_of_the_pool_changes_nothing():
    """Catches an interval over observations, which hang together within a task."""
    pool = [episode(f"e{n}", [("cat", answer(noise(n, 50 * n + 50)))] * 3, task=f"t{n % 3}") for n in range(6)]
    found = compress(pool)
    assert {r.ce_per_byte.num_tasks for r in found.values()} == {3}
    assert all(r.ce_per_byte.low < r.ce_per_byte.value < r.ce_per_byte.high for r in found.values())
    assert nats(*pool[::-1]) == pytest.approx(nats(*pool))
    one = compress(pool[:1])["zstd"].ce_per_byte
    assert (one.low, one.high) == (None, None)


def test_a_pool_without_the_environments_words_is_refused():
    """Catches a division by zero, or a cost of nothing for nothing."""
    with pytest.raises(DataError, match="text of the environment"):
        compress([episode("a", [("true", answer(status="[exit status 0]"))])])
