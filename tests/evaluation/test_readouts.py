"""Which commands are shown, and what is said about a predictor's answers."""

from __future__ import annotations

import numpy as np
import pytest
from pool_builders import LastTokenPredictor, OraclePredictor, answer, box_episode, derivable, episode

from envecho.errors import DataError
from envecho.evaluation import (
    ObservationRef,
    build_readouts,
    choose_observations,
    evaluate_pool,
    read_out,
    view_trajectory,
)
from envecho.evaluation.readouts import MISS


def evaluated(predictor, pool, tokenizer):
    return evaluate_pool(predictor, pool, tokenizer, num_swaps=0)


def test_each_operation_is_shown_before_any_is_shown_twice():
    """Catches readouts that are all of the easiest operation."""
    pool = [box_episode(number) for number in range(8)]
    messages = {trajectory.id: trajectory.messages for trajectory in pool}
    for count in (3, 5, 6):
        refs = choose_observations(pool, count, seed=1)
        operations = [messages[ref.trajectory_id][ref.turn].labels["operation"] for ref in refs]
        assert len(set(refs)) == len(refs) == count
        assert set(operations[:3]) == {"slice", "filter", "count"}
        assert sorted(operations[3:6]) == ["count", "filter", "slice"][: count - 3]


def test_the_draw_depends_on_the_seed_and_prefers_short_outputs():
    """Catches readouts picked by hand (the same ones whatever the seed), and walls of text that nobody checks."""
    pool = [box_episode(number, num_lines=4 + number) for number in range(16)]
    messages = {trajectory.id: trajectory.messages for trajectory in pool}
    draws = [choose_observations(pool, 3, seed=seed) for seed in range(6)]
    assert choose_observations(pool, 3, seed=0) == draws[0]
    assert len({tuple(refs) for refs in draws}) > 1
    filters = sorted(len(m.content) for ms in messages.values() for m in ms if m.labels.get("operation") == "filter")
    shown = [messages[r.trajectory_id][r.turn] for refs in draws for r in refs]
    lengths = [len(message.content) for message in shown if message.labels["operation"] == "filter"]
    assert max(lengths) <= filters[4]


def test_what_the_oracle_says_is_an_exact_match(tokenizer, pool):
    """Catches prompts that end too early or too late, and end-of-turn tokens shown as text."""
    oracle = OraclePredictor(tokenizer, pool)
    found = evaluated(oracle, pool, tokenizer)
    refs = choose_observations(pool, 6)
    messages = {trajectory.id: trajectory.messages for trajectory in pool}
    for ref, prediction in zip(refs, read_out(oracle, found.sequences, found.tokens, refs, tokenizer), strict=True):
        actual = messages[ref.trajectory_id][ref.turn].content
        assert prediction.text == prediction.teacher_forced == actual
        assert prediction.exact_match
        assert prediction.top1_accuracy == 1
        assert prediction.ce_per_token == pytest.approx(-np.log(0.9), rel=1e-4)


def test_misses_are_marked_token_by_token(tokenizer, pool):
    """Catches a teacher-forced text that shows the truth where the predictor was wrong."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    found = evaluated(predictor, pool, tokenizer)
    (ref,) = choose_observations(pool, 1)
    (prediction,) = read_out(predictor, found.sequences, found.tokens, [ref], tokenizer)
    hits = found.tokens.top1[found.tokens.observation(ref.trajectory_id, ref.turn)]
    assert prediction.teacher_forced.count(MISS) == (~hits).sum() > 0
    assert prediction.top1_accuracy == hits.mean()
    assert not prediction.exact_match


class TooLong(OraclePredictor):
    """Says the true output and does not stop."""

    def rule(self, token_ids, position):
        return {
            (token if token != self._end else self._tokenizer.encode_text("\n")[0][0]): p
            for token, p in super().rule(token_ids, position).items()
        }


def test_what_would_come_after_the_true_length_is_not_judged(tokenizer, pool):
    """Catches readouts that fail on the end of an output, which scaffold says and nothing trains."""
    predictor = TooLong(tokenizer, pool)
    found = evaluated(predictor, pool, tokenizer)
    (ref,) = choose_observations(pool, 1)
    (prediction,) = read_out(predictor, found.sequences, found.tokens, [ref], tokenizer)
    messages = {trajectory.id: trajectory.messages for trajectory in pool}
    assert prediction.text == messages[ref.trajectory_id][ref.turn].content
    assert prediction.exact_match


def test_a_command_that_printed_nothing_cannot_be_read_out(tokenizer, pool):
    """Catches a mean over no tokens in a report."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    found = evaluated(predictor, pool, tokenizer)
    with pytest.raises(DataError, match=r"turn 9: .* one run of tokens"):
        read_out(predictor, found.sequences, found.tokens, [ObservationRef("box-0", 9)], tokenizer)


def test_readouts_join_the_same_commands_for_every_predictor(tokenizer, pool):
    """Catches answers of one predictor that are shown beside another's command."""
    refs = choose_observations(pool, 4)
    answers = {}
    for name, predictor in {
        "base": LastTokenPredictor(len(tokenizer.hf)),
        "trained": OraclePredictor(tokenizer, pool),
    }.items():
        found = evaluated(predictor, pool, tokenizer)
        answers[name] = read_out(predictor, found.sequences, found.tokens, refs, tokenizer)
    readouts = build_readouts("new_boxes", pool, refs, answers)
    for ref, readout in zip(refs, readouts, strict=True):
        assert (readout.trajectory_id, readout.turn) == (ref.trajectory_id, ref.turn)
        assert readout.predictions["trained"].text == readout.actual
        assert readout.command
        assert readout.operation in {"slice", "filter", "count"}
    with pytest.raises(DataError, match="answers of base"):
        build_readouts("new_boxes", pool, refs[:2], answers)


def test_the_model_free_draw_leaves_out_empty_and_unlabelled_output():
    """Catches readouts of silent commands and of first views, which nothing determines."""
    pool = [episode("a", [("cat x", answer("a\n")), ("grep z x", answer("", labels=derivable("filter")))])]
    assert choose_observations(pool, 5) == []


def test_a_view_has_each_predictor_s_nats_where_it_was_scored(tokenizer, pool):
    """Catches scores that are drawn on the wrong tokens, and zeros where nothing was scored."""
    oracle, blind = OraclePredictor(tokenizer, pool), LastTokenPredictor(len(tokenizer.hf))
    results = {"base": evaluated(blind, pool, tokenizer), "trained": evaluated(oracle, pool, tokenizer)}
    tokens = {name: result.tokens for name, result in results.items()}
    (view,) = view_trajectory("new_boxes", "box-2", results["base"].sequences, tokens, tokenizer)
    (sequence,) = (s for s in results["base"].sequences if s.trajectory_id == "box-2")
    assert len(view.tokens) == len(sequence)
    for name, result in results.items():
        shown = [token.nll[name] for token in view.tokens]
        assert [x is not None for x in shown] == (sequence.obs_mask & sequence.owned_mask()).tolist()
        of_box = result.tokens.trajectory_index == result.tokens.trajectory_ids.index("box-2")
        assert [x for x in shown if x is not None] == result.tokens.nll[of_box].tolist()
