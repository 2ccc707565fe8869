"""Properties over generated conversations on real tokenizers."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from conversations import HOSTILE_OUTPUTS, episode, message, opening, plain_ids, policy, stdout, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envecho.tokens import tokenize_trajectory
from envecho.tokens.spans import render_spans
from envecho.trajectory import SOURCES, Message, Role, Segment, Source

GENERATED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Unassigned characters and rare control characters have bytes that SmolLM2's vocabulary lacks; `test_render` has those.
ordinary = st.text(
    st.one_of(
        st.sampled_from("abc 0123\n\r\t.,:;[]{}|-_/\\$é日🙂\x1b"), st.characters(exclude_categories=["Cs", "Cn", "Cc"])
    ),
    max_size=30,
)
hostile = st.lists(st.one_of(st.sampled_from(HOSTILE_OUTPUTS), ordinary), max_size=3).map("".join)
world_sources = st.sampled_from([Source.STDOUT, Source.STDERR, Source.STATUS, Source.COMMAND_ECHO, Source.WRAPPER])


def conversations(texts: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Message, ...]]:
    """Task, then actions and observations of several segments each."""
    segments = st.lists(st.builds(Segment, source=world_sources, text=texts), max_size=3)
    answers = segments.map(lambda parts: Message(role="user", segments=tuple(parts)))
    actions = texts.map(lambda text: policy(text.replace("<|im_end|>", "")))
    pairs = st.lists(st.tuples(actions, answers), min_size=1, max_size=3)
    return pairs.map(lambda turns: (*opening(), *(m for turn in turns for m in turn)))


def tame(text: str) -> str:
    """Text without what makes Qwen3 read thinking, which rewrites histories."""
    return text.replace("think>", "")


@GENERATED
@given(messages=conversations(hostile.map(tame)))
def test_spans_are_the_contents_in_order_and_tile_with_the_rest(chat, messages):
    """Catches spans that overlap, move, or hold other text than their segment's."""
    rendering = render_spans(messages, chat)
    expected = [(turn, s.text, s.source) for turn, m in enumerate(messages) for s in m.segments if s.text]
    found = [(span.turn, rendering.text[span.start : span.end], span.source) for span in rendering.spans]
    assert found == [part for part in expected if part[2] is not Source.POLICY]
    edges = [edge for span in rendering.spans for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert (np.diff(rendering.turns) >= 0).all()
    for body in rendering.bodies:
        assert messages[body.turn].content.strip() in rendering.text[body.start : body.end]


@GENERATED
@given(messages=conversations(hostile.map(tame)))
def test_masks_are_disjoint_and_sources_say_what_their_tokens_stand_for(chat, messages):
    """Catches a token without a source, with two, or with the source of other text."""
    (tokenized,) = tokenize_trajectory(episode(*messages), chat)
    masks = np.stack([tokenized.role_mask(role) for role in Role])
    assert (masks.sum(axis=0) == 1).all()
    controls = [int(token) in chat.added_ids for token in tokenized.token_ids]
    of_world = tokenized.obs_mask | tokenized.warning_mask
    assert not (of_world & np.array(controls)).any()
    whole = b"".join(chat.token_bytes(int(token)) for token in tokenized.token_ids)
    assert int(tokenized.num_bytes.sum()) == len(whole)
    normalizer = chat.hf.backend_tokenizer.normalizer
    text = render_spans(messages, chat).text
    # Runs between control tokens are normalised one by one, so compare the bytes of what was encoded, not of the whole.
    if normalizer is None or normalizer.normalize_str(text) == text:
        assert whole.decode() == text


@GENERATED
@given(messages=conversations(ordinary))
def test_content_without_control_strings_has_the_plain_ids(chat, messages):
    """Catches sequences that differ from what a server tokenises, as when segments are encoded alone."""
    (tokenized,) = tokenize_trajectory(episode(*messages), chat)
    assert tokenized.token_ids.tolist() == plain_ids(chat, *messages)


@GENERATED
@given(output=hostile)
def test_the_tokens_of_an_observation_decode_to_its_text(smol, output):
    """Catches observations of which a part is trained as something else; SmolLM2's template puts no text next to it."""
    (tokenized,) = tokenize_trajectory(episode(*opening(), policy("x"), stdout(output), policy("y")), smol)
    shown = text_of(smol, tokenized, Source.STDOUT)
    # White space at the beginning may share a token with the newline of the header.
    assert output.endswith(shown)
    assert not output[: len(output) - len(shown)].strip()


@GENERATED
@given(messages=conversations(hostile), max_tokens=st.integers(16, 120))
def test_each_observation_is_owned_once_over_branches_and_windows(qwen, messages, max_tokens):
    """Catches targets lost or doubled where thinking is rewritten and windows are cut."""
    sequences = tokenize_trajectory(episode(*messages), qwen, max_tokens=max_tokens)
    (*_, last) = tokenize_trajectory(episode(*messages), qwen)
    owned = [
        (int(turn), int(token))
        for part in sequences
        for turn, token, mine in zip(part.turns, part.token_ids, part.obs_mask & part.owned_mask(), strict=True)
        if mine
    ]
    expected = [(int(t), int(i)) for t, i, o in zip(last.turns, last.token_ids, last.obs_mask, strict=True) if o]
    assert owned == expected


def test_importing_the_room_loads_neither_torch_nor_transformers():
    """Catches work at import, which makes the command line slow."""
    heavy = "{'torch', 'transformers', 'tokenizers', 'jinja2'}"
    code = f"import sys, envecho.tokens; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("submodule", ["windows", "spans", "tokenize"])
def test_every_file_of_the_room_can_be_imported_first(submodule):
    """Catches import cycles that show only in another order."""
    code = f"import importlib; importlib.import_module('envecho.tokens.{submodule}')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_three_hundred_episodes_are_tokenised_in_three_seconds(chat):
    """Catches a method whose cost grows over the square of the turns: processor time, so that a busy machine passes."""
    answer = message("user", (Source.STDOUT, "12: error: connection refused\n" * 4), (Source.STATUS, "[exit status 0]"))
    turns = [m for _ in range(4) for m in (policy("grep -n error /var/log/app.log | head"), answer)]
    trajectory = episode(*opening(), *turns)
    (tokenized,) = tokenize_trajectory(trajectory, chat)
    assert len(tokenized) >= 240
    start = time.process_time()
    for _ in range(60):
        tokenize_trajectory(trajectory, chat)
    assert (time.process_time() - start) * 5 < 3 * 2, "60 episodes stand for 300; twice the budget absorbs noise"
    assert {SOURCES[code] for code in tokenized.sources} >= {Source.STDOUT, Source.POLICY}
