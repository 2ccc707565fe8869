"""`rollout_in`: a `rollout_func` that plays the worlds of envecho with the trainer's own model.

Episodes run in envecho's rollout room: many at once, turn by turn, worlds with deadlines, every id kept. What is
sampled is sampled as TRL does without vLLM: by `generate` of the unwrapped model. A row says of every token who wrote
it. Not here: loss and masks (`trainer`), and tools that TRL calls itself (`environment_factory`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig
from trl.models.utils import unwrap_model_for_generation

from envecho.errors import ConfigError, DataError
from envecho.rollout import RolloutJob, RolloutParams, ToolProtocol, rollout
from envecho.seam import Sample, SamplingParams, SamplingSession, TaskSuite, TurnRequest
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.tokens.trainers.trl import row
from envecho.trajectory import Trajectory
from envecho.worlds.suites import open_suite

if TYPE_CHECKING:
    from datasets import Dataset
    from trl.trainer.grpo_trainer import GRPOTrainer


def rollout_in(
    world: str,
    *,
    split: str = "train",
    max_turns: int = 6,
    max_tokens_per_turn: int = 48,
    sandbox: str = "bubblewrap",
    families: Sequence[str] = (),
    tool_protocol: ToolProtocol = "text",
    command_seconds: float = 5.0,
) -> WorldRollouts:
    """Return a `rollout_func` for the tasks of a world, with its data set and its reward.

    Args:
        world: what `--world` takes: a name, an OpenEnv server's URL, a folder of Harbor tasks, `module:factory`.
        split: the tasks of the world that are rolled out.
        max_turns: actions of an episode.
        max_tokens_per_turn: sampled tokens of one action. `max_completion_length` bounds nothing here.
        sandbox: where the world runs.
        families: some of the world's task families; none: all.
        tool_protocol: how the world's tools are shown, `text` or `template`.
        command_seconds: what one action may take in the world.

    Raises:
        ConfigError: nothing has this name, or the world cannot follow the options.
    """
    suite = open_suite(world, sandbox=sandbox, max_turns=max_turns, families=families)
    params = RolloutParams(
        max_turns=max_turns,
        max_tokens_per_turn=max_tokens_per_turn,
        max_context_tokens=1,
        command_seconds=command_seconds,
        tool_protocol=tool_protocol,
    )
    return WorldRollouts(suite, split, params)


@final
class WorldRollouts:
    """A `rollout_func`: `rollouts(prompts, trainer)`; `max_context_tokens` and temperature are the trainer's."""

    def __init__(self, suite: TaskSuite, split: str, params: RolloutParams) -> None:
        self._suite, self._split, self._params = suite, split, params
        self._tokenizer: ChatTokenizer | None = None
        self._num_calls = 0

    def dataset(self, num_tasks: int) -> Dataset:
        """Return the first tasks of the split as `train_dataset` or `eval_dataset`; a prompt is a task's name here."""
        from datasets import Dataset

        known = self._suite.num_tasks(self._split)
        if known is not None and num_tasks > known:
            raise ConfigError(f"num_tasks is {num_tasks}, and {self._suite.name} has {known} in {self._split!r}")
        return Dataset.from_dict({"prompt": [f"{self._prefix}{number}" for number in range(num_tasks)]})

    @staticmethod
    def reward(completions: Sequence[Any], env_reward: Sequence[float | None], **_: Any) -> list[float | None]:
        """The world's own reward, as a reward function; None where nothing was graded."""
        return list(env_reward)

    def __call__(self, prompts: Sequence[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        """Roll out one episode per prompt and return its rows.

        Raises:
            ConfigError: the trainer samples in a way that is not that of its log-probs, or not by itself.
            DataError: a prompt is none of `dataset`, or the chat template rewrites the history of an episode.
        """
        owner: Any = trainer
        _refuse_sampling(owner)
        if self._tokenizer is None:
            self._tokenizer = ChatTokenizer(owner.processing_class)
        params = replace(
            self._params,
            max_context_tokens=int(owner.model.config.get_text_config().max_position_embeddings),
            temperature=float(owner.args.temperature),
        )
        self._num_calls += 1
        jobs = [self._job(prompt, place, owner) for place, prompt in enumerate(prompts)]
        sampler: Any = _TrainerSampler(owner)
        records = rollout(jobs, sampler, self._tokenizer, params)
        rows = [_row(record, self._tokenizer) for record in records]
        return {name: [r[name] for r in rows] for name in rows[0]}

    @property
    def _prefix(self) -> str:
        return f"{self._suite.name} {self._split} "

    def _job(self, prompt: Any, place: int, owner: Any) -> RolloutJob:
        text = str(prompt)
        if not (text.startswith(self._prefix) and text.removeprefix(self._prefix).isdecimal()):
            raise DataError(f"the prompt {text[:80]!r} names no task; use the data set of rollout_in(...).dataset")
        number = int(text.removeprefix(self._prefix))
        task = self._suite.task_id(self._split, number)
        return RolloutJob(
            id=f"trl-{owner.accelerator.process_index}-{self._num_calls}-{place}",
            task_id=task,
            group_id=task,
            make_world=lambda: self._suite.make_world(self._split, number),
            key=(self._num_calls, place),
            world_seed=number,
        )


def _refuse_sampling(owner: Any) -> None:
    args = owner.args
    if args.use_vllm:
        raise ConfigError("rollout_in samples with transformers; with use_vllm write a rollout_func that asks vLLM")
    if owner.is_fsdp_enabled or owner.is_deepspeed_enabled:
        raise ConfigError(
            "rollout_in lets each process play by itself, and a sharded model needs all of them in every turn; use DDP"
        )
    neutral = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    for name, value in neutral.items():
        if getattr(args, name) != value:
            raise ConfigError(
                f"{name} is {getattr(args, name)}, expected {value}: TRL's policy term reads log-probs of the whole"
                " distribution, so training samples are drawn from it"
            )


def _row(record: Trajectory, tokenizer: ChatTokenizer) -> dict[str, Any]:
    sequences = tokenize_trajectory(record, tokenizer)
    if len(sequences) > 1:
        raise DataError(
            f"episode {record.id!r} has {len(sequences)} histories, since the chat template rewrites earlier turns; a"
            " row of TRL is one sequence. Use a template that keeps them"
        )
    notes: Counter[str] = Counter()
    made = row(sequences[0], notes)
    if made is None:
        raise DataError(f"episode {record.id!r} holds no action and no answer")
    if made["logprobs"] is None:  # no action was sampled, so nobody reads them
        made["logprobs"] = [0.0] * len(made["completion_ids"])
    return made


@final
class _TrainerSampler:
    """The trainer's model as a `Sampler`."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    @contextmanager
    def sampling_session(self) -> Generator[SamplingSession]:
        """Open a session; the model is unwrapped for as long as it lasts."""
        owner = self._owner
        with (
            unwrap_model_for_generation(
                owner.model_wrapped,
                owner.accelerator,
                generation_kwargs=owner.generation_kwargs,
                gradient_checkpointing_kwargs=owner.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
        ):
            yield _Session(model, pad_id=int(owner.processing_class.pad_token_id))

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt."""
        with self.sampling_session() as session:
            requests = [TurnRequest(row=k, prompt=prompt, key=(k,)) for k, prompt in enumerate(prompts)]
            return session.sample(requests, params)


@final
class _Session:
    """Turns by `generate`, from the whole prompt each time; draws are torch's, which TRL seeds per process."""

    def __init__(self, model: Any, *, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request."""
        width = max(len(request.prompt) for request in requests)
        ids = torch.full((len(requests), width), self._pad_id, dtype=torch.int64)
        for place, request in enumerate(requests):
            ids[place, width - len(request.prompt) :] = torch.from_numpy(request.prompt.astype(np.int64))
        lengths = torch.tensor([len(request.prompt) for request in requests])
        real = torch.arange(width) >= width - lengths[:, None]
        device = self._model.device
        config = GenerationConfig(
            max_new_tokens=params.max_tokens,
            do_sample=True,
            temperature=params.temperature,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            eos_token_id=list(params.stop_token_ids),
            pad_token_id=self._pad_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        made: Any = self._model.generate(
            input_ids=ids.to(device), attention_mask=real.long().to(device), generation_config=config
        )
        scores = torch.log_softmax(torch.stack(made.scores, dim=1).float(), dim=-1)
        drawn = made.sequences[:, width:]
        logprobs = scores.gather(-1, drawn[..., None]).squeeze(-1)
        entropies = torch.special.entr(scores.exp()).sum(dim=-1)
        known = (values.cpu().numpy() for values in (drawn, logprobs, entropies))
        return [_sample(*row, stops=params.stop_token_ids) for row in zip(*known, strict=True)]

    def drop(self, row: int) -> None:
        """There is no cache to free."""


def _sample(ids: NDArray[Any], logprobs: NDArray[Any], entropies: NDArray[Any], *, stops: Sequence[int]) -> Sample:
    ends = np.flatnonzero(np.isin(ids, stops))
    length = int(ends[0]) + 1 if len(ends) else len(ids)
    return Sample(
        token_ids=ids[:length].astype(np.int32),
        logprobs=logprobs[:length].astype(np.float32),
        stopped=bool(len(ends)),
        entropies=entropies[:length].astype(np.float32),
    )
