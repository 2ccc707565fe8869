"""SkyRL's trainer with the environment term: marks become weights once per optimiser step, and are logged.

Two public methods of `RayPPOTrainer` are extended, each calls SkyRL's own: the constructor, which refuses what would
make ECHO wrong or inert, and `train_critic_and_policy`. Not here: the loss on the workers (`loss`).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from envecho.errors import ConfigError, DataError
from envecho.extras import require_extra
from envecho.objective import EchoConfig, lambda_at
from envecho.plugins.skyrl.channel import read_marks, with_weights
from envecho.plugins.skyrl.loss import BASES, PREFIX, register_echo_losses
from envecho.plugins.skyrl.weights import check_objective, step_weights


def check_config(cfg: Any, objective: EchoConfig) -> None:
    """Check a `SkyRLTrainConfig` before the run.

    Raises:
        ConfigError: a setting would make the environment term wrong or inert; the message says what to set.
    """
    algorithm = cfg.trainer.algorithm
    twins = [PREFIX + name for name in BASES]
    if algorithm.policy_loss_type not in twins:
        raise ConfigError(
            f"trainer.algorithm.policy_loss_type is {algorithm.policy_loss_type!r}, which has no environment term;"
            f" expected one of {', '.join(twins)}"
        )
    if algorithm.temperature is not None and algorithm.temperature != 1.0:
        raise ConfigError(
            f"trainer.algorithm.temperature is {algorithm.temperature}: SkyRL's loss sees log-probs at that temperature"
            f" alone, and the cross-entropy is at 1. Set trainer.algorithm.temperature=1.0 (ratios are then at 1, too)"
        )
    if cfg.generator.step_wise_trajectories:
        raise ConfigError(
            "generator.step_wise_trajectories puts observations into prompts, which SkyRL never scores; set it to false"
        )
    if cfg.generator.sampling_params.logprobs is None:
        raise ConfigError("generator.sampling_params.logprobs is null, and marks travel with log-probs; set it to 1")
    check_objective(objective, loss_reduction=algorithm.loss_reduction, max_seq_len=algorithm.max_seq_len)


def trainer_class() -> type[Any]:
    """Return the trainer, a subclass of SkyRL's `RayPPOTrainer` that takes `objective` beside SkyRL's arguments.

    Raises:
        ConfigError: SkyRL is absent, or of a version that this was never tested with.
    """
    require_extra("skyrl")
    base: Any = importlib.import_module("skyrl.train.trainer").RayPPOTrainer

    class EchoPPOTrainer(base):
        """`RayPPOTrainer` whose batches carry the environment's weights to the loss."""

        def __init__(self, *args: Any, objective: EchoConfig, cfg: Any, **kwargs: Any) -> None:
            check_config(cfg, objective)
            register_echo_losses()
            self.objective = objective
            self.observed = False
            super().__init__(*args, cfg=cfg, **kwargs)

        def train_critic_and_policy(self, data: Any) -> Any:
            """Weigh the observations of the batch, then train as SkyRL does."""
            self.all_metrics.update(self.weigh_observations(data))
            return super().train_critic_and_policy(data)

        def weigh_observations(self, data: Any) -> dict[str, float]:
            """Turn the marks of a batch into weights, and return what is logged."""
            check_padding(data, ranks=self.dispatch.dp_size("policy"))
            step = max(1, self.global_step)
            coeff = lambda_at(self.objective, step, self.total_training_steps or step)
            metrics = write_weights(data, self.objective, world_model_coeff=coeff)
            self.observed = self.observed or metrics["policy/num_env_tokens"] > 0
            if not self.observed:
                raise DataError(
                    "no token of this batch is marked as an observation, so nothing would be learnt from the world:"
                    " wrap the generator in EchoGenerator, or mark its output by with_env_masks"
                )
            return metrics

    return EchoPPOTrainer


def write_weights(data: Any, objective: EchoConfig, *, world_model_coeff: float) -> dict[str, float]:
    """Write the weights of a `TrainingInputBatch` into its `rollout_logprobs`, and return what is logged.

    Without `use_rl` the advantages become 0. `env_ce` is read from SkyRL's own pass over the batch, at T = 1.

    Raises:
        DataError: the batch has no log-probs, in which marks travel.
    """
    logprobs, loss_mask = data["rollout_logprobs"], data["loss_mask"]
    if logprobs is None:
        raise DataError("the batch has no rollout_logprobs, in which marks travel; see with_env_masks")
    marks = read_marks(logprobs, loss_mask)
    boundaries = data.metadata["policy_mini_batch_boundaries"]
    found = step_weights(marks, loss_mask, boundaries, objective, world_model_coeff=world_model_coeff)
    data["rollout_logprobs"] = with_weights(logprobs, loss_mask, found.weights)
    if not objective.use_rl:
        data["advantages"] = torch.zeros_like(data["advantages"])
    metrics = {"policy/num_env_tokens": float(found.num_targets), "policy/world_model_coeff": world_model_coeff}
    if found.num_targets:
        metrics["policy/env_ce"] = float(-data["action_log_probs"][marks.targets].double().mean())
    if found.effective_lambda is not None:
        metrics["policy/effective_lambda"] = found.effective_lambda
    return metrics


def check_padding(data: Any, *, ranks: int) -> None:
    """Refuse a batch that SkyRL fills up with copies of a row: a copy's observations would be trained again.

    Raises:
        DataError: its rollouts do not divide by the ranks.
    """
    boundaries = data.metadata["policy_mini_batch_boundaries"]
    if data.metadata.get("pad_size") or any((end - start) % ranks for start, end in boundaries):
        raise DataError(
            f"the rollouts of a batch do not divide by {ranks} ranks, and SkyRL pads with copies of a row; choose"
            f" policy_mini_batch_size * n_samples_per_prompt as a multiple of {ranks}"
        )
