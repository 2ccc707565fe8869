"""Streaming: the same figures as in memory, in parts of any size, and in memory that the pool's size does not move."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pool_builders import LastTokenPredictor, OraclePredictor, box_episode, small_pool

from envecho.errors import DataError, TemplateError
from envecho.evaluation import (
    StreamOptions,
    evaluate_baselines,
    evaluate_pool,
    evaluate_stream,
    fit_baselines,
    join_sums,
    read_sums,
    stream_baselines,
    summarize_sums,
    tokenize_pool,
    write_sums,
)
from envecho.trajectory import Role, ToolCall, Trajectory

SMALL = StreamOptions(chunk_tokens=300)


def columns(sums) -> dict[str, list]:
    """The arrays of sums as lists."""
    return {
        field.name: list(value) if isinstance(value := getattr(sums, field.name), tuple) else value.tolist()
        for field in dataclasses.fields(sums)
    }


def test_a_stream_in_parts_gives_the_figures_of_the_pool_in_memory(tokenizer, pool):
    """Catches two definitions of one figure, and a trajectory at the edge of a part that is lost or counted twice."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    whole = evaluate_pool(predictor, pool, tokenizer, num_swaps=0)
    calls = predictor.num_calls
    streamed = evaluate_stream(predictor, iter(pool), tokenizer, options=SMALL)
    assert predictor.num_calls - calls > 1
    assert columns(streamed) == columns(whole.sums)
    assert summarize_sums(streamed) == whole.result


def test_the_copy_baselines_stream_as_they_are_evaluated_in_memory(tokenizer, pool):
    """Catches a baseline that is measured on other tokens than the model beside it."""
    train = tokenize_pool([box_episode(number) for number in range(10, 14)], tokenizer)
    fitted = fit_baselines(train, len(tokenizer.hf))
    streamed = stream_baselines(fitted, pool, tokenizer, options=SMALL)
    whole = evaluate_baselines(fitted, pool, tokenizer)
    assert {name: columns(sums) for name, sums in streamed.items()} == {
        name: columns(found.sums) for name, found in whole.items()
    }


def test_boilerplate_is_scored_in_the_same_pass_and_counts_nowhere_else(tokenizer, pool):
    """Catches the harness's phrases in the world's cross-entropy, or their share made up from another pass."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    result = summarize_sums(evaluate_stream(predictor, pool, tokenizer))
    sequences = tokenize_pool(pool, tokenizer)
    warnings = [
        -np.log(_probability(predictor, s.token_ids, position))
        for s in sequences
        for position in np.flatnonzero(s.role_mask(Role.WARNING) & s.owned_mask())
    ]
    assert len(warnings) > 0
    assert predictor.num_calls == 1
    assert result.ce_boilerplate is not None
    assert result.ce_boilerplate.num_tokens == len(warnings)
    assert result.ce_boilerplate.value == pytest.approx(np.mean(warnings), rel=1e-5)
    assert result.num_tokens == sum(int((s.role_mask(Role.ENV_OUTPUT) & s.owned_mask()).sum()) for s in sequences)


def _probability(predictor: LastTokenPredictor, token_ids, position: int) -> float:
    known = predictor.rule(token_ids[:position], position)
    rest = (1 - sum(known.values())) / (predictor.vocab_size - len(known))
    return known.get(int(token_ids[position]), rest)


def test_a_mean_per_trajectory_weighs_long_and_short_episodes_alike(tokenizer):
    """Catches the pooled mean under the name of the mean over trajectories."""
    trajectories = [box_episode(0, num_lines=4), box_episode(1, num_lines=40)]
    predictor = OraclePredictor(tokenizer, trajectories)
    result = summarize_sums(evaluate_stream(predictor, trajectories, tokenizer))
    alone = [summarize_sums(evaluate_stream(predictor, [t], tokenizer)) for t in trajectories]
    assert result.ce_per_trajectory.value == pytest.approx(np.mean([r.ce_per_token.value for r in alone]))
    assert result.ce_per_trajectory.value != pytest.approx(result.ce_per_token.value, rel=0.01)
    nats = [r.ce_per_token.value * r.num_tokens for r in alone]
    assert result.nats_per_trajectory.value == pytest.approx(np.mean(nats))


def test_another_temperature_is_a_figure_of_its_own(tokenizer, pool, tiny_engine):
    """Catches a temperature that leaks into the figures at T = 1, or that is never applied."""
    plain = summarize_sums(evaluate_stream(tiny_engine, pool, tokenizer))
    result = summarize_sums(evaluate_stream(tiny_engine, pool, tokenizer, temperature=3.0))
    assert result.model_copy(update={"ce_at_temperature": None}) == plain
    hot = tiny_engine.logprobs(_requests(pool, tokenizer), temperature=3.0)
    nats = np.concatenate([-s.logprobs[np.isfinite(s.logprobs)].astype(np.float64) for s in hot])
    assert result.ce_at_temperature.value == pytest.approx(nats.mean(), rel=1e-5)
    assert result.ce_at_temperature.num_tokens == result.num_tokens


def _requests(trajectories, tokenizer):
    from envecho.evaluation.scores import pool_requests

    return pool_requests(tokenize_pool(trajectories, tokenizer))


def test_a_trajectory_id_that_comes_again_in_a_later_part_is_refused(tokenizer, pool):
    """Catches a duplicate that no single part shows: its tokens would count twice."""
    with pytest.raises(DataError, match="unique trajectory ids, found 4 among 5"):
        evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), [*pool, pool[0]], tokenizer, options=SMALL)


def test_an_empty_pool_is_an_error_and_not_a_figure(tokenizer):
    """Catches an evaluation of nothing that looks finished."""
    with pytest.raises(DataError, match="at least one trajectory in the pool"):
        evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), [], tokenizer)


def test_an_episode_that_the_template_cannot_show_is_named(tokenizer, pool):
    """Catches `turn 2: the template does not show the call` of one episode among ten thousand."""
    call = ToolCall(name="ls", arguments="{}")
    messages = list(pool[1].messages)
    messages[2] = messages[2].model_copy(update={"tool_calls": (call,)})
    odd = pool[1].with_messages(tuple(messages))
    with pytest.raises(TemplateError, match=r"trajectory 'box-1': turn 2 .*envecho doctor"):
        evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), [pool[0], odd], tokenizer)


def test_memory_does_not_grow_with_the_pool(tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Catches scores, texts or tokens kept until the end: four times the pool must fit in the memory of one."""
    # The tokenizer keeps a bounded number of encoded runs; here so few that both pools reach the bound.
    monkeypatch.setattr("envecho.tokens.chat._KEPT_RUNS", 16)
    predictor = LastTokenPredictor(len(tokenizer.hf))

    def episodes(count: int) -> Iterator[Trajectory]:
        return (box_episode(number) for number in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        evaluate_stream(predictor, episodes(count), tokenizer, options=StreamOptions(chunk_tokens=3000))
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    peak(8)  # What is made once, such as the encoder's caches, belongs to neither.
    small, large = peak(40), peak(160)
    # The sums themselves grow: per trajectory some rows of numbers.
    assert large - small < 120 * 6_000
    assert large < 1.5 * small


def test_sums_survive_their_file(tokenizer, tmp_path: Path):
    """Catches a column that loses its order, a trajectory without any token that vanishes, and rounding."""
    found = {
        "new_boxes": {
            "base": evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), small_pool(3), tokenizer),
            "trained": evaluate_stream(OraclePredictor(tokenizer, small_pool(3)), small_pool(3), tokenizer),
        },
        "other": {"base": evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), [_silent()], tokenizer)},
    }
    write_sums(tmp_path / "sums.parquet", found)
    again = read_sums(tmp_path / "sums.parquet")
    assert {pool: list(of_pool) for pool, of_pool in again.items()} == {
        "new_boxes": ["base", "trained"],
        "other": ["base"],
    }
    for pool, of_pool in found.items():
        for name, sums in of_pool.items():
            assert columns(again[pool][name]) == columns(sums)
    assert again["other"]["base"].trajectory_ids == ("silent",)


def _silent() -> Trajectory:
    whole = box_episode(0)
    return whole.model_copy(update={"id": "silent", "messages": whole.messages[:3]})


def test_a_file_that_holds_no_sums_is_named(tmp_path: Path):
    """Catches a traceback of a Parquet reader, and trajectories read as sums."""
    from pool_builders import write_pool

    with pytest.raises(DataError, match="envecho eval --out writes it"):
        read_sums(tmp_path / "sums.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="expected a Parquet file"):
        read_sums(tmp_path / "torn.parquet")
    with pytest.raises(DataError, match=r"expected format 'envecho\.sums' version 1"):
        read_sums(write_pool(tmp_path / "pool.parquet", small_pool(1)))


def test_sums_join_in_any_order(tokenizer, pool):
    """Catches a file, or an interval, that depends on the order in which parts were finished."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    parts = [evaluate_stream(predictor, [trajectory], tokenizer) for trajectory in pool]
    whole = columns(evaluate_stream(predictor, pool, tokenizer))
    assert columns(join_sums(parts)) == columns(join_sums(reversed(parts))) == whole
