"""Checks of who said what: segments tile the observation, the grader is silent, rewards come with the end.

Whatever is trained as the environment's words must be the environment's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from envecho.seam import Observation
from envecho.trajectory import Segment, Source
from envecho.trajectory.roles import Role
from envecho.worlds.check_report import expect, expect_kind
from envecho.worlds.check_subject import Subject, text_of

_SHORTEST_SECRET: Final = 4
"""Shorter texts (`1.0`, `yes`) stand in answers by chance."""
_STATED_REWARD: Final = re.compile(r"\b(?:reward|score)\b[\"']?\s*[:=]\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def _sources_tile_the_observation(subject: Subject) -> None:
    for seed in subject.seeds:
        for number, observation in enumerate(subject.play(seed)):
            where = subject.where(number)
            for segment in observation.segments:
                expect(segment.text != "", f"{where} has an empty segment of {segment.source.value}; leave it out")
            for one, two in pairwise(observation.segments):
                expect(
                    not _should_be_one(one, two),
                    f"{where} cuts one run of {one.source.value} into {one.text[-40:]!r} and {two.text[:40]!r}; "
                    "join what one writer said without a break (notices of the harness may stand apart)",
                )
            _tiles_the_raw_text(observation, where)


def _should_be_one(one: Segment, two: Segment) -> bool:
    """Whether two neighbours are one run: output of one source and tool. Each notice of a harness is one of its own."""
    return one.source.role is Role.ENV_OUTPUT and (one.source, one.tool) == (two.source, two.tool)


def _tiles_the_raw_text(observation: Observation, where: str) -> None:
    if "text" not in observation.metadata:
        return
    raw = observation.metadata["text"]
    expect_kind(raw, str, f"metadata['text'] of {where}")
    joined = text_of(observation)
    expect(joined == raw, f"{where}: the segments say {joined[:100]!r}, and metadata['text'] {raw[:100]!r}")


def _the_grader_is_silent(subject: Subject) -> None:
    for seed in subject.seeds:
        observations = subject.play(seed)
        secrets = dict.fromkeys(subject.expectations.grader_texts, "stated as the grader's")
        for observation in observations:
            secrets |= dict(_grader_words(observation))
        for number, observation in enumerate(observations):
            for segment in observation.segments:
                if segment.source.role is Role.ENV_OUTPUT:
                    _holds_no_secret(segment, secrets, subject.where(number))
                    _names_no_reward(segment, observation.reward, subject.where(number))


def _grader_words(observation: Observation) -> Iterator[tuple[str, str]]:
    """Yield what only a grader knows of this observation, and where that was said."""
    for segment in observation.segments:
        if segment.source is Source.GRADER:
            yield segment.text.strip(), "of a grader segment"
    for name, values in (("label", observation.labels), ("metadata", observation.metadata)):
        for key, value in values.items():
            if key.lower().startswith(("verify", "verif", "grade")):
                yield from ((text, f"of {name} {key!r}") for text in _texts_in(value))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, Mapping):
        yield json.dumps(dict(value))
        for inner in value.values():
            yield from _texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)


def _holds_no_secret(segment: Segment, secrets: Mapping[str, str], where: str) -> None:
    for text, origin in secrets.items():
        expect(
            len(text) < _SHORTEST_SECRET or text not in segment.text,
            f"{where}: {segment.source.value} holds {text[:60]!r}, {origin}: a target that is its own grade",
        )


def _names_no_reward(segment: Segment, reward: float | None, where: str) -> None:
    for number in _STATED_REWARD.findall(segment.text):
        expect(
            reward is None or float(number) != reward,
            f"{where}: {segment.source.value} names the reward {reward}; that is the grader's to say",
        )


def _rewards_come_with_the_end(subject: Subject) -> None:
    for seed in subject.seeds:
        for number, observation in enumerate(subject.play(seed)):
            expect(
                observation.done or observation.reward is None,
                f"{subject.where(number)} has reward {observation.reward} and the episode goes on: a rollout reads the "
                "last one alone. Say None until then, and the sum at the end",
            )


WORD_CHECKS: Final[Mapping[str, Callable[[Subject], None]]] = {
    "sources tile the observation": _sources_tile_the_observation,
    "the grader's words are no output": _the_grader_is_silent,
    "rewards come with the end": _rewards_come_with_the_end,
}
