"""Rollouts of a model: many episodes decoded together, turn by turn, and kept token for token.

    prompts of all live episodes -> one turn each from the engine's session -> worlds answer in threads -> next turn

A turn that was cut before its end is not carried out: the harness says so and the episode goes on. Whatever ends an
episode, its transcript is kept and its stop reason says what happened. Not here: what is trained, and scripted policies
(`episode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import WorldError
from envecho.rollout.journal import Journal
from envecho.rollout.protocol import (
    ToolProtocol,
    answer_message,
    cut_notice,
    harness_error,
    opening_messages,
    stated_tools,
    tool_names,
)
from envecho.seam import Engine, Sample, SamplingParams, TurnRequest, World
from envecho.tokens import ChatTokenizer, check_tool_template, render_prompt
from envecho.trajectory import (
    Message,
    SampledTokens,
    Segment,
    Source,
    StopReason,
    Trajectory,
)


@dataclass(frozen=True, kw_only=True)
class RolloutJob:
    """One episode to roll out. `key` seeds its draws, together with `RolloutParams.seed` and the turn.

    `world_seed` is what the world's `reset` gets; a world of a `TaskSuite` starts its own task whatever it is.
    """

    id: str
    task_id: str
    make_world: Callable[[], World]
    key: tuple[int, ...]
    group_id: str | None = None
    world_seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class RolloutParams:
    """How episodes are rolled out.

    `max_turns` bounds the actions, `max_tokens_per_turn` the tokens of one, `max_context_tokens` prompt and action
    together. `command_seconds` bounds one action in the world (None: the world's own). `episodes_per_batch` episodes
    are decoded together; which they are depends on their order alone. `unfinished_reward` is the reward of an episode
    that ran out of turns or context before its world graded it (None leaves it unknown). `tool_protocol` says how the
    tools of a world are shown (`envecho.rollout.protocol`): in the system message, or by the chat template.
    """

    max_turns: int
    max_tokens_per_turn: int
    max_context_tokens: int
    temperature: float = 1.0
    command_seconds: float | None = None
    episodes_per_batch: int = 64
    num_workers: int = 4
    seed: int = 0
    unfinished_reward: float | None = 0.0
    tool_protocol: ToolProtocol = "text"


def rollout(
    jobs: Sequence[RolloutJob],
    engine: Engine,
    tokenizer: ChatTokenizer,
    params: RolloutParams,
    *,
    journal: Journal | None = None,
) -> list[Trajectory]:
    """Roll out the episodes and return their records in the order of `jobs`.

    With a journal, a decode batch that it holds is read and not decoded again, and every other one is written as soon
    as it is whole.

    Raises:
        EngineError: the engine fails; a failure of a world is data.
        TemplateError: the chat template cannot render an episode exactly, or shows no tools and should.
    """
    if params.tool_protocol == "template":
        check_tool_template(tokenizer)
    done: list[Trajectory] = []
    for start in range(0, len(jobs), params.episodes_per_batch):
        batch = jobs[start : start + params.episodes_per_batch]
        name = [(job.id, job.key) for job in batch]
        kept = journal.read(name, params) if journal else None
        if kept is None:
            kept = _decode_batch(batch, engine, tokenizer, params)
            if journal:
                journal.write(name, params, kept)
        done += kept
    return done


def _decode_batch(
    jobs: Sequence[RolloutJob], engine: Engine, tokenizer: ChatTokenizer, params: RolloutParams
) -> list[Trajectory]:
    episodes = [_Episode(job, params) for job in jobs]
    sampling = SamplingParams(
        max_tokens=params.max_tokens_per_turn,
        temperature=params.temperature,
        seed=params.seed,
        stop_token_ids=(tokenizer.end_of_turn_id,),
    )
    with ThreadPoolExecutor(max_workers=params.num_workers) as pool, engine.sampling_session() as session:
        try:
            _all(pool.map(_Episode.start, episodes))
            for turn in range(params.max_turns):
                live = _with_room([e for e in episodes if e.is_live], tokenizer, params)
                if not live:
                    break
                rows = {id(episode): row for row, episode in enumerate(episodes)}
                requests = [
                    TurnRequest(row=rows[id(episode)], prompt=prompt, key=(*episode.job.key, turn))
                    for episode, prompt in live
                ]
                samples = session.sample(requests, sampling)
                acting = [episode for episode, _ in live]
                _all(pool.map(lambda pair: pair[0].act(pair[1], tokenizer), zip(acting, samples, strict=True)))
        finally:
            _all(pool.map(_Episode.close, episodes))
    return [episode.record() for episode in episodes]


def _all(results: Iterable[None]) -> None:
    """Wait for all of them, and raise what one of them raised."""
    for _ in results:
        pass


def _with_room(
    episodes: Sequence[_Episode], tokenizer: ChatTokenizer, params: RolloutParams
) -> list[tuple[_Episode, NDArray[np.int32]]]:
    """The prompt of each episode; one whose next turn has no room in the context is over."""
    live: list[tuple[_Episode, NDArray[np.int32]]] = []
    for episode in episodes:
        prompt = render_prompt(episode.messages, tokenizer, tools=episode.template_tools)
        if len(prompt) + params.max_tokens_per_turn > params.max_context_tokens:
            episode.stop = StopReason.MAX_TOKENS
        else:
            live.append((episode, prompt))
    return live


@final
class _Episode:
    """What one episode holds while it runs; its methods run in threads, one at a time for each episode."""

    def __init__(self, job: RolloutJob, params: RolloutParams) -> None:
        self.job, self._params = job, params
        self.messages: list[Message] = []
        self._tools: tuple[dict[str, Any], ...] = ()
        self.stop: StopReason | None = None
        self._reward: float | None = None
        self._world: World | None = None
        self._num_cut_turns = 0

    @property
    def is_live(self) -> bool:
        """Whether another turn may follow."""
        return self.stop is None

    @property
    def template_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the chat template shows."""
        return self._tools if self._params.tool_protocol == "template" else ()

    def start(self) -> None:
        """Make the world and let it state the task."""
        try:
            self._world = self.job.make_world()
            first = self._world.reset(seed=self.job.world_seed, episode_id=self.job.id)
            self._tools = stated_tools(first)
            self.messages += opening_messages(first, tool_protocol=self._params.tool_protocol)
        except WorldError as error:
            self._fail(error)

    def act(self, sample: Sample, tokenizer: ChatTokenizer) -> None:
        """Add the sampled turn and the answer to it."""
        message = sampled_message(sample, tokenizer, temperature=self._params.temperature)
        self.messages.append(message)
        if not sample.stopped:
            self._num_cut_turns += 1
            self.messages.append(cut_notice(len(sample.token_ids), as_tool=bool(self.template_tools)))
            return
        assert self._world is not None
        try:
            observation = self._world.step(message.content, timeout_s=self._params.command_seconds)
        except WorldError as error:
            self._fail(error)
            return
        if observation.segments:
            self.messages.append(answer_message(observation, {}, as_tool=bool(self.template_tools)))
        if observation.done:
            self.stop = StopReason.TIMEOUT if observation.timed_out else StopReason.COMPLETED
            self._reward = observation.reward

    def close(self) -> None:
        """Release the world."""
        if self._world is not None:
            self._world.close()

    def record(self) -> Trajectory:
        """Return what happened."""
        stop = self.stop or StopReason.MAX_TURNS
        reward = self._reward
        if reward is None and stop in (StopReason.MAX_TURNS, StopReason.MAX_TOKENS):
            reward = self._params.unfinished_reward
        return Trajectory(
            id=self.job.id,
            task_id=self.job.task_id,
            group_id=self.job.group_id,
            messages=tuple(self.messages),
            reward=reward,
            stop_reason=stop,
            tools=self.template_tools,
            metadata={
                **self.job.metadata,
                "num_cut_turns": self._num_cut_turns,
                **({"tools": tool_names(self._tools)} if self._tools else {}),
            },
        )

    def _fail(self, error: WorldError) -> None:
        self.messages.append(harness_error(error))
        self.stop = StopReason.WORLD_ERROR


def sampled_message(sample: Sample, tokenizer: ChatTokenizer, *, temperature: float) -> Message:
    """Return the assistant turn of a sample, with its exact ids, log-probs and entropies."""
    ids = [int(token) for token in sample.token_ids]
    text_ids = ids[:-1] if ids[-1:] == [tokenizer.end_of_turn_id] else ids
    text = tokenizer.hf.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    sampled = SampledTokens(
        token_ids=tuple(ids),
        logprobs=tuple(min(0.0, float(value)) for value in sample.logprobs),
        temperature=temperature,
        entropies=None if sample.entropies is None else tuple(max(0.0, float(value)) for value in sample.entropies),
    )
    return Message(role="assistant", segments=(Segment(source=Source.POLICY, text=str(text)),), sampled=sampled)
