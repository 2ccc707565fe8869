"""Plan-ahead: pairs that really are what they claim, and a choice that is the model's own."""

from __future__ import annotations

import pytest
from simulate_players import RuleEngine, answered, last_action, shell_episode

from envecho.evaluation.simulation import Pair
from envecho.recipes.collect_episodes import CollectConfig
from envecho.recipes.simulate_answers import split_answer
from envecho.recipes.simulate_choice import choose, error_openings, plan_ahead_result
from envecho.recipes.simulate_episodes import Place, answer_places
from envecho.recipes.simulate_pairs import State, find_pairs, kind_of, other_actions, world_of
from envecho.recipes.terminal_jobs import explore_jobs
from envecho.rollout import EpisodeJob, collect
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Trajectory
from envecho.worlds.suites import open_suite

TERMINAL = CollectConfig(world="terminal", policy="replay", num_episodes=1)
TOOLS = CollectConfig(world="tools", policy="replay", num_episodes=1)


@pytest.fixture(scope="module")
def tokenizer(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


@pytest.fixture(scope="module")
def explored() -> list[Trajectory]:
    return list(collect(explore_jobs("train", 3, num_derivable=2)))


@pytest.fixture(scope="module")
def called() -> list[Trajectory]:
    suite = open_suite("tools")
    jobs = [
        EpisodeJob(
            id=f"tools-{number}",
            task_id=suite.task_id("train", number),
            seed=number,
            make_world=lambda number=number: suite.make_world("train", number),
            make_policy=lambda number=number: suite.scripted_policy("train", number, policy="explore", seed=0),
            metadata={"world": "tools", "split": "train", "task": number},
        )
        for number in (0, 1, 2, 5)
    ]
    return list(collect(jobs, max_turns=5))


def places_of(trajectories: list[Trajectory]) -> list[list[Place]]:
    return [answer_places(trajectory) for trajectory in trajectories]


def test_the_other_command_of_a_live_pair_really_fails_in_that_state(explored: list[Trajectory]):
    """Catches a pair whose second command was never carried out, or carried out in another box."""
    assert world_of(explored) == "terminal"
    found = find_pairs(explored, places_of(explored), world=TERMINAL, most=100, seed=0)
    num_states = sum(map(len, places_of(explored)))
    assert len(found.pairs) + sum(found.left_out.values()) == num_states
    assert found.pairs
    for state, pair in found.pairs:
        assert pair.origin == "live"
        assert not split_answer(pair.answer).failed
        assert split_answer(pair.other_answer).failed
        assert kind_of(pair.other) == kind_of(pair.command)
        assert pair.other != pair.command
        assert state.trajectory.messages[pair.turn].content == pair.answer
        program = pair.other.split()[0]
        # `grep` says nothing where no line matches.
        assert pair.other_answer.startswith((f"{program}: ", "[exit status 1]"))


def test_the_other_call_of_a_live_pair_really_fails_on_that_database(called: list[Trajectory]):
    """Catches calls that are compared as texts, and a world of tools that was not replayed."""
    found = find_pairs(called, places_of(called), world=TOOLS, most=100, seed=0)
    assert found.pairs
    for _, pair in found.pairs:
        assert pair.other_answer.startswith('{"error"')
        assert kind_of(pair.other) == kind_of(pair.command)


def test_a_state_that_the_world_answers_otherwise_is_left_out(explored: list[Trajectory]):
    """Catches a pair made in a state that nobody was in."""
    messages = list(explored[0].messages)
    messages[3] = answered("something else\n")
    changed = [explored[0].with_messages(tuple(messages)), *explored[1:]]
    found = find_pairs(changed, places_of(changed), world=TERMINAL, most=100, seed=0)
    here = [pair for _, pair in found.pairs if pair.trajectory_id == changed[0].id]
    assert [pair.turn for pair in here] in ([3], [])  # before the changed answer nothing differs
    assert found.left_out["num_state_differs"] == len(answer_places(changed[0])) - 1


def test_a_limit_leaves_no_task_out(explored: list[Trajectory]):
    """Catches pairs of the first episodes alone, whose interval over tasks says nothing."""
    found = find_pairs(explored, places_of(explored), world=TERMINAL, most=3, seed=0)
    assert found.left_out["num_over_limit"] == sum(map(len, places_of(explored))) - 3
    assert len({pair.task_id for _, pair in found.pairs}) == len(found.pairs)


def recorded() -> list[Trajectory]:
    shared = ("ls", answered("a\nb\n"))
    return [
        shell_episode("good", [shared, ("cat a", answered("one\n")), ("cat b", answered("two\n"))], task="t"),
        shell_episode("bad", [shared, ("cat z", answered("cat: z: No such file\n", status=1))], task="t"),
        shell_episode("other", [shared, ("cat y", answered("cat: y: No such file\n", status=1))], task="u"),
    ]


def test_two_episodes_with_one_history_make_a_pair_without_a_world():
    """Catches pairs over different tasks or histories, and a world that is needed though the record says it all."""
    episodes = recorded()
    found = find_pairs(episodes, places_of(episodes), world=None, most=10, seed=0)
    ((_, pair),) = found.pairs
    assert (pair.trajectory_id, pair.turn, pair.command, pair.other) == ("good", 5, "cat a", "cat z")
    assert (pair.origin, pair.other_answer) == ("record", "cat: z: No such file\n[exit status 1]")
    assert found.left_out == {"num_failed_itself": 2, "num_without_world": 4}


def test_other_actions_are_of_the_same_kind_and_drawn_by_the_seed():
    """Catches candidates of another program, the own command among them, and an order that changes by itself."""
    episodes = [
        shell_episode("a", [("head -n 1 logs/a.log", answered("x\n"))]),
        shell_episode("b", [("head -n 2 web/b.log", answered("x\n")), ("cat conf/c.yaml", answered("y\n"))]),
    ]
    states = [State(trajectory=episode, place=place) for episode in episodes for place in answer_places(episode)]
    drawn = list(other_actions(states[0], states, seed=3))
    assert drawn[0] == "head -n 2 web/b.log"
    assert sorted(drawn[1:]) == ["head -n 1 conf/c.yaml", "head -n 1 web/b.log"]
    assert drawn == list(other_actions(states[0], states, seed=3))


def pairs_of(episodes: list[Trajectory]) -> list[tuple[State, Pair]]:
    return find_pairs(episodes, places_of(episodes), world=None, most=10, seed=0).pairs


def test_a_model_that_foresees_the_error_chooses_by_its_words(tokenizer: ChatTokenizer):
    """Catches a choice the wrong way round."""
    pairs = pairs_of(recorded())
    for fails, right in (("cat z", 1.0), ("cat a", 0.0)):
        engine = RuleEngine(
            tokenizer, lambda prompt, fails=fails: "no\n[exit status 1]" if last_action(prompt) == fails else "x\n"
        )
        ((choice,), left_out) = choose(engine, pairs, tokenizer, max_tokens=20)
        assert choice is not None
        assert (choice.by, choice.right) == ("words", right)
        assert not left_out


@pytest.mark.parametrize(("likelier", "right"), [("cat z", 1.0), ("cat a", 0.0), ("", 0.5)])
def test_where_words_do_not_tell_the_odds_of_an_error_decide(tokenizer: ChatTokenizer, likelier: str, right: float):
    """Catches odds that are read the wrong way round, and a draw that counts as right or wrong."""

    def likely(before: str, token: str) -> float:
        return -0.5 if likelier and f"assistant\n{likelier}<" in before else -2.0

    engine = RuleEngine(tokenizer, lambda _: "x\n", likely=likely)
    ((choice,), _) = choose(engine, pairs_of(recorded()), tokenizer, max_tokens=20)
    assert choice is not None
    assert (choice.by, choice.right) == ("odds", right)


def test_pairs_that_do_not_fit_are_counted(tokenizer: ChatTokenizer):
    """Catches an engine error, or a pair that silently counts as wrong."""
    engine = RuleEngine(tokenizer, lambda _: "x", max_context_tokens=30)
    choices, left_out = choose(engine, pairs_of(recorded()), tokenizer, max_tokens=20)
    assert choices == [None]
    assert left_out == {"num_beyond_context": 1}
    pairs = [pair for _, pair in pairs_of(recorded())]
    assert plan_ahead_result(pairs, "model", seed=0).accuracy is None


def test_an_error_opens_as_the_program_bash_or_the_api_writes_it():
    """Catches odds of a text that no world writes."""
    assert error_openings("cat a") == ("cat:", "bash:", "[exit status")
    assert error_openings("") == ("bash:", "[exit status")
    assert error_openings('{"name": "get_part", "arguments": {}}') == ('{"error"',)
