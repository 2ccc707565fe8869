"""SkyRL's trainer with our plug-in: the committed batch as a generator's output, through one real training step.

What runs without a GPU, and what stands in for the rest, says `skyrl_cpu`. SkyRL's loss sees log-probs at one
temperature alone, so the setting at 0.8 is not measured: the plug-in refuses it.
"""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import torch

from envecho.extras import require_extra
from envecho.objective import EchoConfig, PolicyConfig
from envecho.plugins.skyrl import register_echo_losses, with_env_masks
from envecho.plugins.skyrl.trainer import check_config
from envecho.recipes.agreement.case import PAD_ID, ROLLOUTS_PER_GROUP, Setting
from envecho.recipes.agreement.compare import Measured
from envecho.recipes.agreement.subjects.skyrl_cpu import import_model_wrapper, train_once, trainer_on_cpu
from envecho.tokens import env_target_mask
from envecho.tokens.trainers import skyrl
from envecho.trajectory import Role

PACKAGES: Final = ("skyrl", "torch", "transformers")
_REDUCTIONS: Final = {
    "global_token_mean": "token_mean",
    "verl_token_mean": "token_mean",
    "sequence_mean_selected": "sequence_mean",
    "reference_sequence_mean": "sequence_mean",
    "constant_length": "seq_mean_token_sum_norm",
}
_NOTE: Final = "loss_reduction={}; Ray, FSDP and flash-attn are stood in for"
_ROWS: Final = ((8, 1), (2, 1), (2, 2))
"""Rollouts per micro-batch, and ranks that run one after the other, their gradients averaged as FSDP does."""


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure the trainer in float32: whole, in micro-batches of two, and so on two ranks."""
    if setting.temperature != 1.0:
        return []
    require_extra("skyrl")
    return [_measure(model, setting, rows=rows, ranks=ranks) for rows, ranks in _ROWS]


def skyrl_config(objective: EchoConfig, *, num_groups: int, rows: int, ranks: int = 1) -> Any:
    """Return SkyRL's configuration for an objective of ours."""
    config: Any = importlib.import_module("skyrl.train.config").SkyRLTrainConfig
    settings = {
        "trainer.algorithm.policy_loss_type": "echo_regular",
        "trainer.algorithm.temperature": 1.0,
        "trainer.algorithm.loss_reduction": _REDUCTIONS[objective.preset.normalizer],
        "trainer.algorithm.max_seq_len": objective.constant_length,
        "trainer.algorithm.use_kl_loss": False,
        "trainer.train_batch_size": num_groups,
        "trainer.policy_mini_batch_size": num_groups,
        "trainer.micro_train_batch_size_per_gpu": rows,
        "trainer.micro_forward_batch_size_per_gpu": rows,
        "trainer.remove_microbatch_padding": False,
        "trainer.placement.policy_num_gpus_per_node": ranks,
        "generator.n_samples_per_prompt": ROLLOUTS_PER_GROUP,
    }
    return config.from_cli_overrides(settings)


def generator_output(setting: Setting) -> tuple[dict[str, Any], list[str]]:
    """Return the committed batch as a generator's output with marks, and the group of each rollout."""
    sequences = sorted(setting.sequences(), key=lambda s: str(s.group_id))
    rows: list[dict[str, Any]] = []
    targets: list[list[int]] = []
    observations: list[list[int]] = []
    for sequence in sequences:
        row = skyrl.row(sequence, Counter())
        assert row is not None
        rows.append(row)
        behind = slice(len(row["prompt_token_ids"]), None)
        chosen = env_target_mask(sequence, world_loss_target=setting.objective.world_loss_target)
        said = sequence.role_mask(Role.ENV_OUTPUT) | sequence.role_mask(Role.WARNING)
        targets.append(chosen[behind].astype(int).tolist())
        observations.append(said[behind].astype(int).tolist())
    names = ("prompt_token_ids", "response_ids", "rewards", "loss_masks", "stop_reasons", "rollout_logprobs")
    output = {name: [row[name] for row in rows] for name in names}
    return with_env_masks(output, targets, observations), [str(s.group_id) for s in sequences]


def _measure(model: Path, setting: Setting, *, rows: int, ranks: int) -> Measured:
    from transformers import AutoModelForCausalLM

    # The setting's policy half is SkyRL's own: GRPO, clip 0.2, over the trainer's log-probs.
    objective = setting.objective.model_copy(update={"policy": PolicyConfig()})
    output, uids = generator_output(setting)
    import_model_wrapper()
    register_echo_losses()
    cfg = skyrl_config(objective, num_groups=len(set(uids)), rows=rows, ranks=ranks)
    check_config(cfg, objective)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    trainer = trainer_on_cpu(cfg, objective, network, pad_id=PAD_ID, ranks=ranks)
    status = train_once(trainer, output, uids)
    metrics = trainer.all_metrics
    gradient = {n: v.grad.numpy().copy() for n, v in network.named_parameters() if v.grad is not None}
    note = _NOTE.format(cfg.trainer.algorithm.loss_reduction)
    return Measured(
        loss=status["policy_loss"],
        env_ce=metrics["policy/env_ce"],
        effective_lambda=metrics.get("policy/effective_lambda"),
        gradient=gradient,
        accumulation=len(uids) // ranks // rows,
        note=note if ranks == 1 else f"{note}; two ranks one after the other",
    )
