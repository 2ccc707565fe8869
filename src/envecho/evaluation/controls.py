"""Controls: what an observation costs once the action, or everything before it, is another one.

    gap = mean over environment tokens of NLL(token | changed context) - NLL(token | true context)     [nats per token]

- `action_blank`: the action before the observation is an empty turn; the history before it stays.
- `action_swap`: it is another valid action of the episode with another output; the history before it stays.
- `observation_shuffle`: the observation stands where another task's observation of the same kind stood, behind that
  task's history and action. It is compared with itself in its own place, token for token, so how hard an output is
  cancels: a predictor that knows only how answers look has gap 0.

All observations with environment tokens are asked, labelled or not. The changed and the true context are made and
scored in the same way, in one engine call. Not here: the swap over labelled observations alone (`swap`), and how an
observation is put behind another context (`variants`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError, EngineError, TemplateError
from envecho.evaluation.facts_actions import answered_action
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import Control, ControlResult
from envecho.evaluation.swap import command_text, draw, stand_ins, text_hash
from envecho.evaluation.variants import Variant, behind_action, make_variant, with_echo_of
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.trajectory import SOURCES, Message, Role, Source, Trajectory

TOKENS_PER_CALL: Final = 1 << 19
"""How many tokens the requests of one engine call hold at most, before shared beginnings are merged."""

LeftOut = Literal["num_without_action", "num_without_candidate", "num_other_tokens", "num_cut", "num_refused"]
"""Why an observation is not in a control.

`num_without_action`: no action stands before it (the second of two parallel results), or an empty one.
`num_without_candidate`: nothing may stand in. `num_other_tokens`: its own tokens change with the context, at the joint
with the template. `num_cut`: a context is longer than the model's. `num_refused`: the chat template refuses the change.
"""

_ENV = np.array([source.role is Role.ENV_OUTPUT for source in SOURCES])


def run_controls(
    engine: Engine, trajectories: Sequence[Trajectory], tokenizer: ChatTokenizer, *, seed: int = 0
) -> dict[Control, ControlResult]:
    """Run all controls over a sample of trajectories.

    One stand-in is drawn per observation and control, from `seed` and the sample, whatever its order and the model: two
    models evaluated with one seed get the same. Intervals are over the tasks of the observations that are scored. Of
    `counts`, `num_observations` is `num_used` and every reason of `LeftOut` together.

    Raises:
        DataError: trajectory ids are not unique.
        EngineError: the engine left a token unscored.
        TemplateError: the chat template cannot render an episode as it was.
    """
    if len({trajectory.id for trajectory in trajectories}) < len(trajectories):
        raise DataError("expected unique trajectory ids, found one twice; give every trajectory its own id")
    observations = list(_observations(trajectories))
    tally = _Tally(num_observations=len(observations))
    changes = sorted(_plan(observations, tally, seed=seed), key=lambda change: change.place.number)
    scored = dict(_score(engine, changes, tokenizer, tally))
    task_places = {task: place for place, task in enumerate(sorted({t.task_id for t in trajectories}))}
    results: dict[Control, ControlResult] = {}
    for control in get_args(Control):
        gaps: list[NDArray[np.float64]] = [np.zeros(0)]
        tasks: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        for observation in observations:
            found = tally.join(control, observation, scored)
            if found is not None:
                gaps.append(found)
                tasks.append(np.full(len(found), task_places[observation.trajectory.task_id], dtype=np.int64))
        gap = np.concatenate(gaps)
        stat = ratio_stat(gap, np.ones(len(gap)), np.concatenate(tasks), seed=seed)
        results[control] = ControlResult(gap=stat, counts=tally.counts(control))
    return results


# --- which changes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Observation:
    """The observation in message `turn`; `number` counts those of the sample."""

    number: int
    trajectory: Trajectory
    turn: int

    @property
    def answer(self) -> Message:
        return self.trajectory.messages[self.turn]

    @property
    def action(self) -> Message | None:
        before = self.trajectory.messages[self.turn - 1] if self.turn else None
        if before is None or before.role != "assistant":
            return None
        return before if before.content.strip() or before.tool_calls else None

    def behind(self, control: Control | None, action: Message, answer: Message) -> _Change:
        """Return the observation in its own place, said in `answer` behind `action`."""
        return _Change(control=control, number=self.number, place=self, action=action, answer=answer)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """Observation `number`, said in `answer`, in the place of observation `place`, behind `action`.

    `control` None is the true context.
    """

    control: Control | None
    number: int
    place: _Observation
    action: Message
    answer: Message

    @property
    def episode(self) -> Trajectory:
        return behind_action(self.place.trajectory, self.place.turn, self.action, self.answer)


def _observations(trajectories: Iterable[Trajectory]) -> Iterator[_Observation]:
    number = 0
    for trajectory in trajectories:
        for turn, message in enumerate(trajectory.messages):
            if message.role != "assistant" and world_text(message):
                yield _Observation(number=number, trajectory=trajectory, turn=turn)
                number += 1


def world_text(message: Message) -> str:
    """Return what the environment itself said in a message: its segments of role env_output."""
    return "".join(segment.text for segment in message.segments if segment.source.role is Role.ENV_OUTPUT)


def _plan(observations: Sequence[_Observation], tally: _Tally, *, seed: int) -> Iterator[_Change]:
    """Yield the true context and one change per control for every observation; what cannot be done is tallied."""
    kinds = [_kind(observation) for observation in observations]
    peers: dict[tuple[str, ...] | None, list[_Observation]] = {None: []}
    for observation in sorted(observations, key=lambda o: (o.trajectory.id, o.turn)):
        kind = kinds[observation.number]
        if kind is not None and observation.action is not None:
            peers.setdefault(kind, []).append(observation)
    for observation in observations:
        action = observation.action
        if action is None:
            tally.leave_out(observation.number, "num_without_action")
            continue
        yield observation.behind(None, action, observation.answer)
        yield observation.behind("action_blank", blanked(action), with_echo_of(observation.answer, None))
        seeds = [seed, text_hash(observation.trajectory.id), observation.turn]
        changes = [
            _swapped(observation, seeds),
            _shuffled(observation, peers[kinds[observation.number]], seeds),
        ]
        for control, change in zip(("action_swap", "observation_shuffle"), changes, strict=True):
            if change is None:
                tally.leave_out(observation.number, "num_without_candidate", control)
            else:
                yield change


def _swapped(observation: _Observation, seeds: Sequence[int]) -> _Change | None:
    """The observation behind another action of its episode."""
    others = stand_ins(observation.trajectory, observation.turn, output=world_text, name=_asked)
    for action, answer in draw(others, 1, seeds):
        return observation.behind("action_swap", action, with_echo_of(observation.answer, answer))
    return None


def _asked(action: Message, answer: Message) -> str:
    """What an action asks of the world, whatever was thought before it; where that is unknown, all that it says."""
    return answered_action((action, answer), 1).text or command_text(action)


def _shuffled(observation: _Observation, peers: Sequence[_Observation], seeds: Sequence[int]) -> _Change | None:
    """The observation in the place of one of another task that said something else."""
    task, said = observation.trajectory.task_id, world_text(observation.answer)
    for number in np.random.default_rng(seeds).permutation(len(peers)):
        peer = peers[number]
        if peer.trajectory.task_id == task or peer.action is None or world_text(peer.answer) == said:
            continue
        address = {"role": peer.answer.role, "tool_call_id": peer.answer.tool_call_id, "name": peer.answer.name}
        answer = with_echo_of(observation.answer, peer.answer).model_copy(update=address)
        return _Change(
            control="observation_shuffle", number=observation.number, place=peer, action=peer.action, answer=answer
        )
    return None


def blanked(action: Message) -> Message:
    """Return an assistant turn without words: no content, no reasoning, and each call without a name, arguments `{}`.

    The chat template is the same, so what stands there is its empty turn.
    """
    calls = tuple(call.model_copy(update={"name": "", "arguments": "{}"}) for call in action.tool_calls)
    return Message(role="assistant", segments=(), tool_calls=calls)


def _kind(observation: _Observation) -> tuple[str, ...] | None:
    """What two observations share that may change places: who answers, label, tool, program; None for unknown ones."""
    message = observation.answer
    if any(segment.source is Source.USER_REPLY for segment in message.segments):
        return ("user",)
    asked = answered_action(observation.trajectory.messages, observation.turn)
    if asked.tool is None and asked.command is None:
        return None
    return (message.role, message.labels.get("operation", ""), asked.tool or "", asked.command or "")


# --- scoring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """The token ids `[token]` of an observation in one context, and their nats."""

    token_ids: tuple[int, ...]
    nll: NDArray[np.float64]


_Key = tuple[Control | None, int]


@dataclass(kw_only=True)
class _Tally:
    """Which observations are left out of which control, and why; the first reason counts."""

    num_observations: int
    left_out: dict[_Key, LeftOut] = field(default_factory=dict[_Key, LeftOut])

    def leave_out(self, number: int, reason: LeftOut, control: Control | None = None) -> None:
        """Leave an observation out of one control; None: out of all."""
        self.left_out.setdefault((control, number), reason)

    def join(
        self, control: Control, observation: _Observation, scored: dict[_Key, _Scored]
    ) -> NDArray[np.float64] | None:
        """Return the gaps `[token]` of an observation; None where it is left out."""
        number = observation.number
        if (None, number) in self.left_out or (control, number) in self.left_out:
            return None
        changed, true = scored[control, number], scored[None, number]
        if changed.token_ids != true.token_ids:
            self.leave_out(number, "num_other_tokens", control)
            return None
        return changed.nll - true.nll

    def counts(self, control: Control) -> dict[str, int]:
        """Return over how many observations a control is, and how many are left out for which reason."""
        numbers = range(self.num_observations)
        reasons = Counter(
            self.left_out.get((None, number)) or self.left_out.get((control, number)) or "num_used"
            for number in numbers
        )
        names = ("num_used", *get_args(LeftOut))
        return {"num_observations": self.num_observations, **{name: reasons[name] for name in names}}


def _score(
    engine: Engine, changes: Iterable[_Change], tokenizer: ChatTokenizer, tally: _Tally
) -> Iterator[tuple[_Key, _Scored]]:
    """Score changes that are in the order of their contexts, so that one call holds what shares a beginning."""
    max_tokens = engine.capabilities.max_context_tokens
    waiting: list[tuple[_Key, Variant]] = []
    size = 0
    for change in changes:
        variant = _variant(change, tokenizer, tally, max_tokens=max_tokens)
        if variant is None:
            continue
        waiting.append(((change.control, change.number), variant))
        size += len(variant.requests[0].token_ids)
        if size >= TOKENS_PER_CALL:
            yield from _call(engine, waiting)
            waiting, size = [], 0
    if waiting:
        yield from _call(engine, waiting)


def _variant(change: _Change, tokenizer: ChatTokenizer, tally: _Tally, *, max_tokens: int) -> Variant | None:
    try:
        variant = make_variant(change.episode, tokenizer, reads=_is_env, max_tokens=max_tokens)
    except TemplateError:
        if change.control is None:
            raise
        tally.leave_out(change.number, "num_refused", change.control)
        return None
    if variant.is_whole:
        return variant
    # An output may have no token of its own where one of the template swallows it.
    tally.leave_out(change.number, "num_cut" if variant.token_ids else "num_other_tokens", change.control)
    return None


def _call(engine: Engine, waiting: Sequence[tuple[_Key, Variant]]) -> Iterator[tuple[_Key, _Scored]]:
    scores = engine.logprobs([variant.requests[0] for _, variant in waiting])
    for (key, variant), score in zip(waiting, scores, strict=True):
        nll = -score.logprobs[variant.requests[0].read].astype(np.float64)
        if not np.isfinite(nll).all():
            raise EngineError(f"expected {len(nll)} finite log-probs for an observation, found {nll[:4]}")
        yield key, _Scored(token_ids=variant.token_ids, nll=nll)


def _is_env(sources: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return _ENV[sources]
