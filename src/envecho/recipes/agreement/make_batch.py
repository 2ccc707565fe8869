"""`python -m envecho.recipes.agreement.make_batch`: draw the committed batch again, from the tiny model itself.

Actions are sampled, so their log-probs are those of a real sampler; what stands between them is drawn at random.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envecho.engines.local import LocalEngine
from envecho.recipes.agreement.case import EOS_ID, PAD_ID, ROLLOUTS_PER_GROUP, VOCAB_SIZE, write_batch, write_model
from envecho.seam import SamplingParams
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import Source, StopReason

_REWARDS = (1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0, 1.0)
_NUM_TURNS = (3, 2, 4, 1, 2, 3, 0, 2)
"""Answered turns of each rollout; the one with 0 has no observation."""


def main() -> None:
    """Write `batch.json` beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        engine = LocalEngine(folder, compute_dtype="float32", trains=False)
        rng = np.random.default_rng(7)
        prompts = [rng.integers(2, VOCAB_SIZE, 6), rng.integers(2, VOCAB_SIZE, 9)]
        write_batch([_rollout(engine, rng, number, prompts) for number in range(len(_REWARDS))])


def _rollout(
    engine: LocalEngine, rng: np.random.Generator, number: int, prompts: list[NDArray[np.int64]]
) -> TokenizedTrajectory:
    group = number // ROLLOUTS_PER_GROUP
    ids: list[int] = prompts[group].tolist()
    sources = [Source.TASK] * (len(ids) - 2) + [Source.SCAFFOLD] * 2
    turns, logprobs = [0] * len(ids), [np.nan] * len(ids)
    for turn in range(_NUM_TURNS[number] + 1):
        params = SamplingParams(max_tokens=4 + (number + turn) % 3, seed=100 * number + turn, stop_token_ids=(EOS_ID,))
        (sample,) = engine.sample([np.array(ids, dtype=np.int32)], params)
        ids += sample.token_ids.tolist()
        sources += [Source.POLICY] * len(sample.token_ids)
        logprobs += sample.logprobs.tolist()
        turns += [1 + 2 * turn] * len(sample.token_ids)
        if turn == _NUM_TURNS[number]:
            break
        body = rng.integers(2, VOCAB_SIZE, int(rng.integers(2, 9)))
        body[rng.integers(len(body))] = PAD_ID
        answer = [
            *[(int(k), Source.SCAFFOLD) for k in rng.integers(2, VOCAB_SIZE, 2)],
            *[(int(k), Source.STDOUT) for k in body],
            *[(int(k), Source.STATUS) for k in rng.integers(2, VOCAB_SIZE, (number + turn) % 2)],
            *[(int(k), Source.SCAFFOLD) for k in rng.integers(2, VOCAB_SIZE, 2)],
        ]
        ids += [token for token, _ in answer]
        sources += [source for _, source in answer]
        logprobs += [np.nan] * len(answer)
        turns += [2 + 2 * turn] * len(answer)
    return TokenizedTrajectory(
        trajectory_id=f"rollout-{number}",
        task_id=f"task-{group}",
        group_id=f"task-{group}",
        reward=_REWARDS[number],
        branch=0,
        window=0,
        owned_from=0,
        context_truncated=False,
        token_ids=np.array(ids, dtype=np.int32),
        sources=np.array([s.code for s in sources], dtype=np.uint8),
        turns=np.array(turns, dtype=np.int32),
        num_bytes=np.full(len(ids), 3, dtype=np.uint16),
        sampling_logprobs=np.array(logprobs, dtype=np.float32),
        sampling_entropies=np.full(len(ids), np.nan, dtype=np.float32),
        sampling_temperature=1.0,
        stop_reason=StopReason.COMPLETED,
    )


if __name__ == "__main__":
    main()
