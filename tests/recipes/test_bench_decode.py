"""The parts `decode` and `refill` of `envecho bench rollout` measure what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from envecho.recipes import bench_decode, bench_rollout, bench_session


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of a few thousand weights with room for the histories."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("narrow")
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_both_arms_see_the_same_histories_and_are_compared_per_token():
    """Catches an arm that reads less than the other, a history that is not gone on with, and a ratio upside down."""
    seen: dict[str, list[dict[int, bytes]]] = {"ours": [], "theirs": []}
    seconds = iter(range(0, 100, 5))

    def arm(name: str, num: int):
        def sample(prompts, turn):
            seen[name].append({row: ids.tobytes() for row, ids in prompts.items()})
            return [np.full(num, turn, dtype=np.int32) for _ in prompts]

        return sample

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_decode.time, "perf_counter", lambda: next(seconds))
        found = bench_decode.turn_about({"ours": arm("ours", 4), "theirs": arm("theirs", 2)}, 200, 0)
    assert seen["ours"] == seen["theirs"]
    assert len(seen["ours"]) == bench_decode._TURNS
    for before, after in zip(seen["ours"], seen["ours"][1:], strict=False):
        assert all(after[row].startswith(before[row]) and len(after[row]) > len(before[row]) for row in before)
    # Equal seconds, twice the tokens.
    assert found["ratio_to_generate"] == 0.5
    tokens = bench_decode._TURNS * bench_decode._GROUPS * bench_decode._GROUP_SIZE * 4
    assert found["drawn_per_second"] == pytest.approx(tokens / (5 * bench_decode._TURNS))


def test_the_plain_loop_continues_each_prompt_and_counts_no_padding(narrow: Path):
    """Catches tokens behind an end that count as drawn, and a prompt that is continued behind its padding."""
    network = AutoModelForCausalLM.from_pretrained(narrow).eval()
    network.generation_config.eos_token_id = None
    prompts = [np.arange(10, 10 + num, dtype=np.int32) for num in (5, 30)]
    whole = bench_decode.generated(network, prompts, (), seed=0)
    assert [len(ids) for ids in whole] == [bench_decode._TOKENS] * 2
    stops = range(20, 60)
    for ids in bench_decode.generated(network, prompts, stops, seed=0):
        assert not np.isin(ids[:-1], stops).any()
        assert np.isin(ids[-1], stops) or len(ids) == bench_decode._TOKENS


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_real_session_is_measured_beside_generate(narrow: Path, ends_early: bool):
    """Catches a comparison that does not run with the released transformers."""
    found = bench_decode.run_decoding(str(narrow), 0, ends_early=ends_early)
    assert found["ratio_to_generate"] > 0
    assert found["drawn_per_second"] > 0


def test_refilled_rows_are_fuller_than_a_batch_that_drains():
    """Catches an occupancy that counts no empty row, and episodes of equal length that have nothing to refill."""
    found = {schedule: bench_rollout.run_unequal(4, 6, schedule, 0) for schedule in ("lockstep", "ready")}
    assert 0.4 < found["lockstep"]["row_occupancy"] < 0.9
    assert found["lockstep"]["row_occupancy"] < found["ready"]["row_occupancy"] <= 1


def test_groups_read_fewer_prompt_tokens_when_they_share(smollm2_dir: Path):
    """Catches a figure for groups whose rows have prompts of their own."""
    kept, shared = (
        bench_session.measure("lockstep", world="tools", shares=shares, episodes=16, seed=0) for shares in (False, True)
    )
    assert kept["shown_tokens"] == shared["shown_tokens"]
    assert shared["read_tokens"] < 0.6 * kept["read_tokens"]
