"""Every environment token of a pool once, at T = 1, whatever the order or the windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_builders import FIRST, LastTokenPredictor, answer, box_episode, derivable, episode

from envecho.errors import DataError, EngineError
from envecho.evaluation import label_tokens, pool_tokens, score_pool, summarize_pool, tokenize_pool
from envecho.seam import Scores
from envecho.trajectory import Message, Role, SampledTokens, Segment, Source

USES_FIXTURES = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_environment_token_is_scored_once_over_windows(tokenizer):
    """Catches overlaps of windows counted twice, and observations at a window's edge counted never."""
    trajectories = [box_episode(0, num_lines=60)]
    predictor = LastTokenPredictor(len(tokenizer.hf))
    (whole,) = tokenize_pool(trajectories, tokenizer)
    windows = tokenize_pool(trajectories, tokenizer, max_tokens=300)
    assert len(windows) > 2
    tokens = score_pool(predictor, windows)
    found = [windows[s].token_ids[p] for s, p in zip(tokens.sequence_index, tokens.positions, strict=True)]
    expected = whole.token_ids[whole.obs_mask & whole.owned_mask()]
    order = np.lexsort([tokens.positions, tokens.sequence_index])
    assert np.array(found)[order].tolist() == expected.tolist()


def test_windows_give_the_same_figures_where_the_context_is_the_same(tokenizer):
    """Catches a mean per window, or per sequence, in place of the pooled mean over tokens."""
    trajectories = [box_episode(number, num_lines=40) for number in range(3)]
    predictor = LastTokenPredictor(len(tokenizer.hf))
    results = []
    for max_tokens in (None, 256):
        sequences = tokenize_pool(trajectories, tokenizer, max_tokens=max_tokens)
        results.append(summarize_pool(score_pool(predictor, sequences), sequences, trajectories).result)
    assert len(sequences) > 3
    assert results[0].ce_per_token.value == pytest.approx(results[1].ce_per_token.value, rel=1e-12)
    assert results[0].ce_derivable.value == pytest.approx(results[1].ce_derivable.value, rel=1e-12)
    assert results[0].ce_per_byte.low == pytest.approx(results[1].ce_per_byte.low, rel=1e-12)


@given(order=st.permutations(range(4)))
@USES_FIXTURES
def test_the_order_of_the_pool_changes_nothing(tokenizer, pool, order: list[int]):
    """Catches a running mean, or a bootstrap that draws by place in the file: METHOD's trap 26 in small."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    measured = []
    for trajectories in (pool, [pool[place] for place in order]):
        sequences = tokenize_pool(trajectories, tokenizer)
        result = summarize_pool(score_pool(predictor, sequences), sequences, trajectories).result
        stats = (result.ce_per_token, result.ce_derivable, result.ce_per_byte, result.top1_accuracy)
        measured.append([x for stat in stats for x in (stat.value, stat.low, stat.high)])
    np.testing.assert_allclose(measured[0], measured[1], rtol=1e-12)


def test_the_pool_holds_what_the_world_answered_and_nothing_else(tokenizer, pool):
    """Catches statuses, echoes, scaffold or the model's own actions in the environment's cross-entropy."""
    sequences = tokenize_pool(pool, tokenizer)
    tokens = score_pool(LastTokenPredictor(len(tokenizer.hf)), sequences)
    assert {int(code) for code in tokens.sources} == {Source.STDOUT.code, Source.STDERR.code}
    assert len(tokens) == sum(int((s.role_mask(Role.ENV_OUTPUT) & s.owned_mask()).sum()) for s in sequences)
    text = "".join(
        segment.text
        for t in pool
        for m in t.messages
        for segment in m.segments
        if segment.source.role is Role.ENV_OUTPUT
    )
    assert tokens.num_bytes.sum() == len(text.encode())


def test_the_pooled_figures_equal_a_slow_loop(tokenizer, pool):
    """Catches slices by source, view or operation that take other tokens, and bytes counted as tokens."""
    sequences = tokenize_pool(pool, tokenizer)
    predictor = LastTokenPredictor(len(tokenizer.hf))
    result = summarize_pool(score_pool(predictor, sequences), sequences, pool).result
    by_id = {trajectory.id: trajectory for trajectory in pool}
    rows = []
    for sequence in sequences:
        for position in range(1, len(sequence)):
            source = list(Source)[sequence.sources[position]]
            if source.role is not Role.ENV_OUTPUT:
                continue
            labels = by_id[sequence.trajectory_id].messages[sequence.turns[position]].labels
            known = predictor.rule(sequence.token_ids[:position], position)
            token = int(sequence.token_ids[position])
            p = known.get(token, (1 - sum(known.values())) / (predictor.vocab_size - len(known)))
            rows.append((source, labels, -np.log(p), int(sequence.num_bytes[position])))
    assert result.ce_per_token.value == pytest.approx(np.mean([r[2] for r in rows]), rel=1e-5)
    assert result.ce_per_byte.value == pytest.approx(sum(r[2] for r in rows) / sum(r[3] for r in rows), rel=1e-5)
    stderr = [r[2] for r in rows if r[0] is Source.STDERR]
    assert result.by_source["stderr"].value == pytest.approx(np.mean(stderr), rel=1e-5)
    assert result.by_source["stderr"].num_tokens == len(stderr)
    first = [r[2] for r in rows if r[1].get("view") == "first"]
    assert result.ce_first_view.value == pytest.approx(np.mean(first), rel=1e-5)
    known = [r for r in rows if r[1].get("view") == "derivable"]
    counts = [r[2] for r in known if r[1]["operation"] == "count"]
    assert result.by_operation["count"].ce.value == pytest.approx(np.mean(counts), rel=1e-5)
    assert result.by_operation["count"].share == pytest.approx(len(counts) / len(known))
    assert sum(operation.share for operation in result.by_operation.values()) == pytest.approx(1)


def test_cross_entropy_is_at_temperature_one_whatever_was_sampled_at_trap_13(tokenizer, tiny_engine):
    """Catches nats read from logits divided by the sampling temperature of the trajectory."""
    import torch

    cool = box_episode(1)
    ids, _ = tokenizer.encode_text("cat app.log")
    end = tokenizer.added["<|im_end|>"].id
    sampled = SampledTokens(token_ids=(*ids, end), logprobs=(-0.5,) * (len(ids) + 1), temperature=0.6)
    messages = list(cool.messages)
    messages[2] = messages[2].model_copy(update={"sampled": sampled})
    cool = cool.model_copy(update={"messages": tuple(messages)})
    (sequence,) = tokenize_pool([cool], tokenizer)
    assert sequence.sampling_temperature == 0.6
    tokens = score_pool(tiny_engine, [sequence])
    logits = _logits(tiny_engine, sequence.token_ids)
    expected = -torch.log_softmax(logits.double(), dim=-1)[
        torch.arange(len(sequence) - 1), sequence.token_ids[1:].astype(int)
    ]
    np.testing.assert_allclose(tokens.nll, expected.numpy()[tokens.positions - 1], rtol=1e-3, atol=1e-3)
    hits = logits.argmax(-1).numpy() == sequence.token_ids[1:]
    assert tokens.top1.tolist() == hits[tokens.positions - 1].tolist()


def _logits(engine, token_ids):
    import torch

    with torch.no_grad():
        network = engine._model.network  # pyright: ignore[reportPrivateUsage]
        return network(torch.from_numpy(token_ids.astype(np.int64))[None]).logits[0, :-1]


def test_only_standard_output_takes_the_label_of_its_message(tokenizer):
    """Catches an error message counted as derivable output."""
    mixed = answer("2 lines\n", stderr="warning: odd\n", labels=derivable("count"))
    trajectories = [episode("a", [("cat x", answer("a\nb\n", labels=FIRST)), ("wc -l x", mixed)])]
    sequences = tokenize_pool(trajectories, tokenizer)
    tokens = score_pool(LastTokenPredictor(len(tokenizer.hf)), sequences)
    labels = label_tokens(tokens, trajectories)
    assert set(tokens.sources[labels.derivable].tolist()) == {Source.STDOUT.code}
    assert set(labels.operations[labels.derivable].tolist()) == {"count"}
    assert set(labels.operations[tokens.sources == Source.STDERR.code].tolist()) == {""}
    assert labels.first.sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t[0], t[0], *t[1:]], "unique trajectory ids"),
        (lambda t: t[1:], "trajectory of every sequence"),
        (lambda t: [_with_view(t[0], "derived"), *t[1:]], "turn 3: expected the view other, first, derivable"),
    ],
)
def test_a_pool_whose_labels_are_in_doubt_is_refused(tokenizer, pool, change, message: str):
    """Catches a misspelt view that silently empties the derivable figures, and two episodes under one id."""
    tokens = score_pool(LastTokenPredictor(len(tokenizer.hf)), tokenize_pool(pool, tokenizer))
    with pytest.raises(DataError, match=message):
        label_tokens(tokens, change(pool))


def _with_view(trajectory, view: str):
    messages = list(trajectory.messages)
    messages[3] = messages[3].model_copy(update={"labels": {"view": view}})
    return trajectory.model_copy(update={"messages": tuple(messages)})


def test_a_token_that_the_engine_left_out_is_an_error(tokenizer, pool):
    """Catches NaN that becomes 0 in a mean: a figure that looks too good."""
    sequences = tokenize_pool(pool, tokenizer)
    nothing = [Scores(logprobs=np.full(len(s), np.nan, np.float32), top1=np.zeros(len(s), bool)) for s in sequences]
    with pytest.raises(EngineError, match="finite log-prob"):
        pool_tokens(sequences, nothing)


def test_an_episode_without_any_answer_is_no_obstacle(tokenizer):
    """Catches an index error on empty slices: figures that do not exist are None."""
    silent = episode("silent", [("true", Message(role="user", segments=(Segment(source=Source.STATUS, text="[ok]"),)))])
    sequences = tokenize_pool([silent], tokenizer)
    found = summarize_pool(score_pool(LastTokenPredictor(len(tokenizer.hf)), sequences), sequences, [silent])
    assert found.result.ce_per_token is None
    assert found.result.num_tokens == 0
    assert found.result.by_operation == {}
