"""`Evaluation`: what `evaluation.json` holds, as frozen models that reject unknown keys.

Not here: computing any of these numbers (`pool`, `swap`, `readouts`), and drawing them (`envecho.reports`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from envecho.errors import DataError
from envecho.evaluation.documents import read_document, write_document
from envecho.tokens.view import TokenView

FORMAT: Final = "envecho.evaluation"
VERSION: Final = 2
"""Version 2 adds slices, controls, probes and attributions; files of version 1 are read as having none."""

Predictor = Literal["base", "trained", "ngram", "ppm", "zstd", "lzma"]
BaselineName = Literal["ngram", "ppm"]

BASELINES: Final[tuple[BaselineName, ...]] = ("ngram", "ppm")
"""The copy baselines among the predictors (`envecho.evaluation.baselines`)."""

COMPRESSORS: Final[tuple[Predictor, ...]] = ("zstd", "lzma")
"""Compressors with the context as dictionary: nats per byte alone (`envecho.evaluation.compression`)."""

Dimension = Literal[
    "token_class", "boilerplate", "source", "tool", "turn", "command", "exit_status", "outcome", "view", "repeat"
]
"""What the tokens of a pool are sliced by (`envecho.evaluation.facts` defines the keys of each).

All slice the environment's tokens, but `boilerplate`: that slices the harness's phrases (role warning) by source.
"""

TOKEN_CLASSES: Final = ("copied", "predictable", "novel", "volatile")
"""The keys of `token_class`, each environment token in one."""

Control = Literal["action_swap", "action_blank", "observation_shuffle"]
Probe = Literal["exit_status", "file_exists", "line_count", "free_running"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stat(_Record):
    """A figure over tokens with its 95 % bootstrap interval over tasks.

    `num_tokens` are the tokens that it is over, `num_tasks` the tasks that have such tokens; `low` and `high` are None
    where fewer than two tasks have them.
    """

    value: float
    low: float | None
    high: float | None
    num_tokens: int
    num_tasks: int


class OperationResult(_Record):
    """One operation's derivable tokens: nats per token, top-1 accuracy, and their share of all derivable tokens."""

    ce: Stat
    top1_accuracy: Stat
    share: float


class SwapCounts(_Record):
    """What the action-swap gap is over, in derivable observations that printed something.

    `num_without_candidate` had no other command to stand in, `num_unaligned` other tokens behind another command: both
    are left out. `num_draws` counts the swapped commands that were scored.
    """

    num_observations: int
    num_without_candidate: int
    num_unaligned: int
    num_draws: int


class SliceResult(_Record):
    """A slice of the tokens: nats per token, top-1 accuracy (None: unknown), and its share of the dimension."""

    ce: Stat
    top1_accuracy: Stat | None
    share: float


class ControlResult(_Record):
    """A control: what the change costs, in nats per token of the same true output (`envecho.evaluation.controls`).

    `gap` is None where no observation could be used. `counts` says over how many observations, and why others were left
    out, by names of this project.
    """

    gap: Stat | None
    counts: dict[str, int]


class ProbeResult(_Record):
    """A question asked of the predictor about each of `num_questions` observations (`envecho.evaluation.probes`).

    `measures` by name: `accuracy`, `balanced_accuracy`, `majority` (what always answering the commonest answer would
    reach), `auc`, `exact_match`, `edit_similarity`; shares between 0 and 1, intervals over tasks. A `Stat` of a probe
    is over questions: its `num_tokens` counts them. `counts` says why other observations were not asked about.
    """

    measures: dict[str, Stat]
    num_questions: int
    counts: dict[str, int] = {}


class PredictorResult(_Record):
    """What one predictor reached on one held-out pool, at T = 1; None where the pool has no such token.

    `ce_per_token`, `ce_per_byte` (nats) and `top1_accuracy` are over all environment tokens; `ce_first_view`,
    `ce_derivable` and `by_operation` over the standard output of observations with that label; `action_swap_gap` over
    derivable tokens (`envecho.evaluation.swap`), None for predictors that do not read the command.
    `ce_per_trajectory` is the mean over trajectories of their nats per token, `nats_per_trajectory` the mean of their
    sums; `ce_boilerplate` is over the harness's phrases (role warning), which no other figure counts.
    `ce_at_temperature` is `ce_per_token` at the evaluation's `temperature`, where one was asked for.
    """

    ce_per_token: Stat | None
    ce_per_byte: Stat | None
    ce_first_view: Stat | None
    ce_derivable: Stat | None
    top1_accuracy: Stat | None
    action_swap_gap: Stat | None
    num_tokens: int
    by_source: dict[str, Stat]
    by_operation: dict[str, OperationResult]
    swap_counts: SwapCounts | None = None
    ce_per_trajectory: Stat | None = None
    nats_per_trajectory: Stat | None = None
    ce_boilerplate: Stat | None = None
    ce_at_temperature: Stat | None = None
    slices: dict[Dimension, dict[str, SliceResult]] = {}
    controls: dict[Control, ControlResult] = {}
    probes: dict[Probe, ProbeResult] = {}

    def measures(self) -> dict[str, float | int | None]:
        """Return the values alone, under the names that `summary.json` uses for one predictor on one pool."""
        names = (
            "ce_per_token",
            "ce_per_byte",
            "ce_first_view",
            "ce_derivable",
            "top1_accuracy",
            "action_swap_gap",
        )
        stats = {name: getattr(self, name) for name in names}
        values = {name: None if stat is None else stat.value for name, stat in stats.items()}
        return {**values, "num_tokens": self.num_tokens}


class ReadoutPrediction(_Record):
    """One predictor's answer to one command.

    `text` is its own greedy continuation. `teacher_forced` is the true output with every token that was not its first
    choice, given the true tokens before it, replaced by `□`; `ce_per_token` (nats) and `top1_accuracy` are of the same
    pass. `exact_match`: the continuation, read for the true length, is the true output.
    """

    text: str
    teacher_forced: str
    ce_per_token: float
    top1_accuracy: float
    exact_match: bool


class Readout(_Record):
    """One held-out command, what the world answered, and what each predictor expected."""

    pool: str
    trajectory_id: str
    turn: int
    command: str
    view: str
    operation: str | None
    actual: str
    predictions: dict[Predictor, ReadoutPrediction]


class Comparison(_Record):
    """Two predictors on the same tokens of a pool: `difference` and `ratio` of their nats per token.

    `difference` is predictor minus reference, `ratio` predictor over reference; both intervals draw the same tasks for
    both predictors. `tokens` says over which: the derivable ones, or all environment tokens.
    """

    pool: str
    predictor: Predictor
    reference: Predictor
    tokens: Literal["derivable", "all"]
    difference: Stat
    ratio: Stat


class AttributionPart(_Record):
    """One class's part of what is saved: `saved` in nats per token of the whole, `share` of all that is saved.

    `tokens` is the class's share of the tokens. `share` is negative where the class became dearer, and None where
    nothing is saved in all, or where classes that became cheaper and dearer cancel by more than half.
    """

    saved: Stat
    share: float | None
    tokens: float


class Attribution(_Record):
    """Where a predictor's lower cross-entropy comes from, over everything that the environment or its harness said.

    `saved` is the reference's nats minus the predictor's, per token of role env_output or warning; `parts` add up to
    it: `boilerplate` (the harness's phrases) and the four token classes.
    """

    pool: str
    predictor: Predictor
    reference: Predictor
    saved: Stat
    parts: dict[str, AttributionPart]


class Floor(_Record):
    """What nobody could have known: the same actions carried out again in fresh sandboxes (`envecho.recipes.floor`).

    `different_tokens` is the share of environment tokens that lie in a line which came out otherwise, and
    `identical_observations` the share of observations that did not change at all. `num_runs` counts all runs.
    """

    identical_observations: Stat
    different_tokens: Stat
    num_runs: int


class PoolFacts(_Record):
    """What a pool is: its file, and how much is in it. Tokens are counted once, by their role."""

    file: str
    num_trajectories: int
    num_tasks: int
    num_env_tokens: int
    num_boilerplate_tokens: int


class Evaluation(_Record):
    """`evaluation.json`: results per pool and predictor, comparisons, readouts, and coloured trajectories.

    `models` are the models behind `base` and `trained`, as they were named; `temperature` is that of
    `ce_at_temperature`.
    """

    format: Literal["envecho.evaluation"] = FORMAT
    version: Literal[1, 2] = VERSION
    pools: dict[str, dict[Predictor, PredictorResult]]
    readouts: tuple[Readout, ...] = ()
    token_views: tuple[TokenView, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    attributions: tuple[Attribution, ...] = ()
    floors: dict[str, Floor] = {}
    facts: dict[str, PoolFacts] = {}
    models: dict[Predictor, str] = {}
    temperature: float | None = None


def best_baseline(results: Mapping[Predictor, PredictorResult]) -> BaselineName:
    """Return which copy baseline has the lower cross-entropy on derivable tokens (on all tokens where there are none).

    Raises:
        DataError: neither `ngram` nor `ppm` is among the results.
    """
    found: list[BaselineName] = [name for name in BASELINES if name in results]
    if not found:
        raise DataError("expected results of a copy baseline, found none; give training data to evaluate them")
    return min(found, key=lambda name: _cost(results[name]))


def _cost(result: PredictorResult) -> float:
    stat = result.ce_derivable or result.ce_per_token
    return float("inf") if stat is None else stat.value


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write `evaluation.json`; the file appears under its name only when it is whole."""
    write_document(path, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`.

    Raises:
        DataError: the file is no JSON, has another format or version, or a key that this version does not know.
    """
    return read_document(path, Evaluation, name=FORMAT, version=VERSION)
