"""Rows for slime, prime-rl and rLLM against a slow reference that asks each token who wrote it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from test_trainer_rows import is_trainable, reference, sequences

from envecho.tokens import TokenizedTrajectory
from envecho.tokens.trainers import prime_rl, response_of, rllm, slime


def roles(sequence: TokenizedTrajectory, *names: str) -> list[bool]:
    """Which tokens this sequence owns and one of these roles has; a slow loop."""
    told = reference(sequence)
    return [told.get(int(token), ("context", None))[0] in names for token in sequence.token_ids]


def usable(sequence: TokenizedTrajectory) -> list[float | None]:
    """The log-prob of each token that a policy term may train."""
    told = reference(sequence)
    return [told.get(int(token), ("context", None))[1] for token in sequence.token_ids]


@settings(deadline=None)
@given(sequences())
def test_a_sample_of_slime_is_its_response_with_masks(sequence: TokenizedTrajectory):
    """Catches a mask over the whole sequence where slime asserts one over the response."""
    row, response = slime.row(sequence, Counter()), response_of(sequence, Counter())
    assert (row is None) == (response is None)
    if row is None or response is None:
        return
    assert row["tokens"] == sequence.token_ids.tolist()
    assert row["response_length"] == len(row["loss_mask"]) == len(response.response_ids)
    assert row["tokens"][-row["response_length"] :] == response.response_ids
    assert row["rollout_log_probs"] is None or len(row["rollout_log_probs"]) == row["response_length"]
    assert row["train_metadata"]["obs_mask"] == response.obs_mask
    assert row["status"] in ("pending", "completed", "truncated", "aborted", "failed")


@settings(deadline=None)
@given(sequences())
def test_a_sample_of_prime_rl_weighs_the_worlds_words_alone(sequence: TokenizedTrajectory):
    """Catches a token in two components, a stream of another length, and a weight on the template's tokens."""
    row = prime_rl.row(sequence, Counter())
    assert (row is None) == (not is_trainable(reference(sequence)))
    if row is None:
        return
    sample: dict[str, Any] = row["sample"]
    for name in ("mask", "logprobs", "temperatures"):
        assert len(sample[name]) == len(sample["token_ids"]) == len(sequence)
    assert sample["mask"] == [value is not None for value in usable(sequence)]
    assert sample["logprobs"] == [value or 0.0 for value in usable(sequence)]
    said = roles(sequence, "env_output")
    assert sample["ce_weights"] == ([0.1 * one for one in said] if any(said) else None)
    assert sample["advantages"] is None
    if sample["ce_weights"] is not None:
        assert not any(m and w for m, w in zip(sample["mask"], sample["ce_weights"], strict=True))


@settings(deadline=None)
@given(sequences())
def test_an_episode_of_rllm_has_a_step_per_action_and_every_observation_once(sequence: TokenizedTrajectory):
    """Catches an observation that two steps claim, or that stands behind the last action and gets lost."""
    episode = rllm.row(sequence, Counter())
    trained = [value is not None for value in usable(sequence)]
    assert (episode is None) == (not any(trained))
    if episode is None:
        return
    (trajectory,) = episode["trajectories"]
    written = np.zeros(len(sequence), dtype=int)
    claimed = {name: np.zeros(len(sequence), dtype=int) for name in ("env_output_spans", "warning_spans")}
    for step in trajectory["steps"]:
        start, end = len(step["prompt_ids"]), len(step["prompt_ids"]) + len(step["response_ids"])
        assert [*step["prompt_ids"], *step["response_ids"]] == sequence.token_ids[:end].tolist()
        assert step["logprobs"] == sequence.sampling_logprobs[start:end].tolist()
        assert step["model_output"]["completion_ids"] == step["response_ids"]
        written[start:end] += 1
        for name, spans in step["info"].items():
            for a, b in spans:
                assert b <= start
                claimed[name][a:b] += 1
    for name in claimed:
        for a, b in trajectory["info"][name]:
            claimed[name][a:b] += 1
    assert written.tolist() == [int(one) for one in trained]
    assert claimed["env_output_spans"].tolist() == [int(one) for one in roles(sequence, "env_output")]
    assert claimed["warning_spans"].tolist() == [int(one) for one in roles(sequence, "warning")]
    last = np.flatnonzero(trained)[-1] + 1
    assert trajectory["info"]["final_ids"] == sequence.token_ids[last:].tolist()
    assert episode["id"].count(":") == 1
