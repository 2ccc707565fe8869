"""A training run in miniature: a byte-level BPE tokenizer with ChatML, a tiny Llama, and pools of shell episodes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from envecho.training.config import RunConfig
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import write_trajectories

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def episode(number: int) -> Trajectory:
    """A task and two commands with their output; the second output is derivable from the first."""
    draw = random.Random(number)
    lines = [
        f"{draw.choice(['GET', 'PUT'])} /{draw.choice(['a', 'b'])} {draw.choice([200, 404, 500])}" for _ in range(4)
    ]
    turns = [
        ("cat app.log", "\n".join(lines) + "\n", {"view": "first"}),
        ("grep 500 app.log", "".join(f"{line}\n" for line in lines if "500" in line), {"view": "derivable"}),
    ]
    messages = [Message(role="user", segments=(Segment(source=Source.TASK, text="Look at app.log."),))]
    for command, output, labels in turns:
        messages.append(Message(role="assistant", segments=(Segment(source=Source.POLICY, text=command),)))
        answer = (Segment(source=Source.STDOUT, text=output), Segment(source=Source.STATUS, text="[exit status 0]"))
        messages.append(Message(role="user", segments=answer, labels=labels))
    return Trajectory(id=f"episode-{number}", task_id=f"task-{number % 5}", messages=tuple(messages))


def silent_episode(number: int) -> Trajectory:
    """An episode in which the world never answered: no token to train."""
    whole = episode(number)
    return whole.model_copy(update={"messages": whole.messages[:2]})


def write_model(folder: Path) -> Path:
    """Write a Llama of some ten thousand weights with a tokenizer of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [message.content for number in range(40) for message in episode(number).messages]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*text, "user assistant system"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHATML)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_pools(folder: Path) -> dict[str, Path]:
    """Write a training, a validation and a held-out pool of distinct episodes; one training episode is silent."""
    pools = {
        "train": [*map(episode, range(10)), silent_episode(10)],
        "validation": [*map(episode, range(100, 103))],
        "held_out": [*map(episode, range(200, 203))],
    }
    paths = {name: folder / f"{name}.parquet" for name in pools}
    for name, trajectories in pools.items():
        write_trajectories(paths[name], trajectories)
    return paths


def document(model: Path, pools: dict[str, Path], /, **tables: dict[str, Any]) -> dict[str, Any]:
    """The TOML document of a short run; `tables` update single keys."""
    base: dict[str, dict[str, Any]] = {
        "model": {"name": str(model), "device": "cpu", "compute_dtype": "float32", "tokens_per_micro_batch": 128},
        "data": {name: str(path) for name, path in pools.items()},
        "objective": {"use_rl": False, "world_model_coeff": 1.0, "normalizer": "global_token_mean"},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
        "run": {"steps": 6, "trajectories_per_step": 3, "validate_every": 2, "checkpoint_every": 2},
    }
    return {name: {**table, **tables.get(name, {})} for name, table in base.items()}


def tiny_config(folder: Path, **tables: dict[str, Any]) -> RunConfig:
    """Write model and pools into a folder (once) and return the configuration of a short run over them."""
    model, data = folder / "model", folder / "data"
    if not model.is_dir():
        model.mkdir(parents=True)
        data.mkdir()
        write_model(model)
        write_pools(data)
    pools = {name: data / f"{name}.parquet" for name in ("train", "validation", "held_out")}
    return RunConfig.from_document(document(model, pools, **tables))
