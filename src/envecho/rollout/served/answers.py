"""From the answer of a server to a sample that can be trained on, or the reason why it cannot.

Not here: how an answer reads (the dialects).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from envecho.rollout.served.dialect import Answer, AnswerError, Turn
from envecho.seam import Sample

_ROUNDING: Final = 1e-4


def to_sample(answer: Answer, turn: Turn) -> Sample:
    """Return the sample of an answer, cut after its first stop token.

    At temperature 0 the log-probs are 0, because nothing else could have been drawn.

    Raises:
        AnswerError: ids and log-probs do not belong together, or the token that ended the turn was kept back.
    """
    check_answer(answer, turn)
    ids, logprobs = answer.token_ids, answer.logprobs
    stops = [place for place, token in enumerate(ids) if token in turn.stop_token_ids]
    if stops:
        ids, logprobs = ids[: stops[0] + 1], logprobs[: stops[0] + 1]
    elif not answer.is_cut and not answer.has_own_end:
        raise AnswerError(
            f"the server ended a turn of {len(ids)} tokens before its limit of {turn.max_tokens}, and its last token is"
            f" none of the stop tokens {list(turn.stop_token_ids)}: the token that ended it was not returned, so the"
            " turn is not whole"
        )
    return Sample(
        token_ids=np.array(ids, dtype=np.int32),
        logprobs=np.zeros(len(ids), np.float32) if turn.temperature == 0 else np.array(logprobs, dtype=np.float32),
        stopped=bool(stops),
    )


def check_answer(answer: Answer, turn: Turn) -> None:
    """Check that ids and log-probs can be true.

    Raises:
        AnswerError: they cannot.
    """
    num_ids, logprobs = len(answer.token_ids), answer.logprobs
    if not num_ids or num_ids != len(logprobs):
        raise AnswerError(f"the server returned {num_ids} token ids and {len(logprobs)} log-probs for one turn")
    if num_ids > turn.max_tokens:
        raise AnswerError(f"the server returned {num_ids} tokens, and at most {turn.max_tokens} were asked for")
    wrong = [value for value in logprobs if not (math.isfinite(value) and value <= _ROUNDING)]
    if wrong:
        raise AnswerError(f"the server returned log-probs that are none: {wrong[:3]}")
