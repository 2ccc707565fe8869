"""The part `decode` of `envecho bench rollout`: a real model's turns, beside transformers' `generate` in a plain loop.

Both go through the same histories turn by turn: groups of episodes that start with one prompt, and answers of unequal
length behind each action. Ours is a `LocalEngine`'s session; the plain loop pads the histories on the left and lets
`generate` read them from the beginning, with its cache within a turn. Not here: worlds (`bench_rollout`), and the
log-probs of what was drawn, which the plain loop would have to compute in another pass and ours returns.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envecho.seam import SamplingParams, TurnRequest

_GROUPS, _GROUP_SIZE, _TURNS, _TOKENS = 2, 4, 3, 24
_PROMPT, _ANSWER = (120, 200), (10, 60)
_STOP_SHARE: Final = 1 / 16
MATERIAL: Final = (
    f"{_GROUPS} groups of {_GROUP_SIZE} episodes, {_TURNS} turns of up to {_TOKENS} tokens, prompts of {_PROMPT[0]} to "
    f"{_PROMPT[1]} tokens, answers of {_ANSWER[0]} to {_ANSWER[1]}"
)

Prompts = Mapping[int, NDArray[np.int32]]
Arm = Callable[[Prompts, int], list[NDArray[np.int32]]]


def decode_phases(model: str, seed: int) -> dict[str, Callable[[], dict[str, float]]]:
    """Return the phases by their titles: turns of equal length, and turns that end early."""
    return {
        f"decoding {model}, equal turns": functools.partial(run_decoding, model, seed, ends_early=False),
        f"decoding {model}, turns that end early": functools.partial(run_decoding, model, seed, ends_early=True),
    }


def run_decoding(model: str, seed: int, *, ends_early: bool) -> dict[str, float]:
    """Decode the episodes by both, turn about, and return the ratio of their seconds per drawn token.

    With `ends_early`, one token in 16 of the vocabulary ends a turn, for both.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from envecho.engines.local import LocalEngine
    from envecho.engines.pretrained import resolve_model
    from envecho.engines.quiet import quiet_transformers

    folder = resolve_model(model)
    engine = LocalEngine(folder, trains=False, seed=seed)
    with quiet_transformers():
        plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(engine.capabilities.compute_dtype))
    plain = plain.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    plain.generation_config.eos_token_id = None
    size = int(plain.get_input_embeddings().weight.shape[0])
    draw = np.random.default_rng(seed)
    stops = tuple(draw.choice(size, int(size * _STOP_SHARE), replace=False).tolist()) if ends_early else ()
    with engine.sampling_session() as session:

        def ours(prompts: Prompts, turn: int) -> list[NDArray[np.int32]]:
            requests = [TurnRequest(row=row, prompt=prompt, key=(row, turn)) for row, prompt in prompts.items()]
            params = SamplingParams(max_tokens=_TOKENS, seed=seed, stop_token_ids=stops)
            return [sample.token_ids for sample in session.sample(requests, params)]

        def theirs(prompts: Prompts, turn: int) -> list[NDArray[np.int32]]:
            return generated(plain, list(prompts.values()), stops, seed=seed + turn)

        for arm in (ours, theirs):  # the first call of each loads its kernels
            arm({-1: draw.integers(10, size, 20, dtype=np.int32)}, 0)
        session.drop(-1)
        return turn_about({"ours": ours, "theirs": theirs}, size, seed)


def turn_about(arms: Mapping[str, Arm], size: int, seed: int) -> dict[str, float]:
    """Let both arms sample each turn of the episodes, in changing order; what `ours` draws goes on."""
    draw = np.random.default_rng(seed)
    tasks = [draw.integers(10, size, draw.integers(*_PROMPT), dtype=np.int32) for _ in range(_GROUPS)]
    prompts = {row: tasks[row // _GROUP_SIZE] for row in range(_GROUPS * _GROUP_SIZE)}
    seconds, tokens = dict.fromkeys(arms, 0.0), dict.fromkeys(arms, 0)
    for turn in range(_TURNS):
        found: dict[str, list[NDArray[np.int32]]] = {}
        for name in sorted(arms, reverse=bool(turn % 2)):
            start = time.perf_counter()
            found[name] = arms[name](prompts, turn)
            seconds[name] += time.perf_counter() - start
            tokens[name] += sum(len(ids) for ids in found[name])
        for row, ids in enumerate(found["ours"]):
            answer = draw.integers(10, size, draw.integers(*_ANSWER), dtype=np.int32)
            prompts[row] = np.concatenate([prompts[row], ids, answer])
    each = {name: seconds[name] / tokens[name] for name in arms}
    return {"ratio_to_generate": each["ours"] / each["theirs"], "drawn_per_second": 1 / each["ours"]}


def generated(
    network: Any, prompts: Sequence[NDArray[np.int32]], stops: Sequence[int], *, seed: int
) -> list[NDArray[np.int32]]:
    """Continue the prompts by `generate`, padded on the left, and return what each drew, its end included."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    torch.manual_seed(seed)
    out = network.generate(
        input_ids=ids.to(network.device),
        attention_mask=mask.to(network.device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=_TOKENS,
        pad_token_id=0,
        **({"eos_token_id": list(stops)} if stops else {}),
    )
    rows = out[:, width:].cpu().numpy().astype(np.int32)
    ends = [np.flatnonzero(np.isin(row, list(stops))) for row in rows]
    return [row[: end[0] + 1] if len(end) else row for row, end in zip(rows, ends, strict=True)]


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
