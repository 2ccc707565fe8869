"""The interactive game: a person acts, the model answers as the world would, and the real world answers beside it.

    game.act("cat app.log")  ->  Turn(said=what the model wrote, truth=what the world said, nats of the truth, ...)

Two histories are kept: the true one, and one in which every answer is the model's own. `free` says which one the model
reads. Without a world there is only the second. Not here: reading and printing lines (`envecho.cli.simulate`), and
stored episodes (`simulate_episodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast, final, get_args

from envecho.errors import ConfigError, WorldError
from envecho.evaluation.simulation import Guess
from envecho.recipes.collect_episodes import CollectConfig, open_collect_suite
from envecho.recipes.simulate_answers import TrueAnswer, read_truth
from envecho.recipes.simulate_episodes import own_words
from envecho.recipes.simulate_prompts import answer_prompt, require_sampling, say_as_world, truth_nats
from envecho.recipes.simulate_scores import score_guess
from envecho.recipes.terminal_jobs import EXPLORE_INSTRUCTION
from envecho.rollout import RolloutJob
from envecho.rollout.limits import Rules
from envecho.rollout.live import LiveEpisode, alone
from envecho.rollout.protocol import answer_message, opening_messages, stated_tools, structured_call
from envecho.seam import Engine, Observation, SamplingSession, TaskSuite, World
from envecho.tokens import ChatTokenizer, check_tool_template
from envecho.trajectory import Message, Segment, Source, StopReason, Trajectory
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.suites import TerminalSuite
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.families import TriageTask
from envecho.worlds.terminal.tasks import split_box
from envecho.worlds.terminal.world import SYSTEM_PROMPT
from envecho.worlds.tools.suite import ToolSuite

MOST_TURNS: Final = 10_000
"""Actions of one game: a person ends it, not the world's limit."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One action of the person, the model's answer, and the world's (None: no world, or an episode that it ended).

    `nats` is what the true output costs the model behind the history that it read, over `num_tokens` environment
    tokens. `over` says that the episode ended with this action, and why; `reward` is what the world then gave.
    """

    number: int
    free: bool
    command: str
    guess: Guess
    truth: TrueAnswer | None
    nats: float | None = None
    num_tokens: int = 0
    over: StopReason | None = None
    reward: float | None = None


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a game begins with: the messages that state the task, and the tools that the chat template shows."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@final
class Game:
    """One episode: the model beside a live world, or alone. Close it; it may be closed twice.

    Raises:
        EngineError: the engine does not sample.
        WorldError: the world does not start, or fails.
    """

    def __init__(
        self, engine: Engine, tokenizer: ChatTokenizer, *, opening: Opening | None, world: LiveEpisode | None,
        max_tokens: int, shows_failures: bool,
    ) -> None:  # fmt: skip
        require_sampling(engine)
        self._engine, self._tokenizer, self._world, self._max_tokens = engine, tokenizer, world, max_tokens
        self._shows_failures = shows_failures
        self.free = world is None
        self._number = 0
        if world is not None:
            world.start()
            opening = Opening(messages=tuple(world.messages), tools=world.template_tools)
        if opening is None:
            raise ConfigError("expected a world, or messages to begin with")
        self.opening = opening
        self._own = list(opening.messages)
        self._open = engine.sampling_session()
        self._session: SamplingSession = self._open.__enter__()

    @property
    def is_over(self) -> bool:
        """Whether the world ended the episode."""
        return self._world is not None and self._world.stop is not None

    def act(self, command: str) -> Turn:
        """Take one action in both histories, and return what model and world answered.

        Raises:
            ConfigError: the episode is over, or history and answer do not fit in the model's context.
            TemplateError: the chat template cannot render the history, the model's own words perhaps.
            WorldError: the world fails.
        """
        if self.is_over:
            raise ConfigError("the episode is over; `:task` and a number starts another")
        action = self._action(command)
        history = [*self._history(), action]
        answer = self._answer_to(action)
        prompt = answer_prompt(history, answer, self._tokenizer, tools=self.opening.tools)
        most = self._engine.capabilities.max_context_tokens - self._max_tokens
        if len(prompt.token_ids) > most:
            raise ConfigError(
                f"the history is {len(prompt.token_ids)} tokens long and the model has room for {most}; `:task` and a "
                "number starts another episode"
            )
        row = int(self.free)
        said = say_as_world(self._session, {row: prompt}, self._tokenizer, max_tokens=self._max_tokens)[row]
        self._number += 1
        real = self._carry_out(action)
        self._own += [action, own_words(answer, said.text)]
        truth = None if real is None else read_truth(real, shows_failures=self._shows_failures)
        compared = truth or TrueAnswer(text="", output="", harness="", failed=None, phrases_known=True)
        nats, num_tokens = (None, 0) if real is None else self._cost(history, real)
        return Turn(
            number=self._number,
            free=self.free,
            command=command,
            guess=score_guess(said, compared, self._tokenizer, max_tokens=self._max_tokens),
            truth=truth,
            nats=nats,
            num_tokens=num_tokens,
            over=self._world.stop if self._world is not None else None,
            reward=self._world.record().reward if self._world is not None and self._world.stop is not None else None,
        )

    def close(self) -> None:
        """Release world and cache."""
        if self._world is not None:
            self._world.close()
        self._open.__exit__(None, None, None)

    def _history(self) -> Sequence[Message]:
        return self._own if self.free or self._world is None else self._world.messages

    def _action(self, command: str) -> Message:
        message = Message(role="assistant", segments=(Segment(source=Source.POLICY, text=command),))
        return structured_call(message, number=self._number) if self.opening.tools else message

    def _answer_to(self, action: Message) -> Message:
        """An empty answer in the form of the world's: it says where the model speaks."""
        return answer_message(Observation(segments=()), {}, action=action, as_tool=bool(self.opening.tools))

    def _carry_out(self, action: Message) -> Message | None:
        if self._world is None:
            return None
        count = len(self._world.messages)
        self._world.messages.append(action)
        self._world.step(action, {})
        return self._world.messages[-1] if len(self._world.messages) > count + 1 else None

    def _cost(self, history: Sequence[Message], real: Message) -> tuple[float | None, int]:
        episode = Trajectory(id="live", task_id="live", messages=(*history, real), tools=self.opening.tools)
        (found,) = truth_nats(self._engine, [episode], self._tokenizer)
        nats, num_tokens = found.get(len(history), (None, 0))
        return nats, num_tokens


@dataclass(kw_only=True)
class Table:
    """Deals games: the model, and the tasks of a world (or the opening of a stored episode).

    `config.policy` `explore` starts the terminal's boxes without a task, as its explorer meets them; anything else
    starts the tasks of the suite.
    """

    engine: Engine
    tokenizer: ChatTokenizer
    config: CollectConfig
    max_tokens: int
    with_world: bool = True
    stored: Sequence[Trajectory] = field(default_factory=tuple[Trajectory, ...])

    def deal(self, number: int) -> Game:
        """Start task `number`; free where there is no world.

        Raises:
            ConfigError: there is no such task, or no opening without a world.
            WorldError: the world does not start.
        """
        if self.config.tool_protocol == "template":
            check_tool_template(self.tokenizer)
        if not self.with_world:
            return self._game(opening=self._opening(number), world=None)
        task_id, make_world = self._world(number)
        job = RolloutJob(id=f"simulate/{task_id}", task_id=task_id, make_world=make_world, key=(), world_seed=number)
        rules = Rules(
            max_turns=MOST_TURNS,
            command_seconds=self.config.command_seconds,
            tool_protocol=self.config.tool_protocol,
            limits=self.config.limits,
        )
        episode = LiveEpisode(job, rules, world_seed=number, around=alone())
        try:
            return self._game(opening=None, world=episode)
        except WorldError:
            episode.close()
            raise

    def _game(self, *, opening: Opening | None, world: LiveEpisode | None) -> Game:
        return Game(
            self.engine, self.tokenizer, opening=opening, world=world, max_tokens=self.max_tokens,
            shows_failures=self.config.world == TerminalSuite.name,
        )  # fmt: skip

    def _suite(self) -> tuple[TaskSuite, str]:
        suite = open_collect_suite(self.config.model_copy(update={"max_turns": MOST_TURNS}))
        return suite, self.config.split or suite.splits[0]

    def _world(self, number: int) -> tuple[str, Callable[[], World]]:
        suite, split = self._suite()
        suite.task_id(split, number)  # an unknown split ends here
        if self._explores():
            task = _box_task(split, number)
            sandbox = cast(SandboxName, self.config.sandbox)
            return task.id, lambda: TerminalWorld(lambda _: task, sandbox=sandbox, max_turns=MOST_TURNS)
        return suite.task_id(split, number), lambda: suite.make_world(split, number)

    def _explores(self) -> bool:
        is_local = self.config.sandbox in get_args(SandboxName)
        return self.config.world == "terminal" and self.config.policy == "explore" and is_local

    def _opening(self, number: int) -> Opening:
        """What a game without a world begins with: a stored opening, or what our own worlds say before any sandbox."""
        if self.stored:
            if number >= len(self.stored):
                raise ConfigError(f"there are {len(self.stored)} stored episodes, counted from 0, found {number}")
            stored = self.stored[number]
            first = next((k for k, m in enumerate(stored.messages) if m.role == "assistant"), len(stored.messages))
            return Opening(messages=stored.messages[:first], tools=stored.tools)
        suite, split = self._suite()
        if isinstance(suite, ToolSuite):
            world = suite.make_world(split, number)
            observation = world.reset()
            world.close()
        elif isinstance(suite, TerminalSuite):
            task = _box_task(split, number) if self._explores() else suite.task(split, number)
            texts = ((Source.SYSTEM, SYSTEM_PROMPT), (Source.TASK, task.instruction))
            observation = Observation(segments=tuple(Segment(source=s, text=t) for s, t in texts))
        else:
            raise ConfigError(
                f"the task of the world {self.config.world!r} is known to the world alone; give a stored episode whose "
                "opening the model is to go on from: --data FILE"
            )
        protocol = self.config.tool_protocol
        tools = stated_tools(observation) if protocol == "template" else ()
        return Opening(messages=tuple(opening_messages(observation, tool_protocol=protocol)), tools=tools)


def _box_task(split: str, number: int) -> TriageTask:
    """The box of the terminal's explorer, with what it is told."""
    box = split_box(split, number)
    return TriageTask(
        id=f"terminal/explore/box-{box.seed}", family="explore", instruction=EXPLORE_INSTRUCTION, box=box, oracle=()
    )
