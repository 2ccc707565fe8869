"""The training step of TRL's released `GRPOTrainer`, on tokens that are handed to it.

Its own loss, with its fused head, its wrapping of the model, its backward and its optimiser; generation, rewards and
the data loader are left out, so what is timed is less than a step of `train()`. Rows are padded as TRL pads them:
prompts on the left, completions on the right, to the longest of the step. With bfloat16 the weights are float32 under
autocast, which is what `bf16=True` means there. Not here: our subjects (`bench_step_subjects`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.pretrained import resolve_model
from envecho.engines.quiet import quiet_transformers
from envecho.extras import require_extra
from envecho.losses import WeightedBatch
from envecho.recipes.bench_step_cases import StepCase
from envecho.recipes.bench_step_subjects import STEP_PARAMS


@final
class TrlStep:
    """Plain GRPO by TRL: the tokens of the world are in the completion, and masked as those of a tool.

    Raises:
        ConfigError: TRL is not installed in the tested range.
    """

    def __init__(self, model: str, case: StepCase) -> None:
        require_extra("trl")
        self._max_tokens = case.micro_batch_tokens
        self._trainer = _trainer(model, case)
        accelerator = self._trainer.accelerator
        self._model, self._optimizer = accelerator.prepare(self._trainer.model, self._trainer.create_optimizer())
        self._model.train()

    def prepare(self, batch: WeightedBatch) -> list[dict[str, Tensor]]:
        """Return the micro-batches as TRL's own buffer holds them."""
        rows = [_row(batch, number) for number in range(batch.num_sequences)]
        columns = {name: value.to(self._trainer.accelerator.device) for name, value in _padded(rows).items()}
        width = columns["prompt_ids"].shape[1] + columns["completion_ids"].shape[1]
        rows_at_once = max(1, self._max_tokens // width)
        num_actions = columns["tool_mask"].sum()
        return [
            {name: value[start : start + rows_at_once] for name, value in columns.items()}
            | {"num_items_in_batch": num_actions}
            for start in range(0, len(rows), rows_at_once)
        ]

    def run_pass(self, prepared: list[dict[str, Tensor]]) -> None:
        """See `Subject`."""
        trainer = self._trainer
        # The loss is a mean over all actions of the step, so the sum over micro-batches needs no scale.
        trainer.current_gradient_accumulation_steps = 1
        for inputs in prepared:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(self._model, inputs)
            trainer.accelerator.backward(loss)

    def run_optimizer(self) -> float:
        """See `Subject`."""
        norm = self._trainer.accelerator.clip_grad_norm_(self._model.parameters(), STEP_PARAMS.grad_clip_norm)
        self._optimizer.step()
        self._model.zero_grad()
        return float(norm)

    def gradients(self) -> Mapping[str, NDArray[Any]]:
        """See `Subject`."""
        named = self._model.named_parameters()
        return {name: value.grad.numpy(force=True).copy() for name, value in named if value.grad is not None}


def _trainer(model: str, case: StepCase) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    folder = resolve_model(model)
    with quiet_transformers():
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    with tempfile.TemporaryDirectory() as out:
        arguments: Any = GRPOConfig(
            output_dir=out,
            use_cpu=not torch.cuda.is_available(),
            bf16=case.dtype == "bfloat16",
            activation_checkpointing=case.checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False},
            per_device_train_batch_size=2,
            num_generations=2,
            gradient_accumulation_steps=1,
            loss_type="dapo",
            beta=0.0,
            temperature=1.0,
            learning_rate=STEP_PARAMS.learning_rate,
            weight_decay=STEP_PARAMS.weight_decay,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer: Any = GRPOTrainer(
            model=network,
            reward_funcs=_no_reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["-", "-"]}),
            processing_class=tokenizer,
        )
    if case.checkpointing:
        # `train()` would turn it on; it is never called.
        trainer.model.activation_checkpointing_enable(arguments.activation_checkpointing_kwargs)
    return trainer


def _no_reward(completions: list[Any], **_: Any) -> list[float | None]:
    return [None] * len(completions)


def _row(batch: WeightedBatch, number: int) -> dict[str, Tensor]:
    places = torch.nonzero(batch.sequence_index == number).flatten()
    ids = batch.token_ids[places]
    is_action = batch.policy_weights[places] != 0
    start = int(torch.nonzero(is_action)[0])
    return {
        "prompt_ids": ids[:start],
        "completion_ids": ids[start:],
        "tool_mask": is_action[start:].long(),
        "advantages": batch.advantages[places[:1]],
    }


def _padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    from trl.trainer.utils import pad

    columns = {"advantages": torch.cat([row["advantages"] for row in rows])}
    columns["tool_mask"] = pad([row["tool_mask"] for row in rows], padding_side="right")
    for name, side in (("prompt", "left"), ("completion", "right")):
        ids = [row[f"{name}_ids"] for row in rows]
        columns[f"{name}_ids"] = pad(ids, padding_side=side)
        columns[f"{name}_mask"] = pad([torch.ones_like(row) for row in ids], padding_side=side)
    return columns
