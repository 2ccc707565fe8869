"""How many characters of an Agent World Model episode are whose, when it is written out as OpenEnv's own example does.

    python -m envecho.recipes.awm_accounting EPISODE.json [--json]

The rendering is that of `examples/echo_on_agent_world_model` (github.com/thegovind/OpenEnv, RFC 010): a fixed preamble,
the task and the tools' names; calls inside `<tool_call>`, answers inside `<tool_response>`; the verifier's verdict
counted as an answer of the world. One token per character; token 0 is no target, since nothing predicts it. Its
`env_output` is split here into what the world said (body), the tags and keys around it (wrapper) and the verdict
(grader), so that one sees what our defaults leave out. Not here: training (`envecho import`, then `envecho train`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click

from envecho.errors import DataError
from envecho.formats import agent_world_model
from envecho.formats.reading import Problem, read_documents
from envecho.tokens.targets import target_sources
from envecho.trajectory import Role, Source

Part = Literal["context", "action", "body", "wrapper", "grader", "warning"]

PREAMBLE_CHARACTERS: Final = 205
"""The length of the example's system text (`DEFAULT_SYSTEM` in its awm.py); only its length matters here."""

_SOURCE_OF_PART: Final[Mapping[Part, Source]] = {
    "context": Source.TASK,
    "action": Source.POLICY,
    "body": Source.TOOL_RESULT,
    "wrapper": Source.SCAFFOLD,
    "grader": Source.GRADER,
    "warning": Source.HARNESS_NOTICE,
}


class Piece(NamedTuple):
    """A run of the rendered text, and whose it is."""

    part: Part
    text: str


def render(episode: Mapping[str, Any]) -> Iterator[Piece]:
    """Yield the rendered episode, piece by piece; joined, the text of the example with its system text blank.

    Raises:
        DataError: a step has no action or no observation.
    """
    names = ", ".join(map(str, episode.get("tools") or ()))
    tools = f"Available tools: {names}\n" if names else ""
    yield Piece("context", f"{' ' * PREAMBLE_CHARACTERS}\n\nTask: {episode.get('task', '')}\n{tools}")
    for place, step in enumerate(episode["steps"]):
        action, observation = step.get("action"), step.get("observation")
        if not isinstance(action, Mapping) or not isinstance(observation, Mapping | None):
            raise DataError("expected an action and an observation, both objects", turn=place)
        call = {"name": action.get("tool_name", "unknown"), "arguments": action.get("arguments") or {}}
        yield Piece("action", f"<tool_call>\n{_json(call)}\n</tool_call>\n")
        yield from _answer(observation or {})


def accounting(episode: Mapping[str, Any]) -> dict[str, Any]:
    """Count the next-token targets of an episode, one token per character.

    Returns `characters` (the whole text), `targets` by RFC 010 role as the example counts them (position 0 dropped),
    `env_output` split into body, wrapper and grader, and how many targets the environment term has in the example
    (`env_targets.example`), under our defaults, and under our defaults with `grader_is_target`.
    """
    pieces = list(render(episode))
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts[piece.part] += len(piece.text)
    counts[pieces[0].part] -= 1  # nothing predicts token 0
    split: tuple[Part, ...] = ("body", "wrapper", "grader")

    def targets(*, grader_is_target: bool) -> int:
        chosen = target_sources("env_only", grader_is_target=grader_is_target)
        return sum(counts[part] for part, source in _SOURCE_OF_PART.items() if source in chosen)

    return {
        "characters": sum(len(piece.text) for piece in pieces),
        "targets": {
            Role.CONTEXT.value: counts["context"],
            Role.ACTION.value: counts["action"],
            Role.ENV_OUTPUT.value: sum(counts[part] for part in split),
            Role.WARNING.value: counts["warning"],
        },
        "env_output": {part: counts[part] for part in split},
        "env_targets": {
            "example": sum(counts[part] for part in split),
            "default": targets(grader_is_target=False),
            "default_with_grader": targets(grader_is_target=True),
        },
    }


def _answer(observation: Mapping[str, Any]) -> Iterator[Piece]:
    """The warning, then what the example takes for the world's answer: a result, else a verdict, else an error."""
    if observation.get("warning"):
        yield Piece("warning", f"<warning>{observation['warning']}</warning>\n")
    reward = {"reward_type": observation["reward_type"]} if observation.get("reward_type") is not None else {}
    if (result := observation.get("tool_result")) is not None:
        pieces = [Piece("body", result if isinstance(result, str) else _json(result))]
    elif (verdict := observation.get("verify_result")) is not None:
        pieces = [Piece("grader", _json({"verify_result": verdict} | reward))]
    elif (error := observation.get("error")) is not None:
        before, text = '{"error": ', _json(error)
        pieces = [Piece("wrapper", before), Piece("body", text)]
        pieces += [Piece("wrapper", _json({"error": error} | reward)[len(before) + len(text) :])]
    else:
        return
    yield from (Piece("wrapper", "<tool_response>\n"), *pieces, Piece("wrapper", "\n</tool_response>\n"))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_episode(path: Path) -> Mapping[str, Any]:
    """Return the one episode of a file.

    Raises:
        DataError: the file cannot be read, or is no episode of the Agent World Model.
    """
    problems: list[Problem] = []
    documents = list(read_documents(path, problems.append))
    if problems:
        raise DataError(problems[0].message, file=problems[0].file, line=problems[0].line)
    if len(documents) != 1 or not agent_world_model.recognises(documents[0].data):
        raise DataError(
            "expected one episode with scenario, task, tools and steps of action and observation", file=path
        )
    return documents[0].data


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(file: Path, as_json: bool) -> None:
    """Count the targets of an Agent World Model episode as OpenEnv's example does, and what our defaults leave out."""
    try:
        found = accounting(read_episode(file))
    except DataError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['characters']:,} characters, one token each; targets (token 0 is none):")
    for role, count in found["targets"].items():
        click.echo(f"  {role:<12}{count:>7,}")
    click.echo("env_output: " + ", ".join(f"{part} {count:,}" for part, count in found["env_output"].items()))
    for name, count in found["env_targets"].items():
        click.echo(f"  environment term, {name:<20}{count:>7,} targets")


if __name__ == "__main__":
    main()
