"""A made-up evaluation of version 2, in the shape of a real one, for tests. Nothing in it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from synthetic_run import HOSTILE, PREDICTORS, pool_result, readouts, stat, token_view

from envecho.evaluation.sums import PoolSums, write_sums

CLASSES = {"copied": (0.44, 0.2), "predictable": (0.23, 0.9), "novel": (0.27, 2.6), "volatile": (0.06, 3.4)}
"""Share of the tokens and the base model's nats, by class."""

COST = {
    "base": {"copied": 1.0, "predictable": 1.0, "novel": 1.0, "volatile": 1.0},
    "trained": {"copied": 0.35, "predictable": 0.3, "novel": 0.62, "volatile": 0.97},
    "ngram": {"copied": 0.6, "predictable": 0.9, "novel": 0.9, "volatile": 1.2},
    "ppm": {"copied": 0.45, "predictable": 0.95, "novel": 1.0, "volatile": 1.25},
}
"""What each predictor pays of the base model's nats."""

PHRASES = {"base": 0.9, "trained": 0.05, "ngram": 0.02, "ppm": 0.03}

SLICES = {
    "boilerplate": ("command_echo", "status", "truncation_notice"),
    "source": ("stdout", "stderr"),
    "tool": ("shell", "read_file"),
    "command": ("cat", "grep", "ls", "sort", "wc", "cut", "head", "find"),
    "turn": ("3", "5", "7", "9-16"),
    "exit_status": ("0", "1", "2", "127"),
    "outcome": ("solved", "failed"),
    "view": ("first", "repeated"),
    "repeat": ("same", "different"),
}


def slice_results(name: str, scale: float, rng: np.random.Generator) -> dict:
    def made(keys: tuple[str, ...], costs: list[float], shares: list[float]) -> dict:
        return {
            key: {
                "ce": stat(cost * scale, rng, round(9000 * share)),
                "top1_accuracy": stat(float(np.exp(-0.6 * cost)), rng),
                "share": share,
            }
            for key, cost, share in zip(keys, costs, shares, strict=True)
        }

    slices = {
        "token_class": made(
            tuple(CLASSES),
            [nats * COST[name][key] for key, (_, nats) in CLASSES.items()],
            [share for share, _ in CLASSES.values()],
        )
    }
    for dimension, keys in SLICES.items():
        shares = rng.dirichlet(np.full(len(keys), 2.0))
        level = PHRASES[name] if dimension == "boilerplate" else 1.1 * COST[name]["novel"]
        costs = [level * float(rng.uniform(0.4, 1.6)) for _ in keys]
        slices[dimension] = made(keys, costs, [float(x) for x in shares])
    return slices


def gap(value: float, rng: np.random.Generator) -> dict:
    return {"gap": stat(value, rng, 2100), "counts": {"num_observations": 88, "num_without_candidate": 7}}


def probes(name: str, rng: np.random.Generator) -> dict:
    right = {"base": 0.61, "trained": 0.88}[name]
    return {
        "exit_status": {
            "measures": {"accuracy": stat(right, rng), "balanced_accuracy": stat(right - 0.1, rng),
                         "majority": stat(0.7, rng), "auc": stat(min(right + 0.05, 1.0), rng)},
            "num_questions": 120, "counts": {"num_without_status": 14},
        },
        "line_count": {"measures": {"accuracy": stat(right - 0.3, rng), "majority": stat(0.2, rng)},
                       "num_questions": 64},
        "free_running": {"measures": {"exact_match": stat(right - 0.5, rng), "edit_similarity": stat(right, rng)},
                         "num_questions": 40},
    }  # fmt: skip


def result_v2(name: str, scale: float, rng: np.random.Generator) -> dict:
    result = pool_result(name, scale, rng)
    whole = result["ce_per_token"]["value"]
    result |= {
        "ce_per_trajectory": stat(whole * 1.08, rng),
        "nats_per_trajectory": stat(whole * 212, rng),
        "ce_boilerplate": stat(PHRASES[name] * scale, rng, 3300),
        "ce_at_temperature": stat(whole * 0.93, rng),
        "slices": slice_results(name, scale, rng),
    }
    if name in ("base", "trained"):
        swap, blank, shuffle = {"base": (0.05, 0.11, 0.3), "trained": (0.41, 0.66, 1.12)}[name]
        result["controls"] = {
            "action_swap": gap(swap, rng), "action_blank": gap(blank, rng), "observation_shuffle": gap(shuffle, rng)
        }  # fmt: skip
        result["probes"] = probes(name, rng)
    return result


def compressor(value: float, rng: np.random.Generator) -> dict:
    empty = dict.fromkeys(("ce_per_token", "ce_first_view", "ce_derivable", "top1_accuracy", "action_swap_gap"))
    return {**empty, "ce_per_byte": stat(value, rng), "num_tokens": 9310, "by_source": {}, "by_operation": {}}


def attribution(pool: str, reference: str, sign: float, rng: np.random.Generator) -> dict:
    weight = 0.78
    saved = {
        key: sign * weight * share * nats * (COST[reference][key] - COST["trained"][key])
        for key, (share, nats) in CLASSES.items()
    }
    saved = {"boilerplate": sign * (1 - weight) * (PHRASES[reference] - PHRASES["trained"]), **saved}
    whole = sum(saved.values())
    tokens = {"boilerplate": 1 - weight, **{key: weight * share for key, (share, _) in CLASSES.items()}}
    return {
        "pool": pool, "predictor": "trained", "reference": reference, "saved": stat(whole, rng),
        "parts": {key: {"saved": stat(value, rng), "share": value / whole, "tokens": tokens[key]}
                  for key, value in saved.items()},
    }  # fmt: skip


def comparisons(pools: dict, rng: np.random.Generator) -> list[dict]:
    return [
        {
            "pool": pool, "predictor": "trained", "reference": reference, "tokens": tokens,
            "difference": stat(results["trained"][figure]["value"] - results[reference][figure]["value"], rng),
            "ratio": stat(results["trained"][figure]["value"] / results[reference][figure]["value"], rng),
        }
        for pool, results in pools.items()
        for reference in ("base", "ngram", "ppm")
        for tokens, figure in (("derivable", "ce_derivable"), ("all", "ce_per_token"))
    ]  # fmt: skip


def evaluation_v2(seed: int = 0, *, hostile: bool = True, sign: float = 1.0, num_views: int = 2) -> dict:
    """`sign` -1 makes every part of the attribution dearer; `num_views` are the coloured trajectories."""
    rng = np.random.default_rng(seed)
    pools = {
        pool: {name: result_v2(name, scale, rng) for name in PREDICTORS}
        | {"zstd": compressor(0.71 * scale, rng), "lzma": compressor(0.69 * scale, rng)}
        for pool, scale in (("new_boxes", 1.0), ("new_commands", 0.8))
    }
    if hostile:
        slices = pools["new_boxes"]["base"]["slices"]["command"]
        slices[HOSTILE] = slices["cat"]
    views = [token_view(("new_boxes", "new_commands")[n % 2], n, rng, hostile and n == 1) for n in range(num_views)]
    floor = {"identical_observations": stat(0.94, rng), "different_tokens": stat(0.03, rng), "num_runs": 3}
    return {
        "format": "envecho.evaluation", "version": 2, "pools": pools, "readouts": readouts(), "token_views": views,
        "comparisons": comparisons(pools, rng),
        "attributions": [attribution(pool, reference, sign, rng) for pool in pools for reference in ("base", "ngram")],
        "floors": {"new_boxes": floor},
        "facts": {
            pool: {"file": f"runs/x/{pool}.parquet", "num_trajectories": 48, "num_tasks": 48, "num_env_tokens": 9310,
                   "num_boilerplate_tokens": 2600}
            for pool in pools
        },
        "models": {"base": "synthetic-135m", "trained": "runs/x/checkpoints/step-000040"}, "temperature": 0.8,
    }  # fmt: skip


def planted_sums(seed: int, scale: float, *, num_tasks: int = 8) -> PoolSums:
    """Sums of one predictor whose tokens cost `scale` times what the seed draws; the tokens are always the same."""
    counts = np.arange(20, 20 + num_tasks)
    nats = scale * np.random.default_rng(seed).uniform(0.4, 0.6, size=num_tasks) * counts
    slices = (("all", "all"), ("all", "boilerplate"), *(("token_class", key) for key in CLASSES))
    shares = [1.0, 0.5, *(share for share, _ in CLASSES.values())]
    columns = {"copied": counts - 3, "predictable": 1 + 0 * counts, "novel": 1 + 0 * counts, "volatile": 1 + 0 * counts}
    num_tokens = np.concatenate([counts, counts // 2, *(columns[key] for key in CLASSES)])
    return PoolSums(
        trajectory_ids=tuple(f"t{n:02d}" for n in range(num_tasks)),
        task_ids=tuple(f"task{n:02d}" for n in range(num_tasks)),
        slices=slices,
        trajectory_index=np.tile(np.arange(num_tasks), len(slices)),
        slice_index=np.repeat(np.arange(len(slices)), num_tasks),
        nats=np.concatenate([nats * share for share in shares]),
        num_tokens=num_tokens,
        num_bytes=num_tokens * 3,
        num_top1=num_tokens // 2,
    )


def write_synthetic_evaluation(folder: Path, *, seed: int = 0, scale: float = 1.0, sums: bool = True, **made) -> Path:
    """Write evaluation.json, and sums.parquet of one pool; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation_v2(seed, **made)), encoding="utf-8")
    if sums:
        pool = {"base": planted_sums(7, 1.0), "trained": planted_sums(8, scale)}
        write_sums(folder / "sums.parquet", {"new_boxes": pool})
    return folder
