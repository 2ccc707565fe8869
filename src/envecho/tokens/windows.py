"""Sequences longer than the model's context become overlapping windows; nothing is cut.

The rule: every window is a run of `max_tokens` tokens and owns its newest part. What it owns ends at the last message
boundary in the second half of what it could own, or where it is full; it reaches back as far as fits, so that each
owned token has at least `max_tokens // 4` tokens of context to its left where they exist. Each owned token of the
sequence is owned by exactly one window. Not here: histories that a template rewrites (`branches`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from envecho.errors import ConfigError
from envecho.tokens.tokenized import TokenizedTrajectory

MIN_WINDOW_TOKENS = 8


def split_windows(tokenized: TokenizedTrajectory, max_tokens: int | None) -> list[TokenizedTrajectory]:
    """Split a sequence into windows of at most `max_tokens` tokens; a sequence that fits is returned as it is.

    Windows that do not start at the sequence's start are `context_truncated`.

    Raises:
        ConfigError: `max_tokens` is below `MIN_WINDOW_TOKENS`.

    Example: 12 tokens, max_tokens = 8, no message boundary in reach (o owned, c context).

        tokens    0 1 2 3 4 5 6 7 8 9 10 11
        window 0  o o o o o o o o
        window 1          c c c c o o o  o
    """
    if max_tokens is not None and max_tokens < MIN_WINDOW_TOKENS:
        raise ConfigError(f"max_tokens is {max_tokens}, expected at least {MIN_WINDOW_TOKENS}")
    n = len(tokenized)
    if max_tokens is None or n <= max_tokens:
        return [tokenized]
    context = max_tokens // 4
    boundaries = np.flatnonzero(np.diff(tokenized.turns)) + 1
    windows: list[TokenizedTrajectory] = []
    owned = tokenized.owned_from
    while owned < n:
        whole_prefix = not windows and owned <= max_tokens - context
        end = min(n, max_tokens if whole_prefix else owned - context + max_tokens)
        if end < n:
            inside = boundaries[(boundaries > owned + (end - owned) // 2) & (boundaries <= end)]
            end = int(inside[-1]) if len(inside) else end
        start = max(0, end - max_tokens)
        windows.append(_window(tokenized, start, end, owned, len(windows)))
        owned = end
    return windows


def _window(tokenized: TokenizedTrajectory, start: int, end: int, owned: int, number: int) -> TokenizedTrajectory:
    return replace(
        tokenized,
        window=number,
        owned_from=owned - start,
        context_truncated=tokenized.context_truncated or start > 0,
        token_ids=tokenized.token_ids[start:end],
        sources=tokenized.sources[start:end],
        turns=tokenized.turns[start:end],
        num_bytes=tokenized.num_bytes[start:end],
        sampling_logprobs=tokenized.sampling_logprobs[start:end],
        sampling_entropies=tokenized.sampling_entropies[start:end],
    )
