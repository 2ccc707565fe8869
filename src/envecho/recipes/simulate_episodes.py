"""Every answer of stored episodes, predicted twice: behind the true history, and behind the model's own words.

    guided   task  action 1  answer 1   action 2  answer 2   action 3  [?]      answers are the world's
    free     task  action 1  guess 1    action 2  guess 2    action 3  [?]      answers are the model's own

Actions are the recorded ones in both. Episodes are decoded together, answer by answer, each with a cached history for
either mode. Not here: scores over all of them (`simulate_scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from envecho.errors import TemplateError
from envecho.evaluation.facts_status import episode_habit, exit_status
from envecho.recipes.simulate_answers import TrueAnswer, read_truth
from envecho.recipes.simulate_prompts import AnswerPrompt, Said, answer_prompt, require_sampling, say_as_world
from envecho.seam import Engine, SamplingSession
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Message, Role, Segment, Source, Trajectory
from envecho.worlds.explore.history import said_in
from envecho.worlds.suites import TerminalSuite

EPISODES_TOGETHER: Final = 8
_ANSWER_ROLES: Final = (Role.ENV_OUTPUT, Role.WARNING)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One answer of a stored episode: its message `turn`, its `number` from 1, the action before it, and the truth."""

    turn: int
    number: int
    command: str
    truth: TrueAnswer


@dataclass(kw_only=True)
class Answered:
    """What a model said in the place of an answer; None where it was not asked."""

    guided: Said | None = None
    free: Said | None = None


def answer_places(trajectory: Trajectory, *, most: int | None = None) -> list[Place]:
    """Return the answers of an episode that a model can speak in place of, at most `most`.

    Answers are messages behind the first action in which the environment or its harness speaks; an empty one counts. A
    message that holds a task, redacted text, or what broke the world, is none.
    """
    places: list[Place] = []
    command: str | None = None
    for turn, message in enumerate(trajectory.messages):
        if message.role == "assistant":
            command = "\n".join(said_in(message))
        elif command is not None and message.role in ("user", "tool") and _is_answer(message):
            truth = read_truth(message, shows_failures=_shows_failures(message, trajectory))
            places.append(Place(turn=turn, number=len(places) + 1, command=command, truth=truth))
    return places[:most]


def _shows_failures(answer: Message, trajectory: Trajectory) -> bool:
    """Whether a failure would show in this answer: the terminal world states it, others where the record says so."""
    if trajectory.metadata.get("world") == TerminalSuite.name:
        return True
    return exit_status(answer, trajectory, episode_habit(trajectory)) is not None


def _is_answer(message: Message) -> bool:
    sources = {segment.source for segment in message.segments}
    return Source.HARNESS_ERROR not in sources and all(source.role in _ANSWER_ROLES for source in sources)


def own_words(answer: Message, text: str) -> Message:
    """Return the message that keeps what a model said in the place of an answer."""
    segments = (Segment(source=Source.STDOUT, text=text),) if text else ()
    return answer.model_copy(update={"segments": segments, "labels": {}})


def simulate_episodes(
    engine: Engine,
    trajectories: Sequence[Trajectory],
    places: Sequence[Sequence[Place]],
    tokenizer: ChatTokenizer,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[Answered]]:
    """Return what the model says in every place of every episode, in both modes, greedily.

    Raises:
        EngineError: the engine does not sample.
    """
    require_sampling(engine)
    answered: list[list[Answered]] = []
    for start in range(0, len(trajectories), EPISODES_TOGETHER):
        batch = range(start, min(start + EPISODES_TOGETHER, len(trajectories)))
        with engine.sampling_session() as session:
            runs = [_Run(trajectories[number], places[number], tokenizer, max_tokens=max_tokens) for number in batch]
            table = _Table(runs, session, most=engine.capabilities.max_context_tokens - max_tokens)
            for number in range(max((len(run.places) for run in runs), default=0)):
                advance(table.answer(number))
        answered += [run.answered for run in runs]
    return answered


@dataclass
class _Run:
    """One episode while it is simulated; `words` are the messages so far with the model's own answers."""

    trajectory: Trajectory
    places: Sequence[Place]
    tokenizer: ChatTokenizer
    max_tokens: int = field(kw_only=True)
    answered: list[Answered] = field(default_factory=list[Answered])
    words: list[Message] | None = field(default_factory=list[Message])

    def guided_prompt(self, number: int) -> AnswerPrompt:
        """The prompt behind what the world really said."""
        turn = self.places[number].turn
        return self._prompt(self.trajectory.messages[:turn], turn)

    def free_prompt(self, number: int) -> AnswerPrompt | None:
        """The prompt behind the model's own words; None where they ended, or no template can render them."""
        if self.words is None:
            return None
        turn = self.places[number].turn
        self.words += self.trajectory.messages[len(self.words) : turn]
        try:
            return self._prompt(self.words, turn)
        except TemplateError:
            return None

    def take(self, number: int, answered: Answered) -> None:
        """Keep the answers; what was said freely is history from now on."""
        self.answered.append(answered)
        if self.words is not None and answered.free is not None:
            self.words.append(own_words(self.trajectory.messages[self.places[number].turn], answered.free.text))
        else:
            self.words = None

    def _prompt(self, history: Sequence[Message], turn: int) -> AnswerPrompt:
        return answer_prompt(history, self.trajectory.messages[turn], self.tokenizer, tools=self.trajectory.tools)


@final
class _Table:
    """The episodes of a batch at one session: rows 2k are guided, rows 2k + 1 free."""

    def __init__(self, runs: Sequence[_Run], session: SamplingSession, *, most: int) -> None:
        self._runs, self._session, self._most = runs, session, most

    def answer(self, number: int) -> int:
        """Say answer `number` of every episode that has one, and return how many those are."""
        going = [place for place, run in enumerate(self._runs) if number < len(run.places)]
        prompts: dict[int, AnswerPrompt] = {}
        same: set[int] = set()
        for place in going:
            run = self._runs[place]
            guided, free = run.guided_prompt(number), run.free_prompt(number)
            for row, prompt in ((2 * place, guided), (2 * place + 1, free)):
                if prompt is not None and len(prompt.token_ids) <= self._most:
                    prompts[row] = prompt
            if free is not None and np.array_equal(guided.token_ids, free.token_ids):
                same.add(place)  # the first answer, or every guess so far was exact
                prompts.pop(2 * place + 1, None)
        said = say_as_world(self._session, prompts, self._runs[0].tokenizer, max_tokens=self._runs[0].max_tokens)
        for place in going:
            guided = said.get(2 * place)
            free = guided if place in same else said.get(2 * place + 1)
            self._runs[place].take(number, Answered(guided=guided, free=free))
            if number + 1 == len(self._runs[place].places):
                self._session.drop(2 * place)
                self._session.drop(2 * place + 1)
        return len(going)
