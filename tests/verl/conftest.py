"""verl on the CPU, for this folder alone; without verl its tests are skipped."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from verl_present import has_verl

if has_verl():
    from envecho.recipes.agreement.subjects.verl import CPU_ENVIRONMENT

    os.environ.update(CPU_ENVIRONMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import verl.workers.engine  # noqa: F401


@pytest.fixture(scope="session")
def depot_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of few weights behind the depot's own tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from envecho.recipes.depot_tokenizer import train_depot_tokenizer

    folder = tmp_path_factory.mktemp("depot")
    tokenizer = train_depot_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def verl_config(depot_model: Path) -> Any:
    """verl's own configuration, composed by hydra, with the overrides of examples/verl."""
    from hydra import compose, initialize_config_module

    overrides = [
        f"actor_rollout_ref.model.path={depot_model}",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
        "actor_rollout_ref.actor.fsdp_config._target_=envecho.plugins.verl.EchoFSDPEngineConfig",
        "+actor_rollout_ref.actor.fsdp_config.objective.world_model_coeff=0.05",
        "+actor_rollout_ref.actor.fsdp_config.objective.normalizer=global_token_mean",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.n=2",
        "data.max_prompt_length=64",
        "data.max_response_length=160",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=overrides)
