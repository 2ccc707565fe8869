"""Masks, weights and settings of the plug-in for verl, without verl."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envecho.errors import ConfigError, DataError
from envecho.losses.weights import StepTotals
from envecho.objective import EchoConfig, compile_batch
from envecho.plugins.verl.episode_rows import episode_rows
from envecho.plugins.verl.row_masks import RowMasks, row_masks
from envecho.plugins.verl.settings import refuse_setup, verl_objective
from envecho.plugins.verl.step_weights import EnvironmentWeights, RankRows, environment_weights
from envecho.recipes.agreement.case import load_sequences
from envecho.tokens import ChatTokenizer
from envecho.tokens.trainers.verl import row
from envecho.trajectory import Message, SampledTokens, Segment, Source, StopReason, Trajectory

RULES = ("global_token_mean", "sequence_mean_selected", "reference_sequence_mean", "verl_token_mean")
SETUP: dict[str, Any] = {
    "trainer": {"use_v1": True},
    "actor_rollout_ref": {
        "actor": {
            "strategy": "fsdp2",
            "loss_agg_mode": "token-mean",
            "loss_scale_factor": None,
            "fsdp_config": {
                "_target_": "envecho.plugins.verl.EchoFSDPEngineConfig",
                "ulysses_sequence_parallel_size": 1,
            },
        },
        "model": {"use_fused_kernels": False},
        "rollout": {"calculate_log_probs": True, "temperature": 1.0},
    },
    "algorithm": {"filter_groups": None},
}


def setup_with(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(SETUP)
    *inner, last = path.split(".")
    found = config
    for key in inner:
        found = found[key]
    found[last] = value
    return config


def batch_rows() -> list[dict[str, Any]]:
    return [r for r in (row(s, Counter()) for s in load_sequences()) if r is not None]


def rank_rows(rows: list[dict[str, Any]], echo: EchoConfig) -> RankRows:
    actions = [torch.tensor(one["response_mask"], dtype=torch.bool) for one in rows]
    masks = [
        row_masks(one["extra_fields"], response_length=len(action), acts=bool(action.any()), echo=echo)
        for one, action in zip(rows, actions, strict=True)
    ]
    return RankRows(masks=masks, action_masks=actions)


def weigh(parts: list[RankRows], echo: EchoConfig, policy_sums: list[float]) -> list[EnvironmentWeights]:
    """Weigh the parts as ranks do, each in a thread; a sum waits for all of them, as a collective does."""
    everybody = threading.Barrier(len(parts), timeout=10)
    given: dict[int, torch.Tensor] = {}

    def rank(number: int) -> EnvironmentWeights:
        def add_up(values: torch.Tensor) -> torch.Tensor:
            given[number] = values
            everybody.wait()
            total = torch.stack([given[k] for k in range(len(parts))]).sum(dim=0)
            everybody.wait()
            return total

        return environment_weights(parts[number], echo, add_up=add_up, policy_weight_sum=lambda _: policy_sums[number])

    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(rank, range(len(parts))))


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_those_of_the_compiler_where_verl_divides_as_the_rule_does(rule: str) -> None:
    """Catches weights that are counted in a way of their own."""
    echo = EchoConfig(world_model_coeff=0.2, normalizer=rule)  # pyright: ignore[reportArgumentType]
    rows = batch_rows()
    compiled = compile_batch(load_sequences(), echo)
    policy = float(compiled.batch.policy_weights.double().sum())
    (found,) = weigh([rank_rows(rows, echo)], echo, [policy])
    env = torch.cat(list(found.weights))
    wanted = compiled.batch.env_weights[compiled.batch.env_weights != 0]
    torch.testing.assert_close(env[env != 0], wanted, rtol=1e-6, atol=0)
    assert found.effective_lambda == pytest.approx(compiled.effective_lambda, rel=1e-6)


@given(cut=st.integers(1, 7), rule=st.sampled_from(RULES), scale=st.floats(1e-4, 1e3))
def test_two_ranks_weigh_as_one_and_lambda_is_relative_to_verls_policy_term(cut: int, rule: str, scale: float) -> None:
    """Catches counts of one rank, and an environment term that does not follow what verl divides by."""
    echo = EchoConfig(world_model_coeff=0.2, normalizer=rule)  # pyright: ignore[reportArgumentType]
    rows = batch_rows()
    (whole,) = weigh([rank_rows(rows, echo)], echo, [3 * scale])
    parts = weigh([rank_rows(rows[:cut], echo), rank_rows(rows[cut:], echo)], echo, [scale, 2 * scale])
    joined = [weights for part in parts for weights in part.weights]
    for one, other in zip(whole.weights, joined, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    lambdas = {round(part.effective_lambda or 0.0, 9) for part in [whole, *parts]}
    assert len(lambdas) == 1
    total = sum(float(weights.double().sum()) for weights in joined)
    assert total / (3 * scale) == pytest.approx(whole.effective_lambda, rel=1e-6)


def test_without_a_policy_term_the_rules_weights_stand_as_they_are() -> None:
    """Catches a verifier-free run whose weights are scaled by a policy term that is not there, to zero or NaN."""
    echo = EchoConfig(world_model_coeff=0.5, normalizer="global_token_mean", use_rl=False)
    (found,) = weigh([rank_rows(batch_rows(), echo)], echo, [123.0])
    assert float(torch.cat(list(found.weights)).double().sum()) == pytest.approx(0.5)
    assert found.effective_lambda is None
    silent = [one | {"response_mask": [0] * len(one["response_mask"])} for one in batch_rows()]
    with_rl = EchoConfig(world_model_coeff=0.5, normalizer="global_token_mean")
    (found,) = weigh([rank_rows(silent, with_rl)], with_rl, [float("nan")])
    assert float(torch.cat(list(found.weights)).double().sum()) == pytest.approx(0.5)
    assert found.effective_lambda is None


def test_rows_that_verl_made_up_are_neither_trained_nor_counted() -> None:
    """Catches verl's padding rows: copies of a row's fields around one token, which would train its masks again."""
    echo = EchoConfig(world_model_coeff=0.2, normalizer="sequence_mean_selected")
    rows = batch_rows()
    made_up = rows[0] | {"response_ids": [1], "response_mask": [0]}
    (alone,) = weigh([rank_rows(rows, echo)], echo, [1.0])
    (filled,) = weigh([rank_rows([*rows, made_up], echo)], echo, [1.0])
    for one, other in zip(alone.weights, filled.weights, strict=False):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert filled.weights[-1].tolist() == [0.0]
    assert filled.num_env_tokens == alone.num_env_tokens


def test_a_rank_of_made_up_rows_alone_has_part_in_every_sum() -> None:
    """Catches a rank without a real row that leaves the sums out, so that the others wait for it, or that fails."""
    echo = EchoConfig(world_model_coeff=0.2, normalizer="global_token_mean")
    asked: list[int] = []

    def add_up(values: torch.Tensor) -> torch.Tensor:
        asked.append(len(values))
        return values + 1

    empty = RankRows(masks=[None], action_masks=[torch.zeros(1, dtype=torch.bool)])
    found = environment_weights(empty, echo, add_up=add_up, policy_weight_sum=lambda _: 0.0)
    assert asked == [4, 3]
    assert found.weights[0].tolist() == [0.0]


def test_the_totals_that_verls_own_sum_gets_are_those_of_the_mini_batch() -> None:
    """Catches verl's aggregation of a rank being asked with the rank's own counts."""
    echo = EchoConfig(normalizer="global_token_mean")
    seen: list[StepTotals] = []
    rows = rank_rows(batch_rows(), echo)
    own = sum(int(mask.sum()) for mask in rows.action_masks)

    def policy_sum(totals: StepTotals) -> float:
        seen.append(totals)
        return 1.0

    environment_weights(rows, echo, add_up=lambda values: 2 * values, policy_weight_sum=policy_sum)
    assert seen[0].num_action_tokens == 2 * own
    assert seen[0].num_sequences == 2 * len(rows.masks)


def test_a_row_without_masks_or_with_masks_of_another_length_is_refused() -> None:
    """Catches ECHO that is configured and absent, and masks that train other tokens than they were made for."""
    echo = EchoConfig()
    with pytest.raises(DataError, match="no 'obs_mask'"):
        row_masks({}, response_length=3, acts=True, echo=echo)
    with pytest.raises(DataError, match="2 entries for a response of 3"):
        row_masks({"obs_mask": [0, 1]}, response_length=3, acts=True, echo=echo)


def test_sources_choose_targets_and_coefficients_and_masks_alone_choose_roles() -> None:
    """Catches a target or coefficient that is silently ignored because the row does not say its sources."""
    fields = {
        "obs_mask": [0, 1, 1, 0],
        "warning_mask": [0, 0, 0, 1],
        "sources": [s.code for s in (Source.POLICY, Source.STDOUT, Source.STDERR, Source.STATUS)],
    }
    weighted = EchoConfig(source_coeffs={Source.STDERR: 0.5})
    found = row_masks(fields, response_length=4, acts=True, echo=weighted)
    assert found is not None
    assert found.targets.tolist() == [False, True, True, False]
    assert found.coeffs[1:3].tolist() == [1.0, 0.5]
    found = row_masks(fields, response_length=4, acts=True, echo=EchoConfig(world_loss_target="stdout"))
    assert found is not None
    assert found.targets.tolist() == [False, True, False, False]
    assert found.observed.tolist() == [False, True, True, True]
    masks_alone = {key: fields[key] for key in ("obs_mask", "warning_mask")}
    with pytest.raises(ConfigError, match="all sources"):
        row_masks(masks_alone, response_length=4, acts=True, echo=weighted)
    found = row_masks(masks_alone, response_length=4, acts=True, echo=EchoConfig(world_loss_target="all"))
    assert isinstance(found, RowMasks)
    assert found.targets.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"policy": {"loss": "cispo"}}, "actor.policy_loss.loss_mode"),
        ({"policy": {"kl_coeff": 0.1}}, "actor.kl_loss_coef"),
        ({"tool_coeffs": {"search": 0.2}}, "source_coeffs"),
        ({"filters": {"correct_fraction": 0.5}}, "filters"),
        ({"noise": {"shuffle_observations": True}}, "nll_clip"),
        ({"schedule": {"kind": "linear"}}, "schedule"),
        ({"normalizer": "trl_token_mean"}, "global_token_mean"),
        ({"use_rl": False, "world_model_coeff": 0}, "nothing would be trained"),
        ({"world_model_coef": 0.1}, "Did you mean 'world_model_coeff'"),
    ],
    ids=lambda value: str(value),
)
def test_an_objective_that_verl_cannot_follow_is_refused_by_name(table: dict[str, Any], says: str) -> None:
    """Catches a setting that would do nothing inside verl."""
    with pytest.raises(ConfigError, match=says):
        verl_objective(table)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("trainer.use_v1", False, "trainer.use_v1=True"),
        ("actor_rollout_ref.actor.strategy", "megatron", "'fsdp' and 'fsdp2'"),
        ("actor_rollout_ref.actor.fsdp_config._target_", "verl.workers.config.FSDPEngineConfig", "without ECHO"),
        ("actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum-norm", "actor.loss_scale_factor"),
        ("actor_rollout_ref.rollout.calculate_log_probs", False, "calculate_log_probs=True"),
        ("algorithm.filter_groups", {"enable": True}, "allow_filter_groups"),
    ],
    ids=lambda value: str(value),
)
def test_a_setup_under_which_echo_would_be_absent_is_refused(path: str, value: Any, says: str) -> None:
    """Catches a run that is configured for ECHO and trains without it, or loses its rows on the way."""
    refuse_setup(SETUP)
    with pytest.raises(ConfigError, match=says):
        refuse_setup(setup_with(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size", 2),
        ("actor_rollout_ref.model.use_fused_kernels", True),
    ],
)
def test_another_temperature_needs_whole_logits(path: str, value: Any) -> None:
    """Catches a cross-entropy at the sampling temperature where logits are cut or never made."""
    config = setup_with(path, value)
    refuse_setup(config)
    config["actor_rollout_ref"]["rollout"]["temperature"] = 0.8
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        refuse_setup(config)


def test_a_group_filter_can_be_accepted_knowingly() -> None:
    """Catches a refusal that nobody can answer."""
    refuse_setup(setup_with("algorithm.filter_groups", {"enable": True}), allow_filter_groups=True)


def episode(tokenizer: Any, *, reward: float | None, observation: str = "a.log\nb.log\n") -> Trajectory:
    def said(role: str, *segments: tuple[Source, str]) -> Message:
        return Message(role=role, segments=tuple(Segment(source=s, text=t) for s, t in segments))  # pyright: ignore[reportArgumentType]

    ids = (*tokenizer("ls", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    action = said("assistant", (Source.POLICY, "ls")).model_copy(
        update={"sampled": SampledTokens(token_ids=ids, logprobs=(-0.5,) * len(ids), temperature=1.0)}
    )
    return Trajectory(
        id="e",
        task_id="t",
        group_id="g",
        messages=(
            said("system", (Source.SYSTEM, "A shell.")),
            said("user", (Source.TASK, "List.")),
            action,
            said("user", (Source.STDOUT, observation), (Source.STATUS, "[exit status 0]")),
        ),
        reward=reward,
        stop_reason=StopReason.WORLD_ERROR if reward is None else StopReason.COMPLETED,
    )


def test_a_rows_sources_stand_beside_its_masks_token_for_token(smollm2_tokenizer: Any) -> None:
    """Catches sources of the prompt put over the response, and masks that disagree with them."""
    (one,) = episode_rows(
        episode(smollm2_tokenizer, reward=1.0), ChatTokenizer(smollm2_tokenizer), response_length=99, failed_reward=0.0
    )
    extra = one["extra_fields"]
    assert one["reward_score"] == 1.0
    assert len(extra["sources"]) == len(one["response_ids"]) == len(one["response_logprobs"])
    is_obs = np.array(extra["sources"]) == Source.STDOUT.code
    assert is_obs.astype(int).tolist() == extra["obs_mask"]
    said = [token for token, mask in zip(one["response_ids"], extra["obs_mask"], strict=True) if mask]
    assert smollm2_tokenizer.decode(said) == "a.log\nb.log\n"


def test_a_response_is_cut_with_its_masks_and_lost_words_are_counted(smollm2_tokenizer: Any) -> None:
    """Catches a mask that is longer than its response, and observations that a length budget loses unseen."""
    whole, cut = (
        episode_rows(
            episode(smollm2_tokenizer, reward=1.0, observation="x" * 90),
            ChatTokenizer(smollm2_tokenizer),
            response_length=length,
            failed_reward=0.0,
        )[0]
        for length in (999, 12)
    )
    assert len(cut["response_ids"]) == len(cut["response_mask"]) == len(cut["response_logprobs"]) == 12
    assert {len(cut["extra_fields"][key]) for key in ("action_mask", "obs_mask", "warning_mask", "sources")} == {12}
    kept, lost = sum(cut["extra_fields"]["obs_mask"]), cut["extra_fields"]["num_env_tokens_dropped"]
    assert kept + lost == sum(whole["extra_fields"]["obs_mask"])
    assert lost > 0
    assert whole["extra_fields"]["num_env_tokens_dropped"] == 0


def test_a_failed_episode_keeps_its_observations_and_trains_no_action(smollm2_tokenizer: Any) -> None:
    """Catches a failure that is trained as a bad action, and one whose observations are thrown away."""
    (one,) = episode_rows(
        episode(smollm2_tokenizer, reward=None),
        ChatTokenizer(smollm2_tokenizer),
        response_length=99,
        failed_reward=-1.0,
    )
    assert one["reward_score"] == -1.0
    assert not any(one["response_mask"])
    assert sum(one["extra_fields"]["obs_mask"]) > 0


def test_an_episode_without_anything_to_train_is_a_row_that_no_term_reads(smollm2_tokenizer: Any) -> None:
    """Catches a world that never started and leaves verl's group a row short."""
    task = episode(smollm2_tokenizer, reward=None).messages[:2]
    broken = Trajectory(id="e", task_id="t", messages=task, stop_reason=StopReason.WORLD_ERROR)
    (one,) = episode_rows(broken, ChatTokenizer(smollm2_tokenizer), response_length=9, failed_reward=0.0)
    echo = EchoConfig(world_loss_target="all")
    masks = row_masks(one["extra_fields"], response_length=1, acts=False, echo=echo)
    assert masks is not None
    assert not masks.targets.any()
    assert one["response_mask"] == [0]
