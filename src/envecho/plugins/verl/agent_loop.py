"""verl's agent loop `envecho_world`: an episode in a world of ours, sampled by verl's servers, token for token.

    - name: envecho_world                                 # the file of rollout.agent.agent_loop_config_path
      _target_: envecho.plugins.verl.WorldAgentLoop
      max_turns: 8

Its name is registered by that file alone: verl's decorator, run when the class is imported, would replace what the
file says. A row of the dataset names the task in `extra_info`: `world`, `split` and `task`, its number. The prompt of
every turn is rendered by envecho, so that sampled ids are kept and every token between them has one source; what verl
gets is `AgentLoopOutput` with the masks in `extra_fields`. The world runs in a thread of its own, under the deadlines
of the rollout room; verl's event loop samples.

Not here: what the rows hold (`episode_rows`), what is refused (`settings`), and rewards, which the world gives.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, final
from uuid import uuid4

import numpy as np

from envecho.errors import ConfigError, DataError, EngineError
from envecho.extras import require_extra
from envecho.plugins.verl.episode_rows import episode_rows
from envecho.plugins.verl.settings import refuse_setup
from envecho.rollout import RolloutJob, ToolProtocol, WorldLimits
from envecho.rollout.batch import sampled_message
from envecho.rollout.crew import Crew
from envecho.rollout.limits import Rules
from envecho.rollout.live import LiveEpisode, Surroundings
from envecho.rollout.play import Action, play
from envecho.seam import Sample, TaskSuite
from envecho.tokens import ChatTokenizer, check_tool_template, render_prompt
from envecho.trajectory import StopReason, Trajectory
from envecho.worlds.suites import open_suite

require_extra("verl")
_verl: Any = import_module("verl.experimental.agent_loop.agent_loop")

_MOST_EPISODES: Final = 1024
_STEPS: Final = "min_global_steps", "max_global_steps"


@final
class WorldAgentLoop(_verl.AgentLoopBase):
    """Plays the task that a row of the dataset names; verl makes one for every episode.

    Args:
        max_turns: the most actions of an episode.
        max_tokens_per_turn: the most tokens of one action.
        command_seconds: the most seconds of one action in the world; None leaves it to the world.
        sandbox: where worlds run that need one (`envecho.worlds.suites.open_suite`).
        tool_protocol: how the tools of a world are shown (`envecho.rollout.protocol`).
        failed_reward: verl's reward of an episode whose world or policy failed; its actions are not trained. One that
            ran out of turns or tokens ungraded has reward 0.
        allow_filter_groups: accept that verl's group filter drops observations, too.
        verl_arguments: what verl gives to every agent loop.

    Raises:
        ConfigError: ECHO would be absent or inexact under this configuration of verl.
    """

    def __init__(
        self,
        *,
        max_turns: int = 16,
        max_tokens_per_turn: int = 512,
        command_seconds: float | None = None,
        sandbox: str = "bubblewrap",
        tool_protocol: ToolProtocol = "text",
        failed_reward: float = 0.0,
        allow_filter_groups: bool = False,
        **verl_arguments: Any,
    ) -> None:
        super().__init__(**verl_arguments)
        refuse_setup(self.config, allow_filter_groups=allow_filter_groups)
        self._max_turns, self._sandbox = max_turns, sandbox
        self._max_tokens_per_turn, self._failed_reward = max_tokens_per_turn, failed_reward
        self._rules = Rules(
            max_turns=max_turns,
            command_seconds=command_seconds,
            tool_protocol=tool_protocol,
            unfinished_reward=0.0,
            limits=WorldLimits(),
        )
        self._chat = _chat_tokenizer(self.tokenizer)
        if tool_protocol == "template":
            check_tool_template(self._chat)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Play one episode; one `AgentLoopOutput`, or a list of them where the template rewrites the history.

        Raises:
            DataError: the row of the dataset names no task.
        """
        started = time.monotonic()
        server = _Server(
            generate=functools.partial(self.server_manager.generate, uuid4().hex),
            loop=asyncio.get_running_loop(),
            sampling_params=sampling_params,
            priority=int(row.get("priority", 0)),
        )
        job = self._job(row)
        played = functools.partial(self._play, job, server)
        episode = await server.loop.run_in_executor(_episode_threads(), played)
        rows = episode_rows(
            episode,
            self._chat,
            response_length=int(self.rollout_config.response_length),
            failed_reward=self._failed_reward,
        )
        metrics = {
            "generate_sequences": server.seconds,
            "tool_calls": max(0.0, time.monotonic() - started - server.seconds),
            "num_preempted": server.num_preempted,
        }
        outputs = [_output(one, metrics, server.steps) for one in rows]
        return outputs[0] if len(outputs) == 1 else outputs

    def _job(self, row: Mapping[str, Any]) -> RolloutJob:
        info = row.get("extra_info") or {}
        missing = [key for key in ("world", "split", "task") if key not in info]
        if missing:
            raise DataError(
                f"extra_info of the dataset's row has no {', '.join(missing)}; the agent loop plays the task that it"
                " names, as `python -m envecho.plugins.verl.dataset` writes it"
            )
        suite = _suite(str(info["world"]), self._sandbox, self._max_turns)
        split, number = str(info["split"]), int(info["task"])
        return RolloutJob(
            id=f"{row.get('uid', 'episode')}_{row.get('session_id', 0)}",
            task_id=suite.task_id(split, number),
            group_id=str(row.get("uid")),
            make_world=functools.partial(suite.make_world, split, number),
            key=(),
        )

    def _play(self, job: RolloutJob, server: _Server) -> Trajectory:
        """Play the episode to its end, in this thread; a world that hangs is left alone at its deadline."""
        actor = _ServerActor(
            server,
            self._chat,
            max_tokens=self._max_tokens_per_turn,
            prompt_length=int(self.rollout_config.prompt_length),
            response_length=int(self.rollout_config.response_length),
        )

        def make(_: int, around: Surroundings) -> LiveEpisode:
            return LiveEpisode(job, self._rules, world_seed=0, around=around)

        grace = self._rules.limits.grace_seconds
        with Crew(
            1, make, lambda episode, _: play(episode, actor), num_live=1, num_workers=1, grace_seconds=grace
        ) as crew:
            return crew.take(0)


@dataclass(kw_only=True)
class _Server:
    """verl's server manager as the thread of an episode calls it, and what is counted on the way."""

    generate: Any
    loop: asyncio.AbstractEventLoop
    sampling_params: Mapping[str, Any]
    priority: int
    seconds: float = 0.0
    num_preempted: int = -1
    steps: dict[str, int] = field(default_factory=dict[str, int])

    def sample(self, prompt: list[int], *, max_tokens: int) -> Any:
        """Wait for one turn and return verl's `TokenOutput`."""
        started = time.monotonic()
        turn: Coroutine[Any, Any, Any] = self.generate(
            prompt_ids=prompt,
            sampling_params={**self.sampling_params, "max_tokens": max_tokens},
            priority=self.priority,
        )
        output = asyncio.run_coroutine_threadsafe(turn, self.loop).result()
        self.seconds += time.monotonic() - started
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        for name, choose in zip(_STEPS, (min, max), strict=True):
            step = output.extra_fields.get(name)
            if step is not None:
                self.steps[name] = choose(step, self.steps.get(name, step))
        return output


@final
class _ServerActor:
    """The turns of a policy behind verl's servers."""

    def __init__(
        self, server: _Server, tokenizer: ChatTokenizer, *, max_tokens: int, prompt_length: int, response_length: int
    ) -> None:
        self._server, self._tokenizer, self._max_tokens = server, tokenizer, max_tokens
        self._prompt_length, self._response_length = prompt_length, response_length
        self._room: int | None = None

    def act(self, episode: LiveEpisode, turn: int) -> Action | StopReason:
        prompt = render_prompt(episode.messages, self._tokenizer, tools=episode.template_tools).tolist()
        if self._room is None:
            if len(prompt) > self._prompt_length:
                raise ConfigError(
                    f"the task's prompt has {len(prompt)} tokens and data.max_prompt_length is {self._prompt_length}"
                )
            self._room = len(prompt) + self._response_length
        if len(prompt) + self._max_tokens > self._room:
            return StopReason.MAX_TOKENS
        output = self._server.sample(prompt, max_tokens=self._max_tokens)
        if output.stop_reason == "aborted":
            raise EngineError("verl's server aborted a turn")
        sample = _sample(output, end=self._tokenizer.end_of_turn_id)
        message = sampled_message(
            sample, self._tokenizer, temperature=float(self._server.sampling_params["temperature"])
        )
        return Action(message=message, cut=None if sample.stopped else len(sample.token_ids))


def _sample(output: Any, *, end: int) -> Sample:
    ids = [int(token) for token in output.token_ids]
    if output.log_probs is None or len(output.log_probs) != len(ids):
        raise DataError(
            f"verl's server returned {len(ids)} tokens with"
            f" {'no' if output.log_probs is None else len(output.log_probs)} log-probs"
        )
    return Sample(
        token_ids=np.array(ids, dtype=np.int32),
        logprobs=np.array(output.log_probs, dtype=np.float32),
        stopped=ids[-1:] == [end],
    )


def _output(one: Mapping[str, Any], metrics: Mapping[str, Any], steps: Mapping[str, int]) -> Any:
    extra = {**one["extra_fields"], **steps}
    return _verl.AgentLoopOutput(**{**one, "metrics": dict(metrics), "extra_fields": extra})


@functools.cache
def _episode_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_MOST_EPISODES, thread_name_prefix="envecho-episode")


@functools.cache
def _suite(world: str, sandbox: str, max_turns: int) -> TaskSuite:
    return open_suite(world, sandbox=sandbox, max_turns=max_turns)


@functools.lru_cache(maxsize=1)
def _chat_tokenizer(tokenizer: Any) -> ChatTokenizer:
    return ChatTokenizer(tokenizer)
