"""What a server can do, measured with tiny requests before anything is sampled for training.

    ids and log-probs?          one turn of 8 tokens
    do they add up?             the same positions asked again one by one, with the returned ids as the prompt
    at which temperature?       the distance between likely tokens at temperature 0.5 is twice that at 1, or it is not
    the whole distribution?     draws of one token: how many fall outside the likeliest 20, and how many should
    the token that ends a turn? a turn that is told to stop at a token that it is known to draw

Nothing here is looked up by a name or a version: what was measured counts. Not here: whether the server's weights are
the trainer's (`engine`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from envecho.errors import EngineError
from envecho.rollout.served.answers import check_answer
from envecho.rollout.served.dialect import Answer, AnswerError, Dialect, ServerKind, Turn
from envecho.rollout.served.wire import ServerRefusedError, Wire

LogprobTemperature = Literal["sampling", "one", "unknown"]

_PROMPT: Final = tuple(range(4, 20))
"""Ids that every vocabulary has."""
_NUM_TOKENS: Final = 8
_NUM_AGAIN: Final = 3
_HALF: Final = 0.5
_SMALLEST_GAP: Final = 0.02
_NUM_DRAWS: Final = 64
_SEED: Final = 20260527
MOST_DIFFERENCE: Final = 0.25
"""Nats by which a log-prob may differ between two computations of it; bfloat16 in other batches comes near 0.1."""


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What was measured; `exact_logprobs` is empty where turns can be trained on, else says why not.

    `logprob_temperature` says whether log-probs are those at the sampling temperature or always those at 1.
    `add_up_difference` is the largest difference, in nats, when positions were asked again one by one; None where the
    server names no likely tokens. Of `num_draws` draws of one token, `num_outside` fell outside the likeliest tokens
    and `expected_outside` should have. `repeats_draws` says that one seed gave the same turn twice. `ends_whole` says
    that the token that ends a turn is returned with it.
    """

    kind: ServerKind
    url: str
    version: str | None
    model: str | None
    max_context_tokens: int | None
    logprob_temperature: LogprobTemperature
    add_up_difference: float | None
    num_draws: int
    num_outside: int
    expected_outside: float
    repeats_draws: bool
    ends_whole: bool
    problems: tuple[str, ...]

    def require_exact(self) -> None:
        """Raise where turns of this server cannot be trained on.

        Raises:
            EngineError: with what was measured, and what to do.
        """
        if self.problems:
            raise EngineError(
                f"{self.url} ({self.kind}) cannot be sampled for training: {'; '.join(self.problems)}. Its text can"
                " still be collected (`ChatPolicy`, without ids)"
            )

    def require_temperature(self, temperature: float) -> None:
        """Raise where log-probs are not those of the distribution at this temperature.

        Raises:
            EngineError: with what to do.
        """
        if temperature in (0, 1) or self.logprob_temperature == "sampling":
            return
        told = "at temperature 1" if self.logprob_temperature == "one" else "at an unknown temperature"
        cure = {
            "vllm": "start vLLM with --logprobs-mode processed_logprobs",
            "sglang": "start SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB",
        }.get(self.kind, "use another server")
        raise EngineError(
            f"{self.url} returns log-probs {told}, and turns are sampled at temperature {temperature:g}: they are not"
            f" those of the distribution that was drawn from. Sample at temperature 1, or {cure}"
        )


def probe_server(wire: Wire, dialect: Dialect, *, kind: ServerKind, model: str | None) -> ServerFacts:
    """Measure a server; some 75 requests of a few tokens.

    Raises:
        ServerLostError: nothing answers.
        ServerRefusedError: it does not let us in, or has not the model or the route.
    """
    identity = dialect.identify(wire)
    probe = _Probe(wire, dialect, model=model or identity.model)
    facts = ServerFacts(
        kind=kind,
        url=wire.url,
        version=identity.version,
        model=model or identity.model,
        max_context_tokens=identity.max_context_tokens,
        logprob_temperature="unknown",
        add_up_difference=None,
        num_draws=0,
        num_outside=0,
        expected_outside=0.0,
        repeats_draws=False,
        ends_whole=False,
        problems=(),
    )
    try:
        return probe.measure(facts)
    except AnswerError as error:
        return replace(facts, problems=(str(error),))


@final
class _Probe:
    """The requests of a probe."""

    def __init__(self, wire: Wire, dialect: Dialect, *, model: str | None) -> None:
        self._wire, self._dialect, self._model = wire, dialect, model
        self._num_top = dialect.most_top

    def measure(self, facts: ServerFacts) -> ServerFacts:
        turn = Turn(
            prompt=_PROMPT, max_tokens=_NUM_TOKENS, temperature=1.0, seed=_SEED, num_top=self._num_top, salt="probe"
        )
        first, again = self._ask(turn), self._ask(turn)
        difference = self._add_up_difference(turn, first)
        num_outside, expected, variance = self._draws_outside(turn)
        facts = replace(
            facts,
            logprob_temperature=self._temperature(turn),
            add_up_difference=difference,
            num_draws=_NUM_DRAWS,
            num_outside=num_outside,
            expected_outside=expected,
            repeats_draws=first.token_ids == again.token_ids,
            ends_whole=self._ends_whole(turn),
        )
        return replace(facts, problems=tuple(_problems(facts, variance)))

    def _ask(self, turn: Turn) -> Answer:
        call = self._dialect.call(turn, self._model)
        try:
            answer = self._dialect.read(self._wire.post(call.path, call.body))
        except ServerRefusedError as error:
            if error.status in (404, 405, 501):
                raise AnswerError(f"it has not this route or this model ({error})") from error
            if error.status in (400, 415, 422):
                raise AnswerError(f"it does not take token ids as a prompt ({error})") from error
            raise
        check_answer(answer, turn)
        return answer

    def _add_up_difference(self, turn: Turn, answer: Answer) -> float | None:
        """Ask for single positions with the returned ids as their prompt, and compare the likely tokens there."""
        differences: list[float] = []
        for place in range(1, min(_NUM_AGAIN + 1, len(answer.token_ids), len(answer.top))):
            prompt = (*turn.prompt, *answer.token_ids[:place])
            other = self._ask(replace(turn, prompt=prompt, max_tokens=1))
            differences += _differences(answer.top[place], other.top[0] if other.top else {})
        return max(differences, default=None)

    def _temperature(self, turn: Turn) -> LogprobTemperature:
        """Compare the distance between likely tokens at two temperatures, by their names."""
        one, half = (self._top(replace(turn, max_tokens=1, temperature=t)) for t in (1.0, _HALF))
        names = sorted(one.keys() & half.keys(), key=lambda name: one[name])
        if len(names) < 2 or one[names[-1]] - one[names[0]] < _SMALLEST_GAP:
            return "unknown"
        ratio = (half[names[-1]] - half[names[0]]) / (one[names[-1]] - one[names[0]])
        if abs(ratio * _HALF - 1) < 0.1:
            return "sampling"
        return "one" if abs(ratio - 1) < 0.1 else "unknown"

    def _top(self, turn: Turn) -> Mapping[str, float]:
        answer = self._ask(turn)
        return answer.top[0] if answer.top else {}

    def _draws_outside(self, turn: Turn) -> tuple[int, float, float]:
        """Count the draws that are none of the likeliest tokens; with the number expected and its variance.

        The drawn token is among the log-probs of its own request wherever it lies, so the likeliest are taken by value
        and a draw is outside if it is less likely than the last of them.
        """
        turns = [replace(turn, max_tokens=1, seed=_SEED + number) for number in range(_NUM_DRAWS)]
        with ThreadPoolExecutor(max_workers=min(8, self._wire.options.max_concurrent)) as pool:
            answers = list(pool.map(self._ask, turns))
        values = sorted((answers[0].top[0] if answers[0].top else {}).values(), reverse=True)[: self._num_top]
        if not values:
            return 0, 0.0, 0.0
        share = min(1.0, max(0.0, 1.0 - sum(math.exp(value) for value in values)))
        outside = sum(answer.logprobs[0] < values[-1] - 1e-3 for answer in answers)
        return outside, share * _NUM_DRAWS, share * (1 - share) * _NUM_DRAWS

    def _ends_whole(self, turn: Turn) -> bool:
        """Have a greedy turn stop at a token that it draws, and see whether this token is returned."""
        greedy = self._ask(replace(turn, temperature=0.0, num_top=0)).token_ids
        place = next((n for n in range(1, len(greedy)) if greedy[n] not in greedy[:n]), 0)
        stopped = self._ask(replace(turn, temperature=0.0, num_top=0, stop_token_ids=(greedy[place],))).token_ids
        return stopped[: place + 1] == greedy[: place + 1]


def _differences(one: Mapping[str, float], other: Mapping[str, float]) -> Iterable[float]:
    return [abs(one[name] - other[name]) for name in one.keys() & other.keys()]


def _problems(facts: ServerFacts, variance: float) -> Iterable[str]:
    if facts.add_up_difference is not None and facts.add_up_difference > MOST_DIFFERENCE:
        yield (
            "the log-probs of a turn and those of the same positions asked again differ by"
            f" {facts.add_up_difference:.2f} nats: the returned ids are not what the server has in its context"
        )
    if facts.expected_outside - facts.num_outside > 4 * math.sqrt(variance) + 1:
        yield (
            f"{facts.num_outside} of {facts.num_draws} draws are none of the likeliest tokens, where"
            f" {facts.expected_outside:.0f} should be: the server cuts the distribution (top-k, top-p or min-p)"
        )
    if not facts.ends_whole:
        yield "the token that ends a turn is not returned, so it has no log-prob and cannot be trained"
