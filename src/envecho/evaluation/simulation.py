"""`Simulation`: what `simulation.json` holds, as frozen models that reject unknown keys.

Not here: making one (`envecho.recipes.simulate`), and drawing it (`envecho.reports.simulation`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from envecho.evaluation.documents import read_document, write_document
from envecho.evaluation.results import Stat

FORMAT: Final = "envecho.simulation"
VERSION: Final = 1

Mode = Literal["guided", "free"]
"""What stands in the history: `guided` what the world really said, `free` what the model itself said before."""

ModelRole = Literal["base", "model"]

MODES: Final[tuple[Mode, ...]] = ("guided", "free")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guess(_Record):
    """What the model wrote in the world's place: greedy, to the token that ends the message or to the bound (`cut`).

    `text` is all of it; `output` without the harness's phrases, which are `harness` (`Observation.phrases_known`).
    `exact` and `similarity` (edit similarity, 0 to 1) compare outputs; where the true message is longer than the bound,
    `exact` is None and `similarity` is of the part that the bound allows. `failed`: whether it looks like a failure.
    """

    text: str
    output: str
    harness: str
    cut: bool
    exact: bool | None
    similarity: float
    failed: bool


class ModelAnswers(_Record):
    """One model's answers to one action.

    `nats` is what the true output costs the model behind the true history, over its `num_tokens` environment tokens. A
    guess is None where the model was not asked (`ModeResult.num_not_asked`).
    """

    nats: float
    num_tokens: int
    guided: Guess | None
    free: Guess | None


class Observation(_Record):
    """One answer of the world, and what each model wrote in its place.

    `turn` is its message in the trajectory, `number` its place among the answers of the episode, from 1. `output` and
    `harness` are parts of `text`. `phrases_known` says that splitting the true text gives what the world said of
    itself; where it does not (another harness's phrases), whole messages are compared. `failed` is None there, and
    where nothing shows whether the action failed.
    """

    trajectory_id: str
    task_id: str
    turn: int
    number: int
    command: str
    text: str
    output: str
    harness: str
    phrases_known: bool
    failed: bool | None
    answers: dict[ModelRole, ModelAnswers]


class ModeResult(_Record):
    """One model's guesses in one mode; shares between 0 and 1, intervals over tasks.

    `num_not_asked`: history and answer do not fit in the context, or the chat template cannot render a history of the
    model's own words. `exact_match` is over observations within the bound; `begins_right` is the share
    whose answer begins with all of the true output, however it goes on: where an answer ends is said by the template's
    scaffold, which a run on the environment's tokens alone never trains. `failure_accuracy`: how often a guess looks
    like a failure where the truth is one, and like none where it is none; `failures_foreseen` is the share of true
    failures that the guess shows, `false_alarms` the share of true successes where it shows one. `num_tokens` of these
    figures counts observations.
    """

    num_observations: int
    num_cut: int
    num_not_asked: int
    exact_match: Stat | None
    similarity: Stat | None
    failure_accuracy: Stat | None
    failures_foreseen: Stat | None
    false_alarms: Stat | None
    begins_right: Stat | None = None


class DriftPoint(_Record):
    """Mean edit similarity of the observations with one `number`, in both modes."""

    number: int
    guided: Stat | None
    free: Stat | None


class ModelResult(_Record):
    """One model's figures: its nats per token of the true output (guided), both modes, and the similarity by number."""

    ce_per_token: Stat | None
    modes: dict[Mode, ModeResult]
    drift: tuple[DriftPoint, ...]


class Choice(_Record):
    """Which of a pair's actions a model took for the one that succeeds.

    `succeeds` and `fails` are its predicted answers to the two. `by` is `words` where exactly one of them looks like a
    failure, else `odds`: the action with the lower log-prob of an error opening. `right` is 0.5 where odds are equal.
    """

    succeeds: str
    fails: str
    by: Literal["words", "odds"]
    right: float


class Pair(_Record):
    """Two actions of one kind in one state: `command` succeeded there, `other` failed.

    `origin` is `record` where both were taken in stored episodes with the same history, `live` where the second was
    carried out in a fresh world that had replayed the history.
    """

    trajectory_id: str
    task_id: str
    turn: int
    command: str
    other: str
    answer: str
    other_answer: str
    origin: Literal["record", "live"]
    choices: dict[ModelRole, Choice] = {}


class PlanAheadResult(_Record):
    """How often a model chose the action that succeeds (chance: 0.5), also by what decided."""

    accuracy: Stat | None
    by_words: Stat | None
    by_odds: Stat | None


class PlanAhead(_Record):
    """Pairs, results, and `left_out`: states without a pair, by reason."""

    pairs: tuple[Pair, ...]
    results: dict[ModelRole, PlanAheadResult]
    left_out: dict[str, int]


class Simulation(_Record):
    """`simulation.json`: what each model said in the world's place, beside what the world said.

    `models` are the models as they were named, `source` the file or the world of the episodes, `max_tokens` the bound
    of a guess, `command` what makes the file again. `differences`, where there is a base model: the model's similarity
    minus the base model's, paired by answer.
    """

    format: Literal["envecho.simulation"] = FORMAT
    version: Literal[1] = VERSION
    models: dict[ModelRole, str]
    source: str
    command: str
    max_tokens: int
    seed: int
    num_trajectories: int
    num_tasks: int
    num_unknown_phrases: int
    num_failure_unknown: int
    num_long: int
    observations: tuple[Observation, ...]
    results: dict[ModelRole, ModelResult]
    differences: dict[Mode, Stat] = {}
    plan_ahead: PlanAhead | None = None


def write_simulation(path: Path, simulation: Simulation) -> None:
    """Write `simulation.json`; the file appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_document(path, simulation)


def read_simulation(path: Path) -> Simulation:
    """Read `simulation.json`.

    Raises:
        DataError: the file is no JSON, has another format or version, or a key that this version does not know.
    """
    return read_document(path, Simulation, name=FORMAT, version=VERSION)
