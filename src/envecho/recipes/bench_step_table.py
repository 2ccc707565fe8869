"""The tables of `envecho bench step`, as Markdown: ratios first, then rates and memory.

Ratios are medians of pairs of one repetition, with the smallest and the largest in brackets. Tables without a figure
are left out. Not here: how the figures came about (`bench_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

NAMES: Final = {
    "grpo": "our GRPO",
    "echo": "ECHO",
    "all-logits": "all logits",
    "trl": "TRL",
    "body": "the body",
}

_SAME: Final = ("shares", "dtype", "checkpointing", "micro_batch_tokens", "group", "ragged")


def table(document: Mapping[str, Any]) -> str:
    """Return every table that the document has figures for, each under a line that says what it holds."""
    cases: Sequence[Mapping[str, Any]] = document["cases"]
    found = [
        _grid("A step, as a ratio:", cases, _step_ratios(cases)),
        _grid("A pass (forward and backward), as a ratio, and what FLOPs predict:", cases, _pass_ratios(cases)),
        _grid("Peak memory of ECHO, as a ratio:", cases, _memory_ratios(cases)),
        _grid(
            "FLOPs per second of forward and backward, over those of the first of the same kind:", cases, _rates(cases)
        ),
        _grid("The optimiser's part of a step, percent:", cases, _of_each(cases, _optimizer_part)),
        _grid("Tokens per second of a step:", cases, _of_each(cases, _tokens_per_second)),
        _grid("Peak memory, libraries included:", cases, _of_each(cases, _peak_memory)),
    ]
    return "\n".join(text for text in found if text)


def first_of_kind(cases: Sequence[Mapping[str, Any]], case: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first case that differs from this one in its tokens and their lengths alone."""
    kind = [case["case"][name] for name in _SAME]
    return next(other for other in cases if [other["case"][name] for name in _SAME] == kind)


def flop_rate(cases: Sequence[Mapping[str, Any]], case: Mapping[str, Any], name: str) -> float | None:
    """Return a subject's FLOPs per second over those of the first case of the kind; None where one has no figure."""
    first = first_of_kind(cases, case)
    if name not in case["flops"] or name not in case["subjects"] or name not in first["subjects"]:
        return None
    rates = [found["flops"][name] / found["subjects"][name]["pass_seconds"]["median"] for found in (case, first)]
    return rates[0] / rates[1]


_Columns = Sequence[tuple[str, Sequence[str]]]


def _grid(title: str, cases: Sequence[Mapping[str, Any]], columns: _Columns) -> str:
    shown = [(name, cells) for name, cells in columns if any(cells)]
    if not shown:
        return ""
    lines = [title, "", f"| | {' | '.join(name for name, _ in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for number, case in enumerate(cases):
        lines.append(f"| {case['title']} | {' | '.join(cells[number] for _, cells in shown)} |")
    return "\n".join(lines) + "\n"


def _step_ratios(cases: Sequence[Mapping[str, Any]]) -> _Columns:
    pairs = (("echo", "trl"), ("grpo", "trl"), ("echo", "all-logits"), ("echo", "grpo"))
    return [(_pair(a, b), [_ratio(case, f"{a}/{b} step") for case in cases]) for a, b in pairs]


def _pass_ratios(cases: Sequence[Mapping[str, Any]]) -> _Columns:
    columns: list[tuple[str, list[str]]] = []
    for a, b in (("echo", "grpo"), ("echo", "body"), ("trl", "body")):
        name = f"{a}/{b} pass"
        ratios: list[Mapping[str, float]] = [case["ratios"].get(name, {}) for case in cases]
        columns.append((_pair(a, b), [_ratio(case, name) for case in cases]))
        for title, key in (("by FLOPs", "predicted"), ("measured over that", "over_predicted")):
            columns.append((title, [f"{ratio[key]:.3f}" if key in ratio else "" for ratio in ratios]))
    return columns


def _memory_ratios(cases: Sequence[Mapping[str, Any]]) -> _Columns:
    columns: list[tuple[str, list[str]]] = []
    for name in NAMES:
        values = [case["memory_ratios"].get(f"echo/{name}") for case in cases]
        columns.append((_pair("echo", name), ["" if value is None else f"**{value:.3f}**" for value in values]))
    return columns


def _rates(cases: Sequence[Mapping[str, Any]]) -> _Columns:
    if all(first_of_kind(cases, case) is case for case in cases):
        return []
    columns: list[tuple[str, list[str]]] = []
    for name in ("echo", "body"):
        rates = [flop_rate(cases, case, name) for case in cases]
        columns.append((NAMES[name], ["" if rate is None else f"**{rate:.3f}**" for rate in rates]))
    return columns


def _of_each(cases: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], str]) -> _Columns:
    return [
        (title, [cell(case["subjects"][name]) if name in case["subjects"] else "" for case in cases])
        for name, title in NAMES.items()
    ]


def _pair(one: str, other: str) -> str:
    return f"{NAMES[one]} : {NAMES[other]}"


def _optimizer_part(subject: Mapping[str, Any]) -> str:
    if subject["gradient_norm"] is None:
        return ""
    return f"{100 * subject['optimizer_seconds']['median'] / subject['step_seconds']['median']:.1f}"


def _tokens_per_second(subject: Mapping[str, Any]) -> str:
    return f"{subject['tokens_per_second']['median']:,.0f}"


def _peak_memory(subject: Mapping[str, Any]) -> str:
    return f"{subject['peak_memory_bytes'] / 1e6:,.0f} MB"


def _ratio(case: Mapping[str, Any], name: str) -> str:
    ratio = case["ratios"].get(name)
    if ratio is None:
        return ""
    low, middle, high = (f"{ratio[key]:.3f}" for key in ("min", "median", "max"))
    return f"**{middle}** ({low} to {high})" if low != high else f"**{middle}**"
