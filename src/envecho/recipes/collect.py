"""`envecho collect` as a job: a world, a policy and a number of episodes become one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from envecho.recipes.progress import progress_bar
from envecho.recipes.terminal_jobs import explore_jobs
from envecho.rollout import EpisodeJob, collect
from envecho.seam import TaskSuite
from envecho.trajectory import Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.options import HostOptions
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.suites import open_suite

_EPISODES_PER_BATCH = 16
_SEEDS_OF_A_LAP = 1_000_003
"""How far apart the seeds of two episodes of one task are, so that they are none of another `--seed`."""


class CollectConfig(BaseModel):
    """What to collect; `policy` is `oracle`, `explore`, `replay:FILE`, or the name or folder of a model.

    `world` is what `envecho.worlds.suites.open_suite` takes, with its options; `num_episodes` tasks of `split` (None:
    the world's first) from `first_task` on get one episode each; after `num_tasks` of them (None: all that there are)
    they start over, with other draws. `num_workers` episodes of a scripted policy run at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    world: str = "terminal"
    sandbox: str = "bubblewrap"
    policy: str
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


def collect_to_file(config: CollectConfig, out: Path) -> dict[str, Any]:
    """Run the episodes, write them to `out`, and return what was counted.

    Raises:
        ConfigError: the world or its split is unknown.
        WorldError: the sandbox cannot start.
        EngineError: the policy's model cannot be found or loaded.
    """
    reasons: Counter[str] = Counter()
    rewards: list[float] = []
    num_observations = 0

    def counted() -> Iterator[Trajectory]:
        nonlocal num_observations
        with progress_bar("collecting", total=config.num_episodes) as advance:
            for trajectory in _episodes(config):
                reasons[trajectory.stop_reason.value] += 1
                rewards.extend([] if trajectory.reward is None else [trajectory.reward])
                acted = [place for place, message in enumerate(trajectory.messages) if message.role == "assistant"]
                after = trajectory.messages[acted[0] :] if acted else ()
                num_observations += sum(message.role == "user" for message in after)
                advance(1)
                yield trajectory

    out.parent.mkdir(parents=True, exist_ok=True)
    num_episodes = write_trajectories(out, counted())
    return {
        "num_episodes": num_episodes,
        "num_observations": num_observations,
        "stop_reasons": dict(reasons),
        "mean_reward": sum(rewards) / len(rewards) if rewards else None,
    }


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


def _episodes(config: CollectConfig) -> Iterator[Trajectory]:
    suite = open_collect_suite(config)
    config = config.model_copy(update={"split": config.split or suite.splits[0]})
    assert config.split is not None
    suite.task_id(config.split, config.first_task)  # an unknown split ends here, before anything slow
    if config.policy not in ("oracle", "explore"):
        yield from _model_episodes(config, suite)
    elif config.world == "terminal" and config.policy == "explore" and config.sandbox in get_args(SandboxName):
        # The explorer asks of a box alone, without a task: its episodes are not graded.
        count = config.first_task + config.num_episodes
        sandbox = cast(SandboxName, config.sandbox)
        jobs = explore_jobs(config.split, count, episode=config.seed, sandbox=sandbox)[config.first_task :]
        yield from collect(jobs, num_workers=config.num_workers)
    else:
        jobs = [_scripted_job(suite, config, place) for place in range(config.num_episodes)]
        yield from collect(jobs, max_turns=config.max_turns, num_workers=config.num_workers)


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


def _model_episodes(config: CollectConfig, suite: TaskSuite) -> Iterator[Trajectory]:
    from envecho.engines.local import LocalEngine
    from envecho.engines.pretrained import resolve_model
    from envecho.rollout import RolloutJob, RolloutParams, rollout
    from envecho.tokens import ChatTokenizer

    assert config.split is not None
    split = config.split
    folder = resolve_model(config.policy)
    engine = LocalEngine(folder, trains=False, seed=config.seed)
    tokenizer = ChatTokenizer.from_pretrained(str(folder))
    params = RolloutParams(
        max_turns=config.max_turns,
        max_tokens_per_turn=config.max_tokens_per_turn,
        max_context_tokens=engine.capabilities.max_context_tokens,
        temperature=config.temperature,
        episodes_per_batch=_EPISODES_PER_BATCH,
        num_workers=config.num_workers,
        seed=config.seed,
    )
    places = [(place, *_place(suite, config, place)) for place in range(config.num_episodes)]
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
        yield from rollout(jobs, engine, tokenizer, params)
