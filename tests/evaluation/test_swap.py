"""The action-swap gap on predictors whose gap is known."""

from __future__ import annotations

import numpy as np
import pytest
from pool_builders import (
    FIRST,
    LastTokenPredictor,
    OraclePredictor,
    RulePredictor,
    answer,
    box_episode,
    derivable,
    episode,
)

from envecho.errors import DataError
from envecho.evaluation import evaluate_pool, plan_swaps, score_pool, swap_candidates, tokenize_pool
from envecho.tokens import ChatTokenizer
from envecho.trajectory import ExactBranch, Message, Segment, Source, SpanKind, TokenSpan, ToolCall, Trajectory


def texts(commands: list[Message]) -> list[str]:
    return [message.content for message in commands]


def test_a_predictor_that_ignores_the_command_has_gap_zero(tokenizer, pool):
    """Catches a gap that comes from other tokens, another history or another window rather than from the command."""
    found = evaluate_pool(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer)
    assert found.result.ce_derivable.value > 1
    assert (found.result.action_swap_gap.value, found.result.action_swap_gap.high) == (0, 0)
    assert found.result.action_swap_gap.num_tokens == found.labels.derivable.sum()


def test_an_oracle_that_reads_the_command_has_a_large_gap(tokenizer, pool):
    """Catches a swap that does not reach the predictor: then nobody who reads commands could show it."""
    found = evaluate_pool(OraclePredictor(tokenizer, pool), pool, tokenizer)
    assert found.result.ce_derivable.value == pytest.approx(-np.log(0.9), rel=1e-4)
    assert found.result.action_swap_gap.low > 2
    assert {operation.top1_accuracy.value for operation in found.result.by_operation.values()} == {1}


def test_the_gap_equals_a_slow_reading_of_its_definition(tokenizer):
    """Catches draws that are not averaged first, and a mean over observations in place of tokens."""
    pool = [box_episode(number, silent=False) for number in range(3)]
    oracle = OraclePredictor(tokenizer, pool)
    found = evaluate_pool(oracle, pool, tokenizer, num_swaps=3)
    differences = []
    for trajectory in pool:
        for turn, message in enumerate(trajectory.messages):
            if message.labels.get("view") != "derivable":
                continue
            per_draw = [
                _nll(oracle, trajectory, turn, candidate, tokenizer) for candidate in swap_candidates(trajectory, turn)
            ]
            assert len(per_draw) == 3
            true = _nll(oracle, trajectory, turn, trajectory.messages[turn - 1], tokenizer)
            differences.extend(np.mean(per_draw, axis=0) - true)
    assert found.result.action_swap_gap.value == pytest.approx(np.mean(differences), rel=1e-5)


def _nll(predictor: RulePredictor, trajectory: Trajectory, turn: int, command: Message, tokenizer) -> np.ndarray:
    messages = (*trajectory.messages[: turn - 1], command, *trajectory.messages[turn : turn + 1])
    (sequence,) = tokenize_pool([trajectory.model_copy(update={"messages": messages})], tokenizer)
    tokens = score_pool(predictor, [sequence])
    return tokens.nll[tokens.observation(trajectory.id, turn)]


def test_a_stand_in_is_valid_and_answers_differently():
    """Catches a swap to a command with the same output, to one that failed, or to the same command again."""
    trajectory = episode(
        "a",
        [
            ("cat x", answer("a\nb\nc\n", labels=FIRST)),
            ("head -n 2 x", answer("a\nb\n", labels=derivable("slice"))),
            ("sed -n 1,2p x", answer("a\nb\n", labels=derivable("slice"))),
            ("cat gone", answer(stderr="cat: gone: No such file\n", status="[exit status 1]")),
            ("grep z x", answer(status="[exit status 1]", labels=derivable("filter"))),
            ("head -n 2 x", answer("new\n")),
            ("tail -n 1 x", answer("c\n", status="[exit status 0]", labels=derivable("slice"))),
            ("cat x", answer("a\nb\nc\n")),
        ],
    )
    assert texts(swap_candidates(trajectory, 5)) == ["cat x", "tail -n 1 x"]
    assert texts(swap_candidates(trajectory, 3)) == ["head -n 2 x", "sed -n 1,2p x", "tail -n 1 x"]


def test_an_observation_without_a_stand_in_is_counted_and_left_out(tokenizer):
    """Catches a crash, or a swap with itself that pulls the gap to zero, where an episode has one command."""
    lonely = episode("lonely", [("wc -l x", answer("3 x\n", labels=derivable("count")))])
    pool = [lonely, box_episode(1)]
    found = evaluate_pool(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer, num_swaps=2)
    counts = found.result.swap_counts
    assert (counts.num_observations, counts.num_without_candidate, counts.num_unaligned) == (4, 1, 0)
    assert counts.num_draws == 6
    of_box = found.labels.derivable & (found.tokens.trajectory_index == found.tokens.trajectory_ids.index("box-1"))
    assert sorted(found.swap.places.tolist()) == np.flatnonzero(of_box).tolist()
    alone = evaluate_pool(LastTokenPredictor(len(tokenizer.hf)), [lonely], tokenizer)
    assert alone.result.action_swap_gap is None


def tool_episode() -> Trajectory:
    """Tool calls on Qwen3's template; the third turn makes two calls at once."""

    def call(number: int, text: str) -> ToolCall:
        return ToolCall(name="bash", arguments=f'{{"command": "{text}"}}', id=f"call-{number}")

    def ask(*calls: ToolCall) -> Message:
        return Message(role="assistant", segments=(), tool_calls=calls)

    def reply(number: int, text: str, labels: dict[str, str]) -> Message:
        segments = (Segment(source=Source.STDOUT, text=text),)
        return Message(role="tool", segments=segments, labels=labels, tool_call_id=f"call-{number}")

    start = Message(role="user", segments=(Segment(source=Source.TASK, text="Look around."),))
    messages = (
        start,
        ask(call(1, "cat x")),
        reply(1, "b\na\n", FIRST),
        ask(call(2, "sort x")),
        reply(2, "a\nb\n", derivable("sort")),
        ask(call(3, "head -n 1 x"), call(4, "wc -l x")),
        reply(3, "b\n", derivable("slice")),
        reply(4, "2 x\n", derivable("count")),
    )
    return Trajectory(id="tools", task_id="tools", messages=messages)


def test_tool_calls_are_swapped_one_for_one_and_the_rest_is_counted(qwen3_tokenizer):
    """Catches a swap that changes the number of calls, keeps a wrong call id, or skips parallel results silently."""
    tokenizer = ChatTokenizer(qwen3_tokenizer)
    trajectory = tool_episode()
    assert [c.tool_calls[0].arguments for c in swap_candidates(trajectory, 4)] == ['{"command": "cat x"}']
    found = evaluate_pool(LastTokenPredictor(len(qwen3_tokenizer)), [trajectory], tokenizer, num_swaps=3)
    counts = found.result.swap_counts
    assert (counts.num_observations, counts.num_without_candidate, counts.num_unaligned) == (3, 2, 0)
    assert found.result.action_swap_gap.value == 0
    assert found.result.action_swap_gap.num_tokens == len(found.tokens.observation("tools", 4))


def test_the_history_before_the_command_stays_as_it_was(tokenizer, pool):
    """Catches surgery that changes, drops or adds turns before the swapped command, or lets later turns be seen."""
    sequences = tokenize_pool(pool, tokenizer)
    plan = plan_swaps(pool, sequences, tokenizer, num_swaps=3)
    assert len(plan.requests) == plan.counts.num_draws > 12
    whole = {sequence.trajectory_id: sequence for sequence in sequences}
    for swap in plan.swaps:
        true = whole[swap.trajectory_id]
        command_at = int(np.flatnonzero(true.turns == swap.turn - 1)[0])
        output = true.token_ids[(true.turns == swap.turn) & true.source_mask(Source.STDOUT)]
        for variant in swap.swapped:
            (request,) = variant.requests
            assert request.token_ids[:command_at].tolist() == true.token_ids[:command_at].tolist()
            assert request.token_ids[request.read].tolist() == output.tolist()
            assert np.flatnonzero(request.read)[-1] >= len(request.token_ids) - 4


def test_draws_depend_on_the_seed_and_the_episode_alone(tokenizer, pool):
    """Catches a base and a trained model measured with different swaps, or swaps that depend on the file's order."""

    def draws(trajectories: list[Trajectory], seed: int) -> dict[tuple[str, int], list[list[int]]]:
        plan = plan_swaps(trajectories, tokenize_pool(trajectories, tokenizer), tokenizer, num_swaps=1, seed=seed)
        return {
            (swap.trajectory_id, swap.turn): [r.token_ids.tolist() for v in swap.swapped for r in v.requests]
            for swap in plan.swaps
        }

    assert draws(pool, 0) == draws(pool[::-1], 0)
    assert draws(pool, 0) != draws(pool, 1)


def test_in_windows_the_true_command_is_scored_behind_the_same_context(tokenizer):
    """Catches a gap that compares a long context with a short one where an episode needs several windows."""
    trajectories = [box_episode(number, num_lines=60) for number in range(2)]
    predictor = LastTokenPredictor(len(tokenizer.hf), max_context_tokens=300)
    found = evaluate_pool(predictor, trajectories, tokenizer)
    assert len(found.sequences) > 4
    assert len(found.swap.places) == found.labels.derivable.sum() > 0
    assert found.swap.counts.num_unaligned == 0
    np.testing.assert_array_equal(found.swap.true_nll, found.tokens.nll[found.swap.places])
    assert found.result.action_swap_gap.value == 0


class FirstTokenPredictor(LastTokenPredictor):
    """Knows something only behind one opening of the context; it never sees the command."""

    def __init__(self, vocab_size: int, opening: int) -> None:
        super().__init__(vocab_size)
        self._opening = opening

    def rule(self, token_ids, position):
        return super().rule(token_ids, position) if token_ids[0] == self._opening else {}


def test_recorded_ids_that_differ_from_the_rendering_are_no_part_of_the_gap(tokenizer):
    """Catches a true command that is scored behind the recorded history, and a swapped one behind the rendered one."""
    trajectory = box_episode(0, silent=False)
    (rendered,) = tokenize_pool([trajectory], tokenizer)
    ids = (42, *rendered.token_ids.tolist())
    spans = (
        TokenSpan(end=1, kind=SpanKind.SCAFFOLD),
        TokenSpan(end=len(ids), kind=SpanKind.MIXED, turn=0, num_turns=len(trajectory.messages)),
    )
    exact = trajectory.model_copy(update={"branches": (ExactBranch(token_ids=ids, spans=spans),)})
    found = evaluate_pool(FirstTokenPredictor(len(tokenizer.hf), 42), [exact], tokenizer)
    assert len(found.swap.places) == found.labels.derivable.sum() > 0
    assert found.result.action_swap_gap.value == 0


def test_the_echo_of_the_command_is_swapped_with_it(tokenizer):
    """Catches a harness that repeats the true command in front of its output, so that swapping it hides nothing."""

    def echoing(text: str, output: str, labels: dict[str, str]) -> tuple[str, Message]:
        echo = Segment(source=Source.COMMAND_ECHO, text=f"$ {text}\n")
        said = answer(output, labels=labels)
        return text, said.model_copy(update={"segments": (echo, *said.segments)})

    turns = [echoing("cat x", "b\na\n", FIRST), echoing("sort x", "a\nb\n", derivable("sort"))]
    pool = [episode("echoes", turns)]
    plan = plan_swaps(pool, tokenize_pool(pool, tokenizer), tokenizer, num_swaps=1)
    ((request,),) = (plan.swaps[0].swapped[0].requests,)
    text = tokenizer.hf.decode(request.token_ids, skip_special_tokens=False)
    assert "sort" not in text
    assert text.count("$ cat x\n") == 2


def test_a_number_in_a_status_is_an_exit_status_only_where_it_says_so():
    """Catches stand-ins refused for their time or size, which left whole harnesses without a candidate."""
    turns = [
        ("ls", answer("a\n", status="[took 3 s, exit status 0]")),
        ("pwd", answer("/\n", status="[12 moves left]")),
        ("cat b", answer("b\n", status="[exit code: 1]")),
        ("wc -l x", answer("1 x\n", labels=derivable("count"))),
    ]
    assert texts(swap_candidates(episode("a", turns), 9)) == ["ls", "pwd"]


def test_pool_and_swaps_go_to_the_engine_in_one_call(tokenizer, pool):
    """Catches a call per observation, which would compute every history again."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    evaluate_pool(predictor, pool, tokenizer)
    assert predictor.num_calls == 1


def test_a_real_model_has_the_gap_that_scoring_one_by_one_gives(tokenizer, pool, tiny_engine):
    """Catches shared prefixes that let one continuation see another's command."""
    found = evaluate_pool(tiny_engine, pool[:2], tokenizer, num_swaps=1)
    differences = []
    plan = plan_swaps(pool[:2], found.sequences, tokenizer, max_tokens=2048, num_swaps=1)
    for swap in plan.swaps:
        (request,) = swap.swapped[0].requests
        nll = -tiny_engine.logprobs([request])[0].logprobs[request.read]
        differences.extend(nll - found.tokens.nll[found.tokens.observation(swap.trajectory_id, swap.turn)])
    assert found.result.action_swap_gap.value == pytest.approx(np.mean(differences), abs=1e-4)


def test_the_number_of_draws_has_bounds(tokenizer, pool):
    """Catches a typing error that makes an evaluation ten times as long."""
    sequences = tokenize_pool(pool, tokenizer)
    with pytest.raises(DataError, match="1 to 3 swaps"):
        plan_swaps(pool, sequences, tokenizer, num_swaps=4)
