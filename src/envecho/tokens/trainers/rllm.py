"""rLLM: an `Episode` of one trajectory, as `Episode.from_dict` takes it; a step per run of sampled tokens.

rLLM's steps hold prompts and completions; what the world said stands in the prompt of the next step. So a step's `info`
says which tokens of its prompt are new and whose they are, as spans `[start, end)` over `prompt_ids`; the words behind
the last action stand in the trajectory's `info`. rLLM merges the steps of a growing prompt into one row and masks all
tokens between them, the template's too. Source: rllm/types.py and rllm/trainer/verl/transform.py of
github.com/rllm-org/rllm at 9beb6e0, 2026-08-15 (0.3.0.pre), read.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.tokens.targets import env_target_mask
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import about, policy_mask, response_of
from envecho.trajectory import Role, StopReason

Masks = dict[str, NDArray[np.bool_]]


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the episode of a sequence, or None where it has no step: no action that a policy term may train."""
    if response_of(sequence, notes) is None:
        return None
    policy = policy_mask(sequence)
    runs = _runs(policy)
    if not runs:
        notes["sequences without an action that has log-probs: rLLM has no step for them"] += 1
        return None
    owned = sequence.owned_mask()
    masks: Masks = {
        "env_output_spans": env_target_mask(sequence),
        "warning_spans": sequence.role_mask(Role.WARNING) & owned,
    }
    behind = runs[-1][1]
    notes["tokens behind the last action: in the trajectory's info alone"] += len(sequence) - behind
    starts = [0, *(end for _, end in runs[:-1])]
    steps = [_step(sequence, run, _spans(masks, new, run[0])) for run, new in zip(runs, starts, strict=True)]
    steps[-1]["done"] = sequence.stop_reason is StopReason.COMPLETED
    final = {"final_ids": sequence.token_ids[behind:].tolist(), **_spans(masks, behind, len(sequence))}
    group = (sequence.group_id or sequence.task_id).replace(":", "_")
    facts = about(sequence)
    return {
        "id": f"{group}:{sequence.trajectory_id}",
        "task": sequence.task_id,
        "termination_reason": "unknown",
        "is_correct": False,
        "trajectories": [
            {
                "uid": sequence.trajectory_id,
                "name": "envecho",
                "task": sequence.task_id,
                "steps": steps,
                "reward": sequence.reward,
                "info": facts | final,
            }
        ],
        "metrics": {},
        "info": facts,
    }


def _step(sequence: TokenizedTrajectory, run: tuple[int, int], spans: dict[str, Any]) -> dict[str, Any]:
    start, end = run
    ids = {
        "prompt_ids": sequence.token_ids[:start].tolist(),
        "logprobs": [float(value) for value in sequence.sampling_logprobs[start:end]],
    }
    response = sequence.token_ids[start:end].tolist()
    lengths = {"prompt_length": start, "completion_length": end - start}
    return {
        **ids,
        "response_ids": response,
        "chat_completions": [],
        "observation": None,
        "thought": "",
        "action": None,
        "model_response": "",
        "model_output": {**ids, "completion_ids": response, **lengths},
        "info": spans,
        "reward": 0.0,
        "done": False,
        "mc_return": 0.0,
        "advantage": None,
        "weight_version": None,
    }


def _spans(masks: Masks, start: int, end: int) -> dict[str, Any]:
    """The runs of each mask in `[start, end)`."""
    return {name: [[start + a, start + b] for a, b in _runs(mask[start:end])] for name, mask in masks.items()}


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
