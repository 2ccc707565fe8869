"""A made-up run folder: seeded numbers in the shape of a real run, for tests. Nothing in it was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

OPERATIONS = ("slice", "filter", "count", "sort", "field", "join")
PREDICTORS = ("base", "trained", "ngram", "ppm")
CE_DERIVABLE = {"base": 0.78, "trained": 0.11, "ngram": 0.52, "ppm": 0.47}
CE_FIRST = {"base": 2.71, "trained": 0.44, "ngram": 0.95, "ppm": 1.02}
SWAP = {"base": 0.05, "trained": 0.41, "ngram": None, "ppm": None}

HOSTILE = (
    "<script>alert('tool')</script></script><!-- -->\n"
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 nul:\x00 del:\x7f cr:\r\n"
    "\u202egnp.exe\u2066 \u200bzero\u200bwidth\ufeff\n"
    "<a href=\"javascript:alert(1)\" onmouseover='x'>{{ 7*7 }} {% raw %}</a> \ud800 & &amp; ]]>\n"
)

LOG = """2031-04-02T08:15:01Z INFO  gateway accepted request id=7f31
2031-04-02T08:15:03Z WARN  billing retry=2 upstream=ledger
2031-04-02T08:15:04Z ERROR billing timeout after 3000 ms
2031-04-02T08:15:09Z INFO  gateway accepted request id=7f32
2031-04-02T08:15:11Z ERROR ledger connection refused
"""


def stat(value: float | None, rng: np.random.Generator, num_tokens: int = 4200) -> dict | None:
    if value is None:
        return None
    half = abs(value) * float(rng.uniform(0.03, 0.1)) + 0.004
    return {"value": value, "low": value - half, "high": value + half, "num_tokens": num_tokens, "num_tasks": 48}


def pool_result(name: str, scale: float, rng: np.random.Generator) -> dict:
    derivable, first = CE_DERIVABLE[name] * scale, CE_FIRST[name] * scale
    whole = 0.45 * derivable + 0.55 * first
    top1 = math.exp(-0.55 * whole)
    swap = SWAP[name]
    return {
        "ce_per_token": stat(whole, rng),
        "ce_per_byte": stat(whole / 2.9, rng),
        "ce_first_view": stat(first, rng),
        "ce_derivable": stat(derivable, rng),
        "top1_accuracy": stat(top1, rng),
        "action_swap_gap": stat(swap, rng),
        "num_tokens": 9310,
        "by_source": {"stdout": stat(whole, rng, 8120), "stderr": stat(whole * 1.5, rng, 640)},
        "by_operation": {
            op: {
                "ce": stat(derivable * float(rng.uniform(0.5, 1.6)), rng, 900),
                "top1_accuracy": stat(min(0.99, top1 * 1.1), rng, 900),
                "share": round(1 / 6, 3),
            }
            for op in OPERATIONS
        },
    }


def prediction(actual: str, text: str, forced: str, ce: float) -> dict:
    right = 1 - forced.count("□") / max(len(pieces(actual)), 1)
    return {
        "text": text,
        "teacher_forced": forced,
        "ce_per_token": ce,
        "top1_accuracy": right,
        "exact_match": text == actual,
    }


def forced(actual: str, every: int) -> str:
    """The actual text with every n-th piece missed, as `Readout.teacher_forced` states it."""
    return "".join("□" if n % every == 1 else piece for n, piece in enumerate(pieces(actual)))


def readouts() -> list[dict]:
    errors = "".join(line + "\n" for line in LOG.splitlines() if "ERROR" in line)
    rows = [
        ("new_boxes", "grep ERROR logs/billing.log", "derivable", "filter", errors,
         (LOG.splitlines()[0] + "\n") * 3, errors),
        ("new_boxes", "grep -c WARN logs/billing.log", "derivable", "count", "1\n", "0\n", "1\n"),
        ("new_boxes", "cut -d' ' -f2 logs/billing.log | sort | uniq -c", "derivable", "sort",
         "      2 ERROR\n      2 INFO\n      1 WARN\n", "logs/billing.log\nlogs/billing.log\n",
         "      2 ERROR\n      3 INFO\n      1 WARN\n"),
        ("new_commands", "cat conf/limits.yaml", "first", None, "retries: 3\ntimeout_ms: 3000\nqueue: ledger\n",
         "cat: conf/limits.yaml: No such file or directory\n", "retries: 2\ntimeout_ms: 5000\nqueue: billing\n"),
        ("new_commands", "printf 'x%.0s' {1..300}", "other", None, "x" * 3000, "", "x" * 2900),
        ("new_commands", "cat payload.html", "first", None, HOSTILE, HOSTILE[:40], HOSTILE),
    ]  # fmt: skip
    return [
        {
            "pool": pool, "trajectory_id": f"{pool}-{n:03d}", "turn": 2 * n + 3, "command": command, "view": view,
            "operation": operation, "actual": actual,
            "predictions": {
                "base": prediction(actual, base, forced(actual, 3), 2.1),
                "trained": prediction(actual, trained, forced(actual, 17), 0.09),
            },
        }
        for n, (pool, command, view, operation, actual, base, trained) in enumerate(rows)
    ]  # fmt: skip


def pieces(text: str) -> list[str]:
    """Cut text as a tokenizer might: a word with its leading space, or a single other character."""
    out: list[str] = []
    for char in text:
        if out and char.isalnum() and (out[-1] == " " or out[-1][-1].isalnum()) and len(out[-1]) < 6:
            out[-1] += char
        else:
            out.append(char)
    return out


def token_view(pool: str, n: int, rng: np.random.Generator, hostile: bool) -> dict:
    errors = "".join(line + "\n" for line in LOG.splitlines() if "ERROR" in line)
    turns = [
        [("scaffold", "<|im_start|>system\n"), ("system", "You are at a shell."), ("scaffold", "<|im_end|>\n")],
        [("scaffold", "<|im_start|>user\n"), ("task", "Why does billing fail?"), ("scaffold", "<|im_end|>\n")],
        [("scaffold", "<|im_start|>assistant\n"), ("policy", "cat logs/billing.log"), ("scaffold", "<|im_end|>\n")],
        [("scaffold", "<|im_start|>user\n"), ("command_echo", "$ cat logs/billing.log\n"), ("stdout", LOG),
         ("status", "[exit status 0]"), ("scaffold", "<|im_end|>\n")],
        [("scaffold", "<|im_start|>assistant\n"), ("policy", "grep ERROR logs/billing.log"),
         ("scaffold", "<|im_end|>\n")],
        [("scaffold", "<|im_start|>user\n"), ("command_echo", "$ grep ERROR logs/billing.log\n"),
         ("stdout", errors + (HOSTILE if hostile else "")), ("status", "[exit status 0]"),
         ("scaffold", "<|im_end|>\n")],
    ]  # fmt: skip
    tokens = []
    for turn, segments in enumerate(turns):
        for source, text in segments:
            for piece in pieces(text):
                scored = source == "stdout"
                base = float(rng.exponential(1.6 if turn == 3 else 0.9)) if scored else None
                trained = float(rng.exponential(0.5 if turn == 3 else 0.05)) if scored else None
                tokens.append(
                    {"text": piece, "source": source, "turn": turn, "nll": {"base": base, "trained": trained}}
                )
    return {"pool": pool, "trajectory_id": f"{pool}-{n:03d}", "tokens": tokens}


def metrics_rows(steps: int, rng: np.random.Generator) -> list[dict]:
    rows: list[dict] = []
    for step in range(steps):
        clean = 0.42 + 2.1 * math.exp(-step / 9)
        rows.append(
            {
                "kind": "train", "step": step, "loss": clean * 0.05, "env_ce": clean * float(rng.uniform(0.86, 1.16)),
                "grad_norm": 1.2, "learning_rate": 5e-5, "effective_lambda": None, "num_env_tokens": 780,
                "num_context_tokens": 240, "num_action_tokens": 120, "num_warning_tokens": 90,
                "tokens_per_second": float(rng.uniform(180, 240)), "seconds": 5.1,
            }
        )  # fmt: skip
        if step % 8 == 0 or step == steps - 1:
            rows.append(
                {
                    "kind": "validation", "step": step, "env_ce": clean * 1.04,
                    "env_ce_derivable": 0.12 + 0.66 * math.exp(-step / 8), "num_env_tokens": 3100,
                }
            )  # fmt: skip
    return rows


def evaluation(seed: int, hostile: bool) -> dict:
    rng = np.random.default_rng(seed)
    pools = {
        pool: {name: pool_result(name, scale * float(rng.uniform(0.96, 1.04)), rng) for name in PREDICTORS}
        for pool, scale in (("new_boxes", 1.0), ("new_commands", 0.8))
    }
    views = [token_view("new_boxes", 0, rng, False), token_view("new_commands", 1, rng, hostile)]
    return {
        "format": "envecho.evaluation", "version": 1, "pools": pools, "readouts": readouts(), "token_views": views,
    }  # fmt: skip


def summary(seed: int, steps: int, pools: dict) -> dict:
    figures = (
        "ce_per_token", "ce_per_byte", "ce_first_view", "ce_derivable", "top1_accuracy", "action_swap_gap",
    )  # fmt: skip

    def measure(result: dict) -> dict:
        return {**{f: result[f] and result[f]["value"] for f in figures}, "num_tokens": result["num_tokens"]}

    return {
        "format": "envecho.summary", "version": 1, "model": "synthetic-135m (made-up numbers)", "seed": seed,
        "steps": steps, "wall_seconds": 322.5, "peak_memory_bytes": 3_410_000_000,
        "tokens": {"context": 61_220, "action": 20_140, "env_output": 88_410, "warning": 9_870},
        "pools": {pool: {name: measure(results[name]) for name in ("base", "trained", "ngram")}
                  for pool, results in pools.items()},
        "command": f"envecho demo --seed {seed} --steps {steps}",
        "phases": [
            {"name": "collect", "seconds": 31.0, "peak_memory_bytes": 410_000_000},
            {"name": "train", "seconds": 214.2, "peak_memory_bytes": 3_410_000_000},
            {"name": "evaluate", "seconds": 77.3, "peak_memory_bytes": 2_210_000_000},
        ],
    }  # fmt: skip


def write_synthetic_run(folder: Path, *, seed: int = 0, steps: int = 40, hostile: bool = True) -> Path:
    """Write config.toml, metrics.jsonl, evaluation.json and summary.json; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = evaluation(seed, hostile)
    rows = "".join(json.dumps(row) + "\n" for row in metrics_rows(steps, rng))
    (folder / "metrics.jsonl").write_text(rows, encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(made), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary(seed, steps, made["pools"])), encoding="utf-8")
    config = f"# made-up configuration\n[training]\nseed = {seed}\nsteps = {steps}\nlearning_rate = 5e-5\n"
    (folder / "config.toml").write_text(config + '[objective]\nuse_rl = false\nname = "</pre><script>x"\n')
    (folder / "checkpoints" / f"step-{steps:06d}").mkdir(parents=True, exist_ok=True)
    return folder
