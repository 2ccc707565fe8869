"""Every normaliser against a loop written from its definition, and METHOD's table of effective lambdas."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.losses import SPLIT_RULES, NormalizerName, StepTotals, TokenCounts, normalizer_weights

NAMES = get_args(NormalizerName)


def over(part, whole):
    return part / whole if whole else 0.0


def slow_weights(name, counts):
    """Token by token, straight from the sentence that defines each rule."""
    tokens = range(len(counts.sequence_index))
    action, obs, env = (m.tolist() for m in (counts.action_mask, counts.obs_mask, counts.env_mask))
    sequence, n = counts.sequence_index.tolist(), counts.num_sequences

    def number(mask, i=None, index=sequence):
        return sum(mask[j] for j in tokens if i is None or index[j] == index[i])

    policy, environment = [], []
    for i in tokens:
        if name in ("reference_sequence_mean", "sequence_mean_selected"):
            whole = obs if name == "reference_sequence_mean" else env
            one, two = over(1 / n, number(action, i)), over(1 / n, number(whole, i))
        elif name == "constant_length":
            one = two = 1 / counts.constant_length / n
        elif name == "trl_token_mean":
            one, two = over(1, number(action)), over(1, number(env, i, counts.micro_batch_index.tolist()))
        else:
            one = over(1, number(action))
            two = one if name == "verl_token_mean" else over(1, number(env))
        policy.append(one * action[i])
        environment.append(two * env[i])
    return torch.tensor(policy, dtype=torch.float64), torch.tensor(environment, dtype=torch.float64)


@st.composite
def token_counts(draw):
    """Up to four sequences with tokens of all kinds, none included, and up to two sequences without any token."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    kinds = draw(st.lists(st.sampled_from("cawe"), min_size=sum(lengths), max_size=sum(lengths)))
    index = torch.tensor([k for k, n in enumerate(lengths) for _ in range(n)], dtype=torch.int64)
    split = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))

    def mask(which):
        return torch.tensor([k in which for k in kinds], dtype=torch.bool)

    return TokenCounts(
        action_mask=mask("a"),
        obs_mask=mask("we"),
        env_mask=mask("e"),
        sequence_index=index,
        num_sequences=len(lengths) + draw(st.integers(0, 2)),
        constant_length=draw(st.integers(1, 50)),
        micro_batch_index=torch.tensor(split)[index],
    )


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(counts=token_counts())
def test_a_rule_gives_the_weights_of_its_definition(name, counts):
    """Catches a wrong denominator, and a division by zero where a sequence or the step lacks a kind of token."""
    for fast, slow in zip(normalizer_weights(name, counts), slow_weights(name, counts), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(counts=token_counts())
def test_only_tokens_of_a_term_have_its_weight(name, counts):
    """Catches an environment token that enters the policy term, or a warning that is trained (traps 8 and 18)."""
    policy, environment = normalizer_weights(name, counts)
    assert torch.equal(policy > 0, counts.action_mask)
    divides_by_nothing = name == "verl_token_mean" and not counts.action_mask.any()
    assert torch.equal(environment > 0, counts.env_mask & (not divides_by_nothing))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPLIT_RULES])
@settings(deadline=None, max_examples=30)
@given(counts=token_counts(), split=st.integers(0, 1))
def test_a_split_free_rule_does_not_read_the_split(name, counts, split):
    """Catches a rule that claims partition invariance and depends on micro-batches."""
    fields = {key: getattr(counts, key) for key in ("action_mask", "obs_mask", "env_mask", "sequence_index")}
    other = TokenCounts(
        **fields,
        num_sequences=counts.num_sequences,
        constant_length=counts.constant_length,
        micro_batch_index=torch.full_like(counts.sequence_index, split),
    )
    for one, two in zip(normalizer_weights(name, counts), normalizer_weights(name, other), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPLIT_RULES])
@settings(deadline=None, max_examples=30)
@given(counts=token_counts())
def test_parts_that_know_the_totals_of_the_step_weigh_as_the_whole(name, counts):
    """Catches a mean per rank or per micro-batch (trap 15): three integers of the step must be enough."""
    whole = normalizer_weights(name, counts)
    step = StepTotals(
        num_action_tokens=int(counts.action_mask.sum()),
        num_env_tokens=int(counts.env_mask.sum()),
        num_sequences=counts.num_sequences,
    )
    for sequence in torch.unique(counts.sequence_index).tolist():
        here = counts.sequence_index == sequence
        part = TokenCounts(
            action_mask=counts.action_mask[here],
            obs_mask=counts.obs_mask[here],
            env_mask=counts.env_mask[here],
            sequence_index=torch.zeros(int(here.sum()), dtype=torch.int64),
            num_sequences=1,
            constant_length=counts.constant_length,
            totals=step,
        )
        for found, expected in zip(normalizer_weights(name, part), whole, strict=True):
            torch.testing.assert_close(found, expected[here], rtol=1e-12, atol=0)


def episode(num_copies=1, *, prompt_is_target=False):
    """The captured Agent World Model episode of METHOD section 3, as counts."""
    kinds = "p" * 1304 + "a" * 588 + "o" * 4659
    target = torch.tensor([k == "o" or (prompt_is_target and k == "p") for k in kinds] * num_copies)
    return TokenCounts(
        action_mask=torch.tensor([k == "a" for k in kinds] * num_copies),
        obs_mask=target,
        env_mask=target,
        sequence_index=torch.arange(num_copies).repeat_interleave(len(kinds)),
        num_sequences=num_copies,
        micro_batch_index=torch.arange(num_copies).repeat_interleave(len(kinds)),
    )


@pytest.mark.parametrize(
    ("rule", "coeff", "counts", "effective"),
    [
        pytest.param("reference_sequence_mean", 0.05, episode(), 0.05, id="SkyRL reference"),
        pytest.param("sequence_mean_selected", 0.05, episode(), 0.05, id="verl recipe, sequence mode"),
        pytest.param("global_token_mean", 0.05, episode(), 0.05, id="OpenEnv toy"),
        pytest.param("trl_token_mean", 0.05, episode(8), 0.40, id="TRL demo, 8 accumulation steps"),
        pytest.param("verl_token_mean", 0.05, episode(), 0.40, id="verl and rLLM, token mean"),
        pytest.param("verl_token_mean", 0.05, episode(prompt_is_target=True), 0.51, id="rLLM on hosted engines"),
        pytest.param("global_token_mean", 0.10, episode(), 0.10, id="prime-rl at its own default"),
    ],
)
def test_effective_lambda_is_that_of_the_table_in_method(rule, coeff, counts, effective):
    """Catches a rule that carries a project's name and does not reproduce it: the env term would be 8 times off."""
    policy, environment = normalizer_weights(rule, counts)
    assert round(coeff * float(environment.sum() / policy.sum()), 2) == effective


def test_a_sequence_without_observation_counts_in_the_reference_mean():
    """Catches a mean over the sequences that have observations: their term would grow as others fall silent."""
    counts = TokenCounts(
        action_mask=torch.tensor([True, False, True]),
        obs_mask=torch.tensor([False, True, False]),
        env_mask=torch.tensor([False, True, False]),
        sequence_index=torch.tensor([0, 0, 1]),
        num_sequences=2,
    )
    _, environment = normalizer_weights("reference_sequence_mean", counts)
    assert environment.tolist() == [0.0, 0.5, 0.0]


def test_the_reference_divides_by_the_whole_observation():
    """Catches Z counted over targets alone: episodes full of boilerplate would be weighed up."""
    obs = torch.tensor([True, True, True, True])
    counts = TokenCounts(
        action_mask=~obs,
        obs_mask=obs,
        env_mask=torch.tensor([True, False, False, False]),
        sequence_index=torch.zeros(4, dtype=torch.int64),
        num_sequences=1,
    )
    assert normalizer_weights("reference_sequence_mean", counts)[1].tolist() == [0.25, 0, 0, 0]
    assert normalizer_weights("sequence_mean_selected", counts)[1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("name", "needs"), [("constant_length", "length"), ("trl_token_mean", "micro_batch_index")])
def test_a_rule_that_needs_more_says_so(name, needs):
    """Catches a silent default for a length or a split, which would be another rule under the same name."""
    mask = torch.ones(1, dtype=torch.bool)
    counts = TokenCounts(
        action_mask=mask,
        obs_mask=~mask,
        env_mask=~mask,
        sequence_index=torch.zeros(1, dtype=torch.int64),
        num_sequences=1,
    )
    with pytest.raises(ValueError, match=needs):
        normalizer_weights(name, counts)
