"""A study in miniature: a tiny random model in the depot, two arms, two seeds, two steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import tomli_w
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.recipes.depot_tokenizer import train_depot_tokenizer
from envecho.recipes.study_config import StudyConfig, study_from_document
from envecho.rollout import EpisodeJob, run_episode
from envecho.trajectory.store import write_trajectories
from envecho.worlds.suites import open_suite

ECHO = {"objective.world_model_coeff": 0.05, "objective.world_loss_target": "all"}
"""A random model is answered by warnings alone, so these are trained too."""


def write_material(folder: Path) -> Path:
    """Write `model/` (some ten thousand random weights) and `held_out.parquet`, four walks of an explorer."""
    tokenizer = train_depot_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    suite = open_suite("depot", max_turns=2)

    def walk(number: int) -> Any:
        return run_episode(
            EpisodeJob(
                id=f"walk-{number}",
                task_id=suite.task_id("held_out", number),
                seed=0,
                make_world=lambda: suite.make_world("held_out", number),
                make_policy=lambda: suite.scripted_policy("held_out", number, policy="explore", seed=0),
            )
        )

    write_trajectories(folder / "held_out.parquet", map(walk, range(4)))
    return folder


def study_document(material: Path) -> dict[str, Any]:
    """The document of the miniature study."""
    return {
        "study": {"name": "mini", "question": "Does it run?", "seeds": [0, 1]},
        "base": {
            "model": {
                "name": str(material / "model"),
                "device": "cpu",
                "compute_dtype": "float32",
            },
            "rollout": {
                "world": "depot",
                "tasks_per_step": 2,
                "rollouts_per_task": 2,
                "max_turns": 2,
                "max_tokens_per_turn": 4,
            },
            "evaluation": {
                "every": 1,
                "split": "held_out",
                "num_tasks": 3,
                "data": [str(material / "held_out.parquet")],
            },
            "optimizer": {"learning_rate": 3e-3, "schedule": "constant"},
            "run": {"steps": 2, "checkpoint_every": 1},
        },
        "arms": [
            {"name": "grpo", "label": "GRPO", "set": {"objective.world_model_coeff": 0.0}},
            {"name": "echo", "label": "ECHO 0.05", "set": ECHO},
        ],
    }


def changed(document: dict[str, Any], **tables: dict[str, Any]) -> StudyConfig:
    """The study of a document with keys of `study` or `base` replaced (`base.model` is written `base_model`)."""
    document = copy.deepcopy(document)
    for name, keys in tables.items():
        section = document
        for part in name.split("_"):
            section = section.setdefault(part, {})
        section.update(keys)
    return study_from_document(document)


def write_document(path: Path, document: dict[str, Any]) -> Path:
    """Write the document as TOML."""
    path.write_text(tomli_w.dumps(document))
    return path
