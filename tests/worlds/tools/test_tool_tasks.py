"""The tool world's tasks: every template is solvable, verifiers refuse the rest, oracles guess nothing."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest

from envecho.errors import WorldError
from envecho.trajectory import Source
from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools import DOMAINS, ToolTask, ToolWorld, make_task
from envecho.worlds.tools.database import call_database, open_database
from envecho.worlds.tools.domain import Domain, Draft, Template
from envecho.worlds.tools.explorer import plan_calls
from envecho.worlds.tools.grading import changed_tables, grade, same_answer

TEMPLATES = [(domain, template) for domain in DOMAINS.values() for template in domain.templates]
EVERY_TEMPLATE = pytest.mark.parametrize(
    ("domain", "template"), TEMPLATES, ids=[f"{domain.name}-{template.name}" for domain, template in TEMPLATES]
)
SEEDS = (0, 1, 2, 30_007)


def play(task: ToolTask, turns: tuple[str, ...]) -> float | None:
    """Return the reward of these turns."""
    world = ToolWorld(task, max_turns=len(turns) + 5)
    world.reset()
    rewards = [world.step(turn).reward for turn in turns]
    world.close()
    return rewards[-1]


def test_there_are_at_least_five_domains_and_fifty_templates_with_names_of_their_own() -> None:
    """Would catch a domain that is no longer listed, and two templates whose tasks share ids."""
    assert len(DOMAINS) >= 5
    assert len(TEMPLATES) >= 50
    assert len({f"{domain.name}/{template.name}" for domain, template in TEMPLATES}) == len(TEMPLATES)
    assert all(8 <= len(domain.tools) <= 15 for domain in DOMAINS.values())


@EVERY_TEMPLATE
def test_the_oracle_of_every_template_solves_its_tasks_without_an_error(domain: Domain, template: Template) -> None:
    """Would catch an expected state that forgets a side effect, and calls that the API refuses."""
    for seed in SEEDS:
        task = make_task(domain, template, seed)
        world = ToolWorld(task)
        world.reset()
        for turn in task.oracle[:-1]:
            observation = world.step(turn)
            assert [segment.source for segment in observation.segments] == [Source.TOOL_RESULT], (task.id, turn)
            assert not observation.done
        assert world.step(task.oracle[-1]).reward == 1.0, task.id


@EVERY_TEMPLATE
def test_doing_nothing_earns_nothing(domain: Domain, template: Template) -> None:
    """Would catch a task whose expected state is the initial one, and an answer that `done` happens to match."""
    for seed in SEEDS:
        task = make_task(domain, template, seed)
        assert play(task, ("answer: done",)) == 0.0
        assert play(task, ("answer:",)) == 0.0


@EVERY_TEMPLATE
def test_the_oracle_of_another_task_earns_nothing(domain: Domain, template: Template) -> None:
    """Would catch a verifier that only looks whether anything was changed at all."""
    others = [other for other in domain.templates if other.name != template.name][:4]
    task = make_task(domain, template, 3)
    for other in others:
        wrong = make_task(domain, other, 3)
        if wrong.draft.changes == task.draft.changes and wrong.draft.answer == task.draft.answer:
            continue
        assert play(task, wrong.oracle) == 0.0, (task.id, wrong.id)


@EVERY_TEMPLATE
def test_a_solved_task_with_something_else_changed_earns_nothing(domain: Domain, template: Template) -> None:
    """Would catch a verifier that does not see rows which nobody asked to touch."""
    task = make_task(domain, template, 1)
    found = 0
    for seed in range(2):
        with closing(open_database(domain, task.database)) as connection:
            for call in task.draft.calls:
                call_database(domain, connection, call)
            with closing(open_database(domain, task.database)) as solved:
                for call in task.draft.calls:
                    call_database(domain, solved, call)
                for planned in plan_calls(domain, task.database, seed=seed, num_calls=16):
                    call_database(domain, connection, planned.call)
                if not changed_tables(solved, connection, unread=task.draft.unread):
                    continue
            found += 1
            reward = grade(domain, task.database, task.draft, final=connection, answer=task.draft.answer)
            assert reward == 0.0, task.id
    assert found


@EVERY_TEMPLATE
def test_an_oracle_uses_nothing_that_was_not_said_before(domain: Domain, template: Template) -> None:
    """Would catch a script that knows ids which a policy cannot know, so that nobody could learn from it."""
    for seed in SEEDS:
        task = make_task(domain, template, seed)
        seen = task.draft.instruction
        with closing(open_database(domain, task.database)) as connection:
            for call in task.draft.calls:
                for name, value in call.arguments.items():
                    parameter = domain.tools[call.name].parameters[name]
                    if "enum" in parameter.schema or name == "limit" or f"comments.{name}" in task.draft.unread:
                        continue
                    assert re.search(rf"\b{re.escape(str(value))}\b", seen), (task.id, str(call), name)
                seen += call_database(domain, connection, call).text
        if task.draft.answer is not None and task.draft.answer_kind == "text":
            assert task.draft.answer in seen


def test_the_same_seed_makes_the_same_task_and_another_seed_another_database() -> None:
    """Would catch randomness from outside the seed, and databases that are all alike."""
    for domain in DOMAINS.values():
        first, again = (make_task(domain, domain.templates[0], 5) for _ in range(2))
        assert first == again
        with closing(open_database(domain, "5")) as one, closing(open_database(domain, "6")) as two:
            assert set(changed_tables(one, two)) == {table.name for table in domain.tables}


def test_a_template_that_finds_nothing_anywhere_is_an_error() -> None:
    """Would catch a loop without end over databases that lack what a template needs."""
    domain = DOMAINS["shop"]
    with pytest.raises(WorldError, match="nothing for 'never'"):
        make_task(domain, Template(name="never", draw=lambda rng, rows: None), 0)


@pytest.mark.parametrize(
    ("kind", "expected", "right", "wrong"),
    [
        ("number", "7", ("7", " 7. ", "7.0", "$7"), ("", "seven", "17", "7 or 8", "nan", "1e400", "7" * 400)),
        ("text", "tea cup", ("Tea Cup", '"tea cup".', "tea  cup"), ("", "the tea cup", "tea cup, pan")),
        ("set", "A1, B2", ("B2, A1", "a1 and b2", "A1\nB2"), ("A1", "A1, B2, C3", "", "A1, A1, B2")),
    ],
)
def test_answers_are_compared_by_what_they_say(kind: str, expected: str, right: list[str], wrong: list[str]) -> None:
    """Would catch an answer refused for its spelling, and one accepted because it holds the right word somewhere."""
    draft = Draft(instruction="", calls=(), answer=expected, answer_kind=kind)  # type: ignore[arg-type]
    assert [text for text in right if not same_answer(text, draft)] == []
    assert [text for text in wrong if same_answer(text, draft)] == []


def test_texts_that_nobody_prescribed_are_not_compared_but_rows_are() -> None:
    """Would catch a verifier that demands the oracle's own words, or that ignores a whole row for one free column."""
    domain = DOMAINS["tracker"]
    template = next(one for one in domain.templates if one.name == "comment")
    task = make_task(domain, template, 0)
    *look_ups, last = task.draft.calls
    mine = CallText(name=last.name, arguments={**last.arguments, "text": "Thanks a lot!"})
    someone = CallText(name=last.name, arguments={**last.arguments, "author_id": last.arguments["author_id"] - 1})
    start = tuple(map(str, look_ups))
    assert play(task, (*start, str(mine), "answer: done")) == 1.0
    assert play(task, (*start, str(someone), "answer: done")) == 0.0
    assert play(task, (*start, str(mine), str(mine), "answer: done")) == 0.0


def test_every_table_that_a_call_changes_is_declared() -> None:
    """Would catch a tool whose side effects the explorer does not know, after which labels would be wrong."""
    for domain in DOMAINS.values():
        num_changes = 0
        for seed in range(3):
            with closing(open_database(domain, str(seed))) as connection:
                for planned in plan_calls(domain, str(seed), seed=1, num_calls=20):
                    before = connection.serialize()
                    call_database(domain, connection, planned.call)
                    with closing(open_database(domain, str(seed))) as copy:
                        copy.deserialize(before)
                        found = set(changed_tables(copy, connection))
                    assert found <= set(domain.tools[planned.call.name].writes), str(planned.call)
                    num_changes += bool(found)
        assert num_changes > 5


def test_schemas_hold_foreign_keys_and_every_database_enforces_them() -> None:
    """Would catch a database opened without `PRAGMA foreign_keys`, in which rows may point to nothing."""
    for domain in DOMAINS.values():
        with closing(open_database(domain, "0")) as connection:
            assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            keys = [
                row for table in domain.tables for row in connection.execute(f"PRAGMA foreign_key_list({table.name})")
            ]
            assert len(keys) >= 2


def test_answers_are_compact_json() -> None:
    """Would catch answers that fill a small model's context."""
    for domain in DOMAINS.values():
        with closing(open_database(domain, "1")) as connection:
            for planned in plan_calls(domain, "1", seed=0, num_calls=20):
                text = call_database(domain, connection, planned.call).text
                assert json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False) == text
                assert len(text) < 1_200
