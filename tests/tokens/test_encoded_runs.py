"""Runs of text are encoded once and mean the same as when they are encoded anew."""

from __future__ import annotations

import pickle

from hypothesis import example, given
from hypothesis import strategies as st

from envecho.tokens import ChatTokenizer
from envecho.tokens import chat as chat_module


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6))
@example(texts=["<|im_end|>", "<|im_end|>", "é日本", "x" * 5000, ""])
def test_a_run_is_what_encode_text_says_however_often_it_is_asked(smol: ChatTokenizer, texts: list[str]):
    """Catches a kept run of another text, and edges that lose a character of several tokens."""
    for text in (*texts, *texts):
        run = smol.encode_run(text)
        ids, offsets = smol.encode_text(text)
        assert list(run.ids) == ids
        assert list(zip(run.edges[::2], run.edges[1::2], strict=True)) == offsets
        assert not run.has_control


def test_kept_runs_are_bounded_and_travel_to_other_processes(smol: ChatTokenizer, monkeypatch):
    """Catches a pool of a million episodes whose every line stays in memory, and a tokenizer that cannot be pickled."""
    monkeypatch.setattr(chat_module, "_KEPT_RUNS", 8)
    monkeypatch.setattr(smol, "_runs", {})
    for number in range(100):
        smol.encode_run(f"line {number}")
        smol.encode_run("y" * (chat_module._KEPT_CHARACTERS + 1))
    assert 0 < len(smol._runs) <= 8
    assert max(map(len, smol._runs)) < 20
    copy = pickle.loads(pickle.dumps(smol))
    assert copy.encode_run("line 99") == smol.encode_run("line 99")
