"""`envecho bench step`: training steps side by side, as ratios of pairs that ran one after the other.

Each subject lives in a process of its own, so that its peak memory is its own, and the subjects of a case take turns:
one step of each in a repetition, in an order that moves on with it. Before the first, each takes a step over one
micro-batch to warm up. Where two subjects train the same thing their gradients must have the same norm in the first
step; otherwise nothing is compared. Not here: the steps (`bench_step_subjects`, `bench_step_trl`) and the tables
(`bench_step_table`).
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, Final

import torch

from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, EngineError
from envecho.extras import require_extra
from envecho.recipes import bench
from envecho.recipes.bench_step_cases import StepCase, lengths_of, make_batch, warm_up_part
from envecho.recipes.bench_step_flops import ModelSizes, sizes_of
from envecho.recipes.bench_step_subjects import AllLogitsStep, BodyPass, EngineStep, Subject
from envecho.recipes.bench_step_trl import TrlStep
from envecho.recipes.phases import peak_memory_bytes
from envecho.recipes.progress import say
from envecho.recipes.study_work import end_with_parent

SUBJECTS: Final[Mapping[str, Callable[[str, StepCase], Subject]]] = {
    "grpo": lambda model, case: EngineStep(model, case, with_env=False),
    "echo": lambda model, case: EngineStep(model, case, with_env=True),
    "all-logits": AllLogitsStep,
    "trl": TrlStep,
    "body": BodyPass,
}

_SAME_GRADIENT: Final = (("echo", "all-logits"), ("grpo", "trl"))
_NORM_TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.05}

_PASS: Final = "pass_seconds"
_STEP: Final = "step_seconds"
RATIOS: Final = (
    ("echo", "trl", _STEP),
    ("echo", "all-logits", _STEP),
    ("echo", "grpo", _STEP),
    ("echo", "grpo", _PASS),
    ("echo", "body", _PASS),
    ("grpo", "trl", _STEP),
    ("trl", "body", _PASS),
)
"""Of whom, over whom, and of what; a pass is forward and backward, a step has the optimiser, too."""


def bench_step(*, cases: Sequence[StepCase], subjects: Sequence[str], model: str, repetitions: int) -> dict[str, Any]:
    """Measure each case with each subject, in turns, and return the document.

    Raises:
        EngineError: a subject fails, or two that train the same thing do not have the same gradient.
    """
    chosen = subjects_here(subjects)
    sizes = sizes_of(resolve_model(model))
    measured = [_measure(case, chosen, model, sizes, repetitions) for case in cases]
    material = {"model": model, "device": _device(), "threads": torch.get_num_threads(), "torch": version("torch")}
    material |= {"trl": version("trl")} if "trl" in chosen else {}
    return {
        "format": "envecho.bench.step",
        "version": 1,
        "seed": cases[0].seed,
        "repetitions": repetitions,
        "machine": bench.describe(),
        "material": material,
        "cases": measured,
    }


def subjects_here(names: Sequence[str]) -> list[str]:
    """Return those of the subjects that can run here, in the order of `SUBJECTS`; what is left out is said."""
    chosen = [name for name in SUBJECTS if name in names]
    if "trl" in chosen:
        try:
            require_extra("trl")
        except ConfigError as error:
            say(f"trl is left out: {error}")
            chosen.remove("trl")
    return chosen


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _measure(case: StepCase, names: Sequence[str], model: str, sizes: ModelSizes, repetitions: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        say(f"{case.title}: loading {', '.join(names)}")
        turns = {name: stack.enter_context(_subject(name, model, case)) for name in names}
        for what in ("load", "warm up"):
            for name in names:
                turns[name](what)
        for number in range(repetitions):
            shift = number % len(names)
            for name in (*names[shift:], *names[:shift]):
                for key, value in turns[name]("step").items():
                    found[name].setdefault(key, []).append(value)
            if number == 0:
                refuse_unequal(case, {name: times["gradient_norm"][0] for name, times in found.items()})
            told = ", ".join(f"{name} {found[name][_STEP][-1]:.1f} s" for name in names)
            say(f"{case.title} {number + 1}/{repetitions}: {told}")
        for name in names:
            peaks[name] = int(turns[name]("end")["peak_memory_bytes"])
    batch = make_batch(case, sizes.vocab_size)
    read = {
        "grpo": int((batch.policy_weights != 0).sum()),
        "echo": int(((batch.policy_weights != 0) | (batch.env_weights != 0)).sum()),
    }
    flops = {"body": sizes.body_flops(lengths_of(batch))}
    flops |= {name: flops["body"] + sizes.head_flops(num) for name, num in read.items()}
    num_tokens = len(batch.token_ids)
    return {
        "title": case.title,
        "case": case.document(),
        "num_tokens": num_tokens,
        "read_tokens": read,
        "flops": flops,
        "subjects": {name: _subject_document(found[name], peaks[name], num_tokens) for name in names},
        "ratios": paired_ratios(found, flops),
        "memory_ratios": {
            f"echo/{name}": peaks["echo"] / peaks[name] for name in names if name != "echo" and "echo" in peaks
        },
    }


def refuse_unequal(case: StepCase, norms: Mapping[str, float]) -> None:
    """Raise EngineError where the first gradients of two subjects that train the same thing have different norms."""
    for one, other in _SAME_GRADIENT:
        if one in norms and other in norms:
            tolerance = _NORM_TOLERANCE[case.dtype]
            if not math.isclose(norms[one], norms[other], rel_tol=tolerance):
                raise EngineError(
                    f"{case.title}: the gradient of {one} has the norm {norms[one]:.6g}, that of {other}"
                    f" {norms[other]:.6g}, expected the same within {tolerance}; they do not train the same thing"
                )


def _subject_document(times: Mapping[str, list[float]], peak: int, num_tokens: int) -> dict[str, Any]:
    return {
        _STEP: _spread(times[_STEP]),
        _PASS: _spread(times[_PASS]),
        "optimizer_seconds": _spread(times["optimizer_seconds"]),
        "tokens_per_second": _spread([num_tokens / seconds for seconds in times[_STEP]]),
        "gradient_norm": None if math.isnan(times["gradient_norm"][0]) else times["gradient_norm"][0],
        "peak_memory_bytes": peak,
    }


def paired_ratios(
    found: Mapping[str, Mapping[str, list[float]]], flops: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Return the ratios of `RATIOS` over pairs of a repetition, where both sides were measured.

    `found` holds lists of seconds by subject and part, one of each repetition. Where the FLOPs of both sides are
    counted, `predicted` is their ratio, and `over_predicted` the median over it.
    """
    ratios: dict[str, dict[str, float]] = {}
    for one, other, part in RATIOS:
        if one in found and other in found:
            paired = [a / b for a, b in zip(found[one][part], found[other][part], strict=True)]
            ratio = _spread(paired) | median_interval(paired)
            if one in flops and other in flops:
                predicted = flops[one] / flops[other]
                ratio |= {"predicted": predicted, "over_predicted": ratio["median"] / predicted}
            ratios[f"{one}/{other} {part.removesuffix('_seconds')}"] = ratio
    return ratios


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """Return an interval `low` to `high` of the median, and the probability `coverage` that it holds it.

    It lies between two order statistics, the innermost that hold the median with at least 95 %, whatever the
    distribution of the values is (Conover 1999, section 3.2); below six values these are the outermost, with less.
    Values are taken to be independent of each other.
    """
    ordered, num = sorted(values), len(values)
    cut, outside = 0, 2.0 ** (1 - num)
    while (wider := outside + math.comb(num, cut + 1) * 2.0 ** (1 - num)) <= 0.05:
        cut, outside = cut + 1, wider
    return {"low": ordered[cut], "high": ordered[num - 1 - cut], "coverage": max(0.0, 1 - outside)}


@contextmanager
def _subject(name: str, model: str, case: StepCase) -> Generator[Callable[[str], dict[str, float]]]:
    """Start a process for a subject, and give what asks it to `load`, to `warm up`, for a `step`, and for its `end`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, model, case))
    process.start()
    theirs.close()

    def ask(what: str) -> dict[str, float]:
        try:
            ours.send(what)
            return ours.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join()
            reason = "out of memory?" if process.exitcode == -9 else "its error stands above"
            raise EngineError(f"{name} ended with status {process.exitcode} in {case.title}; {reason}") from None

    try:
        yield ask
    finally:
        ours.close()
        process.terminate()
        process.join()


def _serve(connection: Connection, name: str, model: str, case: StepCase) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    subject = SUBJECTS[name](model, case)
    batch = make_batch(case, sizes_of(resolve_model(model)).vocab_size)
    prepared = {"step": subject.prepare(batch)}
    prepared["warm up"] = subject.prepare(warm_up_part(batch, case.micro_batch_tokens))
    while (asked := connection.recv()) != "end":
        connection.send(_timed(subject, prepared[asked]) if asked in prepared else {})
    connection.send({"peak_memory_bytes": _peak_memory()})


def _timed(subject: Subject, prepared: Any) -> dict[str, float]:
    times = [_now()]
    subject.run_pass(prepared)
    times.append(_now())
    norm = subject.run_optimizer()
    times.append(_now())
    pass_seconds, optimizer_seconds = (after - before for before, after in itertools.pairwise(times))
    return {
        _PASS: pass_seconds,
        "optimizer_seconds": optimizer_seconds,
        _STEP: pass_seconds + optimizer_seconds,
        "gradient_norm": math.nan if norm is None else norm,
    }


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory_bytes()
