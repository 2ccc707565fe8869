"""What echo-rl's generator writes, read as sequences: its masks, its normaliser, and our own rows back again."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from envecho.errors import DataError
from envecho.objective import compile_batch
from envecho.objective.peers import peer_config
from envecho.tokens import TokenizedTrajectory
from envecho.tokens.trainers import skyrl
from envecho.tokens.trainers.echo_rl import is_generator_output, sequences_of
from envecho.trajectory import Role, Source, StopReason


def interaction(**changes: object) -> dict[str, object]:
    """Prompt of two; two of a command, its turn end, a template token, a warning, two of output, the template."""
    fields: dict[str, object] = {
        "prompt_token_ids": [1, 2],
        "completion_token_ids": [10, 11, 3, 4, 20, 30, 31, 5],
        "completion_masks": [1, 1, 0, 0, 0, 0, 0, 0],
        "completion_observation_masks": [0, 0, 0, 0, 0, 1, 1, 0],
        "completion_warning_masks": [0, 0, 0, 0, 1, 0, 0, 0],
        "completion_env_output_masks": [0, 0, 0, 0, 0, 1, 1, 0],
        "completion_logprobs": [-0.5, -0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "reward": 1.0,
    }
    return fields | changes


def output(rewards: list[float]) -> dict[str, object]:
    """A generator's output: the interaction above once per reward, in one group; the last rollout observes nothing."""
    rows = [interaction() for _ in rewards]
    rows[-1] |= {"completion_env_output_masks": [0] * 8, "completion_warning_masks": [0] * 8}
    named = {
        "prompt_token_ids": "prompt_token_ids", "response_ids": "completion_token_ids",
        "loss_masks": "completion_masks", "world_loss_masks": "completion_observation_masks",
        "world_env_masks": "completion_env_output_masks", "world_warning_masks": "completion_warning_masks",
        "rollout_logprobs": "completion_logprobs",
    }  # fmt: skip
    ids = [{"instance_id": "p", "repetition_id": k} for k in range(len(rewards))]
    lists = {ours: [row[theirs] for row in rows] for ours, theirs in named.items()}
    return {**lists, "rewards": rewards, "trajectory_ids": ids, "stop_reasons": ["done"] * len(rewards)}


def test_an_interactions_masks_become_sources():
    """Catches the WARNINGS prefix, or the template's turn end, that turns into a target."""
    (sequence,) = sequences_of(interaction(), temperature=0.8)
    said = ["task", "task", "policy", "policy", "scaffold", "scaffold", "harness_notice", "tool_result", "tool_result"]
    codes = [Source(name).code for name in [*said, "scaffold"]]
    assert sequence.sources.tolist() == codes
    assert sequence.sampling_logprobs[2:4].tolist() == [-0.5, -0.25]
    assert np.isnan(sequence.sampling_logprobs[4:]).all()
    assert (sequence.reward, sequence.sampling_temperature) == (1.0, 0.8)


def test_the_weights_are_those_of_echo_rls_own_loss():
    """Catches another denominator than theirs: targets over the whole observation, then the mean over all rollouts."""
    sequences = sequences_of(output([1.0, 0.0, 0.0]), temperature=0.8)
    compiled = compile_batch(sequences, peer_config("echo-rl"))
    expected = torch.zeros(len(compiled.batch.token_ids))
    for number in range(2):  # the third rollout has no observation, and still counts in the mean over three
        for place in (7, 8):
            expected[number * 10 + place] = 0.05 * (1 / 3) * (1 / 3)
    torch.testing.assert_close(compiled.batch.env_weights, expected)
    assert [s.trajectory_id for s in sequences] == ["p_0", "p_1", "p_2"]
    assert {s.stop_reason for s in sequences} == {StopReason.COMPLETED}


def test_a_row_of_ours_is_read_as_it_was_written():
    """Catches a reader and a writer of the same columns that disagree about whose a token is."""
    (sequence,) = sequences_of(interaction())
    row = json.loads(json.dumps(skyrl.row(sequence, Counter())))
    assert is_generator_output(row)
    (again,) = sequences_of(row)
    assert again.token_ids.tolist() == sequence.token_ids.tolist()
    for role in (Role.ACTION, Role.ENV_OUTPUT, Role.WARNING):
        assert again.role_mask(role).tolist() == sequence.role_mask(role).tolist()
    np.testing.assert_array_equal(again.sampling_logprobs, sequence.sampling_logprobs)


def test_token_rewards_are_summed():
    """Catches the reward per token that SkyRL's trainer writes, read as unknown or as the first token's."""
    (sequence,) = sequences_of(interaction(reward=[0.0] * 7 + [0.5]))
    assert isinstance(sequence, TokenizedTrajectory)
    assert sequence.reward == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completion_env_output_masks": [1]}, "1 entries for 8 tokens"),
        ({"completion_masks": None}, "expected completion_masks"),
        ({"completion_logprobs": [-1.0]}, "1 for 8 tokens"),
    ],
)
def test_masks_of_another_length_are_refused(changes: dict[str, object], message: str):
    """Catches masks that are shifted, padded or missing and are used all the same."""
    with pytest.raises(DataError, match=message):
        sequences_of(interaction(**changes))


def test_other_documents_are_no_generator_output():
    """Catches a row without the world's masks that would be read as an episode without observations."""
    assert not is_generator_output({"prompt_token_ids": [1], "response_ids": [2], "loss_masks": [1]})
    assert not is_generator_output([1])
    assert is_generator_output(interaction())
