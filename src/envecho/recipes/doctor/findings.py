"""The findings: which there are, how bad each is, and what was found of them so far.

Not here: what looks for them (the checks beside this file), and how they are printed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, final

from envecho.trajectory import Trajectory

MAX_EXAMPLES: Final = 3
MAX_EXAMPLE_CHARACTERS: Final = 160
_MOST_REASONS: Final = 1000


class Level(StrEnum):
    """How bad a finding is: an error makes `envecho doctor` exit with 1."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A finding that there can be: what it means, and what to do about it."""

    level: Level
    meaning: str
    advice: str


def _error(meaning: str, advice: str) -> Kind:
    return Kind(level=Level.ERROR, meaning=meaning, advice=advice)


def _warning(meaning: str, advice: str) -> Kind:
    return Kind(level=Level.WARNING, meaning=meaning, advice=advice)


def _note(meaning: str, advice: str) -> Kind:
    return Kind(level=Level.NOTE, meaning=meaning, advice=advice)


KINDS: Final[dict[str, Kind]] = {
    "not_renderable": _error(
        "the model cannot take the trajectory: its chat template refuses the messages, or the ids are another model's",
        "import with --calls-as-text for a template that knows no tools, with --text-only where the ids are another "
        "model's, or take the model that wrote them",
    ),
    "no_target_in_file": _error(
        "the objective selects no token of the whole file: nothing would be trained",
        "look at `envecho show FILE` who wrote what, and at world_loss_target and source_coeffs",
    ),
    "prompt_selected": _error(
        "targets before the first answer of the episode: prompt text would be trained as an answer of the world",
        "give text before the first answer the source system or task; import again if an importer made it",
    ),
    "duplicate_over_branches": _error(
        "two branches of a trajectory own the same observation, which would be trained twice",
        "let each branch own only what no earlier branch shows (owned_from)",
    ),
    "grader_in_targets": _error(
        "words that the file gives to the grader stand in a target: the policy would learn to predict its verifier",
        "cut them out with a rule of your own (source grader), or set grader_is_target if that is meant",
    ),
    "duplicate_ids": _error(
        "two trajectories have the same id, which `envecho train` refuses",
        "give every trajectory its own id",
    ),
    "policy_gradient_refused": _error(
        "the configuration asks for a policy gradient, and exact log-probs, temperature, reward or group are unknown",
        "set use_rl = false, or import a source that keeps token ids and log-probs",
    ),
    "objective_refused": _error(
        "the configuration's objective cannot weigh these trajectories",
        "read the reason; change the objective or the file",
    ),
    "secrets_left": _error(
        "text that looks like a key, token or password stands in a trajectory",
        "import again with redaction, and revoke the secret",
    ),
    "empty_mask": _warning(
        "the trajectory has observations, and no token of them is a target",
        "look at it with `envecho show`: the whole observation may lie in tokens that reach over a border",
    ),
    "overlong": _warning(
        "longer than the model's context (or max_tokens): trained in windows, and later actions lack context",
        "a larger max_tokens or context; actions with cut context get no policy gradient",
    ),
    "cut_observations": _warning(
        "an observation ends abruptly, and no notice says so: the model would learn to stop early",
        "raise the harness's output limit, or mark the cut with a truncation notice",
    ),
    "grader_like_text": _warning(
        "an observation holds a sentence that graders write, such as a verdict or a reward",
        "give it the source grader with a rule of your own",
    ),
    "grader_trained": _warning(
        "grader_is_target is on, and words of the grader are trained: the policy learns to predict its verifier",
        "leave grader_is_target off unless you reproduce RFC 010's own example",
    ),
    "repeated_lines": _warning(
        "lines that stand in many observations that no rule cut: probably a harness's, and easy to predict",
        "say with a rule of your own that they are the harness's (`envecho import --rules`)",
    ),
    "duplicate_trajectories": _warning(
        "the trajectory is equal to an earlier one, up to volatile text, harness text and white space",
        "keep one of each; keep near-identical ones on one side of a split",
    ),
    "growing_rows": _warning(
        "the trajectory repeats an earlier one of the file and goes on: its observations are trained again",
        "keep the longest of each chain",
    ),
    "boilerplate": _warning(
        "a quarter or more of the observation tokens are a harness's words",
        'nothing is trained on them by default; world_loss_target = "all" would train them',
    ),
    "volatile_text": _warning(
        "2 % or more of the observed text is clocks, ids, hashes and paths that nobody can predict",
        "[objective.noise] nll_clip or disagreement_weight; or a fixed clock and fixed names in the world",
    ),
    "no_observation": _note(
        "the trajectory has no answer of the world: it costs time and trains nothing of the environment",
        "leave it out of a verifier-free run",
    ),
    "straddling_tokens": _note(
        "tokens that reach over the border of an observation; the rule for such tokens takes them from the targets",
        "nothing: which side a token is on is a fixed rule; many of them show short outputs",
    ),
    "unattributed_text": _note(
        "observations of an import that no rule cut: a harness's words may stand in them",
        "look at one with `envecho show`, and write a rule if there are any",
    ),
    "truncated_observations": _note(
        "observations that a harness shortened, and said so",
        "nothing: the notice is not trained",
    ),
    "grader_present": _note(
        "the trajectory holds words of a grader; they are context and not trained",
        "nothing, unless grader_is_target is meant",
    ),
    "redacted_text": _note(
        "text was taken out by redaction; it is context and not trained",
        "nothing",
    ),
    "no_sampling_logprobs": _note(
        "actions without exact ids or sampling log-probs: no policy gradient is possible on them",
        'train verifier-free, or imitate with policy.loss = "sft"',
    ),
    "temperature_unknown": _note(
        "log-probs without the temperature that they were sampled at: the policy term refuses them",
        "state the temperature where the file is made",
    ),
    "no_reward_or_group": _note(
        "no reward or no group: no advantage is defined",
        "train verifier-free, or grade and group the rollouts",
    ),
    "action_text_lossy": _note(
        "the words of the actions are not to the character what the policy wrote",
        "do not compare them token by token, and do not imitate their format blindly",
    ),
    "actions_not_proved": _note(
        "nothing in the file proves that a model wrote the answers (assumed, or not_sampled)",
        "nothing for the environment term; mind it before you imitate them",
    ),
    "environment_simulated": _note(
        "a model played the environment",
        "what is learnt is that model's world, not a real one",
    ),
    "context_incomplete": _note(
        "the policy saw more than the file holds (a hidden system prompt, a summary)",
        "a policy gradient on it would be wrong; the environment term has less to go by",
    ),
    "parts_dropped": _note(
        "images, audio or hidden reasoning were left out of the text",
        "nothing for text; the policy saw more than is here",
    ),
}
"""Every finding by name, worst first; docs/doctor.md lists them."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Where a finding was met; `turn` is the message's place, None where it is the whole trajectory."""

    trajectory: str
    turn: int | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of a file; `detail` says more in a sentence, `num_tokens` is 0 where tokens are not counted."""

    name: str
    level: Level
    num_trajectories: int
    num_tokens: int
    detail: str
    examples: tuple[Example, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with meaning and advice."""
        kind = KINDS[self.name]
        return {
            **vars(self),
            "level": self.level.value,
            "examples": [vars(example) for example in self.examples],
            "meaning": kind.meaning,
            "advice": kind.advice,
        }


@dataclass(kw_only=True)
class _Count:
    num_trajectories: int = 0
    num_tokens: int = 0
    last: int = -1
    detail: str = ""
    reasons: Counter[str] = field(default_factory=Counter[str])
    examples: list[Example] = field(default_factory=list[Example])


@final
class Findings:
    """What was found so far: counts and a few examples, however long the file is."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._number = -1
        self._id = ""

    def begin(self, trajectory: Trajectory) -> None:
        """Say which trajectory is looked at from now on."""
        self._number += 1
        self._id = trajectory.id

    def add(
        self, name: str, *, turn: int | None = None, text: str = "", num_tokens: int = 0, reason: str | None = None
    ) -> None:
        """Note a finding in the trajectory that is looked at; each trajectory counts once, and gives one example."""
        count = self._counts.setdefault(name, _Count())
        count.num_tokens += num_tokens
        if reason is not None and (reason in count.reasons or len(count.reasons) < _MOST_REASONS):
            count.reasons[reason] += 1
        if count.last == self._number:
            return
        count.last = self._number
        count.num_trajectories += 1
        if len(count.examples) < MAX_EXAMPLES:
            count.examples.append(Example(trajectory=self._id, turn=turn, text=shorten(text)))

    def state(self, name: str, detail: str, *, num_trajectories: int | None = None, num_tokens: int = 0) -> None:
        """Note a finding of the whole file, or add a sentence to one that `add` noted."""
        count = self._counts.setdefault(name, _Count())
        count.detail = detail
        count.num_tokens += num_tokens
        if num_trajectories is not None:
            count.num_trajectories = num_trajectories

    def drop(self, name: str) -> None:
        """Forget a finding that turned out to be too small to report."""
        self._counts.pop(name, None)

    def count(self, name: str) -> int:
        """Return in how many trajectories it was found."""
        return self._counts[name].num_trajectories if name in self._counts else 0

    def all(self) -> tuple[Finding, ...]:
        """Return what was found, in the order of `KINDS`."""
        return tuple(
            Finding(
                name=name,
                level=kind.level,
                num_trajectories=count.num_trajectories,
                num_tokens=count.num_tokens,
                detail=count.detail or _most_common(count.reasons),
                examples=tuple(count.examples),
            )
            for name, kind in KINDS.items()
            if (count := self._counts.get(name)) is not None
        )


def shorten(text: str) -> str:
    """Return one line of a text that is short enough for a report."""
    line = " ⏎ ".join(part for part in text.strip().splitlines() if part.strip())
    return line if len(line) <= MAX_EXAMPLE_CHARACTERS else line[: MAX_EXAMPLE_CHARACTERS - 1] + "…"


def _most_common(reasons: Counter[str]) -> str:
    return "; ".join(f"{count:,} x {reason}" for reason, count in reasons.most_common(MAX_EXAMPLES))
