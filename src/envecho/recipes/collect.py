"""`envecho collect` as a job: a world, a policy and a number of episodes become one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from envecho.recipes.progress import progress_bar
from envecho.recipes.terminal_jobs import explore_jobs
from envecho.rollout import EpisodeJob, collect
from envecho.seam import TaskSuite
from envecho.trajectory import Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.suites import open_suite

_EPISODES_PER_BATCH = 16


class CollectConfig(BaseModel):
    """What to collect; `policy` is `oracle`, `explore`, or the name or folder of a model.

    `world` is a name of `envecho.worlds.suites`; the first `num_episodes` tasks of `split` and `families` get one
    episode each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    world: str = "terminal"
    sandbox: SandboxName = "bubblewrap"
    policy: str
    num_episodes: int = Field(ge=1)
    split: str = "train"
    families: tuple[str, ...] = ()
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


def _episodes(config: CollectConfig) -> Iterator[Trajectory]:
    suite = open_suite(config.world, sandbox=config.sandbox, max_turns=config.max_turns, families=config.families)
    suite.task_id(config.split, 0)  # an unknown split ends here, before anything slow
    if config.policy not in ("oracle", "explore"):
        yield from _model_episodes(config, suite)
    elif config.world == "terminal" and config.policy == "explore":
        # The explorer asks of a box alone, without a task: its episodes are not graded.
        jobs = explore_jobs(config.split, config.num_episodes, episode=config.seed, sandbox=config.sandbox)
        yield from collect(jobs)
    else:
        yield from collect([_scripted_job(suite, config, number) for number in range(config.num_episodes)])


def _scripted_job(suite: TaskSuite, config: CollectConfig, number: int) -> EpisodeJob:
    task_id = suite.task_id(config.split, number)
    return EpisodeJob(
        id=f"{config.policy}-{config.seed}/{number:05d}/{task_id}",
        task_id=task_id,
        seed=number,
        make_world=lambda: suite.make_world(config.split, number),
        make_policy=lambda: suite.scripted_policy(config.split, number, policy=config.policy, seed=config.seed),
        metadata={"world": suite.name, "policy": config.policy, "split": config.split, "task": number},
    )


def _model_episodes(config: CollectConfig, suite: TaskSuite) -> Iterator[Trajectory]:
    from envecho.engines.local import LocalEngine
    from envecho.engines.pretrained import resolve_model
    from envecho.rollout import RolloutJob, RolloutParams, rollout
    from envecho.tokens import ChatTokenizer

    folder = resolve_model(config.policy)
    engine = LocalEngine(folder, trains=False, seed=config.seed)
    tokenizer = ChatTokenizer.from_pretrained(str(folder))
    params = RolloutParams(
        max_turns=config.max_turns,
        max_tokens_per_turn=config.max_tokens_per_turn,
        max_context_tokens=engine.capabilities.max_context_tokens,
        temperature=config.temperature,
        episodes_per_batch=_EPISODES_PER_BATCH,
        seed=config.seed,
    )
    for start in range(0, config.num_episodes, _EPISODES_PER_BATCH):
        numbers = range(start, min(start + _EPISODES_PER_BATCH, config.num_episodes))
        jobs = [
            RolloutJob(
                id=f"model-{config.seed}/{number:05d}/{suite.task_id(config.split, number)}",
                task_id=suite.task_id(config.split, number),
                make_world=lambda number=number: suite.make_world(config.split, number),
                key=(0, number),
                world_seed=number,
                metadata={"world": suite.name, "policy": config.policy, "split": config.split, "task": number},
            )
            for number in numbers
        ]
        yield from rollout(jobs, engine, tokenizer, params)
