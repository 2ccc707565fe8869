"""Write `modes.json` and the table of docs/verl.md: lambda under each loss_agg_mode, on the committed batch.

    python results/verl/make_modes.py          in an environment with verl: make test-verl makes one

"added plainly" is an environment term put through verl's own `agg_loss` with the targets as its mask and verl's counts,
as a loss registered in verl can do; the other columns are the plug-in's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss

from envecho.objective import EchoConfig
from envecho.plugins.verl.row_masks import row_masks
from envecho.plugins.verl.step_weights import RankRows, environment_weights
from envecho.recipes.agreement.case import load_sequences
from envecho.tokens.trainers.verl import row

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "verl.md"
COEFF, SCALE = 0.05, 32
MODES = ("token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
RULES = ("global_token_mean", "sequence_mean_selected", "reference_sequence_mean", "verl_token_mean")
_BLOCK = re.compile(r"(<!-- modes -->\n).*?(\n<!-- end -->)", re.DOTALL)


def measure() -> dict[str, Any]:
    """Return the counts of the batch and, for each mode, the effective lambdas."""
    rows = [one for one in (row(s, Counter()) for s in load_sequences()) if one is not None]
    actions = [torch.tensor(one["response_mask"]) for one in rows]
    targets = [torch.tensor(one["extra_fields"]["obs_mask"]) for one in rows]
    counts = {"actions": int(sum(a.sum() for a in actions)), "targets": int(sum(t.sum() for t in targets))}

    def added_up(mode: str, masks: list[torch.Tensor]) -> float:
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
        ones = torch.ones(mask.shape, dtype=torch.float64)
        shared = {"batch_num_tokens": counts["actions"], "global_batch_size": len(rows), "loss_scale_factor": SCALE}
        return float(agg_loss(ones, mask, mode, **shared))

    def with_rule(mode: str, rule: str) -> float:
        echo = EchoConfig(world_model_coeff=COEFF, normalizer=rule)  # pyright: ignore[reportArgumentType]
        masks = [
            row_masks(one["extra_fields"], response_length=len(a), acts=True, echo=echo)
            for one, a in zip(rows, actions, strict=True)
        ]
        found = environment_weights(
            RankRows(masks=masks, action_masks=actions),
            echo,
            add_up=lambda values: values,
            policy_weight_sum=lambda _: added_up(mode, actions),
        )
        assert found.effective_lambda is not None
        return found.effective_lambda

    table = {
        mode: {"added_plainly": COEFF * added_up(mode, targets) / added_up(mode, actions)}
        | {rule: with_rule(mode, rule) for rule in RULES}
        for mode in MODES
    }
    return {"verl": version("verl"), "world_model_coeff": COEFF, "sequences": len(rows), **counts, "modes": table}


def block(document: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = ["| `loss_agg_mode` | added plainly | " + " | ".join(f"`{rule}`" for rule in RULES) + " |"]
    lines.append("|---|" + "---|" * (1 + len(RULES)))
    for mode, found in document["modes"].items():
        cells = [f"{found[name]:.4f}" for name in ("added_plainly", *RULES)]
        lines.append(f"| `{mode}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    made = measure()
    (HERE / "modes.json").write_text(json.dumps(made, indent=1) + "\n")
    PAGE.write_text(_BLOCK.sub(lambda match: match[1] + block(made) + match[2], PAGE.read_text()))
