"""TRL's private names that the plug-in uses, and the places whose behaviour it mirrors, as they were when tested.

`changed_names` compares them with the installed TRL; a test of this repository fails when it returns anything, so that
a new version of TRL is read before the range of the extra `trl` is widened. Not here: the public names, which are
`GRPOTrainer`'s constructor, `compute_loss`, `log`, `accelerator`, `args`, `state`, `model`, `tools`, `rollout_func`,
`chat_template` and `trl.models.utils.unwrap_model_for_generation`.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from typing import Any, Final

from trl.trainer.grpo_trainer import GRPOTrainer


@dataclass(frozen=True, kw_only=True)
class PrivateName:
    """A method of `GRPOTrainer`, why it is used, its parameters, and a digest of its source text.

    `is_overridden` methods call TRL's own and add to what they return; the others are relied on as they are.
    """

    name: str
    why: str
    parameters: str
    digest: str
    is_overridden: bool = False


SURFACE: Final = (
    PrivateName(
        name="_generate",
        why="returns the completions, their ids, the tool mask and a rollout_func's extra fields side by side",
        parameters="self, prompts",
        digest="2a27fdf8f5e6f356",
        is_overridden=True,
    ),
    PrivateName(
        name="_get_tool_suffix_ids",
        why="builds the ids of a turn of tool results, kept or dropped",
        parameters="self, tool_messages",
        digest="e62362aef61aa88c",
        is_overridden=True,
    ),
    PrivateName(
        name="_generate_and_score_completions",
        why="returns the columns that are shuffled and cut into micro-batches; masks are added as columns",
        parameters="self, inputs",
        digest="1fa48922792dcd5c",
        is_overridden=True,
    ),
    PrivateName(
        name="_prepare_inputs",
        why="keeps the micro-batches of a generation in _buffered_inputs, from which a step is counted",
        parameters="self, generation_batch",
        digest="f824e7fb07147956",
    ),
    PrivateName(
        name="_tool_call_loop",
        why="appends tool messages and ids in one order, and drops those beyond max_completion_length",
        parameters="self, prompts, prompt_ids, completion_ids, completions, logprobs, images, multimodal_fields",
        digest="1c501f7f3b469f7e",
    ),
    PrivateName(
        name="_compute_loss",
        why="makes one forward pass, and divides by the numbers that step_weights.policy_weight repeats",
        parameters="self, model, inputs",
        digest="80295546bbdbf6f7",
    ),
)


def describe(name: str) -> tuple[str, str]:
    """Return parameters and digest of a method of the installed `GRPOTrainer`."""
    method: Any = inspect.unwrap(inspect.getattr_static(GRPOTrainer, name))
    text = inspect.getsource(method)
    return ", ".join(inspect.signature(method).parameters), hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_names() -> list[str]:
    """Return one line for each name that is gone or is not what it was when it was tested."""
    lines: list[str] = []
    for known in SURFACE:
        if not hasattr(GRPOTrainer, known.name):
            lines.append(f"GRPOTrainer.{known.name} is gone; it {known.why}")
        elif (found := describe(known.name)) != (known.parameters, known.digest):
            lines.append(f"GRPOTrainer.{known.name} changed to {found}; it {known.why}")
    return lines
