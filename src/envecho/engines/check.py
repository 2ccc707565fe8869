"""`check_engine`: the optimizer seam as checks with names, for our engines and for yours.

Each check drives an engine through `envecho.seam.Engine` alone and says what it expected and what it found. The engine
is trained a few steps on random tokens, so give it weights that nobody needs. Not here: any engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from envecho.errors import EngineError, EnvechoError
from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, Engine, SamplingParams, ScoreRequest

_LENGTHS = (9, 5, 12, 7)
_STEP = AdamParams(learning_rate=1e-3, grad_clip_norm=None)


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """One named check: passed, or failed with a message."""

    name: str
    status: Literal["passed", "failed"]
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """All checks of one engine, in order."""

    checks: tuple[EngineCheck, ...]

    @property
    def failures(self) -> tuple[EngineCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        """One line per check."""
        return "\n".join(f"{c.status:8}{c.name}{f': {c.message}' if c.message else ''}" for c in self.checks)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    engine: Engine
    start: Path
    batch: WeightedBatch
    tolerance: float

    def require(self, condition: bool, expected: str) -> None:
        if not condition:
            raise _FailedCheck(f"expected {expected}")

    def near(self, found: float, expected: float, what: str) -> None:
        if not abs(found - expected) <= self.tolerance * max(1.0, abs(expected)):
            raise _FailedCheck(f"{what}: expected {expected}, found {found}")

    def env_logprobs(self) -> np.ndarray:
        """Log-probs of the batch's targets under the current weights, by scoring."""
        requests, masks = _requests(self.batch)
        scores = self.engine.logprobs(requests)
        return np.concatenate([score.logprobs[mask] for score, mask in zip(scores, masks, strict=True)])


class _FailedCheck(Exception):
    pass


def check_engine(
    engine: Engine, folder: Path, *, vocab_size: int, tolerance: float = 1e-4, raise_on_failure: bool = False
) -> EngineReport:
    """Run every check of the seam on a training engine and report each by name.

    Args:
        engine: an engine that trains and samples.
        folder: an empty folder for its state.
        vocab_size: random tokens are drawn below this.
        tolerance: relative agreement of two ways to compute one number (about 1e-2 for bfloat16).
        raise_on_failure: raise EngineError with the report where a check failed.
    """
    start = folder / "start"
    start.mkdir()
    engine.save_state(start)
    subject = _Subject(engine=engine, start=start, batch=_batch(vocab_size), tolerance=tolerance)
    checks: list[EngineCheck] = []
    for check in _CHECKS:
        name = check.__name__.removeprefix("_").replace("_", " ")
        try:
            engine.load_state(start)
            check(subject)
            checks.append(EngineCheck(name=name, status="passed"))
        except (_FailedCheck, EnvechoError) as error:
            checks.append(EngineCheck(name=name, status="failed", message=str(error)))
    engine.load_state(start)
    report = EngineReport(checks=tuple(checks))
    if raise_on_failure and report.failures:
        raise EngineError(f"the engine breaks the seam's contract:\n{report}")
    return report


def _capabilities_are_stated(subject: _Subject) -> None:
    able = subject.engine.capabilities
    subject.require(able.trains and able.samples, "capabilities that say trains and samples")
    subject.require(able.max_context_tokens >= max(_LENGTHS), "a context of at least a dozen tokens")


def _log_probs_of_training_and_scoring_agree(subject: _Subject) -> None:
    out = subject.engine.forward_backward(subject.batch)
    found = out.env_logprobs[subject.batch.env_targets.numpy()]
    worst = float(np.abs(found - subject.env_logprobs()).max())
    subject.near(worst, 0.0, "largest difference")
    subject.engine.optim_step(_STEP)


def _log_probs_are_unknown_where_nothing_reads(subject: _Subject) -> None:
    out = subject.engine.forward_backward(subject.batch)
    unread = ~subject.batch.env_targets.numpy()
    subject.require(bool(np.isnan(out.env_logprobs[unread]).all()), "NaN at tokens that are no target")
    subject.require(bool(np.isnan(out.policy_logprobs).all()), "NaN policy log-probs without policy weights")
    subject.engine.optim_step(_STEP)


def _the_loss_is_the_weighted_sum(subject: _Subject) -> None:
    out = subject.engine.forward_backward(subject.batch)
    targets = subject.batch.env_targets.numpy()
    expected = -float((subject.batch.env_weights.numpy()[targets] * out.env_logprobs[targets]).sum())
    subject.near(out.loss, expected, "loss")
    subject.near(out.env_loss, expected, "env_loss")
    subject.engine.optim_step(_STEP)


def _gradients_of_parts_add_up(subject: _Subject) -> None:
    engine, batch = subject.engine, subject.batch
    engine.forward_backward(batch)
    norm = engine.optim_step(_STEP)
    whole = subject.env_logprobs()
    engine.load_state(subject.start)
    for part in (batch.select([3, 0]), batch.select([1]), batch.select([2])):
        engine.forward_backward(part)
    subject.near(engine.optim_step(_STEP), norm, "gradient norm over parts")
    subject.near(float(np.abs(subject.env_logprobs() - whole).max()), 0.0, "difference after the step")


def _the_gradient_is_linear_in_the_weights(subject: _Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    norm = subject.engine.optim_step(_STEP)
    subject.engine.load_state(subject.start)
    subject.engine.forward_backward(dataclasses.replace(subject.batch, env_weights=subject.batch.env_weights * 3))
    subject.near(subject.engine.optim_step(_STEP), 3 * norm, "gradient norm at three times the weights")


def _a_step_clears_the_gradient(subject: _Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    subject.engine.optim_step(_STEP)
    subject.near(subject.engine.optim_step(_STEP), 0.0, "gradient norm of a second step")


def _no_weight_means_no_change(subject: _Subject) -> None:
    before = subject.env_logprobs()
    nothing = dataclasses.replace(subject.batch, env_weights=torch.zeros_like(subject.batch.env_weights))
    out = subject.engine.forward_backward(nothing)
    reported = out.env_logprobs[nothing.env_targets.numpy()]
    subject.require(bool(np.isfinite(reported).all()), "log-probs of targets also where their weight is 0")
    subject.near(subject.engine.optim_step(_STEP), 0.0, "gradient norm")
    subject.require(bool((subject.env_logprobs() == before).all()), "weights that stay as they are")


def _training_lowers_the_loss(subject: _Subject) -> None:
    first = subject.engine.forward_backward(subject.batch).loss
    for _ in range(5):
        subject.engine.optim_step(_STEP)
        last = subject.engine.forward_backward(subject.batch).loss
        subject.require(last < first, f"a loss below {first} after a step on the same batch, found {last}")
    subject.engine.optim_step(_STEP)


def _clipping_is_reported_before_it_happens(subject: _Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    norm = subject.engine.optim_step(_STEP)
    subject.engine.load_state(subject.start)
    subject.engine.forward_backward(subject.batch)
    clipped = dataclasses.replace(_STEP, grad_clip_norm=norm / 10)
    subject.near(subject.engine.optim_step(clipped), norm, "gradient norm of a clipped step")


def _state_continues_bit_for_bit(subject: _Subject) -> None:
    engine, folder = subject.engine, subject.start.with_name("continued")

    def steps(count: int) -> None:
        for _ in range(count):
            engine.forward_backward(subject.batch)
            engine.optim_step(_STEP)

    steps(2)
    folder.mkdir()
    engine.save_state(folder)
    steps(2)
    expected = subject.env_logprobs()
    engine.load_state(folder)
    steps(2)
    subject.require(bool((subject.env_logprobs() == expected).all()), "the same bits after load_state and two steps")


def _sampling_is_a_function_of_the_seed(subject: _Subject) -> None:
    prompt = subject.batch.token_ids[:5].numpy().astype(np.int32)
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=3)
    first, second = subject.engine.sample([prompt, prompt], params)
    again, _ = subject.engine.sample([prompt, prompt], params)
    subject.require(bool((first.token_ids == again.token_ids).all()), "the same draw from the same seed")
    ids = np.concatenate([prompt, second.token_ids])
    read = np.arange(len(ids)) >= len(prompt)
    (scores,) = subject.engine.logprobs([ScoreRequest(token_ids=ids, read=read)])
    worst = float(np.abs(scores.logprobs[read] - second.logprobs).max())
    subject.near(worst, 0.0, "sampling log-probs against scoring")


_CHECKS: tuple[Callable[[_Subject], None], ...] = (
    _capabilities_are_stated,
    _log_probs_of_training_and_scoring_agree,
    _log_probs_are_unknown_where_nothing_reads,
    _the_loss_is_the_weighted_sum,
    _gradients_of_parts_add_up,
    _the_gradient_is_linear_in_the_weights,
    _a_step_clears_the_gradient,
    _no_weight_means_no_change,
    _training_lowers_the_loss,
    _clipping_is_reported_before_it_happens,
    _state_continues_bit_for_bit,
    _sampling_is_a_function_of_the_seed,
)


def _batch(vocab_size: int) -> WeightedBatch:
    generator = torch.Generator().manual_seed(0)
    num_tokens = sum(_LENGTHS)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])
    targets = (torch.rand(num_tokens, generator=generator) < 0.5) & (positions > 0)
    zeros = torch.zeros(num_tokens)
    return WeightedBatch(
        token_ids=torch.randint(1, vocab_size, (num_tokens,), generator=generator),
        positions=positions,
        sequence_index=torch.repeat_interleave(torch.arange(len(_LENGTHS)), torch.tensor(_LENGTHS)),
        policy_weights=zeros,
        advantages=zeros,
        env_weights=targets * torch.rand(num_tokens, generator=generator) / num_tokens,
        env_targets=targets,
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.full((num_tokens,), torch.nan),
    )


def _requests(batch: WeightedBatch) -> tuple[list[ScoreRequest], list[np.ndarray]]:
    parts = [batch.sequence_index.numpy() == number for number in range(batch.num_sequences)]
    masks = [batch.env_targets.numpy()[part] for part in parts]
    ids = [batch.token_ids.numpy()[part].astype(np.int32) for part in parts]
    return [ScoreRequest(token_ids=i, read=mask) for i, mask in zip(ids, masks, strict=True)], masks
