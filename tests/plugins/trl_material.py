"""Trainers of a few thousand weights for the TRL plug-in: rows of a `rollout_func`, and a Qwen3 that calls tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import GRPOConfig

from envecho.objective import EchoConfig
from envecho.plugins.trl import EchoGRPOTrainer

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}


QUIET = [
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory'"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
"""Warnings of TRL about itself: experimental arguments, and names of transformers that it still uses."""


class Gradients(TrainerCallback):
    """Keeps the gradient of every optimiser step as it is before the step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.steps.append({name: value.grad.clone() for name, value in named if value.grad is not None})


def grpo_config(out: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 64,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-3,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return GRPOConfig(**(settings | changes))


def tiny_qwen3(vocab_size: int, *, model_class: type = Qwen3ForCausalLM, seed: int = 0, pad_id: int = 0) -> Any:
    torch.manual_seed(seed)
    return model_class(Qwen3Config(**SIZES, vocab_size=vocab_size, tie_word_embeddings=True, pad_token_id=pad_id))


def random_rows(num: int, *, vocab_size: int = 200, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of a `rollout_func`: action, scaffold, observation, warning, action; each of another length."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "obs_mask", "warning_mask", "env_reward")
    }
    for number in range(num):
        lengths = rng.integers(1, 6, 5).tolist()
        kinds = [kind for kind, n in zip(("a", "s", "o", "w", "a"), lengths, strict=True) for _ in range(n)]
        rows["prompt_ids"].append(rng.integers(2, vocab_size, 4 + number % 3).tolist())
        rows["completion_ids"].append(rng.integers(2, vocab_size, len(kinds)).tolist())
        rows["logprobs"].append([0.0] * len(kinds))
        for name, kind in (("env_mask", "a"), ("obs_mask", "o"), ("warning_mask", "w")):
            rows[name].append([int(k == kind) for k in kinds])
        rows["env_reward"].append(float(rng.integers(0, 3)))
    return rows


def reward_of_row(completions: Any, env_reward: Sequence[float], **_: Any) -> list[float]:
    return list(env_reward)


def rows_trainer(
    out: Path, tokenizer: Any, rows: dict[str, list[Any]], *, trainer_class: Any = EchoGRPOTrainer, **changes: Any
) -> tuple[Any, Gradients]:
    """Return a trainer on these rows, in their order, and what keeps its gradients; `changes` go to `GRPOConfig`.

    `echo`, `model`, `eval_dataset`, `peft_config` and `reward_funcs` among the changes go to the trainer.
    """
    gradients = Gradients()
    num = changes.get("num_generations", 2)
    own = {n: changes.pop(n) for n in ("echo", "eval_dataset", "peft_config", "reward_funcs") if n in changes}
    model = changes.pop("model", None) or tiny_qwen3(len(tokenizer))
    place = [0]

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        chosen = [(place[0] + k) % len(rows["prompt_ids"]) for k in range(len(prompts))]
        place[0] += len(prompts)
        return {name: [values[k] for k in chosen] for name, values in rows.items()}

    trainer = trainer_class(
        model=model,
        **({"reward_funcs": reward_of_row} | own),
        args=grpo_config(out, **changes),
        train_dataset=Dataset.from_dict({"prompt": [f"task {k}" for k in range(max(1, len(rows["logprobs"]) // num))]}),
        processing_class=tokenizer,
        callbacks=[gradients],
        rollout_func=rollout_func,
    )
    return trainer, gradients


class ScriptedQwen3(Qwen3ForCausalLM):
    """A Qwen3 whose `generate` says what a script says; everything else is the model's own."""

    script: Callable[[str], str]
    tokenizer: Any

    def generate(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:  # type: ignore[override]
        turns: list[torch.Tensor] = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            said = self.script(self.tokenizer.decode(ids[mask.bool()]))
            turns.append(torch.tensor(self.tokenizer(said)["input_ids"]))
        padded = torch.nn.utils.rnn.pad_sequence(turns, batch_first=True, padding_value=self.config.pad_token_id)
        return torch.cat([input_ids, padded], dim=1)


def small_qwen3_tokenizer(template: str) -> Any:
    """A tokenizer of a few hundred tokens with Qwen3's control tokens, for Qwen3's real template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator([template], trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    shown = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in shown])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.chat_template = template
    return tokenizer


def tool_call(name: str, **arguments: Any) -> str:
    import json

    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


ECHO = EchoConfig(world_model_coeff=0.05, normalizer="global_token_mean")
