"""`EchoGRPOTrainer`: TRL's `GRPOTrainer` with the environment term of ECHO in the same forward pass.

    generation     TRL's, as it is; which tokens are the world's words is noted beside it     row_masks, tool_turns
    first micro-   three integers of the whole optimiser step, over all processes             step_weights
      batch
    forward        TRL's, as it is; targets are read at T = 1 from its hidden states          body_reader
    loss           TRL's + num_processes * sum(weight * nll): TRL has scaled its loss to the
                   step, transformers adds micro-batches up, and processes are averaged

At world_model_coeff = 0 the loss is TRL's own tensor, and the same numbers are logged. TRL's private names that are
used stand in `surface`. Not here: anything about the policy term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from envecho.errors import EngineError
from envecho.losses import BatchLoss
from envecho.losses.weights import StepTotals
from envecho.objective import EchoConfig
from envecho.objective.schedule import lambda_at
from envecho.plugins.trl.body_reader import BodyReader, env_batch
from envecho.plugins.trl.row_masks import RowMasks, as_columns, rows_of_fields
from envecho.plugins.trl.settings import refuse_options, refuse_setup
from envecho.plugins.trl.step_sums import LogLine, StepSums
from envecho.plugins.trl.step_weights import (
    Cut,
    Inputs,
    count,
    num_dropped,
    num_unproved,
    policy_weight,
    target_mask,
    token_weights,
    totals_of,
)
from envecho.plugins.trl.tool_turns import BuiltSuffix, ToolTurnReader, rows_of_turns


@final
class EchoGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` that also trains on what the world answered.

    Args:
        args: of `GRPOTrainer`, unchanged.
        echo: what is trained and what it is worth; its policy settings are TRL's own here and are refused.
        kwargs: of `GRPOTrainer`, unchanged: `environment_factory`, `tools` or `rollout_func` among them.

    Raises:
        ConfigError: an option cannot be followed inside TRL, or the set-up would leave ECHO inert or inexact.
        TemplateError: the tokenizer cannot keep a tool's words and control tokens apart.
        EngineError: the model's logits cannot be read from its hidden states.
    """

    def __init__(self, *args: Any, echo: EchoConfig, **kwargs: Any) -> None:
        refuse_options(echo)
        super().__init__(*args, **kwargs)
        refuse_setup(self, echo)
        self.echo = echo
        self._echo_args: Any = self.args
        self._echo_model: Any = self.model
        self._echo_body = BodyReader(
            self._echo_model.get_base_model() if is_peft_model(self._echo_model) else self._echo_model,
            head_in_float32=self._echo_args.cast_lm_head_to_fp32,
        )
        self._echo_turns = self._turn_reader() if self.tools else None
        self._echo_built: list[BuiltSuffix] = []
        self._echo_rows: Sequence[RowMasks] = ()
        self._echo_place = 0
        self._echo_totals = StepTotals(num_action_tokens=0, num_env_tokens=0, num_sequences=0)
        self._echo_sums = StepSums()
        self._echo_lines = {"train": LogLine(), "eval": LogLine()}

    # --- masks: noted beside TRL's generation ------------------------------------------------------------------------

    def _turn_reader(self) -> ToolTurnReader:
        settings: Any = self.chat_template_kwargs
        return ToolTurnReader(self.processing_class, chat_template=self.chat_template, template_kwargs=settings)

    def _get_tool_suffix_ids(self, tool_messages: Any) -> Any:
        ids = super()._get_tool_suffix_ids(tool_messages)
        self._echo_built.append(BuiltSuffix(tool_messages=tool_messages, token_ids=ids))
        return ids

    def _generate(self, prompts: list[Any]) -> Any:
        self._echo_built = []
        generated: Any = super()._generate(prompts)
        _, completion_ids, tool_masks, completions, _, extra_fields, _, _ = generated
        if self._echo_turns is None:
            self._echo_rows = rows_of_fields(extra_fields, completion_ids, tool_masks, self.echo.world_loss_target)
        else:
            self._echo_rows = rows_of_turns(
                completions, completion_ids, tool_masks, self._echo_built, reader=self._echo_turns, echo=self.echo
            )
        return generated

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output | as_columns(self._echo_rows, like=output["completion_ids"])

    # --- loss --------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return TRL's loss and the environment term, scaled so that the averages that follow give the exact sum."""
        trains = bool(self._echo_model.training)
        accumulation: int = self.current_gradient_accumulation_steps if trains else 1
        place = self._echo_place % accumulation
        if place == 0:
            window = self._window(inputs, accumulation) if trains else (inputs,)
            self._echo_totals = totals_of(self._summed(count(window)))
        coeff = lambda_at(self.echo, self.state.global_step + 1, self.state.max_steps)
        weights = token_weights(inputs, self._echo_totals, self.echo, world_model_coeff=coeff)
        batch = env_batch(
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            weights,
            target_mask(inputs),
            nll_clip=self.echo.noise.nll_clip,
        )
        with self._echo_body.reading(batch) as reading:
            loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        read = reading.result
        self._note(inputs, read, weights, accumulation if trains else None)
        if trains:
            self._echo_place += 1
        if not trains or place == accumulation - 1:
            self._close_step("train" if trains else "eval", coeff)
        if not self.echo.use_rl:
            return self.accelerator.num_processes * read.loss
        # Where nothing is weighed TRL's loss alone connects every parameter, and keeps every bit of its gradient.
        return loss + self.accelerator.num_processes * read.loss if bool(weights.any()) else loss

    def _window(self, inputs: Inputs, accumulation: int) -> list[Inputs]:
        """All micro-batches of this process that the optimiser step takes, of which `inputs` is the first."""
        buffered: Any = self._buffered_inputs or ()
        num_parts: int = self._echo_args.steps_per_generation
        places = [(self._echo_place + k) % num_parts for k in range(accumulation)]
        if len(buffered) != num_parts or buffered[places[0]] is not inputs:
            raise EngineError(
                "TRL trains on another micro-batch than the one that was expected, so the optimiser step cannot be"
                " counted before it begins; this version of TRL cuts a generation in a way that was never tested"
            )
        return [buffered[place] for place in places]

    def _note(self, inputs: Inputs, read: BatchLoss, weights: Tensor, accumulation: int | None) -> None:
        targets = target_mask(inputs)
        nats = -read.env_logprobs.reshape(len(targets), -1)[:, -targets.shape[1] :][targets]
        cut = Cut(
            loss_type=self.loss_type,
            accumulation=accumulation or 1,
            steps_per_generation=None if accumulation is None else self._echo_args.steps_per_generation,
            num_processes=self.accelerator.num_processes,
            max_completion_length=self._echo_args.max_completion_length,
        )
        self._echo_sums += StepSums(
            env_nats=float(nats.double().sum()),
            num_env_tokens=float(targets.sum()),
            env_loss=float(read.env_loss),
            env_weight=float(weights.double().sum()),
            policy_weight=policy_weight(inputs, cut) if self.echo.use_rl else 0.0,
            num_env_tokens_dropped=num_dropped(inputs),
            num_rows_unproved=num_unproved(inputs),
        )

    def _close_step(self, mode: str, coeff: float) -> None:
        sums = StepSums.of_tensor(self._summed(self._echo_sums.as_tensor(self.accelerator.device)))
        self._echo_lines[mode].add(sums, world_model_coeff=coeff)
        self._echo_sums = StepSums()

    def _summed(self, values: Tensor) -> Tensor:
        found: Any = self.accelerator.reduce(values, reduction="sum")
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's numbers and those of the environment term."""
        trains = bool(self._echo_model.training)
        logs.update(self._echo_lines["train" if trains else "eval"].take("" if trains else "eval_"))
        super().log(logs, start_time)
