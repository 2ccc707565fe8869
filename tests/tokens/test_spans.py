"""Spans on a chat template: equal to the plain rendering character for character, or refused by name."""

from __future__ import annotations

import pytest
from conversations import (
    TOOLS,
    call,
    message,
    opening,
    plain_text,
    policy,
    stdout,
    text_of,
    tokenize_one,
    with_template,
)

from envecho.errors import TemplateError
from envecho.tokens.spans import render_spans
from envecho.trajectory import SOURCES, Message, Segment, Source, ToolCall

TRIMMING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHOUTING = TRIMMING.replace("| trim", "| upper")
FOLDED_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{{ '<|im_start|>' + m['role'] + '\n' + (first if loop.first else '') + m['content'] | trim "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITHOUT_PROMPT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
LOUD_ENDS = TRIMMING.replace("m['content'] | trim", "('!' if m['content'].startswith('a') else '') + m['content']")


def spanned(chat, *messages, **kwargs) -> dict[int, list[tuple[str, Source]]]:
    """Per turn the runs of text with their source, in order."""
    rendering = render_spans(messages, chat, **kwargs)
    runs: dict[int, list[tuple[str, Source]]] = {}
    for span in rendering.spans:
        runs.setdefault(span.turn, []).append((rendering.text[span.start : span.end], span.source))
    return runs


def bodies(chat, *messages, **kwargs) -> dict[int, str]:
    rendering = render_spans(messages, chat, **kwargs)
    return {body.turn: rendering.text[body.start : body.end] for body in rendering.bodies}


def test_segments_of_one_message_keep_their_own_sources(chat):
    """Catches a message that has one source where its segments have several."""
    observation = message("user", (Source.STDOUT, "3\n"), (Source.STDERR, "oops\n"), (Source.STATUS, "[exit 1]"))
    runs = spanned(chat, *opening(), policy("ls"), observation)[3]
    assert runs == [("3\n", Source.STDOUT), ("oops\n", Source.STDERR), ("[exit 1]", Source.STATUS)]


def test_an_empty_content_has_no_span_and_changes_nothing(chat):
    """Catches marks that make an empty content look non-empty to the template."""
    messages = (*opening(), policy(""), stdout(""), policy("", tool_calls=()))
    assert render_spans(messages, chat).text == plain_text(chat, *messages)
    assert 3 not in spanned(chat, *messages)


def test_the_default_system_prompt_of_the_template_is_scaffold_of_no_message(smol):
    """Catches SmolLM2's own system prompt counted as the first message."""
    tokenized = tokenize_one(smol, Message(role="user", segments=(Segment(source=Source.TASK, text="hi"),)))
    assert "SmolLM" in text_of(smol, tokenized, Source.SCAFFOLD, turn=-1)
    assert text_of(smol, tokenized, *SOURCES, turn=0) == "<|im_start|>user\nhi<|im_end|>\n"


def test_header_and_footer_of_an_unsampled_action_are_scaffold(chat):
    """Catches role tags or the end-of-turn token trained as actions of a text trace."""
    tokenized = tokenize_one(chat, *opening(), policy("ls -1"), stdout("x"))
    assert text_of(chat, tokenized, Source.POLICY) == "ls -1"
    assert text_of(chat, tokenized, *SOURCES, turn=2) == "<|im_start|>assistant\nls -1<|im_end|>\n"


def test_tool_calls_and_thinking_are_the_policys_with_their_tags(qwen):
    """Catches calls or reasoning lost from the action of a text trace."""
    said = policy("Looking.", reasoning="Where am I?", tool_calls=(call("ls"), call("pwd")))
    text = bodies(qwen, *opening(), said, tools=TOOLS)[2]
    assert text.startswith("<think>\nWhere am I?\n</think>\n\nLooking.\n<tool_call>\n")
    assert text.endswith('{"name": "bash", "arguments": {"command": "pwd"}}\n</tool_call>')


def test_inline_thinking_is_the_policys_too(qwen):
    """Catches a template that takes the content apart, so that its beginning cannot be marked."""
    said = policy("<think>\nWhere?\n</think>\n\nls")
    assert bodies(qwen, *opening(), said)[2] == "<think>\nWhere?\n</think>\n\nls"


@pytest.mark.parametrize("where", ["content", "reasoning", "arguments"])
def test_a_policy_that_spells_the_end_of_its_turn_does_not_end_it(qwen, where):
    """Catches the first `<|im_end|>` in an action's own text taken for the end of the turn."""
    text = "grep '<|im_end|>' x"
    said = {
        "content": policy(text),
        "reasoning": policy("", reasoning=text),
        "arguments": policy("", tool_calls=(ToolCall(name="bash", arguments='{"command": "' + text + '", "n": 1}'),)),
    }[where]
    body = bodies(qwen, *opening(), said, stdout("x"), tools=TOOLS)[2]
    if where == "reasoning":
        assert body == ""  # dropped by the template after the user turn; nothing else may be swallowed for it
    else:
        assert text in body
    tokenized = tokenize_one(qwen, *opening(), said, tools=TOOLS)
    ends = tokenized.token_ids.tolist().count(qwen.end_of_turn_id)
    assert ends == 3


def test_reasoning_and_content_that_both_spell_the_end_of_the_turn_are_followed(qwen):
    """Catches guards that must stand in the template's order: reasoning is rendered before the content."""
    said = policy("b <|im_end|> c", reasoning="a <|im_end|>")
    assert bodies(qwen, *opening(), said)[2] == "<think>\na <|im_end|>\n</think>\n\nb <|im_end|> c"


def test_a_few_shot_example_in_the_prompt_is_context_not_action(chat):
    """Catches an assistant turn that the harness wrote trained as if the policy had said it."""
    example = message("assistant", (Source.TASK, "ls <|im_end|> there"))
    tokenized = tokenize_one(chat, *opening(), example, stdout("x"))
    assert not tokenized.action_mask.any()
    assert "ls <|im_end|> there" in text_of(chat, tokenized, Source.TASK, turn=2)


def test_harness_text_inside_an_action_keeps_its_source(chat):
    """Catches a notice that a harness appended to an action trained as the policy's."""
    said = message("assistant", (Source.POLICY, "ls "), (Source.TRUNCATION_NOTICE, "[cut]"))
    tokenized = tokenize_one(chat, *opening(), said, stdout("x"))
    assert text_of(chat, tokenized, Source.TRUNCATION_NOTICE) in ("[cut]", " [cut]")
    assert text_of(chat, tokenized, Source.POLICY).strip() == "ls"


@pytest.mark.parametrize("content", ["a\n", "\n\na", "  a b \n\n", "<|im_end|>\n", " \u2028a\u2028 ", "\n", "a"])
def test_a_template_that_trims_contents_is_followed(smol, content):
    """Catches spans that are off by what Llama's and Gemma's templates trim."""
    trimming = with_template(smol, TRIMMING)
    observation = message("user", (Source.STDOUT, content), (Source.STATUS, "\n"))
    messages = (*opening(), policy(" ls "), observation, policy("ok"), stdout("end \n"))
    runs = spanned(trimming, *messages)
    assert render_spans(messages, trimming).text == plain_text(trimming, *messages)
    assert "".join(text for text, _ in runs.get(3, [])) == (content + "\n").strip()
    assert runs[5] == [("end", Source.STDOUT)]


def test_a_template_that_trims_only_some_messages_is_followed(smol):
    """Catches trimming measured once for all messages: here the folded system prompt keeps its white space."""
    folding = with_template(smol, FOLDED_SYSTEM)
    system = message("system", (Source.SYSTEM, " be \n"))
    runs = spanned(folding, system, message("user", (Source.TASK, " do\n")), policy("ls"), stdout("x\n"))
    assert runs == {
        0: [(" be \n", Source.SYSTEM)],
        1: [("do", Source.TASK)],
        3: [("x", Source.STDOUT)],
    }


def test_a_template_that_looks_at_the_ends_of_a_content_is_followed(smol, qwen):
    """Catches marks at the ends that change what the template decides: Qwen3 looks for tool responses in user turns."""
    loud = with_template(smol, LOUD_ENDS)
    assert spanned(loud, *opening(), policy("ls"), stdout("abc\n"))[3] == [("abc\n", Source.STDOUT)]
    wrapped = message(
        "user", (Source.WRAPPER, "<tool_response>\n"), (Source.STDOUT, "x\n"), (Source.WRAPPER, "</tool_response>")
    )
    messages = (*opening(), policy("ls", reasoning="Why not."), wrapped, policy("done"))
    runs = spanned(qwen, *messages)[3]
    assert runs == [(s.text, s.source) for s in wrapped.segments]
    assert "Why not." in bodies(qwen, *messages)[2]


def test_a_template_without_a_generation_prompt_is_followed(smol):
    """Catches the user's footer counted as the policy's where the prompt ends with the user turn."""
    bare = with_template(smol, WITHOUT_PROMPT)
    messages = (message("user", (Source.TASK, "do it")), policy("ls"), stdout("x\n"))
    assert bodies(bare, *messages) == {1: " ls"}


def test_a_template_that_changes_text_is_refused_with_the_turn(smol):
    """Catches guessing where the text of a message went."""
    with pytest.raises(TemplateError, match=r"turn 0 \(system\).*Use another template"):
        render_spans((*opening(), policy("ls"), stdout("x")), with_template(smol, SHOUTING))


def test_a_template_that_drops_a_message_is_refused_with_the_turn(smol):
    """Catches an observation that silently vanishes."""
    deaf = TRIMMING.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
    with pytest.raises(TemplateError, match=r"turn 3 \(tool\)"):
        render_spans((*opening(), policy("ls"), stdout("x", role="tool")), with_template(smol, deaf))


def test_a_template_that_hides_tool_calls_is_refused(smol):
    """Catches actions lost under SmolLM2's template, which prints contents only."""
    with pytest.raises(TemplateError, match=r"turn 2 \(assistant\).*'bash'"):
        tokenize_one(smol, *opening(), policy("", tool_calls=(call("ls"),)))


def test_the_templates_own_refusal_names_the_roles(qwen):
    """Catches a jinja traceback shown to a user."""
    strict = with_template(qwen, "{{ raise_exception('no system here') }}")
    with pytest.raises(TemplateError, match="no system here"):
        render_spans(opening(), strict)


def test_private_characters_in_the_conversation_are_not_taken_for_marks(chat):
    """Catches content or tool schemas that contain the very characters that mark content."""
    icons = "\U000f0000\U000f0001\U000f0002 x"
    tools = ({"type": "function", "function": {"name": "f", "description": icons, "parameters": {}}},)
    messages = (*opening(), policy(icons), stdout(icons))
    assert render_spans(messages, chat, tools=tools).text == plain_text(chat, *messages, tools=tools)
    assert spanned(chat, *messages, tools=tools)[3] == [(icons, Source.STDOUT)]
