"""Stored rollouts in TRL's own training step: rows with their advantages, handed to a `rollout_func` in a fixed order.

TRL divides a group's rewards by their standard deviation + 1e-4, ECHO's reference code by it + 1e-6. To compare the
rest exactly, the advantages are computed here and handed over as rewards, with `scale_rewards="none"`. Not here: what
is compared (`agreement.subjects.trl`, `trl_curves`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from envecho.losses import group_advantages
from envecho.objective import EchoConfig
from envecho.tokens import TokenizedTrajectory
from envecho.tokens.trainers.trl import row

FIELDS: Final = (
    "prompt_ids",
    "completion_ids",
    "logprobs",
    "env_mask",
    "obs_mask",
    "warning_mask",
    "env_reward",
)


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rows_with_advantages(sequences: Sequence[TokenizedTrajectory]) -> list[dict[str, Any]]:
    """Return the rows of these rollouts, each with its advantage in the place of its reward."""
    groups = np.unique([str(s.group_id) for s in sequences], return_inverse=True)[1]
    rewards = torch.tensor([float(s.reward or 0.0) for s in sequences], dtype=torch.float64)
    advantages = group_advantages(rewards, torch.from_numpy(groups), kind="group_std")
    notes: Counter[str] = Counter()
    rows = [row(sequence, notes) for sequence in sequences]
    return [{**r, "env_reward": float(a)} for r, a in zip(rows, advantages, strict=True) if r is not None]


def stored_trainer(
    model: Path, rows: Sequence[Mapping[str, Any]], echo: EchoConfig, *, callbacks: Sequence[Any] = (), **args: Any
) -> Any:
    """Return an `EchoGRPOTrainer` on the CPU that trains on these rows, a group per prompt, in the order of the groups.

    Args:
        model: a folder, loaded in float32.
        rows: as `rows_with_advantages` returns them.
        echo: what is trained; its policy settings are left to TRL.
        callbacks: of transformers.
        args: of `GRPOConfig`.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig

    from envecho.plugins.trl import EchoGRPOTrainer

    fixed: dict[str, Any] = {
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "scale_rewards": "none",
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return EchoGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=_stated_reward,
        args=GRPOConfig(**(fixed | args)),
        train_dataset=Dataset.from_dict({"prompt": list(dict.fromkeys(r["group_id"] for r in rows))}),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        callbacks=list(callbacks),
        rollout_func=lambda prompts, _: _answer(prompts, rows),
        echo=echo,
    )


def _answer(prompts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rollouts of the prompts that this process is asked for, each one once."""
    used: Counter[str] = Counter()
    chosen: list[Mapping[str, Any]] = []
    for prompt in prompts:
        chosen.append([r for r in rows if r["group_id"] == prompt][used[prompt]])
        used[prompt] += 1
    return {name: [r[name] for r in chosen] for name in FIELDS}


def _stated_reward(completions: Sequence[Any], env_reward: Sequence[float], **_: Any) -> list[float]:
    return list(env_reward)
