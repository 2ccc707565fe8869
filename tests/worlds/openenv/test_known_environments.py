"""Environments of the nine known shapes through their maps: who wrote what, what it is worth, how an episode ends."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from openenv_shapes import EVENTS

from envecho.errors import WorldError
from envecho.rollout import EpisodeJob, run_episode
from envecho.seam import Observation, World
from envecho.trajectory import Source, StopReason
from envecho.trajectory.roles import Role
from envecho.worlds.openenv.maps import FOLDER, shipped_maps
from envecho.worlds.openenv.suite import seed_actions_of

Start = Callable[..., World]


def said(observation: Observation) -> list[tuple[str, str]]:
    """Return source and text of each segment."""
    return [(segment.source.value, segment.text) for segment in observation.segments]


def test_coding_separates_stdout_from_stderr(start: Start):
    """Catches streams that run together, harness line breaks counted as output, and an exit code as text."""
    world = start("coding_env")
    opened = world.reset(seed=0)
    assert said(opened) == [("task", "Write Python code; it is run, and what it prints is shown.")]
    told = world.step("fail x")
    assert said(told) == [("stdout", "started"), ("wrapper", "\n"), ("stderr", "NameError: x\n")]
    assert told.labels == {"call": "valid"}
    assert told.reward is None


def test_coding_runs_the_inside_of_a_fence(start: Start):
    """Catches code that is sent with its Markdown around it, which is a syntax error everywhere."""
    world = start("coding_env")
    world.reset()
    assert world.step("<think>hm</think>\nHere:\n```python\n1 + 1\n```").segments[0].text == "ran '1 + 1'\n"


def test_rewards_of_steps_add_up_at_the_last_turn(start: Start):
    """Catches an episode that ends unrewarded because the environment has no end, and rewards before the end."""
    world = start("coding_env", max_turns=3)
    world.reset()
    told = [world.step(action) for action in ("a", "fail x", "b")]
    assert [one.done for one in told] == [False, False, True]
    assert told[-1].reward == pytest.approx(0.1 - 0.2 + 0.1)
    with pytest.raises(WorldError, match="call reset first"):
        world.step("c")


def test_terminal_bench_grades_at_the_end_and_the_test_log_is_the_graders(start: Start):
    """Catches a delayed reward that is never asked for, `reset`'s 0.0 taken for a grade, and test logs as targets."""
    world = start("tbench2_env", toml='extends = "tbench2_env"\n[[tasks.list]]\ntask_id = "fix-git"\n')
    assert said(world.reset()) == [("task", "Make it work.")]
    told = world.step("solve")
    assert said(told) == [("stdout", "$ solve\nok\n")]
    ended = world.step("answer: done")
    assert ended.done
    assert ended.reward == 1.0
    assert said(ended) == [("grader", "\n2 passed in 0.1s")]
    assert not [segment for segment in ended.segments if segment.source.role is Role.ENV_OUTPUT]


def test_terminal_bench_takes_other_operations_as_json(start: Start):
    """Catches a JSON action that is typed into the shell as text."""
    world = start("tbench2_env")
    world.reset()
    told = world.step('{"action_type": "write_file", "file_path": "/a", "content": "b"}')
    assert said(told) == [("stdout", "Wrote content to /a")]
    assert said(world.step('{"a": 1}')) == [("stdout", '$ {"a": 1}\nok\n')], "no action's fields: a command like any"


@pytest.mark.parametrize("action", ['{"action_type": "evaluate"}', '{"action_type": "close"}'])
def test_a_policy_cannot_ask_for_its_grade(start: Start, action: str):
    """Catches a policy that is graded until it passes, or that ends the session under its grader."""
    world = start("tbench2_env")
    world.reset()
    told = world.step(action)
    assert said(told) == [("harness_notice", "[this action is not the policy's to take]")]
    assert told.labels == {"call": "invalid"}
    assert not told.done


def test_git_takes_a_line_as_a_command(start: Start):
    """Catches harness phrases ("Git command failed") and doubled lists counted as what git said."""
    world = start("git_env")
    assert said(world.reset())[0] == ("harness_notice", "Git task environment ready.")
    told = world.step("stat")
    assert said(told) == [("stderr", "no stat"), ("wrapper", "\n"), ("status", "Git command failed")]
    assert said(world.step('{"action_type": "list_repos"}'))[0] == ("stdout", "  - a")


def test_a_reset_that_failed_inside_its_answer_is_an_error(start: Start):
    """Catches an episode on an environment that said in a field that it did not start."""
    world = start("git_env", toml='extends = "git_env"\n[[tasks.list]]\ntask_id = "broken"\n')
    with pytest.raises(WorldError, match="no such commit"):
        world.reset()


def test_repl_sends_the_answer_and_counts_its_grade(start: Start):
    """Catches a final answer that is run as code, and the harness's thanks for it as output."""
    toml = 'extends = "repl_env"\n[[tasks.list]]\ncontext = "a b"\ntask_prompt = "Count."\nexpected_answer = "2"\n'
    world = start("repl_env", toml=toml)
    assert {source for source, _ in said(world.reset())} <= {"task", "wrapper"}
    told = world.step("oops")
    assert said(told) == [("stdout", "oops\n"), ("stderr", "Traceback\nNameError")]
    ended = world.step("answer: 2")
    assert (ended.done, ended.reward, said(ended)) == (True, 1.0, [])


def test_repl_harness_phrases_in_stdout_are_cut_out(start: Start):
    """Catches a harness's last word that is written where output stands, and trained as output."""
    world = start("repl_env")
    world.reset()
    ended = world.step("last")
    assert said(ended) == [("status", "Maximum iterations (30) reached.")]
    assert (ended.done, ended.reward) == (True, -0.1)


def test_reasoning_gym_seeds_ask_different_questions_and_the_answer_stays_the_graders(start: Start):
    """Catches one question for all tasks (the original's default), and the right answer as a target."""
    questions = {said(start("reasoning_gym_env", number).reset())[0] for number in range(4)}
    assert len(questions) == 4
    world = start("reasoning_gym_env", 4)
    world.reset()
    ended = world.step("20")
    assert (ended.done, ended.reward) == (True, 1.0)
    assert {segment.source for segment in ended.segments} <= {Source.GRADER, Source.WRAPPER}


def test_reasoning_gym_takes_the_answer_of_the_protocol(start: Start):
    """Catches `answer: 20` graded with its prefix, as a wrong answer."""
    world = start("reasoning_gym_env", 4)
    world.reset()
    ended = world.step("answer: 20")
    assert (ended.done, ended.reward) == (True, 1.0)
    assert {segment.source for segment in ended.segments} == {Source.GRADER}


def test_chat_shows_what_is_new_of_a_history(start: Start, smollm2_dir: object):
    """Catches a history that is repeated in every answer, and the policy's own words trained as the world's."""
    toml = f'extends = "chat_env"\n[action]\ntokenizer = "{smollm2_dir}"\n'
    world = start("chat_env", toml=toml)
    assert said(world.reset()) == [("system", "Be brief.")]
    assert said(world.step("hello world")) == [("user_reply", "And then?")]
    assert said(world.step("hello")) == [("user_reply", "And then?")]


def test_chat_needs_the_servers_tokenizer(start: Start):
    """Catches ids of some other tokenizer, which the server decodes to other words without an error."""
    world = start("chat_env")
    world.reset()
    with pytest.raises(Exception, match="name the server's tokenizer"):
        world.step("hello")


def test_textarena_shows_the_new_rest_of_the_game(start: Start):
    """Catches a game that is told from its start in every answer, and the player's own line as the game's."""
    world = start("textarena_env")
    assert said(world.reset()) == [("task", "Guess the word.")]
    told = world.step("[slate]")
    assert said(told) == [("command_echo", "[Player 0] [slate]\n"), ("tool_result", "[GAME] [slate]: G X X\n")]
    ended = world.step("[crane]")
    assert (ended.done, ended.reward) == (True, 1.0)
    assert said(ended)[0] == ("command_echo", "[Player 0] [crane]\n")


def test_tools_are_found_where_listing_them_is_no_action(start: Start):
    """Catches a server with an action class of its own (openenv's FinQA) that is taken for one without tools."""
    world = start("own_calls")
    assert len(world.reset().tools) == 3
    assert said(world.step('{"name": "echo_message", "arguments": {"message": "hi"}}')) == [("tool_result", "hi")]


def test_echo_lists_its_tools_and_answers_as_text(start: Start):
    """Catches a tool's result shown as MCP's envelope, and tools that no policy sees."""
    world = start("echo_env", max_turns=9)
    opened = world.reset()
    names = [tool["function"]["name"] for tool in opened.tools]
    assert names == ["echo_message", "echo_with_length", "break_down"]
    assert opened.tools[0]["function"]["parameters"]["required"] == ["message"]
    told = world.step('{"name": "echo_message", "arguments": {"message": "hi"}}')
    assert said(told) == [("tool_result", "hi")]
    assert told.segments[0].tool == "echo_message"
    both = world.step('{"name": "echo_with_length", "arguments": {"message": "hi"}}')
    assert json.loads(both.segments[0].text) == {"message": "hi", "length": 2}


@pytest.mark.parametrize(
    ("action", "source", "outcome"),
    [
        ('{"name": "break_down", "arguments": {}}', Source.TOOL_ERROR, "valid"),
        ('{"name": "no_tool", "arguments": {}}', Source.TOOL_ERROR, "invalid"),
        ('{"name": "echo_message", "arguments": {"text": "hi"}}', Source.TOOL_ERROR, "invalid"),
        ("hello", Source.FORMAT_WARNING, "unparsed"),
    ],
)
def test_a_call_is_invalid_by_its_schema_and_not_by_words(start: Start, action: str, source: Source, outcome: str):
    """Catches openenv's guess from words: an API's own error with "invalid" in it is no invalid call."""
    world = start("echo_env")
    world.reset()
    told = world.step(action)
    assert [segment.source for segment in told.segments] == [source]
    assert told.labels == {"call": outcome}


def events(world: World) -> list[str]:
    """Return what the server saw of the world's episode."""
    return [event for episode, event in EVENTS if episode == world.state["episode_id"]]


def test_agent_world_model_is_graded_and_released(start: Start):
    """Catches an episode without its grade, or one whose processes go on after it."""
    world = start("agent_world_model_env", 1)
    opened = world.reset()
    assert said(opened) == [
        ("task", "Find product 0 of shop_1."),
        ("wrapper", "\n"),
        ("harness_notice", "The shop is slow today."),
    ]
    assert [tool["function"]["name"] for tool in opened.tools] == ["find_product"]
    told = world.step('{"name": "find_product", "arguments": {"name": "lamp"}}')
    assert said(told) == [("tool_result", '{"price": 12}')]
    ended = world.step("answer: lamp")
    assert (ended.done, ended.reward) == (True, 1.0)
    assert {segment.source for segment in ended.segments} == {Source.GRADER}
    assert events(world) == ["reset", "find_product", "verify", "done"]


def test_agent_world_model_is_released_without_an_end(start: Start):
    """Catches a session that is dropped without `done` when a rollout ends for its own reasons."""
    world = start("agent_world_model_env")
    world.reset()
    world.close()
    world.close()
    assert [event for event in events(world) if event != "closed"] == ["reset", "done"]


def test_an_episode_without_a_verifier_has_no_reward(start: Start, suite: Callable[..., object]):
    """Catches a task that nobody can grade counted as failed, which trains against what may have been right."""
    tasks = suite("agent_world_model_env")
    number = next(n for n in range(26) if tasks.task_id("train", n).endswith("shop_4/task-0"))
    world = start("agent_world_model_env", number)
    world.reset()
    ended = world.step("answer: lamp")
    assert (ended.done, ended.reward) == (True, None)
    assert events(world)[-1] == "done"


def test_agent_world_model_errors_have_their_writers(start: Start):
    """Catches a dead subprocess trained as what an API says."""
    world = start("agent_world_model_env", max_turns=9)
    world.reset()
    api = world.step('{"name": "find_product", "arguments": {"name": "sofa"}}')
    assert (said(api), api.labels["call"]) == ([("tool_error", "invalid name 'sofa'")], "valid")
    unknown = world.step('{"name": "buy", "arguments": {}}')
    assert (said(unknown), unknown.labels["call"]) == ([("tool_error", "Unknown tool")], "invalid")
    crash = world.step('{"name": "find_product", "arguments": {"name": "crash"}}')
    assert said(crash) == [("harness_error", "subprocess died")]
    grade = world.step('{"name": "verify", "arguments": {}}')
    assert said(grade) == [("harness_notice", "[this action is not the policy's to take]")]
    assert "verify" not in events(world)


def test_agent_world_model_scenarios_are_tasks_in_three_splits(suite: Callable[..., object]):
    """Catches a scenario in two splits, tasks beyond a scenario's number, and ids that change with the address."""
    tasks = suite("agent_world_model_env")
    assert tasks.splits == ("train", "validation", "held_out")
    names = {split: {tasks.task_id(split, n) for n in range(tasks.num_tasks(split))} for split in tasks.splits}
    assert names["held_out"] == {f"agent_world_model_env/shop_{n}/task-{i}" for n in (9, 19) for i in (0, 1)}
    assert names["validation"] == {f"agent_world_model_env/shop_{n}/task-0" for n in (8, 18)}
    assert len(names["train"]) == tasks.num_tasks("train") == 30 - 4 - 2
    assert len({name.rsplit("/", 1)[0] for found in names.values() for name in found}) == 20


@pytest.mark.parametrize("name", ["coding_env", "repl_env", "tbench2_env", "git_env", "textarena_env"])
def test_an_explorer_knows_lines_where_an_action_is_free_text(suite: Callable[..., object], name: str):
    """Catches a known environment that cannot be explored, and lines that the map refuses or sends otherwise."""
    tasks = suite(name, max_turns=6)
    job = EpisodeJob(
        id="e",
        task_id="t",
        seed=0,
        make_world=lambda: tasks.make_world("train", 0),
        make_policy=lambda: tasks.scripted_policy("train", 0, policy="explore", seed=1),
    )
    record = run_episode(job, max_turns=6)
    assert record.stop_reason is StopReason.COMPLETED, record.messages[-1].content
    assert {answer.labels["call"] for answer in record.messages if "call" in answer.labels} == {"valid"}
    assert len({message.content for message in record.messages if message.role == "assistant"}) > 1


def test_every_list_of_lines_belongs_to_a_map():
    """Catches lines that nobody finds, and lines for a map that no longer exists."""
    lists = {path.stem for path in (FOLDER / "explore").glob("*.toml")}
    assert lists <= shipped_maps().keys()
    assert all(seed_actions_of(environment) for name, environment in shipped_maps().items() if name in lists)
