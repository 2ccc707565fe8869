"""From what a model said in the world's place to scores: each guess, and figures with intervals over tasks.

Not here: saying it (`simulate_episodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import Stat
from envecho.evaluation.similarity import edit_similarity
from envecho.evaluation.simulation import (
    MODES,
    DriftPoint,
    Guess,
    Mode,
    ModelResult,
    ModelRole,
    ModeResult,
    Observation,
)
from envecho.recipes.simulate_answers import TrueAnswer, split_answer, whole_answer
from envecho.recipes.simulate_prompts import Said, decode
from envecho.tokens import ChatTokenizer

Scored = Sequence[Observation]
_Value = Callable[[Observation, Guess], "float | bool | None"]


def score_guess(said: Said, truth: TrueAnswer, tokenizer: ChatTokenizer, *, max_tokens: int) -> Guess:
    """Compare what a model said with what the world said.

    A truth of more than `max_tokens` tokens is compared up to there, and exact match is unknown.
    """
    answer = split_answer(said.text) if truth.phrases_known else whole_answer(said.text)
    ids, _ = tokenizer.encode_text(truth.text)
    is_long = len(ids) > max_tokens
    if is_long:
        # What the bound allows is the start of the message: the harness's phrases stand behind it.
        true_part, own_part = decode(ids[:max_tokens], tokenizer), said.text
    else:
        true_part, own_part = truth.output, answer.output
    return Guess(
        text=said.text,
        output=answer.output,
        harness=answer.harness,
        cut=said.cut,
        exact=None if is_long else own_part == true_part and not said.cut,
        similarity=edit_similarity(own_part, true_part),
        failed=answer.failed,
    )


def model_result(observations: Scored, role: ModelRole, *, seed: int) -> ModelResult:
    """Return one model's figures over all observations."""
    scored = [o for o in observations if o.answers[role].num_tokens]
    numbers = sorted({o.number for o in observations})
    return ModelResult(
        ce_per_token=_stat(
            [o.answers[role].nats for o in scored],
            [o.answers[role].num_tokens for o in scored],
            [o.task_id for o in scored],
            seed=seed,
        ),
        modes={mode: _mode_result(observations, role, mode, seed=seed) for mode in MODES},
        drift=tuple(_drift([o for o in observations if o.number == n], role, n, seed=seed) for n in numbers),
    )


def differences(observations: Scored, *, seed: int) -> dict[Mode, Stat]:
    """Return the model's similarity minus the base model's, over the answers that both were asked for."""
    found: dict[Mode, Stat] = {}
    for mode in MODES:
        pairs = [(o, guess_of(o, "model", mode), guess_of(o, "base", mode)) for o in observations]
        values = [(o.task_id, own.similarity - base.similarity) for o, own, base in pairs if own and base]
        stat = mean_over_tasks([value for _, value in values], [task for task, _ in values], seed=seed)
        found |= {} if stat is None else {mode: stat}
    return found


def _drift(observations: Scored, role: ModelRole, number: int, *, seed: int) -> DriftPoint:
    stats = {mode: _mean(observations, role, mode, lambda _, guess: guess.similarity, seed=seed) for mode in MODES}
    return DriftPoint(number=number, **stats)


def _mode_result(observations: Scored, role: ModelRole, mode: Mode, *, seed: int) -> ModeResult:
    guesses = [guess_of(o, role, mode) for o in observations]

    def mean(value: _Value) -> Stat | None:
        return _mean(observations, role, mode, value, seed=seed)

    return ModeResult(
        num_observations=len(observations),
        num_cut=sum(guess is not None and guess.cut for guess in guesses),
        num_not_asked=sum(guess is None for guess in guesses),
        exact_match=mean(lambda _, guess: guess.exact),
        similarity=mean(lambda _, guess: guess.similarity),
        failure_accuracy=mean(lambda o, guess: None if o.failed is None else guess.failed == o.failed),
        failures_foreseen=mean(lambda o, guess: guess.failed if o.failed else None),
        false_alarms=mean(lambda o, guess: guess.failed if o.failed is False else None),
        begins_right=mean(_begins_right),
    )


def _begins_right(observation: Observation, guess: Guess) -> bool | None:
    """Whether the guess begins with all of the true output; None where that is longer than the bound, or is nothing."""
    if guess.exact is None or not observation.phrases_known or not observation.output:
        return None
    return guess.output.startswith(observation.output)


def guess_of(observation: Observation, role: ModelRole, mode: Mode) -> Guess | None:
    """Return a model's guess in a mode."""
    answers = observation.answers[role]
    return answers.guided if mode == "guided" else answers.free


def _mean(observations: Scored, role: ModelRole, mode: Mode, value: _Value, *, seed: int) -> Stat | None:
    """The mean of a value over the observations that have one."""
    values: list[float] = []
    tasks: list[str] = []
    for observation in observations:
        guess = guess_of(observation, role, mode)
        found = None if guess is None else value(observation, guess)
        if found is not None:
            values.append(float(found))
            tasks.append(observation.task_id)
    return _stat(values, [1] * len(values), tasks, seed=seed)


def mean_over_tasks(values: Sequence[float], task_ids: Sequence[str], *, seed: int) -> Stat | None:
    """Return the mean of values with its interval over tasks; None for no value."""
    return _stat(values, [1] * len(values), task_ids, seed=seed)


def _stat(
    numerators: Sequence[float], denominators: Sequence[int], task_ids: Sequence[str], *, seed: int
) -> Stat | None:
    if not numerators:
        return None
    tasks = {task: place for place, task in enumerate(sorted(set(task_ids)))}
    index = np.array([tasks[task] for task in task_ids], dtype=np.int64)
    stat = ratio_stat(np.array(numerators), np.array(denominators), index, seed=seed)
    return None if stat is None else stat.model_copy(update={"num_tokens": int(sum(denominators))})
