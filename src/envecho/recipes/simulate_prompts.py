"""The prompt behind which a model speaks as the world, and what it says there.

The chat goes on after the action's end of turn with the template's own scaffold up to where the answer's content
starts; the model writes from there to the token that ends the message. Where content starts and ends is measured with a
probe message in the answer's place, so it does not depend on the truth. Not here: what the text means
(`simulate_answers`), and whose words stand in the history (`simulate_episodes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import EngineError, TemplateError
from envecho.seam import Engine, SamplingParams, SamplingSession, ScoreRequest, TurnRequest
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Role, Segment, Source, Trajectory

_PROBE: Final = Segment(source=Source.STDOUT, text="x")


@dataclass(frozen=True, kw_only=True)
class AnswerPrompt:
    """Ids `[token]` up to the first token of an answer, the tokens that end it, and the text before such a token.

    `closing` is what the template writes between content and end: nothing, or a line end before `</tool_response>`.
    """

    token_ids: NDArray[np.int32]
    stop_token_ids: tuple[int, ...]
    closing: str


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model wrote as the world: a text, and whether it reached the bound without an end."""

    text: str
    cut: bool


def require_sampling(engine: Engine) -> None:
    """Refuse an engine that cannot write.

    Raises:
        EngineError: it does not sample.
    """
    if not engine.capabilities.samples:
        raise EngineError(
            f"simulating needs an engine that samples, and {type(engine).__name__} does not; open the model with "
            "`open_local`"
        )


def answer_prompt(
    history: Sequence[Message], answer: Message, tokenizer: ChatTokenizer, *, tools: Sequence[Mapping[str, Any]] = ()
) -> AnswerPrompt:
    """Return the prompt behind which the answer to the last action starts.

    Args:
        history: the messages up to the action.
        answer: the message in whose place the model speaks; of it only role, name and call id matter.
        tools: the tools that the chat template shows.

    Raises:
        TemplateError: the template cannot be followed, or ends the message without a control token.
    """
    probe = answer.model_copy(update={"segments": (_PROBE,), "labels": {}})
    episode = Trajectory(id="prompt", task_id="prompt", messages=(*history, probe), tools=tuple(map(dict, tools)))
    sequence = tokenize_trajectory(episode, tokenizer)[-1]
    places = np.flatnonzero((sequence.turns == len(history)) & sequence.source_mask(Source.STDOUT))
    if len(places) != 1:
        raise TemplateError(
            f"expected the probe behind {len(history)} messages as one token, found {len(places)}; the chat template "
            "joins an answer's first letter with its own text, so where an answer starts cannot be told"
        )
    start = int(places[0])
    behind = sequence.token_ids[start + 1 :].tolist()
    end = next((place for place, token in enumerate(behind) if token in tokenizer.added_ids), None)
    if end is None:
        raise TemplateError(
            f"the chat template of {tokenizer.hf.name_or_path!r} ends a message of role {answer.role} without a "
            "control token, so a model cannot say where its answer ends; use a template that has one"
        )
    eos = tokenizer.hf.eos_token_id
    stops = {int(behind[end])} | ({int(eos)} if isinstance(eos, int) else set())
    return AnswerPrompt(
        token_ids=sequence.token_ids[:start],
        stop_token_ids=tuple(sorted(stops)),
        closing=decode(behind[:end], tokenizer),
    )


def say_as_world(
    session: SamplingSession,
    prompts: Mapping[int, AnswerPrompt],
    tokenizer: ChatTokenizer,
    *,
    max_tokens: int,
) -> dict[int, Said]:
    """Return the greedy answer of each row of a session; rows that end in different tokens are decoded apart."""
    said: dict[int, Said] = {}
    for stop in sorted({prompt.stop_token_ids for prompt in prompts.values()}):
        rows = [row for row, prompt in prompts.items() if prompt.stop_token_ids == stop]
        requests = [TurnRequest(row=row, prompt=prompts[row].token_ids, key=(row,)) for row in rows]
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_token_ids=stop)
        for row, sample in zip(rows, session.sample(requests, params), strict=True):
            ids = sample.token_ids.tolist()
            text = decode(ids[:-1] if sample.stopped else ids, tokenizer)
            said[row] = Said(
                text=text.removesuffix(prompts[row].closing) if sample.stopped else text, cut=not sample.stopped
            )
    return said


def truth_nats(
    engine: Engine, trajectories: Sequence[Trajectory], tokenizer: ChatTokenizer
) -> list[dict[int, tuple[float, int]]]:
    """Return for each trajectory, by message, nats and number of its environment tokens behind the true history.

    The tokens are those of every evaluation: role `env_output`, each owned once, at T = 1.
    """
    most = engine.capabilities.max_context_tokens
    owners: list[int] = []
    requests: list[ScoreRequest] = []
    turns: list[NDArray[np.int32]] = []
    for number, trajectory in enumerate(trajectories):
        for sequence in tokenize_trajectory(trajectory, tokenizer, max_tokens=most):
            read = sequence.owned_mask() & sequence.role_mask(Role.ENV_OUTPUT)
            if read.any():
                owners.append(number)
                requests.append(ScoreRequest(token_ids=sequence.token_ids, read=read))
                turns.append(sequence.turns[read])
    found: list[dict[int, tuple[float, int]]] = [{} for _ in trajectories]
    scores = engine.logprobs(requests) if requests else []
    for number, request, at, score in zip(owners, requests, turns, scores, strict=True):
        nats = -score.logprobs[request.read].astype(np.float64)
        for turn in np.unique(at).tolist():
            before, count = found[number].get(turn, (0.0, 0))
            here = at == turn
            found[number][turn] = (before + float(nats[here].sum()), count + int(here.sum()))
    return found


def decode(token_ids: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """Return the text of ids, control tokens written out."""
    return str(tokenizer.hf.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
