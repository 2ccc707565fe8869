"""Any generator of SkyRL, with the observations of its rollouts marked.

The ids are taken as they are: the text of a response is read through the model's chat template, and a token is marked
only where the template's own rendering proves whose it is (docs/formats/calls.md). A rollout that cannot be read so is
left without marks and counted. Not here: rollouts themselves, and generators that know their masks (`with_env_masks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from envecho.errors import DataError, TemplateError
from envecho.formats import calls
from envecho.formats.assemble import ImportOptions
from envecho.formats.reading import Document
from envecho.plugins.skyrl.channel import with_env_masks
from envecho.tokens import ChatTokenizer, WorldLossTarget, env_target_mask, tokenize_trajectory
from envecho.tokens.id_text import IdReader
from envecho.trajectory import Role


class Generator(Protocol):
    """SkyRL's `GeneratorInterface`."""

    async def generate(self, input_batch: Any) -> Any:
        """Return the trajectories of a batch of prompts."""
        ...


class RowMarks(NamedTuple):
    """Marks of one response, 0 or 1 per token: targets, and all that the world said."""

    targets: list[int]
    observations: list[int]


MarkRow = Callable[[Sequence[int], Sequence[int], Sequence[int]], RowMarks | None]
"""Prompt ids, response ids and loss mask in; None where the row cannot be read."""


class EchoGenerator:
    """A generator whose training outputs carry marks; evaluation passes through untouched.

    Args:
        inner: the generator that rolls out, for example SkyRL's own.
        mark: how the observations of a response are found; `template_marks(folder)` reads any chat template.
    """

    def __init__(self, inner: Generator, mark: MarkRow) -> None:
        self._inner = inner
        self._mark = mark

    async def generate(self, input_batch: Any) -> Any:
        """Roll out, then mark; `rollout_metrics` gains `generate/num_rollouts_without_marks`.

        Raises:
            DataError: the output has no log-probs to carry marks.
        """
        output: Mapping[str, Any] = await self._inner.generate(input_batch)
        metadata = input_batch.get("batch_metadata")
        if getattr(metadata, "training_phase", "train") != "train":
            return output
        rows = zip(output["prompt_token_ids"], output["response_ids"], output["loss_masks"], strict=True)
        found = [self._mark(prompt, response, mask) for prompt, response, mask in rows]
        empty = [RowMarks(targets=[0] * len(ids), observations=[0] * len(ids)) for ids in output["response_ids"]]
        marks = [row or none for row, none in zip(found, empty, strict=True)]
        marked = with_env_masks(output, [row.targets for row in marks], [row.observations for row in marks])
        unread = sum(row is None for row in found)
        return {
            **marked,
            "rollout_metrics": {
                **(output.get("rollout_metrics") or {}),
                "generate/num_rollouts_without_marks": float(unread),
            },
        }


def template_marks(folder: str | Path, *, world_loss_target: WorldLossTarget = "env_only") -> MarkRow:
    """Return a function that marks a response by the chat template of the model in `folder` (or of a hub name)."""
    tokenizer, reader = ChatTokenizer.from_pretrained(str(folder)), IdReader(folder)

    def mark(prompt: Sequence[int], response: Sequence[int], loss_mask: Sequence[int]) -> RowMarks | None:
        row = {"prompt_ids": list(prompt), "completion_ids": list(response), "loss_mask": [int(v) for v in loss_mask]}
        options = ImportOptions(reader=reader, redactor=None)
        try:
            (trajectory,) = calls.read(Document(file="rollout", data={"calls": [row]}), options)
            (sequence,) = tokenize_trajectory(trajectory, tokenizer)
        except (DataError, TemplateError, ValueError):
            return None
        if sequence.token_ids[: len(prompt) + len(response)].tolist() != [*prompt, *response]:
            return None
        behind = slice(len(prompt), len(prompt) + len(response))
        policys = np.array(loss_mask) != 0
        targets = env_target_mask(sequence, world_loss_target=world_loss_target)[behind] & ~policys
        said = sequence.role_mask(Role.ENV_OUTPUT) | sequence.role_mask(Role.WARNING)
        return RowMarks(
            targets=targets.astype(int).tolist(), observations=(said[behind] & ~policys).astype(int).tolist()
        )

    return mark
