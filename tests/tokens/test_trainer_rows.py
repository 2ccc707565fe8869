"""Rows of trainers against a slow reference that asks each token who wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conversations import message
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.trainers import response_of, skyrl, tinker, trl, verl
from envecho.trajectory import SOURCES, Role, SampledTokens, Source, StopReason, Trajectory

ROWS: dict[str, Callable[[TokenizedTrajectory, Counter[str]], dict[str, Any] | None]] = {
    "trl": trl.row,
    "verl": verl.row,
    "skyrl": skyrl.row,
    "tinker": tinker.row,
}


@st.composite
def sequences(draw: st.DrawFn) -> TokenizedTrajectory:
    """Any sources in any order, some actions with log-probs, any ownership."""
    n = draw(st.integers(1, 12))
    codes = draw(st.lists(st.sampled_from([source.code for source in SOURCES]), min_size=n, max_size=n))
    sources = np.array(codes, dtype=np.uint8)
    known = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    logprobs = np.where(known & (sources == Source.POLICY.code), -np.arange(1.0, n + 1), np.nan)
    return TokenizedTrajectory(
        trajectory_id="e",
        task_id="t",
        group_id=draw(st.sampled_from([None, "g"])),
        reward=draw(st.sampled_from([None, 0.0, 1.0])),
        branch=0,
        window=0,
        owned_from=draw(st.integers(0, n)),
        context_truncated=draw(st.booleans()),
        token_ids=np.arange(100, 100 + n, dtype=np.int32),
        sources=sources,
        turns=np.zeros(n, dtype=np.int32),
        num_bytes=np.ones(n, dtype=np.uint16),
        sampling_logprobs=logprobs.astype(np.float32),
        sampling_entropies=np.full(n, np.nan, dtype=np.float32),
        stop_reason=draw(st.sampled_from(list(StopReason))),
    )


def reference(sequence: TokenizedTrajectory) -> dict[int, tuple[str, float | None]]:
    """What each token that this sequence owns is for, and its log-prob where a policy term may use it."""
    found: dict[int, tuple[str, float | None]] = {}
    for place in range(1, len(sequence)):
        role = SOURCES[sequence.sources[place]].role
        if place < sequence.owned_from or role is Role.CONTEXT:
            continue
        logprob = float(sequence.sampling_logprobs[place])
        usable = role is Role.ACTION and not np.isnan(logprob) and not sequence.context_truncated
        found[int(sequence.token_ids[place])] = (role.value, logprob if usable else None)
    return found


def is_trainable(told: dict[int, tuple[str, float | None]]) -> bool:
    return any(role != "action" or logprob is not None for role, logprob in told.values())


@settings(deadline=None)
@given(sequences())
def test_masks_of_a_response_say_of_each_token_who_wrote_it(sequence: TokenizedTrajectory):
    """Catches masks off by one, tokens trained twice, and actions without log-probs in the policy's mask."""
    told = reference(sequence)
    response = response_of(sequence, Counter())
    assert (response is None) == (not is_trainable(told))
    if response is None:
        return
    assert [*response.prompt_ids, *response.response_ids] == sequence.token_ids.tolist()
    assert response.response_ids[0] in told
    assert not set(response.prompt_ids) & set(told)
    for place, token in enumerate(response.response_ids):
        role, logprob = told.get(token, ("context", None))
        assert response.action_mask[place] == (role == "action")
        assert response.obs_mask[place] == (role == "env_output")
        assert response.warning_mask[place] == (role == "warning")
        assert response.policy_mask[place] == (logprob is not None)
        if response.logprobs is not None:
            assert response.logprobs[place] == (logprob or 0.0)


@settings(deadline=None)
@given(sequences())
def test_each_trainers_row_says_the_same_under_its_own_names(sequence: TokenizedTrajectory):
    """Catches a name that got another mask, and a log-prob given to a trainer that cannot leave its neighbours out."""
    response = response_of(sequence, Counter())
    rows = {name: row(sequence, Counter()) for name, row in ROWS.items()}
    if response is None:
        assert set(rows.values()) == {None}
        return
    of_trl, of_verl, of_skyrl = rows["trl"] or {}, rows["verl"] or {}, rows["skyrl"] or {}
    assert of_trl["env_mask"] == response.action_mask
    assert (of_trl["logprobs"] is not None) == (
        any(response.action_mask) and response.policy_mask == response.action_mask
    )
    assert of_verl["response_mask"] == of_skyrl["loss_masks"] == response.policy_mask
    assert of_verl["response_logprobs"] == of_skyrl["rollout_logprobs"] == response.logprobs
    assert (
        of_trl["obs_mask"] == of_verl["extra_fields"]["obs_mask"] == of_skyrl["world_loss_masks"] == response.obs_mask
    )
    assert of_skyrl["world_warning_masks"] == response.warning_mask
    assert of_skyrl["world_full_observation_counts"] == sum(response.obs_mask) + sum(response.warning_mask)
    assert of_trl["env_reward"] == of_verl["reward_score"] == of_skyrl["rewards"] == sequence.reward
    assert of_skyrl["world_model_only"] == (not any(response.policy_mask))


@settings(deadline=None)
@given(sequences())
def test_a_datum_of_tinker_weighs_the_token_that_is_predicted(sequence: TokenizedTrajectory):
    """Catches weights that belong to the token that is read: training would learn from the wrong neighbour."""
    row = tinker.row(sequence, Counter())
    if row is None:
        return
    told = reference(sequence)
    for term, field in (("env", "weights"), ("policy", "mask")):
        chosen = {
            token
            for token, (role, logprob) in told.items()
            if (role == "env_output" if term == "env" else logprob is not None)
        }
        assert (row[term] is None) == (not chosen)
        if row[term] is None:
            continue
        (chunk,) = row[term]["model_input"]["chunks"]
        inputs = row[term]["loss_fn_inputs"]
        targets = inputs["target_tokens"]["data"]
        assert [*chunk["tokens"], targets[-1]] == sequence.token_ids.tolist()
        assert chunk["tokens"][1:] == targets[:-1]
        weights = inputs[field]["data"]
        assert {token for token, weight in zip(targets, weights, strict=True) if weight} == chosen
        if term == "policy":
            found = dict(zip(targets, inputs["logprobs"]["data"], strict=True))
            assert {token: found[token] for token in chosen} == {token: told[token][1] for token in chosen}


def test_notes_count_what_masks_cannot_say():
    """Catches a loss that nobody is told of: sources, log-probs, contexts, entropies."""
    sources = [Source.TASK, Source.POLICY, Source.STDERR, Source.STATUS, Source.POLICY]
    n = len(sources)
    sequence = TokenizedTrajectory(
        trajectory_id="e", task_id="t", group_id=None, reward=None, branch=0, window=0, owned_from=0,
        context_truncated=False,
        token_ids=np.arange(n, dtype=np.int32),
        sources=np.array([source.code for source in sources], dtype=np.uint8),
        turns=np.arange(n, dtype=np.int32),
        num_bytes=np.ones(n, dtype=np.uint16),
        sampling_logprobs=np.array([np.nan, -1, np.nan, np.nan, np.nan], dtype=np.float32),
        sampling_entropies=np.array([np.nan, 0.5, np.nan, np.nan, np.nan], dtype=np.float32),
    )  # fmt: skip
    notes: Counter[str] = Counter()
    trl.row(sequence, notes)
    assert +notes == {
        "action tokens without log-probs: not in the policy's mask": 1,
        "entropies of sampled tokens": 1,
        "rows without log-probs: TRL's policy term must not use them": 1,
        "tokens of source stderr: the masks say env_output": 1,
        "tokens of source status: the masks say warning": 1,
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_real_episode_under_a_real_template_gives_its_output_as_the_target(smol: ChatTokenizer, name: str):
    """Catches masks that are right for made-up arrays alone: here the targets must decode to what the shell printed."""
    ids = smol.hf.encode("ls", add_special_tokens=False)
    sampled = SampledTokens(token_ids=tuple(ids), logprobs=(-0.25,) * len(ids), temperature=1.0)
    said = message("assistant", (Source.POLICY, "ls")).model_copy(update={"sampled": sampled})
    answer = message("user", (Source.STDOUT, "a.log\nb.log\n"), (Source.STATUS, "[exit status 0]"))
    episode = Trajectory(id="e", task_id="t", messages=(message("user", (Source.TASK, "Look.")), said, answer))
    (sequence,) = tokenize_trajectory(episode, smol)
    row = ROWS[name](sequence, Counter())
    assert row is not None
    if name == "tinker":
        inputs = row["env"]["loss_fn_inputs"]
        pairs = zip(inputs["target_tokens"]["data"], inputs["weights"]["data"], strict=True)
    else:
        masks = row["extra_fields"] if name == "verl" else row
        ids_of = "completion_ids" if name == "trl" else "response_ids"
        pairs = zip(row[ids_of], masks["world_env_masks" if name == "skyrl" else "obs_mask"], strict=True)
    assert smol.hf.decode([token for token, weight in pairs if weight]).rstrip() == "a.log\nb.log"
