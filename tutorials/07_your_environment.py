"""Tutorial 7: a world of your own.

    python tutorials/07_your_environment.py

You have something that answers: a function, a service, a game. Four verbs make it a world. `check_world` proves the
contract, an explorer that needs no script of yours calls its tools, and `train` learns what they answer. No policy, no
grader, and nothing to inherit from. A server of OpenEnv needs no class: give its URL where this file gives `Shop`.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_model import write_small_model

from envecho import Segment, Source
from envecho.errors import WorldError
from envecho.recipes.collect import CollectConfig, collect_to_file
from envecho.seam import Observation
from envecho.training.config import RunConfig
from envecho.training.loop import train
from envecho.trajectory.store import read_trajectories
from envecho.worlds import check_world

# --- 1. What you have: a function that answers -----------------------------------------------------------------------

PRICES = {"tea": 3, "rice": 5, "soap": 2, "oil": 9}


def price_of(item: str) -> str:
    """Return what the shop says of an item."""
    return f"{item} costs {PRICES[item]}\n"


# --- 2. What it becomes: a world -------------------------------------------------------------------------------------
#
# `reset` states the task and, where there are tools, their schemas as chat templates take them. `step` gets the text of
# one turn and answers in segments: your function's words are `tool_result`, its errors `tool_error`, and what you say
# about a call that cannot be read is a `format_warning`, which nobody is trained on.

TOOL = {
    "type": "function",
    "function": {
        "name": "get_price",
        "description": "What an item costs.",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string", "enum": [*PRICES]}},
            "required": ["item"],
        },
    },
}


class Shop:
    """A shop with one tool; an action is a call as JSON: {"name": "get_price", "arguments": {"item": "tea"}}."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._steps, self._open = 0, False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Open the shop."""
        self._id, self._steps, self._open = episode_id or f"shop-{seed}", 0, True
        return Observation(segments=(Segment(source=Source.TASK, text="Ask for prices."),), tools=(TOOL,))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Answer one call."""
        if not self._open:
            raise WorldError("step was called but no episode is running: call reset first")
        self._steps += 1
        try:
            call = json.loads(action)
            name, item = call["name"], call["arguments"].get("item")
        except (ValueError, KeyError, TypeError, AttributeError):
            said = Segment(source=Source.FORMAT_WARNING, text="[expected a call as JSON]")
            return Observation(segments=(said,), labels={"call": "unparsed"})
        if name != "get_price" or not isinstance(item, str) or item not in PRICES:
            error = Segment(source=Source.TOOL_ERROR, text="no such tool or item\n", tool="get_price")
            return Observation(segments=(error,), labels={"call": "invalid"})
        answer = Segment(source=Source.TOOL_RESULT, text=price_of(item), tool="get_price")
        return Observation(segments=(answer,), labels={"call": "valid"})

    @property
    def state(self) -> Mapping[str, Any]:
        """Where the episode stands."""
        return {"episode_id": self._id, "step_count": self._steps}

    def close(self) -> None:
        """Close the shop; may be called twice."""
        self._open = False


# --- 3. The contract, proved -----------------------------------------------------------------------------------------

calls = [json.dumps({"name": "get_price", "arguments": {"item": item}}) for item in PRICES]
report = check_world(Shop, actions=calls)
print(report)
assert report.passed

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)

    # --- 4. Collect: the explorer reads the schemas. `__main__:Shop` is this file's class, yours `my_module:MyWorld` -
    for split, count in (("train", 40), ("validation", 8)):
        config = CollectConfig(world="__main__:Shop", policy="explore", split=split, num_episodes=count, max_turns=4)
        counts = collect_to_file(config, folder / f"{split}.parquet")
        print(f"{split}: {counts['num_episodes']} episodes, {counts['num_observations']} answers")
    episodes = list(read_trajectories(folder / "train.parquet"))
    for message in episodes[0].messages[-4:]:
        print(f"    {message.role:10} {message.content!r}")

    # --- 5. Train, as `envecho train CONFIG.toml --out DIR` does -----------------------------------------------------
    document = {
        "model": {"name": str(write_small_model(folder / "model", episodes)), "device": "cpu"},
        "data": {"train": str(folder / "train.parquet"), "validation": str(folder / "validation.parquet")},
        "objective": {"use_rl": False, "world_model_coeff": 1.0, "normalizer": "global_token_mean"},
        "optimizer": {"learning_rate": 4e-3},
        "run": {"steps": 60, "trajectories_per_step": 8, "validate_every": 30, "checkpoint_every": 0},
    }
    result = train(RunConfig.from_document(document), folder / "run")

    assert result.base_env_ce is not None
    assert result.best_env_ce is not None
    print(f"what the shop says costs {result.base_env_ce:.2f} nats per token before and {result.best_env_ce:.2f} after")
    assert result.best_env_ce < 0.2 * result.base_env_ce

# `envecho train --world my_module:MyWorld --out DIR` does parts 4 and 5 in one command, and so it does with
# `--world http://127.0.0.1:8000`, any server of OpenEnv. `envecho serve` makes a server of a world of ours.
