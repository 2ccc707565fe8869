"""Probes: questions about the world that a person would ask, put to a model and marked by the record.

    probe         asked                                        answered by
    exit_status   will this command fail? before the answer    the probability that the answer opens as failures do
    file_exists   `ls -d PATH` behind a real history           which of the two answers is likelier
    line_count    `wc -l FILE` right after FILE was shown      greedy text
    free_running  the recorded command, its output is short    greedy text

Truth comes from the record and from nothing else; what the record does not prove is not asked, and counted. Questions
are drawn before a model has answered: two models with one tokenizer get the same. Not here: cross-entropies (`sums`),
controls (`controls`), and readings of single answers for people (`readouts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from envecho.errors import ConfigError
from envecho.evaluation.probe_asking import Choice as ChoiceQuestion
from envecho.evaluation.probe_asking import (
    ChoiceAnswer,
    OpenAnswer,
    OpenQuestion,
    ask_choices,
    ask_open,
    deal,
    fits,
    place_output,
    write_answers,
)
from envecho.evaluation.probe_exit import exit_questions
from envecho.evaluation.probe_files import existence_questions, line_questions
from envecho.evaluation.probe_measures import auc, balanced_accuracy, majority, share
from envecho.evaluation.questions import Continuation
from envecho.evaluation.results import Probe, ProbeResult, Stat
from envecho.evaluation.scores import ANSWERS, answer_text
from envecho.evaluation.similarity import edit_similarity
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Trajectory

MAX_FREE_TOKENS: Final = 40
"""The longest output, in tokens, that a model is asked to write whole."""


def run_probes(
    engine: Engine,
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    seed: int,
    max_questions: int,
) -> dict[Probe, ProbeResult]:
    """Ask a model at most `max_questions` of each probe about a pool, at T = 1 or greedily.

    A probe without a question has no measure and still its counts: why something was not asked about. Beside the
    reasons of each probe these are `num_not_drawn`, beyond `max_questions`, and `num_beyond_context`, questions that
    were drawn and that the model has no room for.

    Raises:
        ConfigError: `max_questions` is below 1.
        EngineError: the engine cannot score or sample.
    """
    if max_questions < 1:
        raise ConfigError(f"max_questions is {max_questions}, expected at least 1 per probe")
    pool = sorted(trajectories, key=lambda trajectory: trajectory.id)
    return {
        "exit_status": _exit_status(engine, pool, tokenizer, seed=seed, count=max_questions),
        "file_exists": _file_exists(engine, pool, tokenizer, seed=seed, count=max_questions),
        "line_count": _line_count(engine, pool, tokenizer, seed=seed, count=max_questions),
        "free_running": _free_running(engine, pool, tokenizer, seed=seed, count=max_questions),
    }


def draw_choices(questions: Sequence[ChoiceQuestion], count: int, *, seed: int) -> list[ChoiceQuestion]:
    """Draw up to `count` questions, true and false ones in turn."""
    groups: dict[bool, list[tuple[str, ChoiceQuestion]]] = {True: [], False: []}
    for question in questions:
        groups[question.truth].append((f"{question.trajectory.id}-{question.turn}-{question.command}", question))
    return deal(groups, count, seed=seed)


def free_questions(
    trajectories: Sequence[Trajectory], tokenizer: ChatTokenizer
) -> tuple[dict[str, list[tuple[str, tuple[str, Continuation]]]], Counter[str]]:
    """Return (task id, place) of each short output by operation, and why others are not asked.

    Where the pool has labels, of derivable outputs alone: nobody can know the others.
    """
    outputs = [
        (trajectory, turn, message)
        for trajectory in trajectories
        for turn, message in enumerate(trajectory.messages)
        if turn and message.role != "assistant" and answer_text(message).strip()
    ]
    labelled = [output for output in outputs if output[2].labels.get("view") == "derivable"]
    asked = labelled or [output for output in outputs if output[0].messages[output[1] - 1].role == "assistant"]
    counts = Counter({"num_not_derivable": len(outputs) - len(asked)} if labelled else {})
    groups: dict[str, list[tuple[str, tuple[str, Continuation]]]] = {}
    for trajectory, turn, message in asked:
        text = answer_text(message)
        if len(text) > MAX_FREE_TOKENS * 16 or len(tokenizer.encode_text(text)[0]) > MAX_FREE_TOKENS:
            counts["num_long"] += 1
            continue
        short = trajectory.with_messages(trajectory.messages[: turn + 1])
        place = place_output(short, turn, frozenset(ANSWERS), tokenizer)
        if place is None:
            counts["num_not_one_run"] += 1
            continue
        name = f"{trajectory.id}-{turn}"
        groups.setdefault(message.labels.get("operation", ""), []).append((name, (trajectory.task_id, place)))
    return groups, counts


def _exit_status(
    engine: Engine, pool: Sequence[Trajectory], tokenizer: ChatTokenizer, *, seed: int, count: int
) -> ProbeResult:
    questions, counts = exit_questions(pool)
    drawn = draw_choices(questions, count, seed=seed)
    answers = ask_choices(engine, drawn, tokenizer)
    return _chosen(answers, _counted(counts, len(questions), len(drawn), len(answers)), seed=seed)


def _file_exists(
    engine: Engine, pool: Sequence[Trajectory], tokenizer: ChatTokenizer, *, seed: int, count: int
) -> ProbeResult:
    questions, counts = existence_questions(pool, seed=seed)
    drawn = draw_choices(questions, count, seed=seed)
    answers = ask_choices(engine, drawn, tokenizer)
    return _chosen(answers, _counted(counts, len(questions), len(drawn), len(answers)), seed=seed)


def _line_count(
    engine: Engine, pool: Sequence[Trajectory], tokenizer: ChatTokenizer, *, seed: int, count: int
) -> ProbeResult:
    questions, counts = line_questions(pool)
    named = {"": [(f"{q.trajectory.id}-{q.turn}", q) for q in questions]}
    drawn: list[OpenQuestion] = deal(named, count, seed=seed)
    answers = ask_open(engine, drawn, tokenizer)
    tasks = [answer.task_id for answer in answers]
    numbers = [answer.truth.split()[0] for answer in answers]
    right = [answer.text.split()[:1] == [number] for answer, number in zip(answers, numbers, strict=True)]
    return _result(
        {
            "accuracy": share(right, tasks, seed=seed),
            "majority": majority(numbers, tasks, seed=seed),
            **_written(answers, seed=seed),
        },
        len(answers),
        _counted(counts, len(questions), len(drawn), len(answers)),
    )


def _free_running(
    engine: Engine, pool: Sequence[Trajectory], tokenizer: ChatTokenizer, *, seed: int, count: int
) -> ProbeResult:
    groups, counts = free_questions(pool, tokenizer)
    drawn = deal(groups, count, seed=seed)
    asked = [item for item in drawn if fits(item[1], engine.capabilities.max_context_tokens)]
    answers = write_answers(engine, asked, tokenizer)
    counted = _counted(counts, sum(map(len, groups.values())), len(drawn), len(asked))
    return _result(_written(answers, seed=seed), len(answers), counted)


def _chosen(answers: Sequence[ChoiceAnswer], counts: dict[str, int], *, seed: int) -> ProbeResult:
    tasks = [answer.question.trajectory.task_id for answer in answers]
    truths = [answer.question.truth for answer in answers]
    correct = [answer.correct for answer in answers]
    measures = {
        "accuracy": share(correct, tasks, seed=seed),
        "balanced_accuracy": balanced_accuracy(correct, truths, tasks, seed=seed),
        "auc": auc([answer.log_odds for answer in answers], truths, tasks, seed=seed),
        "majority": majority(truths, tasks, seed=seed),
    }
    return _result(measures, len(answers), counts)


def _written(answers: Sequence[OpenAnswer], *, seed: int) -> dict[str, Stat | None]:
    tasks = [answer.task_id for answer in answers]
    alike = [edit_similarity(answer.text, answer.truth) for answer in answers]
    return {
        "exact_match": share([answer.exact for answer in answers], tasks, seed=seed),
        "edit_similarity": share(alike, tasks, seed=seed),
    }


def _counted(counts: Counter[str], num_candidates: int, num_drawn: int, num_asked: int) -> dict[str, int]:
    """All reasons that occur, by name."""
    reasons = counts + Counter(num_not_drawn=num_candidates - num_drawn, num_beyond_context=num_drawn - num_asked)
    return dict(sorted(reasons.items()))


def _result(measures: Mapping[str, Stat | None], num_questions: int, counts: dict[str, int]) -> ProbeResult:
    known = {name: stat for name, stat in measures.items() if stat is not None}
    return ProbeResult(measures=known, num_questions=num_questions, counts=counts)
