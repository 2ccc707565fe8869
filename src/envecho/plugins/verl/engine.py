"""verl's FSDP engine with the environment term added to whatever loss verl trains.

    actor_rollout_ref.actor.fsdp_config._target_=envecho.plugins.verl.EchoFSDPEngineConfig

Importing this module registers `EchoFSDPEngine` in verl's `EngineRegistry` for the present device and vendor, which
verl prefers to its own entry for the device. Once per mini-batch the engine counts over all data parallel ranks and
gives each target its weight; per micro-batch it adds `sum(weight * -log p at T = 1)` to the loss that verl computed.
verl's loss, its masks and its metrics are called as they are. An engine whose configuration is verl's own does nothing
else than verl's, so reference policies stay what they are.

verl's registry of policy losses is no place for the term: a loss there sees log-probs at the sampling temperature and
the response mask, and neither the agent loop's fields nor the mini-batch. Not here: weights (`step_weights`), masks
(`row_masks`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, final

import torch
from torch import Tensor

from envecho.errors import ConfigError, EngineError
from envecho.extras import require_extra
from envecho.losses.environment import clipped_ce, environment_ce
from envecho.losses.weights import StepTotals
from envecho.objective import EchoConfig
from envecho.plugins.verl.row_masks import OBS_MASK, RowMasks, row_masks
from envecho.plugins.verl.settings import LENGTH_OF_MICRO_BATCH, needs_whole_logits, verl_objective
from envecho.plugins.verl.step_weights import EnvironmentWeights, RankRows, environment_weights

require_extra("verl")
_core_algos: Any = import_module("verl.trainer.ppo.core_algos")
_device: Any = import_module("verl.utils.device")
_fields: Any = import_module("verl.utils.tensordict_utils")
_functional: Any = import_module("verl.utils.torch_functional")
_metric: Any = import_module("verl.utils.metric")
_verl_config: Any = import_module("verl.workers.config")
_registry: Any = import_module("verl.workers.engine.base").EngineRegistry
_DTensor: Any = import_module("torch.distributed.tensor").DTensor
_FSDPEngine: Any = import_module("verl.workers.engine.fsdp.transformer_impl").FSDPEngineWithLMHead

_WEIGHTS: Final = "envecho_weights"
_TARGETS: Final = "envecho_targets"
_LOGPROBS: Final = "env_log_probs"
_EXTRA: Final = "extra_fields"


@dataclass
class EchoFSDPEngineConfig(_verl_config.FSDPEngineConfig):
    """`FSDPEngineConfig` of verl with an objective: the keys of envecho's TOML table `[objective]`.

    Raises:
        ConfigError: a key or value of the objective is unknown, or the plug-in cannot follow it.
    """

    objective: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        super().__post_init__()
        verl_objective(self.objective)


@final
class EchoFSDPEngine(_FSDPEngine):
    """verl's `FSDPEngineWithLMHead` that trains on observations, too; see the module."""

    def __init__(self, model_config: Any, engine_config: Any, optimizer_config: Any, checkpoint_config: Any) -> None:
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        is_echo = isinstance(engine_config, EchoFSDPEngineConfig)
        self._echo: EchoConfig | None = verl_objective(engine_config.objective) if is_echo else None

    def forward_backward_batch(self, data: Any, loss_function: Callable[..., Any], forward_only: bool = False) -> Any:
        """Run verl's forward and backward passes over a mini-batch, with the environment term in its loss.

        Raises:
            ConfigError: ECHO would be inert or inexact with this configuration of verl.
            DataError: a row has no masks, or masks that do not fit it.
        """
        if forward_only:
            return super().forward_backward_batch(data, loss_function, forward_only)
        if self._echo is None:
            _refuse_masks_without_objective(data)
            return super().forward_backward_batch(data, loss_function, forward_only)
        actor = _actor_config(loss_function)
        self._refuse_setup(data, actor)
        weighed = environment_weights(
            _rank_rows(data, self._echo),
            self._echo,
            add_up=self._add_up,
            policy_weight_sum=functools.partial(_policy_weight_sum, data, actor),
        )
        data[_WEIGHTS] = _before_each_token(weighed.weights, data)
        data[_TARGETS] = _before_each_token(weighed.targets, data)
        loss = functools.partial(_loss, verl_loss=loss_function, echo=self._echo, weighed=weighed)
        return super().forward_backward_batch(data, loss, forward_only)

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, logits_processor_func: Any
    ) -> dict[str, Any]:
        """Return verl's outputs and, where actions were sampled at another temperature than 1, targets at T = 1.

        They are read before verl divides the logits, and only where a target is predicted.
        """
        at_one: Tensor | None = None
        if _TARGETS in micro_batch and not _is_one(micro_batch["temperature"]):
            at_one = _target_logprobs(output.logits, micro_batch)
        outputs: dict[str, Any] = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if at_one is not None:
            outputs[_LOGPROBS] = torch.nested.nested_tensor_from_jagged(at_one, micro_batch["input_ids"].offsets())
        return outputs

    def _add_up(self, values: Tensor) -> Tensor:
        on_device = values.to(_device.get_device_id())
        torch.distributed.all_reduce(on_device, group=self.get_data_parallel_group())
        return on_device.cpu()

    def _refuse_setup(self, data: Any, actor: Any) -> None:
        if actor.loss_agg_mode == "seq-mean-token-sum-norm" and actor.loss_scale_factor is None:
            raise ConfigError(LENGTH_OF_MICRO_BATCH)
        if _fields.get_non_tensor_data(data, key="distillation_use_topk", default=False):
            raise ConfigError("distillation over the top k reads logits inside its loss; ECHO was never made for it")
        if _is_one(data["temperature"]):
            return
        if self.use_ulysses_sp:
            raise ConfigError(needs_whole_logits("ulysses_sequence_parallel_size"))
        if _fields.get_non_tensor_data(data, key="use_fused_kernels", default=False):
            raise ConfigError(needs_whole_logits("use_fused_kernels"))


def _loss(
    *,
    model_output: Mapping[str, Any],
    data: Any,
    dp_group: Any = None,
    verl_loss: Callable[..., Any],
    echo: EchoConfig,
    weighed: EnvironmentWeights,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's loss of a micro-batch and the environment term; verl averages over ranks, hence `dp_size`."""
    policy, metrics = None, {}
    if echo.use_rl:
        policy, metrics = verl_loss(model_output=model_output, data=data, dp_group=dp_group)
    rows = torch.nonzero(data[_TARGETS].values()).flatten()
    # Without a target the sum below is a zero that is connected to what verl read.
    at_one = _LOGPROBS if _LOGPROBS in model_output and len(rows) else "log_probs"
    logprobs = model_output[at_one].values()
    losses = environment_ce((logprobs if echo.world_model_coeff else logprobs.detach())[rows])
    kept = losses if echo.noise.nll_clip is None else clipped_ce(losses, clip=echo.noise.nll_clip)
    env = data["dp_size"] * (kept * data[_WEIGHTS].values()[rows]).sum()
    metrics = {**metrics, **_metrics(losses, env, dp_size=data["dp_size"], weighed=weighed)}
    if policy is None:
        return env, metrics
    return (policy + env if echo.world_model_coeff else policy), metrics


def _metrics(losses: Tensor, env: Tensor, *, dp_size: int, weighed: EnvironmentWeights) -> dict[str, Any]:
    """Metrics of a micro-batch: verl takes their mean over ranks, then the sum or mean over micro-batches."""
    total = _metric.AggregationType.SUM
    same = _metric.AggregationType.MEAN
    found = {
        "actor/env_loss": _metric.Metric(value=env.detach(), aggregation=total),
        "actor/num_env_tokens": _metric.Metric(value=weighed.num_env_tokens, aggregation=same),
        "actor/num_env_tokens_dropped": _metric.Metric(value=weighed.num_env_tokens_dropped, aggregation=same),
    }
    if weighed.num_env_tokens:
        share = dp_size * losses.detach().double().sum() / weighed.num_env_tokens
        found["actor/env_ce"] = _metric.Metric(value=share, aggregation=total)
    if weighed.effective_lambda is not None:
        found["actor/effective_lambda"] = _metric.Metric(value=weighed.effective_lambda, aggregation=same)
    return found


def _target_logprobs(logits: Any, micro_batch: Any) -> Tensor:
    """Log-probs at T = 1 `[token]` of what follows each token where that is a target, 0 elsewhere."""
    if isinstance(logits, _DTensor):
        raise EngineError("the logits are sharded over the vocabulary; set rollout.temperature=1.0")
    ids, offsets = micro_batch["input_ids"].values(), micro_batch["input_ids"].offsets()
    places = torch.nonzero(micro_batch[_TARGETS].values()).flatten()
    following = ids[places + 1]
    if logits.shape[0] == 1:
        chosen = logits[0, places]
    else:
        row = torch.searchsorted(offsets, places, right=True) - 1
        chosen = logits[row, places - offsets[row]]
    found = torch.zeros(len(ids), dtype=torch.float32, device=ids.device)
    if not len(places):
        return found
    return found.index_put((places,), _functional.logprobs_from_logits(chosen, following).float())


def _rank_rows(data: Any, echo: EchoConfig) -> RankRows:
    loss_mask = data["loss_mask"]
    if not loss_mask.is_nested:
        raise ConfigError("the batch is padded, as verl's old trainer makes it; set trainer.use_v1=True")
    action_masks = [mask.bool().cpu() for mask in loss_mask.unbind()]
    masks: list[RowMasks | None] = [
        row_masks(fields, response_length=len(action), acts=bool(action.any()), echo=echo)
        for fields, action in zip(_extra_fields(data), action_masks, strict=True)
    ]
    return RankRows(masks=masks, action_masks=action_masks)


def _extra_fields(data: Any) -> list[Mapping[str, Any]]:
    """The agent loop's extra fields of each row; empty ones where there are none."""
    found = _fields.get(data, _EXTRA)
    return [{}] * len(data) if found is None else list(found)


def _refuse_masks_without_objective(data: Any) -> None:
    if any(OBS_MASK in fields for fields in _extra_fields(data)):
        raise ConfigError(
            f"the rows have {OBS_MASK!r}, but actor.fsdp_config is verl's own, so ECHO would be silently absent; set"
            " actor_rollout_ref.actor.fsdp_config._target_=envecho.plugins.verl.EchoFSDPEngineConfig"
        )


def _actor_config(loss_function: Callable[..., Any]) -> Any:
    """Return the actor's configuration, which verl's workers bind to the loss that they give to an engine."""
    config = loss_function.keywords.get("config") if isinstance(loss_function, functools.partial) else None
    if config is None:
        raise EngineError(
            f"expected verl's loss with its actor configuration bound, found {loss_function!r}; set it by"
            " functools.partial(loss, config=actor_config), as verl's workers do"
        )
    return config


def _policy_weight_sum(data: Any, actor: Any, totals: StepTotals) -> float:
    """What verl's weights of the policy term add up to on this rank, by verl's own `agg_loss` of ones."""
    mask = torch.nested.to_padded_tensor(data["loss_mask"], 0).cpu()
    return float(
        _core_algos.agg_loss(
            loss_mat=torch.ones(mask.shape, dtype=torch.float64),
            loss_mask=mask,
            loss_agg_mode=actor.loss_agg_mode,
            batch_num_tokens=totals.num_action_tokens,
            global_batch_size=data["global_batch_size"],
            loss_scale_factor=actor.loss_scale_factor,
        )
    )


def _before_each_token(values: Sequence[Tensor], data: Any) -> Tensor:
    """Values `[token]` of each response, put where verl's log-probs have them: at the token before."""
    ids = data["input_ids"]
    offsets = ids.offsets().tolist()
    flat = torch.zeros(offsets[-1], dtype=values[0].dtype)
    for row, end in zip(values, offsets[1:], strict=True):
        flat[end - len(row) - 1 : end - 1] = row
    return torch.nested.nested_tensor_from_jagged(flat.to(ids.device), ids.offsets())


def _is_one(temperature: Any) -> bool:
    return bool((torch.as_tensor(temperature) == 1).all())


_registry.register(
    model_type="language_model",
    backend=["fsdp", "fsdp2"],
    device=_device.get_device_name(),
    vendor=_device.get_vendor(),
)(EchoFSDPEngine)
