"""Checks of files, sampling, measured gradients, and of what must be refused.

Not here: the gradient itself (`check_sums`, `check_policy`).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines.check_subject import PLAIN_STEP, Check, CheckFailed, Subject, descent, env_batch, scaled
from envecho.errors import EnvechoError
from envecho.seam import Sample, SamplingParams, ScoreRequest, TurnRequest

_LARGEST_CONTEXT = 2**17
"""A context above this is not filled to see whether it is refused: the batch itself would need too much memory."""


@contextmanager
def _empty_folder(subject: Subject, name: str) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=subject.start.parent) as folder:
        yield Path(folder)


def _steps(subject: Subject, count: int) -> None:
    for _ in range(count):
        subject.engine.forward_backward(subject.batch)
        subject.engine.optim_step(PLAIN_STEP)


def _continued(subject: Subject) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probs after two steps more, without a break and from the state that was saved before them."""
    _steps(subject, 2)
    with _empty_folder(subject, "continued") as folder:
        subject.engine.save_state(folder)
        _steps(subject, 2)
        expected = subject.read(subject.batch)
        subject.engine.load_state(folder)
        _steps(subject, 2)
    return subject.read(subject.batch), expected


def _state_continues(subject: Subject) -> None:
    found, expected = _continued(subject)
    subject.alike(found, expected, "log-probs after load_state and two steps")


def _state_continues_bit_for_bit(subject: Subject) -> None:
    found, expected = _continued(subject)
    same = (found == expected) | np.isnan(expected)
    subject.require(bool(same.all()), "the same bits after load_state and two steps")


def _a_model_comes_back(subject: Subject) -> None:
    _steps(subject, 2)
    expected = subject.read(subject.batch)
    with _empty_folder(subject, "model") as folder:
        subject.engine.save_model(folder)
        subject.require(any(folder.iterdir()), "files in the folder that save_model was given")
        _steps(subject, 2)
        subject.engine.load_model(folder)
    subject.alike(subject.read(subject.batch), expected, "log-probs after load_model")


def _terms_are_measured_and_nothing_changes(subject: Subject) -> None:
    actions = (subject.batch.positions > 0) & ~subject.batch.env_targets
    weights = actions.float() / len(actions)
    mixed = dataclasses.replace(
        subject.batch,
        policy_weights=weights,
        advantages=torch.ones_like(weights),
        policy_loss=dataclasses.replace(subject.batch.policy_loss, name="sft"),
    )
    env_alone = dataclasses.replace(mixed, policy_weights=torch.zeros_like(weights))
    expected = subject.after(mixed)
    subject.reset()
    terms = subject.engine.term_gradients(mixed)
    alone = subject.engine.term_gradients(env_alone)
    subject.near(alone.env_norm / terms.env_norm, 1.0, "norm of the environment term alone over that beside the policy")
    subject.near(alone.policy_norm, 0.0, "norm of a policy term without weights")
    subject.require(alone.cosine is None, "cosine None where a term has no weight")
    subject.require(terms.policy_norm > 0, "a norm of the policy term above 0")
    subject.require(terms.cosine is not None and abs(terms.cosine) <= 1 + subject.tolerance, "a cosine within [-1, 1]")
    rough = 2e-2 + 2 * subject.tolerance
    subject.near(terms.env_norm / subject.norm(subject.batch), 1.0, "norm of the environment term", tolerance=rough)
    subject.reset()
    subject.engine.forward_backward(scaled(mixed, 0.5))
    subject.engine.term_gradients(mixed)
    subject.engine.forward_backward(scaled(mixed, 0.5))
    subject.engine.optim_step(descent(subject.rate()))
    subject.alike(subject.read(subject.batch), expected, "log-probs after a step with term_gradients in its midst")


def _sampling_is_a_function_of_the_seed(subject: Subject) -> None:
    prompt = subject.batch.token_ids[:5].numpy().astype(np.int32)
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=3)
    first, second = subject.engine.sample([prompt, prompt], params)
    again, _ = subject.engine.sample([prompt, prompt], params)
    subject.require(_same_ids(first, again), "the same draw from the same seed")
    _scored_alike(subject, prompt, second, "sampling log-probs against scoring")


def _sampling_log_probs_are_at_the_temperature(subject: Subject) -> None:
    prompt = subject.batch.token_ids[:5].numpy().astype(np.int32)
    (sample,) = subject.engine.sample([prompt], SamplingParams(max_tokens=6, temperature=0.7, seed=1))
    _scored_alike(subject, prompt, sample, "sampling log-probs at temperature 0.7", temperature=0.7)


def _a_session_samples_like_sample(subject: Subject) -> None:
    """Greedy turns are equal; drawn turns score alike, and do not depend on what is decoded beside them."""
    prompts = [subject.batch.token_ids[a:b].numpy().astype(np.int32) for a, b in ((0, 5), (9, 12))]
    greedy = SamplingParams(max_tokens=4, temperature=0.0)
    drawn = SamplingParams(max_tokens=4, temperature=1.0, seed=5)
    expected = subject.engine.sample(prompts, greedy)
    requests = [TurnRequest(row=row, prompt=prompt, key=(7, row)) for row, prompt in enumerate(prompts)]
    with subject.engine.sampling_session() as session:
        found = session.sample(requests, greedy)
    subject.require(all(map(_same_ids, found, expected)), "the greedy tokens of sample in a session")
    with subject.engine.sampling_session() as session:
        together = session.sample(requests, drawn)
    with subject.engine.sampling_session() as session:
        (alone,) = session.sample([requests[1]], drawn)
        longer = np.concatenate([prompts[1], alone.token_ids, prompts[0][:2]])
        (second,) = session.sample([TurnRequest(row=1, prompt=longer, key=(8, 1))], drawn)
        session.drop(1)
    subject.require(_same_ids(alone, together[1]), "a draw that does not depend on what is decoded beside it")
    for prompt, sample in zip(prompts, together, strict=True):
        _scored_alike(subject, prompt, sample, "log-probs of a session's turn against scoring")
    _scored_alike(subject, longer, second, "log-probs of a session's second turn against scoring")


def _a_stop_token_ends_a_sample(subject: Subject) -> None:
    prompt = subject.batch.token_ids[:5].numpy().astype(np.int32)
    (whole,) = subject.engine.sample([prompt], SamplingParams(max_tokens=4, temperature=0.0))
    stop = int(whole.token_ids[0])
    (cut,) = subject.engine.sample([prompt], SamplingParams(max_tokens=4, temperature=0.0, stop_token_ids=(stop,)))
    subject.require(cut.token_ids.tolist() == [stop] and cut.stopped, "a sample that ends with its stop token")
    subject.require(len(whole.token_ids) == 4 and not whole.stopped, "a sample of max_tokens that says it did not stop")


def _what_does_not_fit_is_refused(subject: Subject) -> None:
    size = subject.engine.capabilities.max_context_tokens + 2
    if size > _LARGEST_CONTEXT:
        return
    ids = np.ones(size, dtype=np.int32)
    read = np.arange(size) == size - 1
    attempts = {
        "forward_backward": lambda: subject.engine.forward_backward(env_batch(2, (size,))),
        "logprobs": lambda: subject.engine.logprobs([ScoreRequest(token_ids=ids, read=read)]),
        "sample": lambda: subject.engine.sample([ids], SamplingParams(max_tokens=1)),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except EnvechoError:
            continue
        raise CheckFailed(f"expected an error of envecho from {name}, as {size} tokens do not fit in the context")


def _same_ids(found: Sample, expected: Sample) -> bool:
    return found.token_ids.tolist() == expected.token_ids.tolist()


def _scored_alike(
    subject: Subject, prompt: NDArray[np.int32], sample: Sample, what: str, *, temperature: float = 1.0
) -> None:
    ids = np.concatenate([prompt, sample.token_ids])
    read = np.arange(len(ids)) >= len(prompt)
    (scores,) = subject.engine.logprobs([ScoreRequest(token_ids=ids, read=read)], temperature=temperature)
    subject.alike(sample.logprobs, scores.logprobs[read], what)


CHECKS = (
    Check(name="state continues", run=_state_continues),
    Check(name="state continues bit for bit", run=_state_continues_bit_for_bit, needs=("exact_resume",)),
    Check(name="a model comes back from its folder", run=_a_model_comes_back),
    Check(
        name="terms are measured and nothing changes",
        run=_terms_are_measured_and_nothing_changes,
        needs=("term_gradients", "loss_sft"),
    ),
    Check(name="sampling is a function of the seed", run=_sampling_is_a_function_of_the_seed),
    Check(
        name="sampling log-probs are at the temperature",
        run=_sampling_log_probs_are_at_the_temperature,
        needs=("policy_temperature",),
    ),
    Check(name="a session samples like sample", run=_a_session_samples_like_sample),
    Check(name="a stop token ends a sample", run=_a_stop_token_ends_a_sample),
    Check(name="what does not fit in the context is refused", run=_what_does_not_fit_is_refused),
)
