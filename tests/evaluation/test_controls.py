"""The controls on predictors whose gaps are known in advance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pool_builders import LastTokenPredictor, OraclePredictor, RulePredictor, answer, box_episode, command, episode

from envecho.errors import DataError, EngineError
from envecho.evaluation import controls as controls_module
from envecho.evaluation import evaluate_pool, tokenize_pool
from envecho.evaluation.controls import run_controls
from envecho.evaluation.results import ControlResult
from envecho.seam import ScoreRequest, Scores
from envecho.tokens import ChatTokenizer, env_target_mask
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory

CONTROLS = {"action_swap", "action_blank", "observation_shuffle"}
REASONS = {"num_without_action", "num_without_candidate", "num_other_tokens", "num_cut", "num_refused"}


class HistoryCopier(RulePredictor):
    """Continues what the environment said before the last action; of that action it sees nothing."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        super().__init__(len(tokenizer.hf))
        self._start = tokenizer.added["<|im_start|>"].id

    def rule(self, token_ids: NDArray[np.int32], position: int) -> dict[int, float]:
        *_, action, reply = np.flatnonzero(token_ids == self._start)
        seen = np.concatenate([token_ids[:action], token_ids[reply:]])
        places = np.flatnonzero(seen[:-1] == seen[-1])
        return {int(seen[places[-1] + 1]): 0.9} if len(places) else {}


class Listener(LastTokenPredictor):
    """Keeps the texts that it was asked to score, each up to the end of what is read."""

    def __init__(self, tokenizer: ChatTokenizer, *, max_context_tokens: int = 100_000) -> None:
        super().__init__(len(tokenizer.hf), max_context_tokens=max_context_tokens)
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        for request in requests:
            ids = request.token_ids[: np.flatnonzero(request.read)[-1] + 1]
            self.texts.append(self._tokenizer.hf.decode(ids, skip_special_tokens=False))
        return super().logprobs(requests)


def unlabelled(trajectory: Trajectory) -> Trajectory:
    return trajectory.with_messages(tuple(m.model_copy(update={"labels": {}}) for m in trajectory.messages))


def gaps(results: dict[str, ControlResult]) -> dict[str, float | None]:
    return {name: result.gap and result.gap.value for name, result in results.items()}


def check_counts(results: dict[str, ControlResult], num_observations: int) -> None:
    for result in results.values():
        counts = dict(result.counts)
        assert counts.pop("num_observations") == num_observations
        assert set(counts) == {"num_used"} | REASONS
        assert sum(counts.values()) == num_observations


def test_a_predictor_that_knows_only_how_answers_look_has_gap_zero_everywhere(tokenizer, pool):
    """Catches a gap that comes from other tokens, from a hard output set against an easy one, or from the header."""
    results = run_controls(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer)
    assert set(results) == CONTROLS
    for result in results.values():
        assert (result.gap.value, result.gap.low, result.gap.high) == (0, 0, 0)
        assert result.gap.num_tasks == len(pool)
    check_counts(results, 20)


def test_every_environment_token_that_has_an_action_before_it_is_counted_once(tokenizer, pool):
    """Catches controls over standard output alone, or over labelled observations alone."""
    results = run_controls(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer)
    sequences = tokenize_pool(pool, tokenizer)
    assert results["action_blank"].gap.num_tokens == sum(env_target_mask(s).sum() for s in sequences)


def test_a_lookup_on_the_action_loses_all_that_it_knows_when_the_action_is_blank(tokenizer, pool):
    """Catches a blank that leaves words of the action, and means that are not over tokens."""
    results = run_controls(OraclePredictor(tokenizer, pool), pool, tokenizer)
    # It knows nothing of an episode's first output; of all others it gives each token 0.9, and without a command 1/V.
    sequences = tokenize_pool(pool, tokenizer)
    known = sum((env_target_mask(s) & (s.turns > 3)).sum() for s in sequences)
    share = known / results["action_blank"].gap.num_tokens
    assert results["action_blank"].gap.value == pytest.approx(share * np.log(0.9 * len(tokenizer.hf)), rel=1e-5)
    assert all(result.gap.low > 2 for result in results.values())


def test_a_predictor_that_copies_the_history_passes_the_shuffle_and_no_control_of_the_action(tokenizer):
    """Catches a shuffle that is read as proof of the action, and one that leaves the history of the true episode."""
    words = ["ant bee cow", "kiwi plum pear", "oak elm ash"]
    pool = [
        episode(
            text, [("cat x", answer(text.replace(" ", "\n") + "\n")), ("head -n 1 x", answer(f"{text.split()[0]}\n"))]
        )
        for text in words
    ]
    found = gaps(run_controls(HistoryCopier(tokenizer), pool, tokenizer))
    assert (found["action_blank"], found["action_swap"]) == (0, 0)
    assert found["observation_shuffle"] > 0.5


def test_traces_without_labels_get_a_swap_figure(tokenizer, pool):
    """Catches a control that needs the labels of our own worlds, so that no imported trace has a figure."""
    plain = [unlabelled(trajectory) for trajectory in pool]
    oracle = OraclePredictor(tokenizer, pool)
    assert evaluate_pool(oracle, plain, tokenizer).result.action_swap_gap is None
    results = run_controls(oracle, plain, tokenizer)
    assert results["action_swap"].gap.low > 2
    assert results["action_swap"].counts["num_used"] == 20


def test_the_same_command_after_another_thought_is_no_stand_in(tokenizer):
    """Catches a swap that changes nothing: no model could lose by it, and the gap of a perfect one would shrink."""

    def said(thought: str, line: str) -> str:
        return f"{thought}\n\n```bash\n{line}\n```"

    turns = [
        (said("How many?", "ls | wc -l"), answer("8\n")),
        (said("Count again.", "ls | wc -l"), answer("7\n")),
    ]
    result = run_controls(Listener(tokenizer), [episode("a", turns)], tokenizer)["action_swap"]
    assert (result.gap, result.counts["num_without_candidate"]) == (None, 2)


def test_an_empty_turn_of_the_same_template_stands_where_the_action_was(tokenizer, pool):
    """Catches a blank that drops the turn, and with it the roles that the model expects."""
    listener = Listener(tokenizer)
    run_controls(listener, pool[:1], tokenizer)
    silenced = "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\n"
    (blank,) = [text for text in listener.texts if text.endswith(f"{silenced}6 app.log\n")]
    assert "<|im_start|>assistant\ngrep ERROR app.log<|im_end|>" in blank


def test_calls_without_names_and_arguments_stand_where_structured_calls_were(qwen3_tokenizer):
    """Catches a blank that leaves the tool's name, its arguments or the thoughts before it."""
    tokenizer = ChatTokenizer(qwen3_tokenizer)
    call = ToolCall(name="lookup", arguments='{"key": "abacus"}', id="call-1")
    ask = Message(role="assistant", segments=(), reasoning="the abacus", tool_calls=(call,))
    reply = Message(
        role="tool",
        segments=(Segment(source=Source.TOOL_RESULT, text="17 beads\n", tool="lookup"),),
        tool_call_id="call-1",
    )
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Count."),))
    listener = Listener(tokenizer)
    results = run_controls(listener, [Trajectory(id="a", task_id="a", messages=(task, ask, reply))], tokenizer)
    (blank,) = [text for text in listener.texts if "abacus" not in text]
    assert '<tool_call>\n{"name": "", "arguments": {}}\n</tool_call>' in blank
    assert "17 beads" in blank
    assert results["action_blank"].counts["num_used"] == 1


def echoing(name: str, turns: Sequence[tuple[str, str]], *, end: str = "\n") -> Trajectory:
    """An episode whose harness repeats each command before its output."""
    said = [
        (text, Message(role="user", segments=(
            Segment(source=Source.COMMAND_ECHO, text=f"$ {text}{end}"), Segment(source=Source.STDOUT, text=output),
        )))
        for text, output in turns
    ]  # fmt: skip
    return episode(name, said)


def test_the_echo_of_a_command_goes_with_the_command(tokenizer):
    """Catches a harness that repeats the true command after the changed one, so that reading it costs nothing."""
    one = echoing("one", [("cat red", "apples\n"), ("cat blue", "plums\n")])
    two = echoing("two", [("cat green", "pears\n"), ("cat black", "cherries\n")])
    listener = Listener(tokenizer)
    results = run_controls(listener, [one, two], tokenizer)
    assert all(result.counts["num_used"] == 4 for result in results.values())
    ends = [text.split("<|im_start|>assistant\n")[-1] for text in listener.texts if text.endswith("plums\n")]
    header = "<|im_end|>\n<|im_start|>user\n"
    true, blank, shuffle, swap = sorted(ends, key=lambda end: ("blue" not in end, "red" in end, len(end)))
    assert true == f"cat blue{header}$ cat blue\nplums\n"
    assert blank == f"{header}plums\n"
    assert shuffle in [f"cat {colour}{header}$ cat {colour}\nplums\n" for colour in ("green", "black")]
    assert swap == f"cat red{header}$ cat red\nplums\n"


def test_an_output_whose_own_tokens_change_with_the_context_is_counted(tokenizer):
    """Catches a gap between two sets of tokens: behind another joint the first word is another token."""
    joined = echoing("joined", [("cat red", "apples\n"), ("cat blue", "plums\n")], end=" ")
    results = run_controls(Listener(tokenizer), [joined], tokenizer)
    assert (results["action_blank"].gap, results["action_blank"].counts["num_other_tokens"]) == (None, 2)
    assert results["action_swap"].counts["num_used"] == 2


def test_an_observation_stands_in_for_one_of_its_kind_in_another_task(tokenizer):
    """Catches donors of the same task, of another program or operation, or that said the same."""
    pool = [
        episode(f"run-{number}", [("cat x", answer(f"cat {word}\n")), ("ls", answer(f"ls {word}\n"))], task=task)
        for number, (word, task) in enumerate([("ant", "a"), ("asp", "a"), ("bee", "b"), ("bat", "b")])
    ]
    listener = Listener(tokenizer)
    results = run_controls(listener, pool, tokenizer)
    assert results["observation_shuffle"].counts["num_used"] == 8
    assert len(listener.texts) == 8 * 4
    shuffled = []
    for text in listener.texts:
        _, _, *shown, said = text.split("<|im_start|>user\n")
        if shown and shown[0][len("cat ")] != said[len("ls ")]:
            shuffled.append((said, shown[-1].split("<|im_start|>assistant\n")[-1]))
    assert sorted(shuffled) == [(f"ls {word}\n", "ls<|im_end|>\n") for word in ("ant", "asp", "bat", "bee")]


def test_an_observation_of_another_task_that_said_the_same_is_no_stand_in(tokenizer):
    """Catches a gap that is pulled to zero by answers that are right in both places."""
    pool = [episode(task, [("ls", answer("x\n"))]) for task in ("a", "b")]
    result = run_controls(Listener(tokenizer), pool, tokenizer)["observation_shuffle"]
    assert (result.gap, result.counts["num_without_candidate"]) == (None, 2)


def test_what_cannot_be_used_is_counted_by_its_reason(tokenizer):
    """Catches observations that vanish, and counts that do not add up."""
    opening = Message(role="user", segments=(Segment(source=Source.STDOUT, text="motd\n"),))
    lonely = episode("lonely", [("ls", answer("x\n"))])
    lonely = lonely.with_messages((opening, *lonely.messages[1:], answer("late\n")))
    results = run_controls(LastTokenPredictor(len(tokenizer.hf)), [lonely], tokenizer)
    check_counts(results, 3)
    assert all(result.counts["num_without_action"] == 2 for result in results.values())
    assert results["action_blank"].counts["num_used"] == 1
    for name in ("action_swap", "observation_shuffle"):
        assert results[name].gap is None
        assert results[name].counts["num_without_candidate"] == 1
    silent = lonely.with_messages(tuple(command(" ") if m.role == "assistant" else m for m in lonely.messages))
    assert run_controls(Listener(tokenizer), [silent], tokenizer)["action_blank"].counts["num_without_action"] == 3


def test_a_context_that_a_window_would_cut_is_left_out(tokenizer):
    """Catches a gap between a long context and a short one where an episode needs several windows."""
    pool = [box_episode(number, num_lines=60) for number in range(2)]
    whole = run_controls(Listener(tokenizer), pool, tokenizer)["action_blank"]
    cut = run_controls(Listener(tokenizer, max_context_tokens=700), pool, tokenizer)["action_blank"]
    assert whole.counts["num_cut"] == 0
    assert 0 < cut.counts["num_cut"] < 10
    assert cut.counts["num_used"] + cut.counts["num_cut"] == 10


def test_a_template_that_refuses_an_empty_turn_is_counted(smollm2_tokenizer, pool):
    """Catches an evaluation that dies on one control of a template that wants words."""
    hf = copy.deepcopy(smollm2_tokenizer)
    check = "{% if not message['content'] %}{{ raise_exception('say something') }}{% endif %}"
    hf.chat_template = hf.chat_template.replace(
        "{% for message in messages %}", "{% for message in messages %}" + check
    )
    tokenizer = ChatTokenizer(hf)
    talking = [t.with_messages(tuple(m for m in t.messages if m.content)) for t in pool]
    results = run_controls(Listener(tokenizer), talking, tokenizer)
    assert results["action_blank"].gap is None
    assert results["action_blank"].counts["num_refused"] > 10
    assert results["action_swap"].counts["num_used"] > 10


def test_the_order_of_the_pool_and_the_size_of_a_call_change_nothing(tokenizer, pool, monkeypatch: pytest.MonkeyPatch):
    """Catches draws that depend on the file's order, and a sample whose requests are all held at once."""
    oracle = OraclePredictor(tokenizer, pool)
    once = run_controls(oracle, pool, tokenizer)
    assert oracle.num_calls == 1
    assert gaps(run_controls(oracle, pool[::-1], tokenizer)) == pytest.approx(gaps(once))
    monkeypatch.setattr(controls_module, "TOKENS_PER_CALL", 2000)
    oracle.num_calls = 0
    assert run_controls(oracle, pool, tokenizer) == once
    assert oracle.num_calls > 4
    assert gaps(run_controls(oracle, pool, tokenizer, seed=1)) != gaps(once)


def test_a_real_model_has_the_gaps_that_scoring_request_by_request_gives(tokenizer, pool, tiny_engine):
    """Catches shared beginnings that let one context see another's action."""
    together = gaps(run_controls(tiny_engine, pool[:2], tokenizer))
    tiny_engine.shares_prefixes = False
    try:
        alone = gaps(run_controls(tiny_engine, pool[:2], tokenizer))
    finally:
        tiny_engine.shares_prefixes = True
    assert alone == pytest.approx(together, abs=1e-4)
    assert all(value != 0 for value in alone.values())


def test_a_token_without_a_score_and_an_id_that_stands_twice_are_refused(tokenizer, pool):
    """Catches a NaN that becomes a gap, and two episodes that are taken for one."""

    class Silent(RulePredictor):
        def _score(self, request: ScoreRequest) -> Scores:
            return Scores(logprobs=np.full(len(request.token_ids), np.nan, dtype=np.float32), top1=None)

    with pytest.raises(EngineError, match="finite log-probs"):
        run_controls(Silent(len(tokenizer.hf)), pool, tokenizer)
    with pytest.raises(DataError, match="unique trajectory ids"):
        run_controls(Listener(tokenizer), [pool[0], pool[0]], tokenizer)


def test_log_probs_alone_are_enough(tokenizer, pool):
    """Catches a hosted engine that says no top-1 being refused controls that need none."""

    class Hosted(LastTokenPredictor):
        def logprobs(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
            return [Scores(logprobs=s.logprobs, top1=None) for s in super().logprobs(requests)]

    found: dict[str, Any] = gaps(run_controls(Hosted(len(tokenizer.hf)), pool, tokenizer))
    assert set(found.values()) == {0}
