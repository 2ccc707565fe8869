"""What tests of served policies do with an engine: one step, comparisons with a sampler, and a recording wire."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, Engine, Sample, Sampler, SamplingParams, ScoreRequest


def step(engine: Engine, learning_rate: float, *, seed: int = 0) -> None:
    """One step of cross-entropy on random tokens: the weights change."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = 48
    targets = torch.arange(num_tokens) > 0
    nothing = torch.zeros(num_tokens)
    engine.forward_backward(
        WeightedBatch(
            token_ids=torch.randint(4, 250, (num_tokens,), generator=generator),
            positions=torch.arange(num_tokens),
            sequence_index=torch.zeros(num_tokens, dtype=torch.int64),
            policy_weights=nothing,
            advantages=nothing,
            env_weights=targets / num_tokens,
            env_targets=targets,
            kl_weights=nothing,
            entropy_weights=nothing,
            sampling_logprobs=torch.full((num_tokens,), float("nan")),
        )
    )
    engine.optim_step(AdamParams(learning_rate=learning_rate))


def scores(
    engine: Engine, prompts: list[NDArray[np.int32]], samples: list[Sample], temperature: float
) -> list[NDArray[np.float32]]:
    """The engine's log-probs of the sampled tokens."""
    requests = [
        ScoreRequest(
            token_ids=np.concatenate([prompt, sample.token_ids]),
            read=np.arange(len(prompt) + len(sample.token_ids)) >= len(prompt),
        )
        for prompt, sample in zip(prompts, samples, strict=True)
    ]
    found = engine.logprobs(requests, temperature=temperature)
    return [score.logprobs[request.read] for score, request in zip(found, requests, strict=True)]


def differences(
    engine: Engine, sampler: Sampler, prompts: list[NDArray[np.int32]], params: SamplingParams
) -> NDArray[np.float64]:
    """|log-prob of the sampler - log-prob of the engine| of every drawn token, at the sampling temperature."""
    samples = sampler.sample(prompts, params)
    told = scores(engine, prompts, samples, params.temperature)
    return np.concatenate([np.abs(a.astype(np.float64) - s.logprobs) for a, s in zip(told, samples, strict=True)])


def spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, largest and number, for a results file."""
    return {"mean": float(values.mean()), "max": float(values.max()), "num_tokens": len(values)}


class SavesElsewhere:
    """An engine whose `save_model` writes the weights of another folder: how a stale push looks to a server."""

    def __init__(self, engine: Engine, stale: Path) -> None:
        self._engine, self._stale = engine, stale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def save_model(self, folder: Path) -> None:
        for file in self._stale.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())


def untie(folder: Path, out: Path) -> Path:
    """Write the model of a folder with an output layer of its own, equal to its embeddings, and its tokenizer."""
    tied = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = copy.deepcopy(tied.config)
    config.tie_word_embeddings = False
    model = type(tied)(config)
    head = tied.get_input_embeddings().weight.detach().clone()
    model.load_state_dict(tied.state_dict() | {"lm_head.weight": head})
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out
