"""What the explorer calls derivable really is a function of text already shown and of the command."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from envecho.worlds.terminal.boxes import Box, make_box
from envecho.worlds.terminal.explorer import SHOWN_KINDS, plan_episode
from envecho.worlds.terminal.operations import OPERATIONS, SINGLE, join_command, supports
from envecho.worlds.terminal.session import TerminalSession


def _only_shown(box: Box, commands: list[str]) -> Box:
    shown = {command.removeprefix("cat ") for command in commands if command.startswith("cat ")}
    return replace(box, documents=tuple(document for document in box.documents if document.path in shown))


@pytest.mark.parametrize("seed", range(12))
def test_derivable_output_is_the_same_in_a_box_that_holds_only_what_was_shown(seed: int) -> None:
    """Would catch a command labelled derivable that reads a file which the episode never showed."""
    box = make_box(seed)
    plan = plan_episode(box, seed=3, num_derivable=8)
    shown = _only_shown(box, [planned.command for planned in plan if planned.labels["view"] == "first"])
    assert len(shown.documents) < len(box.documents)
    with TerminalSession(box) as full, TerminalSession(shown) as bare:
        for planned in plan:
            if planned.labels["view"] == "derivable":
                expected, found = full.run(planned.command), bare.run(planned.command)
                assert (found.stdout, found.stderr) == (expected.stdout, ""), planned.command


@pytest.mark.parametrize("seed", range(30))
def test_an_episode_never_draws_a_command_twice_and_never_an_excluded_one(seed: int) -> None:
    """Would catch held-out commands that training saw on the same box."""
    box = make_box(seed)
    first = plan_episode(box, seed=0)
    seen = {planned.command for planned in first if planned.labels["view"] == "derivable"}
    second = plan_episode(box, seed=1, exclude=seen)
    commands = [planned.command for planned in second]
    assert len(set(commands)) == len(commands)
    assert not seen & {planned.command for planned in second if planned.labels["view"] == "derivable"}


def test_every_episode_has_the_asked_number_of_derivable_commands_after_a_first_view() -> None:
    """Would catch an invalid command that takes the place of a derivable one, or a derivable one that comes first."""
    for seed in range(60):
        views = [planned.labels["view"] for planned in plan_episode(make_box(seed), seed=0, num_derivable=5)]
        assert views.count("derivable") == 5
        assert "first" in views[: views.index("derivable")]
        assert "first" not in views[views.index("derivable") :]


def test_all_six_operations_are_drawn_and_each_names_itself() -> None:
    """Would catch an operation that silently fell out of the mix."""
    drawn: Counter[str] = Counter()
    for seed in range(120):
        drawn.update(planned.labels.get("operation") for planned in plan_episode(make_box(seed), seed=0))
    del drawn[None]
    assert set(drawn) == set(OPERATIONS)


def test_each_operation_answers_on_each_kind_of_document_without_an_error() -> None:
    """Would catch a malformed command: its output would be an error message, labelled derivable."""
    rng = random.Random(0)
    for seed in range(4):
        box = make_box(seed)
        with TerminalSession(box) as session:
            for kind in (*SHOWN_KINDS, "users", "owners"):
                document = box.document(kind)
                for operation, draw in SINGLE.items():
                    if supports(operation, document):
                        result = session.run(draw(rng, document))
                        assert result.stderr == "", (kind, operation)
            result = session.run(join_command(rng, box.document("users"), box.document("owners")))
            assert result.stderr == ""


def test_any_two_seeds_give_different_boxes_and_one_seed_the_same() -> None:
    """Would catch a generator that draws from less than the seed, or from more than it (hash order, time)."""
    texts = [tuple(sorted(make_box(seed).files.items())) for seed in range(300)]
    assert len(set(texts)) == 300
    assert make_box(7) == make_box(7)
