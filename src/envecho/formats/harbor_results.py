"""Results of Harbor's trials that keep token ids: `{"agent_result": {"rollout_details": [...]}, ...}`.

One entry of `rollout_details` is one linear chat, the main agent's first, then those that wrote summaries: each becomes
an episode. They hold ids and no text; with a tokenizer the text is read from the ids. Log-probs that are fewer than the
ids cannot be aligned and are dropped. Not here: the trial's text (`atif`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envecho.errors import DataError
from envecho.formats import token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, Calls
from envecho.formats.reading import Document
from envecho.formats.token_fields import is_number
from envecho.trajectory import StopReason, Trajectory

NAME = "harbor"


def recognises(data: Any) -> bool:
    """Whether this is the result of a trial."""
    if not isinstance(data, Mapping) or not isinstance(data.get("agent_result"), Mapping):
        return False
    return "rollout_details" in data["agent_result"] or "trial_name" in data


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield one episode for each chat.

    Raises:
        DataError: there are no token ids, or the lists of a chat differ in length.
    """
    data: Mapping[str, Any] = document.data
    details = data["agent_result"].get("rollout_details")
    if not details:
        why = "this agent cannot keep them" if details is None else "collect_rollout_details was off"
        raise DataError(f"holds no token ids ({why}); the trial's text is in agent/trajectory.json")
    if not isinstance(details, list):
        raise DataError(f"rollout_details: expected a list of chats, found {type(details).__name__}")
    for place, chat in enumerate(details):
        yield _chat(document, data, chat, place, options, number)


def with_result(trajectory: Trajectory, path: Path) -> Trajectory:
    """Return an episode with what the result beside its file says: Harbor keeps rewards apart from trajectories.

    Files that are not `TRIAL/agent/*.json` beside a `TRIAL/result.json`, and episodes with a reward, stay as they are.
    """
    result = path.parent.parent / "result.json"
    if path.parent.name != "agent" or trajectory.reward is not None or not result.is_file():
        return trajectory
    try:
        data = json.loads(result.read_bytes())
    except (OSError, ValueError):
        return trajectory  # read by itself, it is reported as what it is
    if not recognises(data):
        return trajectory
    facts = {**trajectory.metadata["import"], "trial": _text(data, "trial_name")}
    return trajectory.model_copy(
        update={
            "reward": _reward(data.get("verifier_result")),
            "task_id": _text(data, "task_name") or trajectory.task_id,
            "metadata": {**trajectory.metadata, "import": facts},
        }
    )


def _chat(
    document: Document, data: Mapping[str, Any], chat: Any, place: int, options: ImportOptions, number: int | None
) -> Trajectory:
    if not isinstance(chat, Mapping):
        raise DataError(f"rollout_details[{place}]: expected a chat, found {type(chat).__name__}")
    prompts, completions, logprobs = (
        chat.get(k) or [] for k in ("prompt_token_ids", "completion_token_ids", "logprobs")
    )
    if not isinstance(prompts, list) or not isinstance(completions, list) or len(prompts) != len(completions):
        raise DataError(f"rollout_details[{place}]: expected as many prompts as completions")
    aligned = isinstance(logprobs, list) and len(logprobs) == len(completions)
    calls = Calls(reader=options.reader)
    for turn, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        row = {"prompt_ids": prompt, "completion_ids": completion, "logprobs": logprobs[turn] if aligned else None}
        calls.add(
            Call(
                prompt_ids=token_fields.ids(row, ("prompt_ids",), turn),
                completion_ids=token_fields.ids(row, ("completion_ids",), turn),
                logprobs=token_fields.logprobs(row),
            )
        )
    origin = Origin(
        format=NAME,
        document=document,
        number=place if number is None else number * 1000 + place,
        task=_text(data, "task_name"),
        reward=_reward(data.get("verifier_result")) if place == 0 else None,
        pack="terminus",
        world_speaks_as_user=True,
        facts={"trial": _text(data, "trial_name"), "chat": place, "is_main_agent": place == 0},
    )
    record = calls.trajectory(origin, options)
    failed = data.get("exception_info") is not None
    return record.model_copy(update={"stop_reason": StopReason.WORLD_ERROR if failed else StopReason.COMPLETED})


def _text(data: Mapping[str, Any], name: str) -> str | None:
    return data[name] if isinstance(data.get(name), str) else None


def _reward(result: Any) -> float | None:
    """The reward named `reward`, or the only one."""
    rewards = result.get("rewards") if isinstance(result, Mapping) else None
    if is_number(rewards):
        return float(rewards)  # pyright: ignore[reportArgumentType]
    if not isinstance(rewards, Mapping):
        return None
    numbers = {name: float(value) for name, value in rewards.items() if is_number(value)}
    return numbers.get("reward", next(iter(numbers.values())) if len(numbers) == 1 else None)
