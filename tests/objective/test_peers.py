"""The peers' lambdas on one episode, and a lambda that is carried from one rule to another."""

from __future__ import annotations

import pytest
from step_builders import tokenized

from envecho.errors import ConfigError
from envecho.objective import compile_batch
from envecho.objective.peers import PEERS, carry_lambda, effective_lambdas, get_peer, peer_config

AT_0_05 = {
    "echo-rl": 0.05,
    "verl-recipe": 0.05,
    "verl-token-mean": 0.40,
    "rllm-hosted": 0.51,
    "openenv-rfc010": 0.05,
    "openenv-trl-demo": 0.40,
    "prime-rl": 0.05,
    "envecho-trl": 0.05,
}
"""The table of the captured Agent World Model episode: 1,304 prompt, 588 action and 4,659 observation tokens."""


def episode(name: str = "t0"):
    return tokenized("t" * 1304 + "a" * 588 + "o" * 4659, name)


def test_every_peer_has_the_effective_lambda_of_the_table():
    """Catches a preset whose rule or targets are not its project's: a carried lambda would be 8 or 10 times off."""
    copies = [episode(f"t{k}") for k in range(8)]
    found = effective_lambdas(copies, 0.05, num_micro_batches=8)
    assert {name: round(value or 0, 2) for name, value in found.items()} == AT_0_05
    assert round(effective_lambdas(copies)["prime-rl"] or 0, 2) == 0.10


UNEVEN = [
    tokenized("ctaaoowwcaoc", "t0"),
    tokenized("caooooooooooow", "t1"),
    tokenized("caaaaaa", "t2"),
]
"""Observations of very different length, warnings, and a trajectory without an observation."""


@pytest.mark.parametrize("source", [name for name in PEERS if name != "rllm-hosted"])
@pytest.mark.parametrize("to", [*PEERS, "constant_length"])
def test_a_carried_lambda_is_equally_effective_in_the_compiled_batch(source: str, to: str):
    """Catches arithmetic that agrees with itself and not with the weights that engines train on."""
    carried = carry_lambda(UNEVEN, 0.03, source=source, to=to, num_micro_batches=3, constant_length=7)
    assert carried.effective_lambda == pytest.approx(effective_lambdas(UNEVEN, 0.03, num_micro_batches=3)[source])
    back = carry_lambda(UNEVEN, carried.coeff, source=to, to=source, num_micro_batches=3, constant_length=7)
    assert back.coeff == pytest.approx(0.03)
    config = peer_config(source, world_model_coeff=0.03)
    split = range(3) if config.normalizer == "trl_token_mean" else None
    graded = [tokenized(letters, f"t{k}", reward=float(k)) for k, letters in enumerate(("ctaaoowwcaoc", "caooow"))]
    step = compile_batch(graded, config, micro_batch_index=None if split is None else [0, 1])
    expected = effective_lambdas(graded, 0.03, num_micro_batches=2)[source]
    assert step.effective_lambda == pytest.approx(expected, rel=1e-6)


def test_what_differs_token_by_token_is_said():
    """Catches a carried lambda that passes for the same gradient where long observations now weigh otherwise."""
    same = carry_lambda(UNEVEN, 0.05, source="verl_token_mean", to="constant_length", constant_length=9)
    assert (same.lowest_ratio, same.highest_ratio) == pytest.approx((1, 1))
    other = carry_lambda(UNEVEN, 0.05, source="envecho-trl", to="sequence_mean_selected")
    # Of 14 targets, 3 stand in the first trajectory and 11 in the second; the mean over sequences evens them out.
    assert other.highest_ratio / other.lowest_ratio == pytest.approx(11 / 3)
    assert "single tokens do not" in other.sentence
    assert "every target counts exactly" in carry_lambda(UNEVEN, 1, source="envecho-trl", to="openenv-rfc010").sentence
    targets = carry_lambda(UNEVEN, 0.05, source="envecho-trl", to="prime-rl")
    assert "other tokens are trained: 17 instead of 14" in targets.sentence


def test_a_peer_becomes_an_objective_of_ours():
    """Catches a preset that EchoConfig refuses, and a peer that passes for reproduced although its targets do not."""
    for name, peer in PEERS.items():
        if name == "rllm-hosted":
            continue
        config = peer_config(name)
        assert (config.preset.normalizer, config.world_loss_target) == (peer.normalizer, peer.world_loss_target)
        assert config.world_model_coeff == peer.world_model_coeff
        assert peer.advantage in (None, config.preset.advantage)
    assert peer_config("prime-rl", world_model_coeff=0.005).world_model_coeff == 0.005
    with pytest.raises(ConfigError, match="prompt"):
        peer_config("rllm-hosted")


def test_unknown_names_and_empty_terms_are_refused():
    """Catches a typing error that falls back to another rule, and a division by zero where there is no action."""
    with pytest.raises(ConfigError, match="Did you mean 'prime-rl'"):
        get_peer("prime_rl")
    with pytest.raises(ConfigError, match="Did you mean 'global_token_mean'"):
        carry_lambda(UNEVEN, 0.05, source="echo-rl", to="global_token_means")
    with pytest.raises(ConfigError, match="constant_length"):
        carry_lambda(UNEVEN, 0.05, source="echo-rl", to="constant_length")
    with pytest.raises(ConfigError, match="both kinds"):
        carry_lambda([tokenized("coo")], 0.05, source="echo-rl", to="prime-rl")
