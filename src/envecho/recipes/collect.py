"""`envecho collect` as a job: a world, a policy and a number of episodes become one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from envecho.errors import ConfigError, did_you_mean
from envecho.recipes.progress import progress_bar
from envecho.recipes.terminal_jobs import explore_jobs, task_jobs
from envecho.rollout import EnginePolicy, EpisodeJob, ScriptedPolicy, collect
from envecho.trajectory import Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.sandbox import SandboxName

WORLDS = ("terminal",)


class CollectConfig(BaseModel):
    """What to collect; `policy` is `oracle`, `explore`, or the name or folder of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    world: str = "terminal"
    sandbox: SandboxName = "bubblewrap"
    policy: str
    num_episodes: int = Field(ge=1)
    split: Literal["train", "validation", "new_boxes"] = "train"
    seed: int = 0
    temperature: float = Field(default=1.0, gt=0)


def collect_to_file(config: CollectConfig, out: Path) -> dict[str, Any]:
    """Run the episodes, write them to `out`, and return what was counted.

    Raises:
        ConfigError: the world is unknown.
        WorldError: the sandbox cannot start.
        EngineError: the policy's model cannot be found or loaded.
    """
    if config.world not in WORLDS:
        known = ", ".join(WORLDS)
        raise ConfigError(f"no world {config.world!r}; known worlds: {known}.{did_you_mean(config.world, WORLDS)}")
    jobs, num_workers = _jobs(config)
    reasons: Counter[str] = Counter()
    rewards: list[float] = []
    num_observations = 0

    def counted() -> Iterator[Trajectory]:
        nonlocal num_observations
        with progress_bar("collecting", total=len(jobs)) as advance:
            for trajectory in collect(jobs, num_workers=num_workers):
                reasons[trajectory.stop_reason.value] += 1
                rewards.extend([] if trajectory.reward is None else [trajectory.reward])
                num_observations += sum(message.role == "user" for message in trajectory.messages[2:])
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


def _jobs(config: CollectConfig) -> tuple[list[EpisodeJob], int]:
    if config.policy == "explore":
        return explore_jobs(config.split, config.num_episodes, episode=config.seed, sandbox=config.sandbox), 4
    if config.policy == "oracle":
        make = lambda task: ScriptedPolicy.oracle(task.oracle)  # noqa: E731  # a name for one expression
        return task_jobs(
            config.split, config.num_episodes, policy_name="oracle", make_policy=make, sandbox=config.sandbox
        ), 4
    return _model_jobs(config), 1


def _model_jobs(config: CollectConfig) -> list[EpisodeJob]:
    from envecho.engines.local import LocalEngine
    from envecho.engines.pretrained import resolve_model
    from envecho.tokens import ChatTokenizer

    folder = resolve_model(config.policy)
    engine = LocalEngine(folder, trains=False, seed=config.seed)
    tokenizer = ChatTokenizer.from_pretrained(str(folder))

    return task_jobs(
        config.split,
        config.num_episodes,
        policy_name="model",
        make_policy=lambda _: EnginePolicy(engine, tokenizer, temperature=config.temperature, seed=config.seed),
        sandbox=config.sandbox,
    )
