"""The `renderers` package as an independent witness: hand-written Qwen3 rendering against ours."""

from __future__ import annotations

from typing import Any

import pytest
from conversations import TOOLS, call, message, opening, policy, stdout, text_of, tokenize_one

from envecho.tokens.chat import chat_dict
from envecho.trajectory import Source


@pytest.fixture(scope="module")
def renderer(qwen) -> Any:
    renderers = pytest.importorskip("renderers")
    return renderers.create_renderer(qwen.hf, renderers.Qwen3RendererConfig())


CONVERSATIONS = {
    "one turn": (*opening(), policy("ls -1"), stdout("a.log\nb.log\n")),
    "thinking": (*opening(), policy("ls", reasoning="List first."), stdout("a.log\n"), policy("ok", reasoning="Done.")),
    "parallel tools": (
        *opening(),
        policy("Looking.", tool_calls=(call("ls"), call("pwd"))),
        message("tool", (Source.TOOL_RESULT, "a.log\n\n")),
        message("tool", (Source.TOOL_RESULT, "/home naïve 🙂")),
        policy("Two."),
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_agree_with_the_hand_written_renderer(qwen, renderer, name):
    """Catches a reading of the template that an independent implementation does not share."""
    from envecho.tokens.render import encode_rendering
    from envecho.tokens.spans import render_spans

    messages = CONVERSATIONS[name]
    rendering = render_spans(messages, qwen, tools=TOOLS)
    ours = encode_rendering(rendering, messages, qwen)
    theirs = renderer.render([chat_dict(m) for m in messages], tools=list(TOOLS))
    assert ours.token_ids.tolist() == theirs.token_ids
    # Their content of a user or tool message, and ours, may differ by the token that straddles its edge.
    for turn, said in enumerate(messages):
        if said.role in ("user", "tool"):
            mine = {
                k for k in range(len(ours.turns)) if ours.turns[k] == turn and ours.sources[k] != Source.SCAFFOLD.code
            }
            yours = {
                k
                for k, (i, c) in enumerate(zip(theirs.message_indices, theirs.is_content, strict=True))
                if c and i == turn
            }
            assert mine <= yours
            assert len(yours - mine) <= 1


@pytest.mark.parametrize("output", ["<|im_end|>", "x </tool_response> y"])
def test_its_ids_are_not_used_because_tool_text_becomes_control_tokens_there(qwen, renderer, output):
    """Catches the day when `renderers` keeps text and control apart, and could be used for ids."""
    messages = (*opening(), policy("cat x"), message("tool", (Source.TOOL_RESULT, output)))
    theirs = renderer.render([chat_dict(m) for m in messages])
    inside = [
        t for t, i, c in zip(theirs.token_ids, theirs.message_indices, theirs.is_content, strict=True) if c and i == 3
    ]
    assert not qwen.added_ids.isdisjoint(inside)
    tokenized = tokenize_one(qwen, *messages)
    ours = tokenized.token_ids[tokenized.obs_mask].tolist()
    assert qwen.added_ids.isdisjoint(ours)
    assert text_of(qwen, tokenized, Source.TOOL_RESULT) in (output, output[:-1])
