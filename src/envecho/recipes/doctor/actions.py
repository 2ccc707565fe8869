"""Checks of the actions: whether a policy gradient is possible, and why not."""

from __future__ import annotations

from typing import final

from envecho.objective.policy_data import FAILURES
from envecho.recipes.doctor.episode import Episode, Settings, is_action
from envecho.recipes.doctor.findings import Findings
from envecho.trajectory import Trajectory


@final
class ActionCheck:
    """Exact ids, log-probs, temperature, reward and group: what the policy term needs of every trajectory."""

    def __init__(self, settings: Settings, findings: Findings) -> None:
        self._settings, self._findings = settings, findings

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        trajectory = episode.trajectory
        actions = [(turn, message) for turn, message in enumerate(trajectory.messages) if is_action(message)]
        missing: list[str] = []
        inexact = [(turn, m) for turn, m in actions if m.sampled is None or m.sampled.logprobs is None]
        if inexact:
            turn, message = inexact[0]
            without_ids = message.sampled is None
            reason = "no exact token ids" if without_ids else "ids without sampling log-probs"
            self._findings.add("no_sampling_logprobs", turn=turn, text=message.content, reason=reason)
            missing.append("sampling log-probs")
        sampled = [m.sampled for _, m in actions if m.sampled is not None and m.sampled.logprobs is not None]
        if any(tokens.temperature is None for tokens in sampled):
            self._findings.add("temperature_unknown")
            missing.append("temperature")
        lacking = _ungraded(trajectory)
        if lacking:
            self._findings.add("no_reward_or_group", reason=" and ".join(f"no {what}" for what in lacking))
            missing += lacking
        if self._settings.checks_policy and missing and actions:
            self._findings.add("policy_gradient_refused", reason=f"without {', '.join(missing)}")

    def conclude(self) -> None:
        """Nothing that a single episode does not show."""


def _ungraded(trajectory: Trajectory) -> list[str]:
    """What an advantage lacks; a rollout that failed needs no reward."""
    lacking = ["reward"] if trajectory.reward is None and trajectory.stop_reason not in FAILURES else []
    return lacking + (["group"] if trajectory.group_id is None else [])
