"""Environments without a map, and maps of a user's own: nothing becomes a target unless a map says so."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envecho.errors import ConfigError, WorldError
from envecho.seam import Observation, World
from envecho.trajectory import Source
from envecho.trajectory.roles import Role
from envecho.worlds.openenv.guess import guess_action
from envecho.worlds.openenv.maps import EnvironmentMap, fill, load_map, parse_map, recognise, shipped_maps
from envecho.worlds.openenv.propose import propose_map
from envecho.worlds.openenv.reading import Reader
from envecho.worlds.openenv.suite import OpenEnvSuite, open_openenv
from envecho.worlds.options import SuiteOptions

Start = Callable[..., World]
ANY_MAP = EnvironmentMap.model_validate({"name": "any", "action": {"kind": "json"}})


def said(observation: Observation) -> list[tuple[str, str]]:
    return [(segment.source.value, segment.text) for segment in observation.segments if segment.text != "\n"]


def test_fields_that_no_map_names_are_shown_and_not_trained(start: Start):
    """Catches text of unknown origin as a target, a grader's field among them, and a board that nobody sees."""
    world = start("maze")
    with pytest.warns(UserWarning, match=r"does not name board, feedback, score, energy"):
        opened = world.reset(seed=3)
    assert ("task", "Find the way out.\n") in said(opened)
    assert ("harness_notice", "You stand in maze 0.") in said(opened), "the task's seed, not the caller's"
    assert ("status", 'board: [["#", "."]]') in said(opened)
    with pytest.warns(UserWarning, match="does not name hidden_solution"):
        told = world.step('{"move": "north"}')
    assert ("grader", "hidden_solution: north, north") not in said(told)
    assert ("grader", "north, north") in said(told)
    assert ("grader", "score: 0.5") in said(told)
    assert {segment.source.role for segment in told.segments} <= {Role.WARNING, Role.CONTEXT}


names = st.sampled_from(["reward", "verify_result", "stdout", "score", "correct_answer", "text", "tests_passed", "x"])
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
observations = st.recursive(
    st.dictionaries(names, leaves, max_size=4),
    lambda inner: st.dictionaries(names, inner | st.lists(inner), max_size=3),
)


@pytest.mark.filterwarnings("ignore:.*does not name")
@given(observation=observations)
def test_no_observation_without_a_map_has_a_target(observation: dict[str, Any]):
    """Catches a shape of observation (nested, lists) whose text slips through as what an environment said."""
    segments = Reader(ANY_MAP, "a server").read_step(observation)
    assert all(segment.source.role in (Role.WARNING, Role.CONTEXT) for segment in segments)


@pytest.mark.parametrize("name", ["reward", "verify_result", "score", "is_correct", "tests_passed", "judge_notes"])
@pytest.mark.filterwarnings("ignore:.*does not name")
def test_a_graders_field_is_known_by_its_name(name: str):
    """Catches a verdict that is shown as the harness's words, from which a metric counts it as a warning."""
    segments = Reader(ANY_MAP, "a server").read_step({name: "well done"})
    expected = [] if name == "reward" else [Source.GRADER]
    assert [segment.source for segment in segments] == expected


def test_a_map_of_ones_own_names_the_fields(start: Start):
    """Catches a map that is read and not followed: sources, order, and a field that is ignored."""
    toml = """
name = "maze"
[action]
kind = "json"
[fields]
feedback = "tool_result"
board = "status"
score = "grader"
hidden_solution = "ignore"
energy = "ignore"
[reset_fields]
feedback = "task"
"""
    world = start("maze", toml=toml, max_turns=9)
    assert said(world.reset()) == [("task", "You stand in maze 0.")]
    told = world.step('{"move": "south"}')
    assert said(told) == [("tool_result", "You go south."), ("status", '[[".", "#"]]'), ("grader", "0.5")]
    world.step('{"move": "south"}')
    ended = world.step('```json\n{"move": "south"}\n```')
    assert (ended.done, ended.reward) == (True, 3.0)


@pytest.mark.parametrize(("read", "reward"), [("sum", 3.0), ("last", 1.0), ("max", 1.0), ("finish", None)])
@pytest.mark.filterwarnings("ignore:.*does not name")
def test_the_reward_is_read_as_the_map_says(start: Start, read: str, reward: float | None):
    """Catches a mode that is ignored, and an ungraded episode with reward 0."""
    world = start("maze", toml=f'name = "m"\n[action]\nkind = "json"\n[reward]\nread = "{read}"\n')
    world.reset()
    told = [world.step('{"move": "south"}') for _ in range(3)]
    assert [one.reward for one in told] == [None, None, reward]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('nam = "x"', "unknown key 'nam'; known: .*Did you mean 'name'"),
        ('[action]\nkind = "text"\nfeild = "code"', "unknown key 'action.feild'.*Did you mean 'field'"),
        ('[action]\nkind = "text"', "needs field"),
        ('[action]\nkind = "txt"\nfield = "x"', "action.kind"),
        ('[action]\nkind = "json"\n[fields]\na = "stdot"', "no source 'stdot'; known: .*Did you mean 'stdout'"),
        ('[action]\nkind = "json"\n[fields]\na = "policy"', "no world writes text of source policy"),
        ('[action]\nkind = "json"\n[fields.a]\nsource = "stdout"\nsorces = {}', "Did you mean 'sources'"),
        (
            '[action]\nkind = "json"\n[fields.a]\nsource = "stdout"\ncut = [{pattern = "(", source = "status"}]',
            "regular",
        ),
        ('[action]\nkind = "json"\n[finish]\nstep = []', "unknown key 'finish.step'.*Did you mean 'steps'"),
        ('[action]\nkind = "json"\n[connection]\nstep_seconds = 0', "connection.step_seconds"),
        ('extends = "codin_env"', "none of our maps .*Did you mean 'coding_env'"),
        ("name = ", "no TOML"),
    ],
)
def test_a_wrong_map_says_which_key(tmp_path: Path, toml: str, words: str):
    """Catches a misspelt key that is silently without effect, after which the wrong text is trained."""
    path = tmp_path / "map.toml"
    path.write_text(toml if toml.startswith(("name", "extends", "nam")) else f'name = "m"\n{toml}')
    with pytest.raises(ConfigError, match=words) as caught:
        load_map(path)
    assert str(path) in str(caught.value)


def test_a_missing_map_is_named(tmp_path: Path):
    """Catches a traceback for a wrong path."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        open_openenv("http://127.0.0.1:9", SuiteOptions(world_map=tmp_path / "nowhere.toml"))


def test_every_map_of_ours_is_named_as_its_file_and_recognised_by_its_fields():
    """Catches a map that nobody finds, and two that claim the same environment."""
    maps = shipped_maps()
    assert len(maps) >= 11
    for name, environment in maps.items():
        assert environment.name == name
        known = environment.recognise
        for alias in known.names:
            assert recognise([alias.upper()], None, None) == environment, alias
        if known.action:
            assert recognise([], known.action, known.observation) == environment, name


def test_text_and_code_of_ours_never_share_a_field_with_graders():
    """Catches an edit of a map that makes a verifier's words or the right answer a target."""
    for environment in shipped_maps().values():
        for path, rule in environment.fields.items():
            if re.search("verif|score|correct|reward|info", path):
                assert rule.source in ("grader", "ignore"), (environment.name, path)


def test_a_placeholder_keeps_the_kind_of_its_value():
    """Catches a task index that is sent as text, which a server refuses or, worse, does not."""
    values = {"item": {"name": "shop"}, "index": 3}
    template = {"scenario": "{item.name}", "n": "{index}", "id": "{item.name}/{index}", "more": ["{index}", 1]}
    assert fill(template, values) == {"scenario": "shop", "n": 3, "id": "shop/3", "more": [3, 1]}
    with pytest.raises(ConfigError, match=r"\{item.nam\}.*Did you mean 'name'"):
        fill("{item.nam}", values)


@pytest.mark.parametrize(
    ("properties", "required", "kind", "field"),
    [
        ({"code": "string", "metadata": "object"}, ["code"], "text", "code"),
        ({"command": "string", "flag": "boolean"}, [], "text", "command"),
        ({"action_id": "integer"}, ["action_id"], "json", ""),
        ({"a": "string", "b": "string"}, ["a", "b"], "json", ""),
        ({}, [], "mcp", ""),
    ],
)
def test_a_text_field_is_found_where_there_is_one(properties: dict, required: list[str], kind: str, field: str):
    """Catches text put into one of several fields that all must be given."""
    schema = {"properties": {name: {"type": found} for name, found in properties.items()}, "required": required}
    guessed = guess_action(schema)
    assert (guessed.kind, guessed.field) == (kind, field)


@pytest.mark.parametrize("name", ["maze", "tasked", "coding_env", "echo_env", "agent_world_model_env"])
def test_a_proposal_is_a_map(url: str, name: str):
    """Catches a proposal that does not load, from a server that is known and from one that is not."""
    proposal = propose_map(f"{url}/{name}")
    environment = parse_map(tomllib.loads(proposal.text), where="the proposal")
    assert not proposal.problems
    assert (proposal.known == name) == (name not in ("maze", "tasked"))
    assert environment.name == name


def test_a_proposal_says_why_and_what_was_seen(url: str):
    """Catches a proposal that makes a solution or an unknown text a target without a word."""
    text = propose_map(f"{url}/maze").text
    assert re.search(r'^feedback = "tool_result"  # what the environment answers', text, re.MULTILINE)
    assert re.search(r'^hidden_solution = "grader"  # its name is a grader', text, re.MULTILINE)
    assert 'seen: "You stand in maze 0."' in text
    assert "# Tried: reset alone" in text


def test_a_proposal_tries_one_action_that_changes_nothing(url: str):
    """Catches a look that acts on what it does not know."""
    assert propose_map(f"{url}/coding_env").taken == "print(1)"
    assert propose_map(f"{url}/maze").taken is None
    assert propose_map(f"{url}/echo_env").taken is None


def test_tasks_of_the_task_api_start_over_and_keep_their_names(suite: Callable[..., OpenEnvSuite], url: str):
    """Catches a task that depends on the server's address, and a number beyond the split's end."""
    tasks = suite("tasked")
    assert tasks.splits == ("train", "test")
    assert [tasks.num_tasks(split) for split in tasks.splits] == [3, 1]
    assert tasks.task_id("train", 1) == tasks.task_id("train", 4) == "tasked/train-1"
    with pytest.raises(ConfigError, match=r"has the splits train, test, found 'tran'.*Did you mean 'train'"):
        tasks.task_id("tran", 0)


@pytest.mark.filterwarnings("ignore:.*does not name")
def test_what_reset_takes_for_a_task_may_be_said_by_a_map(start: Start):
    """Catches a server whose `reset` names its task otherwise, and drops what it does not know without a word."""
    toml = 'name = "t"\naction = {kind = "text", field = "line"}\n'
    toml += '[tasks]\nreset = {split = "{task.id}", index = "{index}"}\n'
    world = start("tasked", 2, toml=toml)
    assert any("Name the task train-2-2." in text for _, text in said(world.reset()))


@pytest.mark.filterwarnings("ignore:.*does not name")
def test_reset_starts_the_task_whatever_seed_is_given(start: Start):
    """Catches a task number that is lost on the way to the server."""
    world = start("tasked", 4)
    for seed in (0, 7, None):
        assert any("Name the task train-1." in text for _, text in said(world.reset(seed=seed)))
    assert world.step("train-1").reward == 1.0


def test_an_oracle_is_the_maps_or_nobodys(suite: Callable[..., OpenEnvSuite]):
    """Catches a policy that pretends to know how to solve a stranger's task."""
    with pytest.raises(ConfigError, match="servers state no oracle"):
        suite("tasked").scripted_policy("train", 0, policy="oracle", seed=0)
    listed = 'extends = "tbench2_env"\n[[tasks.list]]\ntask_id = "a"\noracle = ["solve", "answer: done"]\n'
    policy = suite("tbench2_env", toml=listed).scripted_policy("train", 0, policy="oracle", seed=0)
    assert policy.act([]).message.content == "solve"
    with pytest.raises(ConfigError, match="Did you mean 'explore'"):
        suite("tasked").scripted_policy("train", 0, policy="explor", seed=0)


def test_task_families_are_refused(url: str):
    """Catches an option that is read and dropped."""
    with pytest.raises(ConfigError, match="no task families"):
        open_openenv(f"{url}/tasked", SuiteOptions(families=("a",)))


def test_the_state_follows_the_episode(start: Start):
    """Catches ids and counts of the episode before, and of refused actions that are not counted."""
    world = start("textarena_env")
    world.reset(episode_id="one")
    world.step("x")
    assert dict(world.state) == {
        "episode_id": "one", "step_count": 1, "task_id": "textarena_env/episode-0", "done": False,
    }  # fmt: skip
    world.reset()
    assert world.state["step_count"] == 0
    assert world.state["episode_id"] != "one"
    world.close()
    with pytest.raises(WorldError, match="call reset first"):
        world.step("x")


def test_tools_behind_openenvs_base_action_are_found_and_a_picture_is_no_text(start: Start):
    """Catches a server of tools taken for one without actions, and pixels that fill the context as numbers."""
    world = start("bare")
    with pytest.warns(UserWarning, match="does not name screenshot"):
        opened = world.reset()
    assert [tool["function"]["name"] for tool in opened.tools] == ["look"]
    assert ("status", "screenshot: [55000 characters of data are not shown]") in said(opened)
    assert said(world.step('{"name": "look", "arguments": {}}')) == [("tool_result", "a wall")]


DOCS = Path(__file__).parents[3] / "docs" / "openenv.md"


def test_documented_maps_are_maps(tmp_path: Path):
    """Catches an example that nobody can copy."""
    fences = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(fences) == 2
    for number, text in enumerate(fences):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        load_map(path)


def test_every_key_of_a_map_is_documented():
    """Catches a key that was added without a word for its users, and every map of ours that is in no table."""
    from pydantic import BaseModel

    from envecho.worlds.openenv import maps

    tables = [made for made in vars(maps).values() if isinstance(made, type) and issubclass(made, BaseModel)]
    keys = {name for table in tables for name in table.model_fields if table.__module__ == maps.__name__}
    words = set(re.findall(r"`\"?([a-z_.0-9]+)", DOCS.read_text()))
    words |= {part for word in words for part in word.split(".")} | {"pattern"}
    assert {*keys, *shipped_maps()} <= words, sorted({*keys, *shipped_maps()} - words)
