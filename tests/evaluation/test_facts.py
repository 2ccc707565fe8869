"""What the tokens of a pool are: one key per token and dimension, whatever the order, the parts and the windows."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import FIRST, answer, box_episode, derivable, episode

from envecho.errors import DataError
from envecho.evaluation.facts import OTHER, TokenFacts, fold_keys, token_facts
from envecho.evaluation.facts_listing import list_tokens
from envecho.evaluation.results import Dimension
from envecho.evaluation.scores import SAID, PoolTokens, pool_tokens
from envecho.seam import Scores
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.trajectory import ExactBranch, Message, Segment, Source, SpanKind, TokenSpan, ToolCall, Trajectory


def unscored(sequences: list[TokenizedTrajectory]) -> PoolTokens:
    """The tokens of both roles as a predictor scored them that gives everything probability 1."""
    blank = [Scores(logprobs=np.zeros(len(s), np.float32), top1=np.zeros(len(s), np.bool_)) for s in sequences]
    return pool_tokens(sequences, blank, roles=SAID)


def facts_of(
    trajectories: list[Trajectory], tokenizer: ChatTokenizer, *, max_tokens: int | None = None, **options: Any
) -> tuple[PoolTokens, TokenFacts]:
    sequences = [s for t in trajectories for s in tokenize_trajectory(t, tokenizer, max_tokens=max_tokens)]
    tokens = unscored(sequences)
    return tokens, token_facts(tokens, sequences, trajectories, tokenizer, **options)


def names(facts: TokenFacts, dimension: Dimension) -> list[str | None]:
    """The key of each token."""
    column = facts.columns[dimension]
    return [None if code < 0 else column.keys[code] for code in column.codes]


def rows(tokens: PoolTokens, facts: TokenFacts) -> list[tuple[object, ...]]:
    """Every token with all its keys, in an order that the pool's order does not change."""
    columns = [names(facts, dimension) for dimension in facts.columns]
    places = zip(
        [tokens.trajectory_ids[number] for number in tokens.trajectory_index],
        tokens.turns.tolist(),
        tokens.sources.tolist(),
        strict=True,
    )
    # Within one message tokens stand in order in every pool, so a stable sort keeps them comparable.
    found = [(place, *keys) for place, *keys in zip(places, *columns, strict=True)]
    return sorted(found, key=lambda row: row[0])


def pool() -> list[Trajectory]:
    graded = [box_episode(number, num_lines=20) for number in range(3)]
    labelled = [t.model_copy(update={"reward": reward}) for t, reward in zip(graded, (1.0, 0.0, None), strict=True)]
    plain = [("ls -la", answer("total 4 Nov 25 22:32 a.log\n")), ("cat a.log", answer("09:05 lost\n" * 9))]
    return [*labelled, episode("plain", [*plain, *plain])]


def test_every_dimension_is_there_and_every_token_has_at_most_one_key_of_each(tokenizer):
    """Catches a column that is shorter than the pool, a code without a key, and a dimension that was forgotten."""
    tokens, facts = facts_of(pool(), tokenizer, changed={})
    assert set(facts.columns) == set(get_args(Dimension))
    for column in facts.columns.values():
        assert column.codes.shape == (len(tokens),)
        assert column.codes.max(initial=-1) < len(column.keys)
        assert len(set(column.keys)) == len(column.keys)
    warnings = [source is None for source in names(facts, "source")]
    assert warnings == [phrase is not None for phrase in names(facts, "boilerplate")]
    assert warnings == [cls is None for cls in names(facts, "token_class")]
    assert 0 < sum(warnings) < len(tokens)
    for dimension in set(facts.columns) - {"boilerplate"}:
        assert not any(key for key, warning in zip(names(facts, dimension), warnings, strict=True) if warning)


def test_no_repeat_without_another_run(tokenizer):
    """Catches a pool that was never run again shown as one that came out the same."""
    assert "repeat" not in facts_of(pool(), tokenizer)[1].columns


def test_the_order_of_the_pool_and_its_parts_change_nothing(tokenizer):
    """Catches words or repetitions of one episode that count in the next."""
    trajectories = pool()
    expected = rows(*facts_of(trajectories, tokenizer))
    random.Random(0).shuffle(trajectories)
    assert rows(*facts_of(trajectories, tokenizer)) == expected
    parts = [row for trajectory in trajectories for row in rows(*facts_of([trajectory], tokenizer))]
    assert sorted(parts, key=lambda row: row[0]) == expected


@pytest.mark.parametrize("max_tokens", [64, 200])
def test_windows_own_each_token_once_and_change_no_fact(tokenizer, max_tokens: int):
    """Catches facts that depend on how much of the episode a window still holds, and a token counted twice."""
    whole, windows = (facts_of(pool(), tokenizer, max_tokens=limit) for limit in (None, max_tokens))
    assert len(windows[0].sequence_index) == len(whole[0].sequence_index)
    assert windows[0].sequence_index.max() > whole[0].sequence_index.max()
    assert rows(*windows) == rows(*whole)


def test_the_order_of_the_windows_changes_nothing(tokenizer):
    """Catches streams in the order in which windows happen to come: then words would be known before they are said."""
    trajectory = pool()[0]
    sequences = tokenize_trajectory(trajectory, tokenizer, max_tokens=64)
    found = []
    for order in (sequences, sequences[::-1]):
        tokens = unscored(order)
        found.append(Counter(rows(tokens, token_facts(tokens, order, [trajectory], tokenizer))))
    assert found[0] == found[1]


def test_branches_of_a_rewritten_history_own_each_token_once(qwen3_tokenizer):
    """Catches an observation of a later branch classed as a copy of itself, because earlier branches show it, too."""
    tokenizer = ChatTokenizer(qwen3_tokenizer)
    plain = episode("e", [("ls", answer("alpha bravo charlie delta echo\n")), ("cat a", answer("foxtrot golf\n"))])
    messages = [
        m.model_copy(update={"reasoning": f"I think of {n}."}) if m.role == "assistant" else m
        for n, m in enumerate(plain.messages)
    ]
    thinking = plain.with_messages(tuple(messages))
    assert len(tokenize_trajectory(thinking, tokenizer)) > 1
    tokens, facts = facts_of([thinking], tokenizer)
    assert Counter(names(facts, "token_class")) == {"novel": len(tokens)}


def test_exact_ids_have_the_facts_of_the_text_that_they_say(tokenizer):
    """Catches streams that only know sequences made from text: a token-exact trace has the same classes."""
    plain = box_episode(0)
    (rendered,) = tokenize_trajectory(plain, tokenizer)
    ids = tuple(rendered.token_ids.tolist())
    span = TokenSpan(end=len(ids), kind=SpanKind.MIXED, turn=0, num_turns=len(plain.messages))
    exact = plain.model_copy(update={"branches": (ExactBranch(token_ids=ids, spans=(span,)),)})
    assert rows(*facts_of([exact], tokenizer)) == rows(*facts_of([plain], tokenizer))


def test_labels_and_what_came_before_name_the_view(tokenizer):
    """Catches a label stretched over standard error, and a trace without labels called a first view."""
    turns = [
        ("cat a", answer("one\n", stderr="two\n", labels=FIRST)),
        ("wc a", answer("1\n", labels=derivable("count"))),
        ("ls", answer("a\n")),
        ("ls", answer("a\n")),
    ]
    tokens, facts = facts_of([episode("e", turns)], tokenizer)
    found = {(turn, name) for turn, name in zip(tokens.turns.tolist(), names(facts, "view"), strict=True)}
    expected = {(3, "first"), (3, "other"), (5, "derivable"), (7, "not_repeated"), (9, "repeated")}
    assert found == expected


def test_each_result_in_one_message_is_of_its_own_tool(tokenizer):
    """Catches the first tool of a message named for all, as with several results in one user turn."""
    parts = (("search", "alpha bravo"), ("fetch", " charlie delta"))
    segments = tuple(Segment(source=Source.TOOL_RESULT, text=text, tool=tool) for tool, text in parts)
    trajectory = episode("e", [("go", Message(role="user", segments=segments))])
    _, facts = facts_of([trajectory], tokenizer)
    texts = [token.text for token in list_tokens(trajectory, tokenizer) if token.token_class]
    said = {tool: "" for tool, _ in parts}
    for text, tool in zip(texts, names(facts, "tool"), strict=True):
        assert tool is not None
        said[tool] += text
    assert said == dict(parts)


def test_a_call_names_the_tool_and_its_command_line_the_program(qwen3_tokenizer):
    """Catches a structured call whose result loses its tool on the way to the tokens."""
    call = ToolCall(name="bash", arguments='{"command": "cd /srv && grep x y"}', id="c1")
    reply = Message(role="tool", segments=(Segment(source=Source.TOOL_RESULT, text="x y\n"),), tool_call_id="c1")
    plain = episode("e", [("", reply)])
    messages = (*plain.messages[:2], Message(role="assistant", segments=(), tool_calls=(call,)), reply)
    _, facts = facts_of([plain.with_messages(messages)], ChatTokenizer(qwen3_tokenizer))
    assert (set(names(facts, "tool")), set(names(facts, "command"))) == ({"bash"}, {"grep"})


def test_what_was_run_again_is_the_same_or_different_by_its_characters(tokenizer):
    """Catches messages that were not run again counted as the same, and a difference spread over its message."""
    trajectory = episode("e", [("a", answer("took 1712 steps\n")), ("b", answer("fine\n")), ("c", answer("rest\n"))])
    tokens, facts = facts_of([trajectory], tokenizer, changed={("e", 3): [(5, 9)], ("e", 5): []})
    texts = [token.text for token in list_tokens(trajectory, tokenizer) if token.token_class]
    by_key: dict[str | None, str] = {}
    for text, key in zip(texts, names(facts, "repeat"), strict=True):
        by_key[key] = by_key.get(key, "") + text
    assert by_key == {"different": "1712", "same": "took  steps\nfine\n", None: "rest\n"}
    different = np.array(names(facts, "repeat")) == "different"
    assert set(np.array(names(facts, "token_class"))[different]) == {"volatile"}
    assert len(tokens) == len(texts)


def test_a_difference_keeps_its_place_where_the_template_trims(smollm2_tokenizer):
    """Catches ranges that are off by the white space which a template takes from the front of a message."""
    trimming = copy.deepcopy(smollm2_tokenizer)
    trimming.chat_template = trimming.chat_template.replace("message['content']", "message['content'] | trim")
    tokenizer = ChatTokenizer(trimming)
    trajectory = episode("e", [("a", answer("  \n took 1712 steps\n"))])
    _, facts = facts_of([trajectory], tokenizer, changed={("e", 3): [(0, 1), (9, 13)]})
    texts = [token.text for token in list_tokens(trajectory, tokenizer) if token.token_class]
    assert "".join(texts) == "took 1712 steps"
    keys = names(facts, "repeat")
    assert "".join(text for text, key in zip(texts, keys, strict=True) if key == "different") == "1712"


def test_an_unknown_view_is_refused_by_name(tokenizer):
    """Catches a misspelt label that would quietly become no label."""
    trajectory = episode("e", [("a", answer("x\n", labels={"view": "frist"}))])
    with pytest.raises(DataError, match="frist"):
        facts_of([trajectory], tokenizer)
    with pytest.raises(DataError, match="frist"):
        list_tokens(trajectory, tokenizer)


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 5), max_size=12), st.integers(1, 5), st.randoms())
def test_the_keys_with_the_most_tokens_stay_whatever_their_order(counts: dict[str, int], most: int, rng: Any):
    """Catches ties that the order of the pool decides, and more slices than were asked for."""
    folded = fold_keys(counts, max_keys=most)
    assert len(set(folded.values())) <= most + 1
    kept = {key for key, name in folded.items() if name == key and key != OTHER}
    assert all(counts[a] >= counts[b] for a in kept for b in set(counts) - kept - {OTHER})
    items = list(counts.items())
    rng.shuffle(items)
    assert fold_keys(dict(items), max_keys=most) == folded
