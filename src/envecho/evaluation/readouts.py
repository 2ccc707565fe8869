"""Readouts: what a predictor writes for a few held-out commands, beside what the world answered.

Two readings of one command: teacher-forced (each token after the true ones before it) and free-running (its own greedy
continuation). Which commands are shown is drawn before any model has answered. Not here: figures over a pool (`pool`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.questions import Continuation, continue_greedily
from envecho.evaluation.results import Predictor, Readout, ReadoutPrediction
from envecho.evaluation.scores import PoolTokens, answer_text
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, token_texts
from envecho.tokens.view import TokenView, token_view
from envecho.trajectory import Source, Trajectory

MISS = "□"
"""Stands for a token that was not the predictor's first choice in a teacher-forced readout."""

_SHORTEST_SHARE = 0.25


@dataclass(frozen=True, order=True)
class ObservationRef:
    """Names one observation of a pool: the trajectory, and the message that holds the output."""

    trajectory_id: str
    turn: int


def choose_observations(trajectories: Sequence[Trajectory], count: int, *, seed: int = 0) -> list[ObservationRef]:
    """Draw derivable observations to show, each operation in turn until there are `count`.

    Within an operation the draw is among the shortest quarter of its outputs first: a reader can check those. Needs no
    model, so the same observations are shown before and after training.
    """
    by_operation: dict[str, list[tuple[int, ObservationRef]]] = {}
    for trajectory in trajectories:
        for turn, message in enumerate(trajectory.messages):
            output = answer_text(message)
            if turn and message.labels.get("view") == "derivable" and output.strip():
                ref = ObservationRef(trajectory_id=trajectory.id, turn=turn)
                by_operation.setdefault(message.labels.get("operation", ""), []).append((len(output), ref))
    queues: list[list[ObservationRef]] = []
    for operation in sorted(by_operation):
        refs = [ref for _, ref in sorted(by_operation[operation])]
        rng = random.Random(f"{seed}-{operation}")
        short = max(1, round(len(refs) * _SHORTEST_SHARE))
        queues.append([*rng.sample(refs[:short], short), *refs[short:]])
    chosen = [queue[rank] for rank in range(max(map(len, queues), default=0)) for queue in queues if rank < len(queue)]
    return chosen[:count]


def read_out(
    engine: Engine,
    sequences: Sequence[TokenizedTrajectory],
    tokens: PoolTokens,
    refs: Sequence[ObservationRef],
    tokenizer: ChatTokenizer,
) -> list[ReadoutPrediction]:
    """Return a model's answer to each chosen command; `tokens` are its scores of `sequences`.

    The free-running prompt is the episode up to the first token of the true output. The answer is read for as many
    tokens as the truth has, or to the token that ends the message: where an output ends is said by the template's
    scaffold, which nothing trains, so what would come after the true length is not judged.

    Raises:
        DataError: an observation has no output, or output that is not one run of tokens in one sequence.
    """
    found = [tokens.observation(ref.trajectory_id, ref.turn) for ref in refs]
    located = [_locate(ref, places, sequences, tokens) for ref, places in zip(refs, found, strict=True)]
    answers = continue_greedily(engine, located)
    predictions: list[ReadoutPrediction] = []
    for places, output, answer in zip(found, located, answers, strict=True):
        hits = tokens.top1[places]
        texts = token_texts(tokenizer, output.token_ids)
        ended = answer[:-1] if answer[-1] in output.stop else answer
        predictions.append(
            ReadoutPrediction(
                text=str(tokenizer.hf.decode(ended, skip_special_tokens=False)),
                teacher_forced="".join(text if hit else MISS for text, hit in zip(texts, hits, strict=True)),
                ce_per_token=float(tokens.nll[places].mean()),
                top1_accuracy=float(hits.mean()),
                exact_match=answer == output.token_ids.tolist(),
            )
        )
    return predictions


def build_readouts(
    pool: str,
    trajectories: Sequence[Trajectory],
    refs: Sequence[ObservationRef],
    predictions: Mapping[Predictor, Sequence[ReadoutPrediction]],
) -> list[Readout]:
    """Join the chosen observations with each predictor's answers, in the order of `refs`.

    Raises:
        DataError: a chosen trajectory is not in the pool, or a predictor has another number of answers.
    """
    by_id = {trajectory.id: trajectory for trajectory in trajectories}
    for name, answers in predictions.items():
        if len(answers) != len(refs):
            raise DataError(f"expected {len(refs)} answers of {name}, found {len(answers)}; read out the same refs")
    readouts: list[Readout] = []
    for place, ref in enumerate(refs):
        if ref.trajectory_id not in by_id:
            raise DataError(f"expected trajectory {ref.trajectory_id!r} in pool {pool!r}, found none", turn=ref.turn)
        messages = by_id[ref.trajectory_id].messages
        labels = messages[ref.turn].labels
        readouts.append(
            Readout(
                pool=pool,
                trajectory_id=ref.trajectory_id,
                turn=ref.turn,
                command=messages[ref.turn - 1].content,
                view=labels.get("view", "other"),
                operation=labels.get("operation"),
                actual=answer_text(messages[ref.turn]),
                predictions={name: answers[place] for name, answers in predictions.items()},
            )
        )
    return readouts


def view_trajectory(
    pool: str,
    trajectory_id: str,
    sequences: Sequence[TokenizedTrajectory],
    predictors: Mapping[Predictor, PoolTokens],
    tokenizer: ChatTokenizer,
) -> list[TokenView]:
    """Return the coloured view of one trajectory, one per sequence (branch or window), with each predictor's nats.

    Nats are None where a token was not scored; an observation is scored in the one sequence that owns it.
    """
    views: list[TokenView] = []
    for number, sequence in enumerate(sequences):
        if sequence.trajectory_id != trajectory_id:
            continue
        nll: dict[str, NDArray[np.float64]] = {}
        for name, tokens in predictors.items():
            here = tokens.sequence_index == number
            nll[name] = np.full(len(sequence), np.nan)
            nll[name][tokens.positions[here]] = tokens.nll[here]
        views.append(token_view(sequence, token_texts(tokenizer, sequence.token_ids), pool=pool, nll=nll))
    return views


def _locate(
    ref: ObservationRef,
    places: NDArray[np.int64],
    sequences: Sequence[TokenizedTrajectory],
    tokens: PoolTokens,
) -> Continuation:
    numbers, positions = tokens.sequence_index[places], tokens.positions[places]
    if not len(places) or np.ptp(numbers) or not np.array_equal(np.diff(positions), np.ones(len(places) - 1)):
        raise DataError(
            f"expected the output of {ref.trajectory_id!r} as one run of tokens, found {len(places)} tokens in "
            f"{len(set(numbers.tolist()))} sequences; choose another observation",
            turn=ref.turn,
        )
    sequence, start, end = sequences[int(numbers[0])], int(positions[0]), int(positions[-1]) + 1
    scaffold = np.flatnonzero(sequence.source_mask(Source.SCAFFOLD)[end:])[:1] + end
    return Continuation(
        prompt=sequence.token_ids[:start],
        token_ids=sequence.token_ids[start:end],
        stop=tuple(sequence.token_ids[scaffold].tolist()),
    )
