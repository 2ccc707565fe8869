"""The action-swap gap: does a predictor read the command, or only the style of the answers?

For every observation labelled derivable, at message t, the command before it (message t - 1) is replaced by another
valid command of the same episode whose output differs, the history before it stays as it was, and the same true output
is scored again:

    gap = mean over derivable tokens of
          mean over draws of NLL(token | history, other command) - NLL(token | history, true command)

A predictor that ignores the command has gap 0 exactly. A valid command is one that was answered without an error; an
observation with no candidate is counted and left out. Outputs are those that the episode recorded: no command is run
again. Where a harness repeats the command before its output, the echo is replaced with the command. Not here: all
observations, labelled or not (`controls`), and baselines that do not read commands; their gap is None.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.probe_status import status_phrase
from envecho.evaluation.results import Stat, SwapCounts
from envecho.evaluation.scores import PoolTokens, answer_text, answered
from envecho.evaluation.variants import Variant, behind_action, make_variant, observation_mask, with_echo_of
from envecho.seam import ScoreRequest, Scores
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import Message, Source, Trajectory

Candidate = TypeVar("Candidate")
MAX_SWAPS = 3
_ERRORS = {Source.STDERR, Source.TOOL_ERROR, Source.TIMEOUT_NOTICE, Source.FORMAT_WARNING, Source.HARNESS_ERROR}


@dataclass(frozen=True, kw_only=True)
class SwapScores:
    """Scores of the true output after another command; arrays `[swapped token]`.

    `places` point into `PoolTokens`; `swapped_nll` is the mean over the draws of that observation, `true_nll` with the
    true command.
    """

    places: NDArray[np.int64]
    swapped_nll: NDArray[np.float64]
    true_nll: NDArray[np.float64]
    counts: SwapCounts

    def gap(self, tokens: PoolTokens, *, seed: int = 0) -> Stat | None:
        """Return mean swapped NLL minus mean true NLL over the swapped tokens, nats per token; None for none."""
        difference = self.swapped_nll - self.true_nll
        return ratio_stat(difference, np.ones(len(difference)), tokens.task_index[self.places], seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Swap:
    """An observation and its variants; `true` only where the pool's own scores cannot serve."""

    trajectory_id: str
    turn: int
    swapped: tuple[Variant, ...]
    true: Variant | None

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.swapped if self.true is None else (*self.swapped, self.true)


@dataclass(frozen=True, kw_only=True)
class SwapPlan:
    """Which commands stand in for which, and what an engine has to score; the same for every predictor.

    `requests` go to `Engine.logprobs`, best in one call with the pool's own: they share its histories.
    """

    swaps: tuple[_Swap, ...]
    counts: SwapCounts

    @property
    def requests(self) -> list[ScoreRequest]:
        """All requests of the plan, in order."""
        return [request for swap in self.swaps for variant in swap.variants for request in variant.requests]

    def gather(self, tokens: PoolTokens, scores: Sequence[Scores]) -> SwapScores:
        """Join the scores of `requests` with the pool's own scores `tokens` by the same predictor."""
        requests = self.requests
        nll = iter([-s.logprobs[r.read].astype(np.float64) for r, s in zip(requests, scores, strict=True)])

        def read(variant: Variant) -> NDArray[np.float64]:
            return np.concatenate([next(nll) for _ in variant.requests])

        places: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        swapped: list[NDArray[np.float64]] = [np.zeros(0)]
        true: list[NDArray[np.float64]] = [np.zeros(0)]
        for swap in self.swaps:
            places.append(tokens.observation(swap.trajectory_id, swap.turn))
            swapped.append(np.mean([read(variant) for variant in swap.swapped], axis=0))
            true.append(tokens.nll[places[-1]] if swap.true is None else read(swap.true))
        return SwapScores(
            places=np.concatenate(places),
            swapped_nll=np.concatenate(swapped),
            true_nll=np.concatenate(true),
            counts=self.counts,
        )


def swap_candidates(trajectory: Trajectory, turn: int) -> list[Message]:
    """Return the commands of the episode that may stand in for the one before message `turn`, in episode order.

    Each is another command text, was answered without an error, and its output differs from the true one. A command
    text occurs once. There is none where message `turn - 1` is no command, as with the second of two parallel results.
    """
    return [command for command, _ in stand_ins(trajectory, turn)]


def command_text(command: Message) -> str:
    """Return what an assistant turn says and calls, as one text that tells turns apart."""
    return "\0".join([command.content, *(f"{call.name} {call.arguments}" for call in command.tool_calls)])


def stand_ins(
    trajectory: Trajectory,
    turn: int,
    *,
    output: Callable[[Message], str] = answer_text,
    name: Callable[[Message, Message], str] = lambda command, answer: command_text(command),
) -> list[tuple[Message, Message]]:
    """Return the commands of `swap_candidates`, each with its answer.

    `output` of an answer is what has to differ; `name` of a command and its answer says which commands are the same.
    """
    if turn == 0 or trajectory.messages[turn - 1].role != "assistant":
        return []
    true_command, true_answer = trajectory.messages[turn - 1], trajectory.messages[turn]
    true_output = output(true_answer)
    found: dict[str, tuple[Message, Message]] = {}
    same_output = {name(true_command, true_answer)}
    for command, answer in itertools.pairwise(trajectory.messages):
        if command.role == "assistant" and output(answer) == true_output:
            same_output.add(name(command, answer))
        elif command.role == "assistant" and not _is_failure(answer) and _same_shape(command, true_command):
            found.setdefault(name(command, answer), (command, answer))
    return [pair for text, pair in found.items() if text not in same_output]


def plan_swaps(
    trajectories: Sequence[Trajectory],
    sequences: Sequence[TokenizedTrajectory],
    tokenizer: ChatTokenizer,
    *,
    max_tokens: int | None = None,
    num_swaps: int = 2,
    seed: int = 0,
) -> SwapPlan:
    """Draw up to `num_swaps` other commands for every derivable observation of a pool that has output.

    `sequences` are the pool's, made with the same tokenizer and `max_tokens`. The draws depend on `seed`, the
    trajectory id and the turn alone, never on the order of the pool or on a model.

    Raises:
        DataError: `num_swaps` is not 1 to 3.
    """
    if not 1 <= num_swaps <= MAX_SWAPS:
        raise DataError(f"expected 1 to {MAX_SWAPS} swaps per observation, found {num_swaps}")
    of_trajectory: dict[str, list[TokenizedTrajectory]] = {}
    for sequence in sequences:
        of_trajectory.setdefault(sequence.trajectory_id, []).append(sequence)
    swaps: list[_Swap] = []
    counts = {"num_observations": 0, "num_without_candidate": 0, "num_unaligned": 0}
    for trajectory in trajectories:
        whole = of_trajectory[trajectory.id]
        for turn in _derivable_turns(trajectory):
            true_ids = _output_ids(whole, turn)
            if not true_ids:
                continue
            counts["num_observations"] += 1
            drawn = draw(stand_ins(trajectory, turn), num_swaps, [seed, text_hash(trajectory.id), turn])
            if not drawn:
                counts["num_without_candidate"] += 1
                continue
            # Windows, branches and recorded ids may show other context than the surgery: the true command likewise.
            also_true = [trajectory.messages[turn - 1 : turn + 1]] if len(whole) > 1 or trajectory.branches else []
            variants = [
                make_variant(
                    behind_action(trajectory, turn, command, with_echo_of(trajectory.messages[turn], answer)),
                    tokenizer,
                    reads=answered,
                    max_tokens=max_tokens,
                )
                for command, answer in (*drawn, *also_true)
            ]
            if any(variant.token_ids != true_ids for variant in variants):
                counts["num_unaligned"] += 1
                continue
            swapped, true = tuple(variants[: len(drawn)]), variants[len(drawn) :]
            swaps.append(_Swap(trajectory_id=trajectory.id, turn=turn, swapped=swapped, true=true[0] if true else None))
    num_draws = sum(len(swap.swapped) for swap in swaps)
    return SwapPlan(swaps=tuple(swaps), counts=SwapCounts(**counts, num_draws=num_draws))


def _output_ids(sequences: Sequence[TokenizedTrajectory], turn: int) -> tuple[int, ...]:
    return tuple(int(token) for s in sequences for token in s.token_ids[observation_mask(s, turn, answered)])


def _derivable_turns(trajectory: Trajectory) -> list[int]:
    return [turn for turn, message in enumerate(trajectory.messages) if message.labels.get("view") == "derivable"]


def draw(candidates: Sequence[Candidate], count: int, seed: Sequence[int]) -> list[Candidate]:
    """Draw up to `count` candidates without replacement."""
    order = np.random.default_rng(seed).permutation(len(candidates))[:count]
    return [candidates[place] for place in order]


def text_hash(text: str) -> int:
    """Return a number of a text that is the same in every process, to seed draws with."""
    return zlib.crc32(text.encode())


def _same_shape(command: Message, other: Message) -> bool:
    return len(command.tool_calls) == len(other.tool_calls)


def _is_failure(answer: Message) -> bool:
    if answer.role == "assistant" or any(s.source in _ERRORS and s.text.strip() for s in answer.segments):
        return True
    phrase = status_phrase(answer)
    return phrase is not None and phrase.status != 0
