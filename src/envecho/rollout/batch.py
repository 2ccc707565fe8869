"""Rollouts of a model: many episodes decoded together, turn by turn, and kept token for token.

    episodes in threads: prompt -> ask -> turn -> their world answers -> prompt ...
    this thread:         a batch of turns from the sampler's session, whenever one is due

A turn that was cut before its end is not carried out: the harness says so and the episode goes on. Whatever ends an
episode, its transcript is kept and its stop reason says what happened. Not here: when a batch is due (`exchange`),
worlds and their deadlines (`live`, `crew`), what is trained, and policies without an engine (`episode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from envecho.errors import ConfigError, EngineError
from envecho.rollout.crew import Crew
from envecho.rollout.exchange import Exchange, Schedule, TurnsFailedError
from envecho.rollout.journal import Journal
from envecho.rollout.limits import Rules, WorldLimits
from envecho.rollout.live import LiveEpisode, Surroundings
from envecho.rollout.play import Action, play
from envecho.rollout.protocol import ToolProtocol
from envecho.seam import Sample, Sampler, SamplingParams, SamplingSession, TurnRequest, World
from envecho.tokens import ChatTokenizer, check_tool_template, render_prompt
from envecho.trajectory import Message, SampledTokens, Segment, Source, StopReason, Trajectory


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
    together. `command_seconds` bounds one action in the world (None: the world's own); `limits` holds the other
    deadlines. `unfinished_reward` is the reward of an episode that ran out of turns or context before its world graded
    it (None leaves it unknown). `tool_protocol` says how the tools of a world are shown (`envecho.rollout.protocol`).

    `num_workers` worlds work at the same time. `schedule` says when turns are decoded:

    - `lockstep`: the next `episodes_per_batch` episodes together, each turn when all of them have their answer; which
      they are depends on their order alone.
    - `ready`: whoever has an answer, at most `episodes_per_batch` at a time; a request waits up to `ready_seconds`
      for company. An episode starts when another ends.

    `max_live_episodes` bounds the worlds that are open at once under both; None: `episodes_per_batch`.
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
    schedule: Schedule = "lockstep"
    max_live_episodes: int | None = None
    ready_seconds: float = 0.1
    limits: WorldLimits = field(default_factory=WorldLimits)

    def __post_init__(self) -> None:
        counts = {
            "max_turns": self.max_turns,
            "episodes_per_batch": self.episodes_per_batch,
            "num_workers": self.num_workers,
            "max_live_episodes": self.num_live,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")

    @property
    def num_live(self) -> int:
        """How many worlds are open at once at most."""
        return self.episodes_per_batch if self.max_live_episodes is None else self.max_live_episodes

    @property
    def rules(self) -> Rules:
        """What every episode has to keep to."""
        return Rules(
            max_turns=self.max_turns,
            command_seconds=self.command_seconds,
            tool_protocol=self.tool_protocol,
            unfinished_reward=self.unfinished_reward,
            limits=self.limits,
        )


def rollout(
    jobs: Sequence[RolloutJob],
    sampler: Sampler,
    tokenizer: ChatTokenizer,
    params: RolloutParams,
    *,
    journal: Journal | None = None,
) -> list[Trajectory]:
    """Roll out the episodes and return their records in the order of `jobs`.

    With a journal, what it holds is read and not decoded again, and the rest is written as soon as it is whole: a
    decode batch under `lockstep`, an episode under `ready`.

    Raises:
        EngineError: the sampler fails; a failure of a world, or of one turn among others, is data.
        TemplateError: the chat template cannot render an episode exactly, or shows no tools and should.
    """
    if params.tool_protocol == "template":
        check_tool_template(tokenizer)
    if params.schedule == "ready":
        return _roll_out_ready(jobs, sampler, tokenizer, params, journal)
    done: list[Trajectory] = []
    num = min(params.episodes_per_batch, params.num_live)
    for start in range(0, len(jobs), num):
        batch = jobs[start : start + num]
        name = [(job.id, job.key) for job in batch]
        kept = journal.read(name, params) if journal else None
        if kept is None:
            records = dict(_decode(batch, sampler, tokenizer, params))
            kept = [records[number] for number in range(len(batch))]
            if journal:
                journal.write(name, params, kept)
        done += kept
    return done


def _roll_out_ready(
    jobs: Sequence[RolloutJob],
    sampler: Sampler,
    tokenizer: ChatTokenizer,
    params: RolloutParams,
    journal: Journal | None,
) -> list[Trajectory]:
    records: dict[int, Trajectory] = {}
    for number, job in enumerate(jobs):
        kept = journal.read([(job.id, job.key)], params) if journal else None
        if kept is not None:
            (records[number],) = kept
    missing = [number for number in range(len(jobs)) if number not in records]
    for place, record in _decode([jobs[number] for number in missing], sampler, tokenizer, params):
        number = missing[place]
        records[number] = record
        if journal:
            journal.write([(jobs[number].id, jobs[number].key)], params, [record])
    return [records[number] for number in range(len(jobs))]


def _decode(
    jobs: Sequence[RolloutJob], sampler: Sampler, tokenizer: ChatTokenizer, params: RolloutParams
) -> Iterator[tuple[int, Trajectory]]:
    """Run the jobs, and yield number and record of each when it is over."""
    rules = params.rules
    sampling = SamplingParams(
        max_tokens=params.max_tokens_per_turn,
        temperature=params.temperature,
        seed=params.seed,
        stop_token_ids=(tokenizer.end_of_turn_id,),
    )

    def make(number: int, around: Surroundings) -> LiveEpisode:
        episode = LiveEpisode(jobs[number], rules, world_seed=jobs[number].world_seed, around=around)
        episode.counts["num_cut_turns"] = 0
        return episode

    def run(episode: LiveEpisode, number: int) -> None:
        play(episode, _EngineActor(number, jobs[number].key, exchange, tokenizer, params))

    crew = Crew(
        len(jobs),
        make,
        run,
        num_live=params.num_live,
        num_workers=params.num_workers,
        grace_seconds=params.limits.grace_seconds,
    )
    exchange = Exchange(crew, params.schedule, most=params.episodes_per_batch, ready_seconds=params.ready_seconds)
    with sampler.sampling_session() as session, crew, exchange:
        while requests := exchange.due():
            exchange.answer(_outcomes(session, requests, sampling))
            for number, record in crew.take_finished():
                session.drop(number)
                yield number, record
        yield from crew.take_finished()


def _outcomes(
    session: SamplingSession, requests: Sequence[TurnRequest], params: SamplingParams
) -> Sequence[Sample | EngineError]:
    try:
        return session.sample(requests, params)
    except TurnsFailedError as error:
        return error.outcomes


@final
class _EngineActor:
    """The turns of a model: a prompt for each, handed to whoever decodes."""

    def __init__(
        self, row: int, key: tuple[int, ...], exchange: Exchange, tokenizer: ChatTokenizer, params: RolloutParams
    ) -> None:
        self._row, self._key, self._exchange, self._tokenizer, self._params = row, key, exchange, tokenizer, params

    def act(self, episode: LiveEpisode, turn: int) -> Action | StopReason:
        params = self._params
        prompt = render_prompt(episode.messages, self._tokenizer, tools=episode.template_tools)
        if len(prompt) + params.max_tokens_per_turn > params.max_context_tokens:
            return StopReason.MAX_TOKENS
        sample = self._exchange.ask(TurnRequest(row=self._row, prompt=prompt, key=(*self._key, turn)))
        message = sampled_message(sample, self._tokenizer, temperature=params.temperature)
        return Action(message=message, cut=None if sample.stopped else len(sample.token_ids))


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
