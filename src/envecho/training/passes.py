"""What a batch needs that costs a pass of its own: proximal and reference log-probs, sequence ratios.

Not here: the loss that reads them (`envecho.losses`), and rollouts.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from envecho.losses import WeightedBatch, policy_side, sequence_ratios
from envecho.objective import CompiledBatch
from envecho.seam import Engine, ScoreRequest


def with_passes(compiled: CompiledBatch, engine: Engine, *, reference: Engine | None) -> tuple[CompiledBatch, int]:
    """Return the batch with the log-probs that its terms read, and how many passes without a gradient that cost.

    `proximal_logprobs` where the ratio (or truncated importance sampling, or GSPO) is over the policy at the start of
    this step; `reference_logprobs` from `reference` where a KL term is weighed; GSPO's `sequence_ratios`, from the same
    pass. All at the batch's temperature.
    """
    batch, spec = compiled.batch, compiled.batch.policy_loss
    rows = policy_side(batch)
    num_passes = 0
    needs_ratios = spec.name == "gspo" and batch.sequence_ratios is None
    if bool(rows.any()) and (spec.ratio_denominator == "proximal" or needs_ratios):
        now = _logprobs(batch, rows, engine)
        num_passes += 1
        if spec.ratio_denominator == "proximal":
            batch = dataclasses.replace(batch, proximal_logprobs=now)
        if needs_ratios:
            stored = now if spec.ratio_denominator == "proximal" else batch.sampling_logprobs
            ratios = sequence_ratios(
                now,
                stored,
                action_mask=batch.policy_weights != 0,
                trajectory_index=compiled.trajectory_index,
            )
            batch = dataclasses.replace(batch, sequence_ratios=ratios)
    if reference is not None and bool((batch.kl_weights != 0).any()):
        known = _logprobs(batch, batch.kl_weights != 0, reference)
        num_passes += 1
        batch = dataclasses.replace(batch, reference_logprobs=known)
    return dataclasses.replace(compiled, batch=batch), num_passes


def _logprobs(batch: WeightedBatch, rows: Tensor, engine: Engine) -> Tensor:
    """Log-probs `[token]` at `rows` under softmax(logits / temperature), NaN elsewhere."""
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    bounds = list(zip(starts, [*starts[1:], len(batch.positions)], strict=True))
    ids, read = batch.token_ids.numpy().astype(np.int32), rows.numpy()
    requests = [ScoreRequest(token_ids=ids[start:stop], read=read[start:stop]) for start, stop in bounds]
    scores = engine.logprobs(requests, temperature=batch.temperature)
    return torch.from_numpy(np.concatenate([score.logprobs for score in scores]))
