"""The episodes of `envecho collect`: of a scripted policy, of a model, or stored actions on a live world.

Not here: what is written and counted (`collect`).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from envecho.errors import ConfigError
from envecho.recipes.progress import say
from envecho.recipes.terminal_jobs import explore_jobs, explored_box
from envecho.rollout import EpisodeJob, ToolProtocol, WorldLimits, collect
from envecho.rollout.replay import replay_jobs
from envecho.seam import Sampler, TaskSuite
from envecho.trajectory import Trajectory
from envecho.worlds.options import HostOptions
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.suites import open_suite
from envecho.worlds.tasks.suite import HarborTaskSuite

if TYPE_CHECKING:
    from envecho.rollout.served import WireOptions

REPLAY: Final = "replay:"

_SCRIPTED: Final = ("oracle", "explore")
_EPISODES_PER_BATCH: Final = 16
_UNSTATED_CONTEXT: Final = 2**31
_SEEDS_OF_A_LAP: Final = 1_000_003
"""How far apart the seeds of two episodes of one task are, so that they are none of another `--seed`."""


Server = Literal["vllm", "sglang", "llama_cpp", "openai", "chat"]
"""The dialects of `envecho.rollout.served`, and `chat`, which is text alone."""


class CollectConfig(BaseModel):
    """What to collect; `policy` is `oracle`, `explore`, `replay:FILE`, or the name or folder of a model.

    `server` samples the model's turns instead of this machine, in the dialect `server_kind`: the model then gives the
    tokenizer alone. Under `chat` turns are text, and `policy` is the served name. `api_key_env` names the
    environment variable with the server's key.

    `world` is what `envecho.worlds.suites.open_suite` takes, with its options; `num_episodes` tasks of `split` (None:
    the world's first) from `first_task` on get one episode each; after `num_tasks` of them (None: all that there are)
    they start over, with other draws. `num_workers` episodes of a scripted policy run at once. `command_seconds` bounds
    one action (None: the world's own bound), `episode_seconds` an episode. `tool_protocol` is how tools and calls stand
    in the messages (`envecho.rollout.protocol`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    world: str = "terminal"
    sandbox: str = "bubblewrap"
    policy: str
    server: str | None = None
    server_kind: Server = "vllm"
    api_key_env: str | None = None
    num_episodes: int = Field(ge=1)
    first_task: int = Field(default=0, ge=0)
    num_tasks: int | None = Field(default=None, ge=1)
    split: str | None = None
    families: tuple[str, ...] = ()
    world_map: Path | None = None
    seed_actions: Path | None = None
    rubric: str | None = None
    image: str | None = None
    allow: tuple[str, ...] = ()
    num_workers: int = Field(default=4, ge=1)
    seed: int = 0
    temperature: float = Field(default=1.0, gt=0)
    max_turns: int = Field(default=16, ge=1)
    max_tokens_per_turn: int = Field(default=48, ge=1)
    tool_protocol: ToolProtocol = "text"
    command_seconds: float | None = Field(default=None, gt=0)
    episode_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _a_server_samples_a_model(self) -> CollectConfig:
        if self.server is not None and (self.policy in _SCRIPTED or self.policy.startswith(REPLAY)):
            raise ConfigError(f"--server samples the turns of a model, and --policy is {self.policy}")
        return self

    @property
    def limits(self) -> WorldLimits:
        """The deadlines of the rollout."""
        return WorldLimits(episode_seconds=self.episode_seconds)


def open_collect_suite(config: CollectConfig) -> TaskSuite:
    """Return the tasks that the configuration names.

    Raises:
        ConfigError: nothing has this name, or the world cannot follow the options.
    """
    return open_suite(
        config.world,
        sandbox=config.sandbox,
        max_turns=config.max_turns,
        families=config.families,
        world_map=config.world_map,
        seed_actions=config.seed_actions,
        rubric=config.rubric,
        host=HostOptions(image=config.image, allow=config.allow),
    )


def episodes(config: CollectConfig) -> Iterator[Trajectory]:
    """Run the episodes of a policy that is no replay, and yield them in the order of their tasks."""
    suite = open_collect_suite(config)
    if isinstance(suite, HarborTaskSuite):
        for task, reasons in suite.refused.items():
            say(f"left out: task {task} does not run here: {'; '.join(reasons)}")
    config = config.model_copy(update={"split": config.split or suite.splits[0]})
    assert config.split is not None
    suite.task_id(config.split, config.first_task)  # an unknown split ends here, before anything slow
    if config.server is not None and config.server_kind == "chat":
        yield from _chat_episodes(config, suite)
    elif config.policy not in _SCRIPTED:
        yield from _model_episodes(config, suite)
    elif config.world == "terminal" and config.policy == "explore" and config.sandbox in get_args(SandboxName):
        # The explorer asks of a box alone, without a task: its episodes are not graded.
        count = config.first_task + config.num_episodes
        sandbox = cast(SandboxName, config.sandbox)
        jobs = explore_jobs(config.split, count, episode=config.seed, sandbox=sandbox)[config.first_task :]
        yield from run_jobs(jobs, config)
    else:
        jobs = [_scripted_job(suite, config, place) for place in range(config.num_episodes)]
        yield from run_jobs(jobs, config)


def run_jobs(jobs: list[EpisodeJob], config: CollectConfig) -> Iterator[Trajectory]:
    """Run the jobs as the configuration says."""
    yield from collect(
        jobs,
        max_turns=config.max_turns,
        timeout_s=config.command_seconds,
        num_workers=config.num_workers,
        tool_protocol=config.tool_protocol,
        limits=config.limits,
    )


def jobs_of_replay(config: CollectConfig, stored: list[Trajectory]) -> list[EpisodeJob]:
    """Return a job for each stored trajectory: its actions, on its task of the live world.

    Raises:
        ConfigError: there is nothing to replay, or its task is not found.
    """
    if not stored:
        raise ConfigError(f"{config.policy.removeprefix(REPLAY)} holds no trajectory to replay")
    explored = config.world == "terminal" and config.sandbox in get_args(SandboxName)
    sandbox = cast(SandboxName, config.sandbox)
    return replay_jobs(
        stored,
        open_collect_suite(config),
        elsewhere=(lambda trajectory: explored_box(trajectory, sandbox=sandbox)) if explored else None,
    )


def replay_file(config: CollectConfig) -> Path:
    """Return the file of `replay:FILE`."""
    return Path(config.policy.removeprefix(REPLAY))


def _place(suite: TaskSuite, config: CollectConfig, place: int) -> tuple[int, int]:
    """Return the task number of an episode, and how often the tasks were gone through before."""
    assert config.split is not None
    num_tasks = config.num_tasks
    if num_tasks is None and (known := suite.num_tasks(config.split)) is not None:
        num_tasks = max(1, known - config.first_task)
    if num_tasks is None:
        return config.first_task + place, 0
    return config.first_task + place % num_tasks, place // num_tasks


def _scripted_job(suite: TaskSuite, config: CollectConfig, place: int) -> EpisodeJob:
    assert config.split is not None
    split, (number, lap) = config.split, _place(suite, config, place)
    task_id, seed = suite.task_id(split, number), config.seed + lap * _SEEDS_OF_A_LAP
    return EpisodeJob(
        id=f"{config.policy}-{config.seed}/{place:05d}/{task_id}",
        task_id=task_id,
        seed=number,
        make_world=lambda: suite.make_world(split, number),
        make_policy=lambda: suite.scripted_policy(split, number, policy=config.policy, seed=seed),
        metadata={"world": suite.name, "policy": config.policy, "split": split, "task": number, "policy_seed": seed},
    )


@contextmanager
def _sampler(config: CollectConfig, folder: Path) -> Generator[tuple[Sampler, int]]:
    """Open what samples the model, with the most tokens of its context: a server, or an engine on this machine."""
    from envecho.engines.distributed import open_local
    from envecho.rollout.served import ServedSampler

    if config.server is None:
        engine = open_local(folder, trains=False, seed=config.seed)
        yield engine, engine.capabilities.max_context_tokens
        return
    assert config.server_kind != "chat"
    with ServedSampler(config.server, kind=config.server_kind, options=_wire_options(config)) as sampler:
        yield sampler, sampler.facts.max_context_tokens or _UNSTATED_CONTEXT


def _wire_options(config: CollectConfig) -> WireOptions:
    from envecho.rollout.served import WireOptions

    name = config.api_key_env
    if name is not None and name not in os.environ:
        raise ConfigError(f"--api-key-env names {name}, which is not set")
    return WireOptions(api_key=None if name is None else os.environ[name])


def _chat_episodes(config: CollectConfig, suite: TaskSuite) -> Iterator[Trajectory]:
    """Episodes in text, of a server that returns no ids."""
    from envecho.rollout.served import ChatParams, ChatPolicy, Wire

    assert config.split is not None
    assert config.server is not None
    split = config.split
    params = ChatParams(
        model=config.policy, temperature=config.temperature, max_tokens=config.max_tokens_per_turn, seed=config.seed
    )
    with Wire(config.server, _wire_options(config)) as wire:
        jobs = [
            EpisodeJob(
                id=f"chat-{config.seed}/{place:05d}/{suite.task_id(split, number)}",
                task_id=suite.task_id(split, number),
                seed=number,
                make_world=lambda number=number: suite.make_world(split, number),
                make_policy=lambda key=(lap, number): ChatPolicy(wire, params, key=key),
                metadata={"world": suite.name, "policy": config.policy, "split": split, "task": number},
            )
            for place in range(config.num_episodes)
            for number, lap in (_place(suite, config, place),)
        ]
        yield from run_jobs(jobs, config)


def _model_episodes(config: CollectConfig, suite: TaskSuite) -> Iterator[Trajectory]:
    from envecho.engines.pretrained import resolve_model
    from envecho.rollout import RolloutJob, RolloutParams, rollout
    from envecho.tokens import ChatTokenizer

    assert config.split is not None
    split = config.split
    folder = resolve_model(config.policy)
    tokenizer = ChatTokenizer.from_pretrained(str(folder))
    places = [(place, *_place(suite, config, place)) for place in range(config.num_episodes)]
    with _sampler(config, folder) as (sampler, longest):
        params = RolloutParams(
            max_turns=config.max_turns,
            max_tokens_per_turn=config.max_tokens_per_turn,
            max_context_tokens=longest,
            temperature=config.temperature,
            episodes_per_batch=_EPISODES_PER_BATCH,
            command_seconds=config.command_seconds,
            num_workers=config.num_workers,
            seed=config.seed,
            tool_protocol=config.tool_protocol,
            limits=config.limits,
        )
        for start in range(0, len(places), _EPISODES_PER_BATCH):
            jobs = [
                RolloutJob(
                    id=f"model-{config.seed}/{place:05d}/{suite.task_id(split, number)}",
                    task_id=suite.task_id(split, number),
                    make_world=lambda number=number: suite.make_world(split, number),
                    key=(lap, number),
                    world_seed=number,
                    metadata={"world": suite.name, "policy": config.policy, "split": split, "task": number},
                )
                for place, number, lap in places[start : start + _EPISODES_PER_BATCH]
            ]
            yield from rollout(jobs, sampler, tokenizer, params)
