"""Sampling: exact log-probs, own generators, early stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from envecho.engines.drawing import choose
from envecho.engines.local import LocalEngine
from envecho.errors import EngineError
from envecho.seam import SamplingParams

PROMPTS = [np.array(ids, dtype=np.int32) for ids in ([5, 9, 2], [7, 7, 7, 7, 31, 8, 4], [11], [5, 9, 2])]


@pytest.fixture(scope="module")
def engine(tiny_qwen3: Path) -> LocalEngine:
    return LocalEngine(tiny_qwen3, device="cpu", compute_dtype="float32", trains=False)


def test_greedy_continuations_equal_a_loop_without_a_cache(engine: LocalEngine, tiny_qwen3: Path):
    """Catches wrong positions or attention to padding in a batch of prompts of different lengths."""
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3)
    samples = engine.sample(PROMPTS, SamplingParams(max_tokens=12, temperature=0))
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = prompt.tolist()
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert sample.token_ids.tolist() == ids[len(prompt) :]
        assert not sample.stopped
        assert (sample.logprobs == 0).all()


def test_a_prompt_draws_the_same_whatever_else_is_in_the_batch(engine: LocalEngine):
    """Catches one generator for the whole batch: adding a prompt would change every rollout of a step."""
    params = SamplingParams(max_tokens=10, temperature=1.0, seed=4)
    together = engine.sample(PROMPTS, params)
    for prompt, sample in zip(PROMPTS[:3], together, strict=False):
        (alone,) = engine.sample([prompt], params)
        assert alone.token_ids.tolist() == sample.token_ids.tolist()
    assert together[0].token_ids.tolist() != together[3].token_ids.tolist()
    other_seed = engine.sample(PROMPTS, SamplingParams(max_tokens=10, temperature=1.0, seed=5))
    assert any(a.token_ids.tolist() != b.token_ids.tolist() for a, b in zip(together, other_seed, strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_log_probs_are_those_of_the_sampling_distribution(engine: LocalEngine, tiny_qwen3: Path, temperature: float):
    """Catches log-probs at T = 1 for actions drawn at another temperature, which biases every policy ratio."""
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3)
    for prompt, sample in zip(
        PROMPTS, engine.sample(PROMPTS, SamplingParams(max_tokens=8, temperature=temperature)), strict=True
    ):
        ids = torch.tensor([*prompt.tolist(), *sample.token_ids.tolist()])
        with torch.no_grad():
            table = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)
        rows = torch.arange(len(prompt) - 1, len(ids) - 1)
        np.testing.assert_allclose(sample.logprobs, table[rows, ids[rows + 1]].numpy(), atol=1e-4)


def test_draws_follow_the_distribution(engine: LocalEngine, tiny_qwen3: Path):
    """Catches an off-by-one in the inverse distribution function: the drawn frequencies would belong to neighbours."""
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[11]])).logits[0, -1], -1).numpy()
    drawn = engine.sample([PROMPTS[2]] * 2000, SamplingParams(max_tokens=1, temperature=1.0))
    found = np.bincount([int(sample.token_ids[0]) for sample in drawn], minlength=61) / 2000
    assert np.abs(found - expected).sum() < 0.2


def test_a_stop_token_ends_its_prompt_alone_and_belongs_to_the_sample(engine: LocalEngine):
    """Catches rows that go on after their stop token, or take the rest of the batch with them."""
    free = engine.sample(PROMPTS, SamplingParams(max_tokens=12, temperature=0))
    stop = int(free[1].token_ids[2])
    stopped = engine.sample(PROMPTS, SamplingParams(max_tokens=12, temperature=0, stop_token_ids=(stop,)))
    for before, after in zip(free, stopped, strict=True):
        ids = before.token_ids.tolist()
        length = ids.index(stop) + 1 if stop in ids else 12
        assert after.token_ids.tolist() == ids[:length]
        assert after.stopped == (stop in ids)


def test_a_prompt_without_room_is_refused(engine: LocalEngine):
    """Catches a continuation that runs past the model's context into positions that it never learnt."""
    with pytest.raises(EngineError, match="do not fit in the model's context of 64"):
        engine.sample([np.ones(60, dtype=np.int32)], SamplingParams(max_tokens=5))
    with pytest.raises(EngineError, match="a prompt of 0 tokens"):
        engine.sample([np.ones(0, dtype=np.int32)], SamplingParams(max_tokens=5))


def test_prompts_that_begin_alike_read_that_once(engine: LocalEngine):
    """Catches a group of samples that each read the same prompt, and a continuation of another prompt's beginning."""
    alike = np.arange(8, 38, dtype=np.int32)
    prompts = [alike, alike, np.append(alike, np.int32(50)), alike, PROMPTS[1]]
    computed: list[int] = []
    hook = engine._model.network.base_model.register_forward_pre_hook(
        lambda _, args, options: computed.append(options["input_ids"].numel()), with_kwargs=True
    )
    params = SamplingParams(max_tokens=1, temperature=0)
    together = engine.sample(prompts, params)
    hook.remove()
    assert sum(computed) < 3 * len(alike)
    for prompt, sample in zip(prompts, together, strict=True):
        (alone,) = engine.sample([prompt], params)
        assert alone.token_ids.tolist() == sample.token_ids.tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_choice_is_that_of_a_plain_loop_in_double_precision(temperature: float):
    """Catches sums over the vocabulary in single precision, an entropy that is not a number, and neighbours drawn."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (5, 3000))).float()
    logits[1, 7:2000] = -torch.inf
    draws = rng.random(5)
    chosen, logprobs, entropies = choose(logits.clone(), draws, temperature)
    for row in range(5):
        table = torch.softmax(logits[row].double() / temperature, -1).numpy()
        expected = next(token for token, total in enumerate(np.cumsum(table)) if total > draws[row])
        assert chosen[row] == expected
        assert logprobs[row] == pytest.approx(np.log(table[expected]), abs=1e-5)
        positive = table[table > 0]
        assert entropies[row] == pytest.approx(-(positive * np.log(positive)).sum(), abs=1e-5)
