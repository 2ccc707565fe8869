"""From a rendering to ids: the straddle rule, bytes, sampled turns, and text that spells control tokens."""

from __future__ import annotations

from copy import copy

import pytest
from conversations import (
    episode,
    message,
    opening,
    plain_ids,
    policy,
    sampled,
    stdout,
    text_of,
    tokenize_one,
    with_template,
)

from envecho.errors import DataError, TemplateError
from envecho.tokens import ChatTokenizer, render_prompt, token_texts, tokenize_trajectory
from envecho.trajectory import SOURCES, SampledTokens, Source


def test_a_token_over_two_spans_takes_the_first_of_context_warning_env_output_action(qwen):
    """Catches a token that is trained as environment text though part of it is the harness's."""
    observation = message("user", (Source.STDOUT, "to"), (Source.STATUS, "tal"))
    tokenized = tokenize_one(qwen, *opening(), policy("ls"), observation)
    place = token_texts(qwen, tokenized.token_ids).index("total")
    assert SOURCES[tokenized.sources[place]] is Source.STATUS
    wrapped = tokenize_one(qwen, *opening(), policy("ls"), message("tool", (Source.TOOL_RESULT, "done.")))
    place = token_texts(qwen, wrapped.token_ids).index(".\n")
    assert SOURCES[wrapped.sources[place]] is Source.SCAFFOLD


def test_a_short_span_in_the_middle_of_a_token_decides_too(qwen):
    """Catches a rule that looks at a token's first and last character only."""
    parts = ((Source.STDOUT, "to"), (Source.STATUS, "t"), (Source.STDOUT, "al"))
    tokenized = tokenize_one(qwen, *opening(), policy("ls"), message("user", *parts))
    place = token_texts(qwen, tokenized.token_ids).index("total")
    assert SOURCES[tokenized.sources[place]] is Source.STATUS


def test_num_bytes_adds_up_to_the_bytes_of_the_text(chat):
    """Catches nats per byte that are wrong where a character is split over tokens."""
    text = "naïve 日本語 🙂👩‍💻\r\n\x1b[31mred\x1b[0m\n"
    tokenized = tokenize_one(chat, *opening(), policy("cat x"), stdout(text))
    assert int(tokenized.num_bytes[tokenized.obs_mask].sum()) == len(text.encode())
    assert text_of(chat, tokenized, Source.STDOUT) == text


def test_a_character_that_is_split_over_tokens_belongs_to_its_segment_with_all_of_them(smol):
    """Catches pieces of an emoji counted as scaffold."""
    tokenized = tokenize_one(
        smol, *opening(), policy("cat x"), message("user", (Source.STDOUT, "🙂"), (Source.STATUS, "🙂"))
    )
    assert tokenized.obs_mask.sum() == tokenized.warning_mask.sum() > 1
    assert "\N{REPLACEMENT CHARACTER}" in token_texts(smol, tokenized.token_ids[tokenized.obs_mask])


def test_bytes_that_the_vocabulary_lacks_get_no_token_and_move_no_source(smol):
    """Catches a status message that takes the token before it because its own character has no token in SmolLM2."""
    observation = message("user", (Source.STDOUT, "ok"), (Source.STATUS, "\x04"), (Source.STDOUT, "end\n"))
    messages = (*opening(), policy("cat x"), observation)
    tokenized = tokenize_one(smol, *messages)
    assert tokenized.token_ids.tolist() == plain_ids(smol, *messages)
    assert text_of(smol, tokenized, Source.STDOUT) == "okend\n"
    assert not tokenized.warning_mask.any()


def test_accents_that_normalisation_composes_stay_in_their_segment(qwen):
    """Catches offsets that skip a combining accent: Qwen3 normalises to NFC before it encodes."""
    observation = message("user", (Source.STDOUT, "cafe\u0301"), (Source.STATUS, "\u0301e [0]"))
    messages = (*opening(), policy("cat x"), observation, policy("ok"))
    tokenized = tokenize_one(qwen, *messages)
    assert tokenized.token_ids.tolist() == plain_ids(qwen, *messages)
    assert text_of(qwen, tokenized, Source.STDOUT, Source.STATUS).startswith("caf\u00e9")


@pytest.mark.parametrize("closed", [True, False])
def test_a_sampled_turn_is_followed_by_what_is_missing_of_the_footer(chat, closed):
    """Catches an end-of-turn token that is doubled, lost, or trained though it was not sampled."""
    said = sampled(chat, "ls", closed=closed)
    tokenized = tokenize_one(chat, *opening(), policy("ls", sampled=said), stdout("a"))
    assert text_of(chat, tokenized, *SOURCES, turn=2) == "<|im_start|>assistant\nls<|im_end|>\n"
    assert text_of(chat, tokenized, Source.POLICY) == ("ls<|im_end|>" if closed else "ls")


def test_a_sampled_turn_may_contain_any_id(qwen):
    """Catches a lookup that fails for ids of the padded head that have no token."""
    said = SampledTokens(token_ids=(5, 151_900, qwen.end_of_turn_id))
    tokenized = tokenize_one(qwen, *opening(), policy("&", sampled=said))
    assert tokenized.num_bytes[tokenized.action_mask].tolist() == [1, 0, len("<|im_end|>")]
    assert token_texts(qwen, [151_900]) == [""]


def test_an_empty_sampled_turn_is_kept(chat):
    """Catches an index error where the sampler stopped at once."""
    tokenized = tokenize_one(chat, *opening(), policy("", sampled=SampledTokens(token_ids=())), stdout("a\n"))
    assert not tokenized.action_mask.any()


def test_temperatures_that_differ_within_an_episode_are_refused(chat):
    """Catches ratios computed at a temperature that some actions were not sampled with."""
    turns = [policy("ls", sampled=sampled(chat, "ls", temperature=t)) for t in (0.6, 0.8)]
    with pytest.raises(DataError, match="temperatures"):
        tokenize_trajectory(episode(*opening(), turns[0], stdout("a"), turns[1]), chat)


def test_policy_text_keeps_the_control_tokens_that_decoding_shows_and_no_others(qwen):
    """Catches actions of a text trace that differ from what the policy must have said, or that end their own turn."""
    said = policy("<tool_call>\n{}\n</tool_call> <|im_end|> <|endoftext|>")
    tokenized = tokenize_one(qwen, *opening(), said, stdout("x"))
    actions = tokenized.token_ids[tokenized.action_mask].tolist()
    shown = [qwen.hf.convert_ids_to_tokens(token) for token in actions if token in qwen.added_ids]
    assert shown == ["<tool_call>", "</tool_call>"]


def test_text_that_cannot_be_told_from_the_templates_own_control_tokens_is_refused(smol):
    """Catches guessing which of two equal special tokens in an action the template wrote."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{{ '<file_sep>' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    odd = with_template(smol, template)
    assert tokenize_one(odd, *opening(), policy("ls")).action_mask.sum() > 1
    with pytest.raises(TemplateError, match=r"turn 2 \(assistant\).*<file_sep>"):
        tokenize_one(odd, *opening(), policy("ls <file_sep>"))


def test_content_without_control_strings_has_the_ids_of_the_plain_rendering(chat):
    """Catches a sequence that differs from what inference servers feed the model."""
    messages = (*opening(), policy("ls -1\n"), stdout("\n a.log\n\n"), policy("\tcat 'a b'"), stdout(""), policy("x"))
    assert tokenize_one(chat, *messages).token_ids.tolist() == plain_ids(chat, *messages)


def test_a_prompt_ends_with_the_generation_prompt(chat):
    """Catches sampling that starts in the middle of somebody else's turn."""
    ids = render_prompt((*opening(), policy("ls"), stdout("a\n")), chat)
    assert chat.hf.decode(ids).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_tokenizer_without_a_template_is_refused_with_advice(smol):
    """Catches a base model whose conversations have no form."""
    hf = copy(smol.hf)
    hf.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTokenizer(hf)


def test_a_slow_tokenizer_is_refused():
    """Catches offsets that do not exist."""

    class Slow:
        is_fast = False

    with pytest.raises(TemplateError, match="fast tokenizer"):
        ChatTokenizer(Slow())


def test_a_template_that_closes_turns_differently_at_the_end_is_refused(smol):
    """Catches an action whose end cannot be found the same way everywhere."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "('<|endoftext|>' if loop.last else '<|im_end|>') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    with pytest.raises(TemplateError, match="close them with one token"):
        tokenize_one(with_template(smol, template), *opening(), policy("ls"))
