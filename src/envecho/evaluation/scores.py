"""`PoolTokens`: every token of a pool that the environment or its harness said, scored once.

Not here: which predictor scored (an engine here, a copy baseline in `baselines`), what else a token is (`facts`), and
means or intervals (`sums`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError, EngineError
from envecho.seam import Engine, ScoreRequest, Scores
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES, Message, Role, Source, Trajectory

ENV: Final = (Role.ENV_OUTPUT,)
"""What the world answered: the tokens that every figure is over unless it says otherwise."""

SAID: Final = (Role.ENV_OUTPUT, Role.WARNING)
"""What the world answered, and the phrases that its harness put around it."""

ANSWERS = (Source.STDOUT, Source.TOOL_RESULT, Source.TOOL_ERROR)
"""What a label is about: a command's standard output, or what a tool answered; no notice, status or standard error."""

VIEWS = ("other", "first", "derivable")
"""What a label `view` can say; the place in this tuple is the code in token arrays."""


@dataclass(frozen=True, kw_only=True)
class PoolTokens:
    """The tokens of one or two roles of a pool, in the order of the sequences, with one predictor's scores.

    Arrays are `[token]` over all sequences: `sequence_index` and `positions` say where the token lies, `turns` in which
    message; `trajectory_index` and `task_index` point into `trajectory_ids` and `task_ids` (sorted, so that no figure
    depends on the order of the pool); `sources` are codes; `nll` is in nats at T = 1; `top1` whether the token was the
    predictor's first choice. Every token occurs once: windows and branches own disjoint tokens.

    Example: two episodes of one task, one with a two-token and one with a one-token answer.

        sequence_index  [0, 0, 1]
        positions       [7, 8, 7]
        turns           [3, 3, 3]
        task_index      [0, 0, 0]
        nll             [2.1, .3, .9]
    """

    trajectory_ids: tuple[str, ...]
    task_ids: tuple[str, ...]
    sequence_index: NDArray[np.int64]
    positions: NDArray[np.int64]
    trajectory_index: NDArray[np.int64]
    task_index: NDArray[np.int64]
    turns: NDArray[np.int64]
    sources: NDArray[np.uint8]
    num_bytes: NDArray[np.int64]
    nll: NDArray[np.float64]
    top1: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.nll)

    def observation(self, trajectory_id: str, turn: int) -> NDArray[np.int64]:
        """Return the places `[token]` in these arrays of one message's standard output."""
        if trajectory_id not in self.trajectory_ids:
            return np.zeros(0, dtype=np.int64)
        of_trajectory = self.trajectory_index == self.trajectory_ids.index(trajectory_id)
        return np.flatnonzero(of_trajectory & (self.turns == turn) & answered(self.sources))


@dataclass(frozen=True, kw_only=True)
class TokenLabels:
    """What the generator said about each token of a pool, `[token]`: `views` codes into `VIEWS`, `operations` names.

    Only the answer itself (`ANSWERS`) takes the label of its message; every other token is `other`, with the empty
    operation.
    """

    views: NDArray[np.int8]
    operations: NDArray[np.str_]

    @property
    def derivable(self) -> NDArray[np.bool_]:
        """Mask `[token]` of output that earlier output of the same episode and the command determine."""
        return self.views == VIEWS.index("derivable")

    @property
    def first(self) -> NDArray[np.bool_]:
        """Mask `[token]` of output that nothing announced."""
        return self.views == VIEWS.index("first")


def read_mask(sequence: TokenizedTrajectory, roles: Sequence[Role] = ENV) -> NDArray[np.bool_]:
    """Return the mask `[token]` that is evaluated: owned tokens of these roles, whatever was trained."""
    return has_role(sequence.sources, roles) & sequence.owned_mask()


def has_role(sources: NDArray[np.uint8], roles: Sequence[Role]) -> NDArray[np.bool_]:
    """Return the mask `[token]` of source codes whose source has one of the roles."""
    return np.array([source.role in roles for source in SOURCES])[sources]


def answered(sources: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the mask `[token]` of sources that are an answer itself (`ANSWERS`)."""
    return np.isin(sources, [source.code for source in ANSWERS])


def answer_text(message: Message) -> str:
    """Return what the command printed to standard output, or the tool answered, without notices and statuses."""
    return "".join(segment.text for segment in message.segments if segment.source in ANSWERS)


def score_pool(engine: Engine, sequences: Sequence[TokenizedTrajectory]) -> PoolTokens:
    """Score every environment token of a pool once with an engine, at T = 1.

    Raises:
        EngineError: the engine left a token unscored.
        DataError: one trajectory id stands for two tasks.
    """
    return pool_tokens(sequences, engine.logprobs(pool_requests(sequences)))


def pool_requests(sequences: Sequence[TokenizedTrajectory], roles: Sequence[Role] = ENV) -> list[ScoreRequest]:
    """Return what an engine has to score, one request per sequence."""
    return [ScoreRequest(token_ids=sequence.token_ids, read=read_mask(sequence, roles)) for sequence in sequences]


def pool_tokens(
    sequences: Sequence[TokenizedTrajectory], scores: Iterable[Scores], *, roles: Sequence[Role] = ENV
) -> PoolTokens:
    """Gather the scores of the tokens of some roles, one `Scores` per sequence, into the flat arrays of a pool.

    Raises:
        EngineError, DataError: as `score_pool`.
    """
    trajectory_ids = tuple(sorted({s.trajectory_id for s in sequences}))
    task_ids = tuple(sorted({s.task_id for s in sequences}))
    if len({(s.trajectory_id, s.task_id) for s in sequences}) != len(trajectory_ids):
        raise DataError("expected one task per trajectory id, found an id with two; give every trajectory its own id")
    trajectory_place = {name: place for place, name in enumerate(trajectory_ids)}
    task_place = {name: place for place, name in enumerate(task_ids)}
    columns: list[dict[str, NDArray[np.generic]]] = []
    for number, (sequence, score) in enumerate(zip(sequences, scores, strict=True)):
        at = np.flatnonzero(read_mask(sequence, roles))
        nll = -score.logprobs[at].astype(np.float64)
        if not np.isfinite(nll).all():
            raise EngineError(
                f"expected a finite log-prob for each of {len(at)} evaluated tokens of trajectory "
                f"{sequence.trajectory_id}, found {int((~np.isfinite(nll)).sum())} that are not"
            )
        if score.top1 is None:
            raise EngineError(
                "this engine is told log-probs alone, not which token was the likeliest, so accuracies are unknown;"
                " evaluate a pool with another engine on the saved weights"
            )
        columns.append(
            {
                "sequence_index": np.full(len(at), number, dtype=np.int64),
                "positions": at.astype(np.int64),
                "trajectory_index": np.full(len(at), trajectory_place[sequence.trajectory_id], dtype=np.int64),
                "task_index": np.full(len(at), task_place[sequence.task_id], dtype=np.int64),
                "turns": sequence.turns[at].astype(np.int64),
                "sources": sequence.sources[at],
                "num_bytes": sequence.num_bytes[at].astype(np.int64),
                "nll": nll,
                "top1": score.top1[at].astype(np.bool_),
            }
        )
    if not columns:
        raise DataError("expected at least one sequence in the pool, found none")
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return PoolTokens(trajectory_ids=trajectory_ids, task_ids=task_ids, **joined)  # pyright: ignore[reportArgumentType]


def label_tokens(tokens: PoolTokens, trajectories: Sequence[Trajectory]) -> TokenLabels:
    """Return the labels of every token's message.

    Raises:
        DataError: a trajectory of the pool is missing or occurs twice, or a message has a view that is not in `VIEWS`.
    """
    by_id = {trajectory.id: trajectory for trajectory in trajectories}
    if len(by_id) < len(trajectories):
        raise DataError(f"expected unique trajectory ids, found {len(by_id)} among {len(trajectories)} trajectories")
    missing = [name for name in tokens.trajectory_ids if name not in by_id]
    if missing:
        raise DataError(f"expected the trajectory of every sequence, found none for {missing[:3]}")
    width = int(tokens.turns.max(initial=0)) + 1
    places, of_token = np.unique(tokens.trajectory_index * width + tokens.turns, return_inverse=True)
    messages = [divmod(int(place), width) for place in places]
    labels = [by_id[tokens.trajectory_ids[number]].messages[turn].labels for number, turn in messages]
    views = [label.get("view", "other") for label in labels]
    for view, (number, turn) in zip(views, messages, strict=True):
        if view not in VIEWS:
            found = f"{view!r} in trajectory {tokens.trajectory_ids[number]!r}"
            raise DataError(f"expected the view {', '.join(VIEWS)}, found {found}", turn=turn)
    said = answered(tokens.sources)
    codes = np.array([VIEWS.index(view) for view in views], dtype=np.int8)
    operations = np.array([label.get("operation", "") for label in labels], dtype=np.str_)
    if not len(tokens):
        return TokenLabels(views=np.zeros(0, dtype=np.int8), operations=np.zeros(0, dtype=np.str_))
    return TokenLabels(
        views=np.where(said, codes[of_token], 0).astype(np.int8),
        operations=np.where(said & (codes[of_token] > 0), operations[of_token], ""),
    )
