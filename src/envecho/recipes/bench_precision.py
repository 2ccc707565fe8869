"""`python -m envecho.recipes.bench_precision`: how far losses and gradients lie from float64.

    python -m envecho.recipes.bench_precision --out results/bench/precision.json

Two questions, each with a table. How far is the engine from the float64 gradient in float32 and in bfloat16, and how
far is a plain transformers model with all logits? And how far apart are float64 gradients of the engine when the same
batch is cut, shared, packed, checkpointed and chunked in other ways? The float64 side is a transformers model, one
sequence at a time, all logits, plain autograd; nothing of it is envecho's. Not here: what any of it costs.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import PassKeywords
from envecho.engines.model import load_causal_model, use_float64_norms
from envecho.engines.precision import ComputeDtype
from envecho.engines.pretrained import resolve_model
from envecho.engines.quiet import quiet_transformers
from envecho.losses import PolicyLossSpec, WeightedBatch, batch_loss
from envecho.recipes import bench
from envecho.recipes.bench_evaluation import episodes
from envecho.recipes.progress import say
from envecho.tokens import ChatTokenizer, tokenize_trajectory

LENGTHS: Final = (128, 128)
"""Tokens of the sequences whose gradient is held against float64."""
SPLIT_LENGTHS: Final = (64, 48, 24, 16)
"""Those of the sequences that are cut: two pairs with a common beginning each; two fit beside each other into the
longest."""
TEMPERATURE: Final = 0.8

COLUMNS: Final = {
    "gradient_error": "gradient, all parameters",
    "tensor_error": "gradient, worst tensor",
    "loss_error": "loss",
    "logprob_error": "log-prob, largest, nats",
}
"""Errors against float64: relative in norm, the same of the tensor where it is largest, relative, and absolute."""
SPLIT_COLUMNS: Final = {"gradient_difference": "gradients apart, relative in norm"}

SHARED: Final = "common beginnings computed once"
PADDED: Final = ("padded rows, 1,000 tokens", "packed rows, 1,000 tokens")
SPLITS: Final[Mapping[str, PassKeywords]] = {
    "flat rows of 64 tokens": {"tokens_per_micro_batch": 64},
    "flat rows of 1,000 tokens": {"tokens_per_micro_batch": 1000},
    PADDED[0]: {"tokens_per_micro_batch": 1000},
    PADDED[1]: {"tokens_per_micro_batch": 1000, "packing": True},
    "checkpointing on": {"tokens_per_micro_batch": 1000, "gradient_checkpointing": True},
    SHARED: {"tokens_per_micro_batch": 1000},
}
"""Each is held against micro-batches of one token, in which every sequence is alone. `SHARED` alone shares; `PADDED`
are computed as models are that cannot be laid out flat."""
CHUNK_SIZES: Final = (1, 7, 64)
"""Each is held against all positions in one chunk."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody makes of a batch: the loss, log-probs `[token]` (NaN where not read), gradients by parameter."""

    loss: float
    policy_logprobs: NDArray[np.floating]
    env_logprobs: NDArray[np.floating]
    gradients: Mapping[str, NDArray[np.floating]]


def bench_precision(
    model: str, *, lengths: Sequence[int] = LENGTHS, split_lengths: Sequence[int] = SPLIT_LENGTHS, seed: int = 0
) -> dict[str, Any]:
    """Measure a model on text of a shell, actions and observations both weighed.

    Args:
        model: as `resolve_model` takes it.
        lengths, split_lengths: tokens of the sequences of the two batches.
        seed: draws the text.
    """
    folder = resolve_model(model)
    batch = text_batch(folder, lengths, seed=seed)
    measured: dict[str, dict[str, list[float]]] = {}
    worst: dict[str, str] = {}
    say("float64")
    exact = plain_answer(folder, batch, torch.float64)
    for title, found in _answers(folder, batch):
        errors, worst[title] = errors_of(found, exact)
        say(f"{title}: {errors['gradient_error']:.2g}")
        measured[title] = {key: [value] for key, value in errors.items()}
    del exact
    for title, difference in _differences(folder, text_batch(folder, split_lengths, seed=seed, share=True)):
        say(f"{title}: {difference:.2g}")
        measured[title] = {"gradient_difference": [difference]}
    material = {
        "model": model,
        "lengths": list(lengths),
        "split_lengths": list(split_lengths),
        "actions": int((batch.policy_weights != 0).sum()),
        "targets": int((batch.env_weights != 0).sum()),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "worst_tensors": worst,
    }
    return bench.document("precision", material, measured, 1, seed)


def text_batch(folder: Path, lengths: Sequence[int], *, seed: int, share: bool = False) -> WeightedBatch:
    """Return sequences cut out of episodes of a shell, around the place where the first command is answered.

    With `share` two neighbours are of the same episode, from the same token on. Both terms have the same total weight;
    advantages alternate between 1 and -1. The ratio is over the current log-prob, so that no clip can bind in one
    precision and not in another.
    """
    tokenizer = ChatTokenizer.from_pretrained(folder)
    found = list(episodes(len(lengths), tokenizer, seed=seed))
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, length in enumerate(lengths):
        whole = tokenize_trajectory(found[number // 2 if share else number], tokenizer)[0]
        start = max(0, int(whole.obs_mask.argmax()) - min(lengths) // 2)
        rows, inside = slice(start, start + length), np.arange(length) > 0
        action, env = whole.action_mask[rows] & inside, whole.obs_mask[rows] & inside
        parts.append((whole.token_ids[rows], np.arange(length), np.full(length, number), action, env))
    joined = [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]
    ids, positions, sequences, action, env = joined
    zeros = torch.zeros(len(ids))
    return WeightedBatch(
        token_ids=ids.long(),
        positions=positions,
        sequence_index=sequences,
        policy_weights=action / action.sum(),
        advantages=1.0 - 2.0 * (sequences % 2),
        env_weights=env / env.sum(),
        env_targets=env,
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.full((len(ids),), torch.nan),
        temperature=TEMPERATURE,
        policy_loss=PolicyLossSpec(ratio_denominator="current"),
    )


def plain_answer(folder: Path, batch: WeightedBatch, dtype: torch.dtype, *, autocast: bool = False) -> Answer:
    """Return what a transformers model makes of it, one sequence at a time, with all logits.

    The weights are in `dtype`; with `autocast` the products are in bfloat16. Whatever follows the logits is in float32,
    or in float64 where the weights are.
    """
    with quiet_transformers():
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if dtype == torch.float64:
        use_float64_norms(network)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    wide = torch.promote_types(dtype, torch.float32)
    loss, read = 0.0, np.full((2, len(batch.token_ids)), np.nan)
    for number in range(batch.num_sequences):
        rows = torch.nonzero(batch.sequence_index == number).flatten()
        ids, rows = batch.token_ids[rows], rows[1:]
        with mixed:
            logits = network(input_ids=ids[None], use_cache=False).logits[0, :-1].to(wide)
        at_one, at_temperature = (
            (logits / t).log_softmax(dim=-1).gather(-1, ids[1:, None]).squeeze(-1) for t in (1.0, batch.temperature)
        )
        policy, env = batch.policy_weights[rows].to(wide), batch.env_weights[rows].to(wide)
        ratio = torch.exp(at_temperature - at_temperature.detach())
        part = -(policy * batch.advantages[rows] * ratio).sum() - (env * at_one).sum()
        part.backward()
        loss += float(part.detach())
        for k, (weights, logprobs) in enumerate(((policy, at_temperature), (env, at_one))):
            read[k, rows] = torch.where(weights != 0, logprobs.detach(), torch.nan).numpy()
    given = {name: value.grad for name, value in network.named_parameters()}
    gradients = {name: value.to(wide).numpy() for name, value in given.items() if value is not None}
    return Answer(loss=loss, policy_logprobs=read[0], env_logprobs=read[1], gradients=gradients)


def engine_answer(
    folder: Path,
    batch: WeightedBatch,
    dtype: ComputeDtype,
    *,
    share: bool = False,
    flat: bool = True,
    **passes: Unpack[PassKeywords],
) -> Answer:
    """Return what `LocalEngine` makes of it; with `share` it computes a common beginning once, in flat rows."""
    engine = LocalEngine(folder, device="cpu", compute_dtype=dtype, **passes)
    engine.shares_prefixes = engine.shares_prefixes and share
    engine.lays_flat = engine.lays_flat and flat
    out = engine.forward_backward(batch)
    return Answer(
        loss=out.loss,
        policy_logprobs=out.policy_logprobs,
        env_logprobs=out.env_logprobs,
        gradients=engine.gradients(),
    )


def errors_of(found: Answer, exact: Answer) -> tuple[dict[str, float], str]:
    """Return the errors of `COLUMNS`, and the name of the tensor whose gradient is worst.

    Raises:
        ValueError: other parameters have a gradient, or other tokens a log-prob.
    """
    norm = relative(found.gradients, exact.gradients)
    apart = {name: relative({name: found.gradients[name]}, {name: value}) for name, value in exact.gradients.items()}
    worst = max(apart, key=lambda name: apart[name])
    pairs = ((found.policy_logprobs, exact.policy_logprobs), (found.env_logprobs, exact.env_logprobs))
    if any((np.isnan(a) != np.isnan(b)).any() for a, b in pairs):
        raise ValueError("log-probs are known at other tokens than in float64")
    errors = {
        "gradient_error": norm,
        "tensor_error": apart[worst],
        "loss_error": abs(found.loss - exact.loss) / abs(exact.loss),
        "logprob_error": max(float(np.nanmax(np.abs(a - b))) for a, b in pairs),
    }
    return errors, worst


def relative(found: Mapping[str, NDArray[np.floating]], exact: Mapping[str, NDArray[np.floating]]) -> float:
    """Return |found - exact| / |exact| over all tensors together, summed in float64.

    Raises:
        ValueError: there are other tensors in one than in the other.
    """
    if found.keys() != exact.keys():
        raise ValueError(f"gradients of other parameters: {sorted(found.keys() ^ exact.keys())}")
    apart = sum(float(np.square(found[name].astype(np.float64) - value).sum()) for name, value in exact.items())
    return (apart / sum(float(np.square(value.astype(np.float64)).sum()) for value in exact.values())) ** 0.5


def _answers(folder: Path, batch: WeightedBatch) -> Iterator[tuple[str, Answer]]:
    yield "transformers, float32", plain_answer(folder, batch, torch.float32)
    yield "envecho, float32", engine_answer(folder, batch, "float32")
    yield "transformers, bfloat16 by autocast", plain_answer(folder, batch, torch.float32, autocast=True)
    yield "transformers, bfloat16 weights", plain_answer(folder, batch, torch.bfloat16)
    yield "envecho, bfloat16", engine_answer(folder, batch, "bfloat16")
    yield "envecho, float64", engine_answer(folder, batch, "float64")


def _differences(folder: Path, batch: WeightedBatch) -> Iterator[tuple[str, float]]:
    """Yield how far apart gradients of the same batch are in float64."""
    alone = engine_answer(folder, batch, "float64", tokens_per_micro_batch=1).gradients
    for title, passes in SPLITS.items():
        found = engine_answer(folder, batch, "float64", share=title == SHARED, flat=title not in PADDED, **passes)
        yield title, relative(found.gradients, alone)
    model = load_causal_model(folder, dtype=torch.float64, device=torch.device("cpu"))
    numbers = range(batch.num_sequences)
    with torch.no_grad():
        hidden = torch.cat([model.hidden(batch.token_ids[None, batch.sequence_index == n])[0] for n in numbers])
    whole = _head_gradients(hidden, model.head_weight, batch, len(hidden))
    for size in CHUNK_SIZES:
        title = f"head in chunks of {size} position{'s' if size > 1 else ''}"
        yield title, relative(_head_gradients(hidden, model.head_weight, batch, size), whole)


def _head_gradients(
    hidden: Tensor, head_weight: Tensor, batch: WeightedBatch, chunk_size: int
) -> dict[str, NDArray[np.floating]]:
    leaves = [hidden.detach().requires_grad_(), head_weight.detach().requires_grad_()]
    loss = batch_loss(leaves[0], leaves[1], batch, chunk_size=chunk_size).loss
    by_hidden, by_weight = torch.autograd.grad(loss, leaves)
    return {"hidden": by_hidden.numpy(), "head_weight": by_weight.numpy()}


def table(document: Mapping[str, Any]) -> str:
    """Return the two tables as Markdown: errors against float64, and how far float64 gradients are apart."""
    parts: list[str] = []
    for columns in (COLUMNS, SPLIT_COLUMNS):
        lines = [f"| | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
        for title, found in document["results"].items():
            if found.keys() == columns.keys():
                cells = [f"{found[key]['median']:.2g}" for key in columns]
                lines.append(f"| {title} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the document and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.bench_precision", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="draws the text")
    options = parser.parse_args(arguments)
    document = bench_precision(options.model, seed=options.seed)
    bench.save(document, options.out)
    print(table(document), end="")


if __name__ == "__main__":
    main()
