"""Plan-ahead: which of two actions a model takes for the one that succeeds, by its own prediction of the answers.

It writes its answer to both. Where exactly one looks like a failure (`simulate_answers`), it chooses the other. Else
the odds decide: how likely it finds it that the answer opens as an error does (`cat:`, `bash:` or `[exit status` for a
command, `{"error"` for a call), and it chooses the action for which that is less likely.

Not here: the pairs (`simulate_pairs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from envecho.evaluation.questions import answer_logprobs
from envecho.evaluation.results import Stat
from envecho.evaluation.simulation import Choice, ModelRole, Pair, PlanAheadResult
from envecho.recipes.simulate_answers import split_answer
from envecho.recipes.simulate_episodes import EPISODES_TOGETHER
from envecho.recipes.simulate_pairs import State, kind_of
from envecho.recipes.simulate_prompts import AnswerPrompt, answer_prompt, require_sampling, say_as_world
from envecho.recipes.simulate_scores import mean_over_tasks
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.worlds.tool_calls import CallText, parse_action

_EVEN: Final = 1e-6
"""Log-probs closer than this are a draw."""


def choose(
    engine: Engine, pairs: Sequence[tuple[State, Pair]], tokenizer: ChatTokenizer, *, max_tokens: int
) -> tuple[list[Choice | None], Counter[str]]:
    """Return a model's choice in every pair, None where it was not asked, and how often that was.

    Raises:
        EngineError: the engine does not sample.
    """
    require_sampling(engine)
    left_out: Counter[str] = Counter()
    choices: list[Choice | None] = [None] * len(pairs)
    most = engine.capabilities.max_context_tokens - max_tokens
    asked: list[tuple[int, AnswerPrompt, AnswerPrompt]] = []
    for number, (state, pair) in enumerate(pairs):
        one, other = (_prompt(state, command, tokenizer) for command in (pair.command, pair.other))
        if max(len(one.token_ids), len(other.token_ids)) <= most:
            asked.append((number, one, other))
        else:
            left_out["num_beyond_context"] += 1
    for start in range(0, len(asked), EPISODES_TOGETHER):
        batch = asked[start : start + EPISODES_TOGETHER]
        with engine.sampling_session() as session:
            prompts = {2 * n + k: pair[k] for n, (_, *pair) in enumerate(batch) for k in (0, 1)}
            said = say_as_world(session, prompts, tokenizer, max_tokens=max_tokens)
        odds = _error_logprobs(engine, batch, pairs, tokenizer)
        for n, (number, _, _) in enumerate(batch):
            choices[number] = _choice(said[2 * n].text, said[2 * n + 1].text, odds[2 * n], odds[2 * n + 1])
    return choices, left_out


def plan_ahead_result(pairs: Sequence[Pair], role: ModelRole, *, seed: int) -> PlanAheadResult:
    """Return how often a model was right, with intervals over tasks."""
    made = [(pair.task_id, pair.choices[role]) for pair in pairs if role in pair.choices]

    def accuracy(*deciders: str) -> Stat | None:
        kept = [(task, choice.right) for task, choice in made if choice.by in deciders]
        return mean_over_tasks([right for _, right in kept], [task for task, _ in kept], seed=seed)

    return PlanAheadResult(accuracy=accuracy("words", "odds"), by_words=accuracy("words"), by_odds=accuracy("odds"))


def _choice(one: str, other: str, one_odds: float, other_odds: float) -> Choice:
    fails = split_answer(one).failed, split_answer(other).failed
    if fails[0] != fails[1]:
        return Choice(succeeds=one, fails=other, by="words", right=float(fails[1]))
    if abs(one_odds - other_odds) <= _EVEN:
        return Choice(succeeds=one, fails=other, by="odds", right=0.5)
    return Choice(succeeds=one, fails=other, by="odds", right=float(one_odds < other_odds))


def _prompt(state: State, command: str, tokenizer: ChatTokenizer) -> AnswerPrompt:
    answer = state.trajectory.messages[state.place.turn]
    return answer_prompt(state.said(command), answer, tokenizer, tools=state.trajectory.tools)


def _error_logprobs(
    engine: Engine,
    batch: Sequence[tuple[int, AnswerPrompt, AnswerPrompt]],
    pairs: Sequence[tuple[State, Pair]],
    tokenizer: ChatTokenizer,
) -> list[float]:
    """Log-prob that the answer opens as an error, `[2 * pair + which]`: over all openings of its kind."""
    prompts = [prompt for _, *both in batch for prompt in both]
    commands = [command for n, *_ in batch for command in (pairs[n][1].command, pairs[n][1].other)]
    openings = [error_openings(command) for command in commands]
    asked = [prompt.token_ids for prompt, texts in zip(prompts, openings, strict=True) for _ in texts]
    answers = [np.array(tokenizer.encode_text(t)[0], dtype=np.int32) for texts in openings for t in texts]
    found = iter(answer_logprobs(engine, asked, answers).tolist())
    return [float(np.logaddexp.reduce([next(found) for _ in texts])) for texts in openings]


def error_openings(command: str) -> tuple[str, ...]:
    """Return how an error of this action begins: a program names itself, or bash does, or the status stands alone.

    An API answers an object.
    """
    if isinstance(parse_action(command), CallText):
        return ('{"error"',)
    program = kind_of(command)
    return tuple(dict.fromkeys((f"{program or 'bash'}:", "bash:", "[exit status")))
