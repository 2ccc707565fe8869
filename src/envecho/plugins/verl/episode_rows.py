"""An episode as the rows that verl trains: those of `envecho export --to verl`, cut to verl's response length.

A row per branch of the episode. Each row says all sources of its response, so that the objective can choose among them.
Not here: how an episode is played (`agent_loop`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from envecho.plugins.verl.row_masks import NUM_DROPPED, OBS_MASK, SOURCE_CODES, WARNING_MASK
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.trainers.verl import row
from envecho.trajectory import Source, Trajectory

_PER_TOKEN: Final = ("response_ids", "response_mask", "response_logprobs")
_PER_TOKEN_EXTRA: Final = ("action_mask", OBS_MASK, WARNING_MASK, SOURCE_CODES)


def episode_rows(
    episode: Trajectory, tokenizer: ChatTokenizer, *, response_length: int, failed_reward: float
) -> list[dict[str, Any]]:
    """Return the fields of one `AgentLoopOutput` per branch of the episode, at least one.

    verl has no rollout without a reward: one that nobody graded because its world or policy failed gets
    `failed_reward`, and none of its actions is in `response_mask`; its observations stay. An episode without anything
    to train is a row of one token that no term reads.
    """
    rows = [
        _cut(_with_sources(found, sequence), response_length)
        for sequence in tokenize_trajectory(episode, tokenizer)
        if (found := row(sequence, Counter())) is not None
    ]
    rows = rows or [_nothing(tokenizer.end_of_turn_id)]
    for one in rows:
        if episode.reward is None:
            one["reward_score"] = failed_reward
            one["response_mask"] = [0] * len(one["response_mask"])
        one["response_logprobs"] = one["response_logprobs"] or [0.0] * len(one["response_ids"])
        # verl copies it from an episode's last row to the others.
        one["extra_fields"]["reward_extra_info"] = {}
    return rows


def _with_sources(one: dict[str, Any], sequence: TokenizedTrajectory) -> dict[str, Any]:
    sources = sequence.sources[len(one["prompt_ids"]) :].tolist()
    return {**one, "extra_fields": {**one["extra_fields"], SOURCE_CODES: sources}}


def _cut(one: dict[str, Any], length: int) -> dict[str, Any]:
    """The row with its first tokens, and how many of the world's words were lost."""
    extra = one["extra_fields"]
    dropped = sum(extra[OBS_MASK][length:])
    cut = {key: one[key][:length] if one[key] is not None else None for key in _PER_TOKEN}
    kept = {key: extra[key][:length] for key in _PER_TOKEN_EXTRA}
    return {**one, **cut, "extra_fields": {**extra, **kept, NUM_DROPPED: dropped}}


def _nothing(token: int) -> dict[str, Any]:
    masks = {"action_mask": [0], OBS_MASK: [0], WARNING_MASK: [0], SOURCE_CODES: [Source.SCAFFOLD.code]}
    return {
        "prompt_ids": [token],
        "response_ids": [token],
        "response_mask": [0],
        "response_logprobs": [0.0],
        "reward_score": None,
        "num_turns": 0,
        "metrics": {},
        "extra_fields": {**masks, NUM_DROPPED: 0},
    }
