"""Questions of a probe, and how they are put to a model: a real history, a command, and answers to choose from.

A `Choice` is a question with two kinds of answers; the model's answer is the log-odds between them. An `OpenQuestion`
is answered in the model's own words, greedily. Which are asked depends on the pool, the tokenizer and the seed alone,
so two models that share a tokenizer are asked the same. Not here: what is asked and what is true (`probe_exit`,
`probe_files`), and figures (`probe_measures`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.questions import Continuation, answer_logprobs, continue_greedily
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Segment, Source, Trajectory


@dataclass(frozen=True, kw_only=True)
class Question:
    """A place in an episode: after `history`, whose last message says `command`, the world answers `reply`.

    `reply` holds what stands before the asked text (wrappers, an echo); the asked text has the source `source`.
    `turn` is the message of the recorded episode after which the question stands.
    """

    trajectory: Trajectory
    turn: int
    command: str
    history: tuple[Message, ...]
    reply: Message
    source: Source

    def place(self, text: str, tokenizer: ChatTokenizer) -> Continuation | None:
        """Return the ids before and of `text` as the answer; None where they do not lie in one sequence."""
        answer = Segment(source=self.source, text=text)
        reply = self.reply.model_copy(update={"segments": (*self.reply.segments, answer)})
        asked = self.trajectory.with_messages((*self.history, reply))
        return place_output(asked, len(self.history), frozenset({self.source}), tokenizer)

    def place_all(self, texts: Sequence[str], tokenizer: ChatTokenizer) -> list[Continuation | None]:
        """Return `place` of each text; the history is rendered once where the texts are cut from it alike."""
        first = self.place(texts[0], tokenizer)
        told = None if first is None else _answer_ids(first.prompt, texts[0], tokenizer)
        if first is None or told is None or not np.array_equal(told, first.token_ids):
            return [first, *(self.place(text, tokenizer) for text in texts[1:])]
        found: list[Continuation | None] = [first]
        for text in texts[1:]:
            ids = _answer_ids(first.prompt, text, tokenizer)
            found.append(self.place(text, tokenizer) if ids is None else replace(first, token_ids=ids))
        return found


def _answer_ids(prompt: NDArray[np.int32], text: str, tokenizer: ChatTokenizer) -> NDArray[np.int32] | None:
    """The ids of `text` behind a prompt, encoded with what follows the prompt's last control token.

    None where the text changes the ids of that.
    """
    control = np.flatnonzero(np.isin(prompt, list(tokenizer.added_ids)))
    run = prompt[int(control[-1]) + 1 if len(control) else 0 :].tolist()
    before = b"".join(tokenizer.token_bytes(token) for token in run).decode(errors="replace")
    ids = tokenizer.encode_text(before + text)[0]
    return np.array(ids[len(run) :], dtype=np.int32) if ids[: len(run)] == run else None


@dataclass(frozen=True, kw_only=True)
class Choice(Question):
    """A question whose answer is `truth`: any text of `yes` says that it is, any of `no` that it is not.

    With no text in `no`, everything that is not in `yes` says that it is not.
    """

    truth: bool
    yes: tuple[str, ...]
    no: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OpenQuestion(Question):
    """A question whose answer is the text `truth`, to be written by the model."""

    truth: str


@dataclass(frozen=True, kw_only=True)
class ChoiceAnswer:
    """A model's answer to a choice: the log-odds of yes, in nats; `says` is what it holds to be likelier."""

    question: Choice
    log_odds: float

    @property
    def says(self) -> bool:
        """Whether the model gives yes more probability than no."""
        return self.log_odds > 0

    @property
    def correct(self) -> bool:
        """Whether that is true."""
        return self.says == self.question.truth


@dataclass(frozen=True, kw_only=True)
class OpenAnswer:
    """A model's own words, read for as many tokens as the truth has; `exact`: they are the truth's tokens."""

    task_id: str
    truth: str
    text: str
    exact: bool


def place_output(
    trajectory: Trajectory, turn: int, sources: frozenset[Source], tokenizer: ChatTokenizer
) -> Continuation | None:
    """Return the ids of message `turn` that have these sources, what stands before them, and what ends the message.

    The history is whole, never a window of it: a question is about what was shown. None where the ids are no single run
    of tokens in one branch.
    """
    found: list[Continuation] = []
    for sequence in tokenize_trajectory(trajectory, tokenizer):
        asked = (sequence.turns == turn) & np.isin(sequence.sources, [source.code for source in sources])
        places = np.flatnonzero(asked & sequence.owned_mask())
        if not len(places):
            continue
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 != len(places):
            return None
        scaffold = np.flatnonzero(sequence.source_mask(Source.SCAFFOLD)[last + 1 :])[:1] + last + 1
        found.append(
            Continuation(
                prompt=sequence.token_ids[:first],
                token_ids=sequence.token_ids[first : last + 1],
                stop=tuple(sequence.token_ids[scaffold].tolist()),
            )
        )
    return found[0] if len(found) == 1 else None


def fits(output: Continuation, max_context_tokens: int) -> bool:
    """Whether a model's context has room for a prompt and its true answer."""
    return len(output.prompt) + len(output.token_ids) <= max_context_tokens


def ask_choices(engine: Engine, questions: Sequence[Choice], tokenizer: ChatTokenizer) -> list[ChoiceAnswer]:
    """Ask all questions in one call of the engine; those that do not fit in its context are left out."""
    limit = engine.capabilities.max_context_tokens
    placed: list[tuple[Choice, list[Continuation]]] = []
    for question in questions:
        found = question.place_all((*question.yes, *question.no), tokenizer)
        whole = [continuation for continuation in found if continuation is not None and fits(continuation, limit)]
        if len(whole) == len(found):
            placed.append((question, whole))
    pairs = [continuation for _, found in placed for continuation in found]
    logprobs = answer_logprobs(engine, [pair.prompt for pair in pairs], [pair.token_ids for pair in pairs])
    answers: list[ChoiceAnswer] = []
    done = 0
    for question, found in placed:
        own = logprobs[done : done + len(found)]
        done += len(found)
        yes, no = own[: len(question.yes)], own[len(question.yes) :]
        answers.append(ChoiceAnswer(question=question, log_odds=_log_odds(yes, no)))
    return answers


def _log_odds(yes: NDArray[np.float64], no: NDArray[np.float64]) -> float:
    """Return log P(yes) - log P(no); without texts for no, P(no) = 1 - P(yes)."""
    in_favour = float(np.logaddexp.reduce(yes))
    if len(no):
        return in_favour - float(np.logaddexp.reduce(no))
    # Rounding may lift a certain answer to 1 or above.
    in_favour = min(in_favour, -1e-9)
    return in_favour - float(np.log(-np.expm1(in_favour)))


def ask_open(engine: Engine, questions: Sequence[OpenQuestion], tokenizer: ChatTokenizer) -> list[OpenAnswer]:
    """Let the model answer in its own words; questions that do not fit in its context are left out."""
    limit = engine.capabilities.max_context_tokens
    placed = [(question, question.place(question.truth, tokenizer)) for question in questions]
    whole = [(q.trajectory.task_id, found) for q, found in placed if found is not None and fits(found, limit)]
    return write_answers(engine, whole, tokenizer)


def write_answers(
    engine: Engine, asked: Sequence[tuple[str, Continuation]], tokenizer: ChatTokenizer
) -> list[OpenAnswer]:
    """Return the greedy answer to each (task id, place of the true text)."""
    written = continue_greedily(engine, [output for *_, output in asked])
    answers: list[OpenAnswer] = []
    for (task_id, output), ids in zip(asked, written, strict=True):
        # Both texts are of the ids: a blank that an output begins with may lie in a token of the template's.
        ended = ids[:-1] if ids and ids[-1] in output.stop else ids
        truth, text = (str(tokenizer.hf.decode(x, skip_special_tokens=False)) for x in (output.token_ids, ended))
        exact = ids == output.token_ids.tolist()
        answers.append(OpenAnswer(task_id=task_id, truth=truth, text=text, exact=exact))
    return answers


_Item = TypeVar("_Item")


def deal(groups: Mapping[Any, Iterable[tuple[str, _Item]]], count: int, *, seed: int) -> list[_Item]:
    """Draw up to `count` items, one group after the other in turn, so that small groups are not drowned.

    Every item comes with a name that is unique in its group; the order within a group follows from the seed and the
    name alone, never from the order of the pool.
    """
    queues = [
        sorted(groups[key], key=lambda pair: (random.Random(f"{seed}-{pair[0]}").random(), pair[0]))
        for key in sorted(groups, key=str)
    ]
    longest = max(map(len, queues), default=0)
    dealt = [queue[rank][1] for rank in range(longest) for queue in queues if rank < len(queue)]
    return dealt[:count]
