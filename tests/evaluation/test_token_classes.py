"""Each environment token is in one class, by rules that a person would follow, whatever the windows and the order."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_builders import FIRST, answer, derivable, episode

from envecho.evaluation.facts_listing import ListedToken, list_tokens
from envecho.evaluation.results import TOKEN_CLASSES
from envecho.evaluation.token_classes import COPY_TOKENS, copied_mask
from envecho.trajectory import Role, Trajectory

USES_FIXTURES = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PAGE = Path(__file__).parents[2] / "docs" / "slices.md"


def said(tokens: list[ListedToken], turn: int) -> list[tuple[str, str | None]]:
    """The tokens of one message with their classes."""
    return [(token.text, token.token_class) for token in tokens if token.turn == turn]


def classes(tokens: list[ListedToken], turn: int) -> set[str | None]:
    return {token.token_class for token in tokens if token.turn == turn}


def class_of(tokens: list[ListedToken], turn: int, text: str) -> set[str | None]:
    """The classes of the tokens of a message that hold a part of the first occurrence of `text`."""
    whole, found = "", set()
    start = "".join(token.text for token in tokens if token.turn == turn).index(text)
    for token in tokens:
        if token.turn == turn:
            if len(whole) < start + len(text) and len(whole) + len(token.text) > start:
                found.add(token.token_class)
            whole += token.text
    return found


# --- copied -------------------------------------------------------------------------------------------------------


def slow_copied(token_ids: list[int], episodes: list[int], num_tokens: int) -> list[bool]:
    """The definition, read aloud."""
    copied = []
    for place in range(len(token_ids)):
        last = [
            earlier
            for earlier in range(num_tokens, place)
            if token_ids[earlier - num_tokens : earlier] == token_ids[place - num_tokens : place]
            and episodes[earlier - num_tokens] == episodes[place]
        ]
        whole = place >= num_tokens and episodes[place - num_tokens] == episodes[place]
        copied.append(whole and bool(last) and token_ids[last[-1]] == token_ids[place])
    return copied


@given(st.lists(st.lists(st.integers(0, 3), max_size=25), max_size=4), st.integers(1, 4))
def test_a_copy_is_what_the_definition_says(parts: list[list[int]], num_tokens: int):
    """Catches a match over the edge of an episode, a later occurrence, and one that is not the most recent."""
    token_ids = [token for part in parts for token in part]
    episodes = [number for number, part in enumerate(parts) for _ in part]
    found = copied_mask(np.array(token_ids, dtype=np.int64), np.array(episodes, dtype=np.int64), num_tokens)
    assert found.tolist() == slow_copied(token_ids, episodes, num_tokens)


def test_the_most_recent_follower_counts():
    """Catches the first follower, or any of them, in place of the last: what a copying predictor would say."""
    ids = np.array([1, 2, 7, 1, 2, 8, 1, 2, 7], dtype=np.int64)
    assert not copied_mask(ids, np.zeros(9, dtype=np.int64), 2).any()
    ids[-1] = 8
    assert np.flatnonzero(copied_mask(ids, np.zeros(9, dtype=np.int64), 2)).tolist() == [8]


def test_a_repeated_listing_is_copied_after_its_first_tokens(tokenizer):
    """Catches the template's own tokens in the match: behind the same command the first token is a copy, too."""
    names = "alpha.txt\nbravo.txt\ncharlie.txt\ndelta.txt\n"
    turns = [("ls -1 shelf/books", answer(names)), ("date", answer("later\n")), ("ls -1 shelf/books", answer(names))]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert Counter(cls for _, cls in said(tokens, 7)) == {"copied": len(said(tokens, 7))}
    assert "copied" not in classes(tokens, 5)


# --- volatile -----------------------------------------------------------------------------------------------------


def test_volatile_wins_over_copied_over_predictable_over_novel(tokenizer):
    """Catches another order: each observation below fits all classes from its own on."""
    log = "worker one is ready to serve the queue\n"
    turns = [
        ("cat log", answer(log)),
        ("cat log again", answer(log + "12:31:07\n")),
        ("tail log", answer("queue one\n")),
        ("status", answer("Zebra")),
    ]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert class_of(tokens, 5, "12:31:07") == {"volatile"}
    assert class_of(tokens, 5, "serve the queue") == {"copied"}
    assert class_of(tokens, 7, "queue one") == {"predictable"}
    assert classes(tokens, 9) == {"novel"}
    again = list_tokens(episode("e", turns), tokenizer, changed={("e", 5): [(0, len(log))]})
    assert class_of(again, 5, log) == {"volatile"}


def test_a_time_that_an_earlier_message_showed_is_no_surprise_a_second_time(tokenizer):
    """Catches noise counted where copying would do: a log's own times, read again, can be known."""
    line = "09:05 ERROR lost queue\n"
    turns = [("cat a.log", answer(line + "09:05 WARN\n")), ("grep ERROR a.log", answer(line))]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert class_of(tokens, 3, "09:05") == {"volatile"}
    assert class_of(tokens, 3, "09:05 WARN") & {"volatile"}
    assert "volatile" not in classes(tokens, 5)


def test_what_came_out_otherwise_is_volatile_to_the_character(tokenizer):
    """Catches ranges counted in bytes, or off by what a template trims: text of two-byte characters in front."""
    text = "éé naïve result 4711 and more"
    start = text.index("4711")
    changed = {("e", 3): [(start, start + 4)]}
    tokens = list_tokens(episode("e", [("x", answer(text))]), tokenizer, changed=changed)
    assert "".join(token.text for token in tokens if token.token_class == "volatile") == "4711"


def test_a_measurement_overrules_the_patterns(tokenizer):
    """Catches a box's own log, the same in every run, called noise although somebody ran the episode again."""
    trajectory = episode("e", [("cat a.log", answer("09:05 lost 17\n")), ("cat b.log", answer("10:05 lost 17\n"))])
    assert class_of(list_tokens(trajectory, tokenizer), 3, "09:05") == {"volatile"}
    tokens = list_tokens(trajectory, tokenizer, changed={("e", 3): []})
    assert "volatile" not in classes(tokens, 3)
    assert class_of(tokens, 5, "10:05") == {"volatile"}


def test_a_token_over_the_edge_of_a_volatile_stretch_is_volatile(tokenizer):
    """Catches a rule by the first or the last character: ` Nov` begins with the space before the date."""
    tokens = list_tokens(episode("e", [("ls -l", answer("root 60 Nov 25 22:32 a\n"))]), tokenizer)
    assert (" Nov", "volatile") in said(tokens, 3)


# --- predictable --------------------------------------------------------------------------------------------------


def test_a_label_decides_and_words_only_where_there_is_none(tokenizer):
    """Catches a guess from words where the generator knows, and a label stretched over standard error."""
    text = "blue kettle 35\n"
    turns = [
        ("cat x", answer("unrelated\n", labels=FIRST)),
        ("wc x", answer(text, labels=derivable("count"))),
        ("cat y", answer("kettle blue\n", stderr="kettle sings\n", labels=FIRST)),
        ("cat z", answer("kettle blue\n")),
    ]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert classes(tokens, 5) == {"predictable"}
    assert class_of(tokens, 7, "kettle blue") == {"novel"}
    assert class_of(tokens, 7, "kettle sings") == {"predictable", "novel"}
    assert classes(tokens, 9) == {"predictable"}


def test_a_word_counts_from_the_next_message_on_and_only_whole(tokenizer):
    """Catches words of the same observation, and parts of words, taken for what had been shown."""
    turns = [("ls", answer("report report\n")), ("ls x", answer("reporter\n")), ("ls y", answer("report.\n"))]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert classes(tokens, 3) == {"novel"}
    assert classes(tokens, 5) == {"novel"}
    assert class_of(tokens, 7, "report.") == {"predictable"}


def test_marks_and_white_space_go_with_the_word_behind_them(tokenizer):
    """Catches quotes and commas that make another word of a word: compact JSON would be one word, and always new."""
    turns = [("a", answer('{"id":745,"name":"Bruno"}')), ("b", answer('{"name":"Bruno","age":9}'))]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert class_of(tokens, 5, '{"name') == {"predictable"}
    assert "novel" not in class_of(tokens, 5, "Bruno")
    assert class_of(tokens, 5, "age") == {"novel"}


def test_white_space_at_the_end_of_a_message_goes_with_its_last_word(tokenizer):
    """Catches marks that take what the next message says, and a message without words that takes its neighbour's."""
    turns = [("a", answer("kettle\n")), ("kettle", answer("kettle\n\n")), ("kettle", answer("{}\n"))]
    tokens = list_tokens(episode("e", turns), tokenizer)
    assert classes(tokens, 5) == {"predictable"}
    assert classes(tokens, 7) == {"novel"}


def test_text_without_any_word_has_a_class(tokenizer):
    """Catches a search for a word that is not there, at the edge of a message and of a pool."""
    tokens = list_tokens(episode("e", [("x", answer("\n\n---\n")), ("y", answer("\n"))]), tokenizer)
    assert classes(tokens, 3) <= set(TOKEN_CLASSES)
    assert classes(tokens, 5) <= {"novel", "copied"}


# --- all together -------------------------------------------------------------------------------------------------

TEXTS = st.lists(
    st.sampled_from(
        ["ERROR", "boot 12\n", " ", "\n", "12:30:01", "é😀", "a1b2c3d", "<|im_end|>", '{"id":7}', "x" * 30]
    ),
    max_size=12,
).map("".join)


@USES_FIXTURES
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_every_environment_token_is_in_exactly_one_class_and_no_other_token_is(tokenizer, texts: list[str]):
    """Catches a token that no rule reaches, and a class for what the policy or the harness wrote."""
    turns = [("ls", answer(text, status="[exit status 0]")) for text in texts]
    for token in list_tokens(episode("e", turns), tokenizer):
        assert (token.token_class in TOKEN_CLASSES) == (token.source.role is Role.ENV_OUTPUT)


def test_a_long_line_without_a_space_is_classified_in_time(tokenizer):
    """Catches a rule whose cost grows with the square of a line: an episode may hold a minified file."""
    line = '{"id":745,"at":"12:30:01"},' * 10_000
    trajectory: Trajectory = episode("e", [("cat a.json", answer(line))])
    start = time.process_time()
    tokens = list_tokens(trajectory, tokenizer)
    assert time.process_time() - start < 60
    assert len(tokens) > 100_000


def test_the_example_of_the_page_is_what_the_code_says(capsys):
    """Catches a page that explains other rules than those that are computed."""
    page = PAGE.read_text()
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    shown = page.partition("<!-- example -->")[2].partition("<!-- end -->")[0]
    assert shown.strip().removeprefix("```text\n").removesuffix("\n```") == capsys.readouterr().out.rstrip("\n")


def test_a_repetition_counts_after_as_many_tokens_as_the_page_says():
    """Catches a page, and a justification, for another number than the code's."""
    assert f"the last {COPY_TOKENS} tokens" in PAGE.read_text()
