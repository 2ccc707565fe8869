"""METHOD's traps of masks, each with a test that fails where a shipped implementation failed."""

from __future__ import annotations

import numpy as np
import pytest
from conversations import (
    HOSTILE_OUTPUTS,
    ORDINARY_OUTPUTS,
    TOOLS,
    call,
    episode,
    message,
    opening,
    plain_ids,
    plain_text,
    policy,
    sampled,
    stdout,
    text_of,
    tokenize_one,
)

from envecho.tokens import env_target_mask, render_prompt, token_texts, tokenize_trajectory
from envecho.trajectory import Role, Source


@pytest.mark.parametrize("output", ORDINARY_OUTPUTS)
def test_trap_1_no_ordinary_output_has_an_empty_mask(chat, output):
    """Catches masks found by matching token sub-lists, which lose outputs that merge with the template's newline."""
    tokenized = tokenize_one(chat, *opening(), policy("ls"), stdout(output))
    assert env_target_mask(tokenized).any()
    lost = output.replace(text_of(chat, tokenized, Source.STDOUT), "", 1)
    assert not lost.strip(), "only white space at an edge may straddle into the scaffold"


@pytest.mark.parametrize("output", [output for output in ORDINARY_OUTPUTS if output != "...\n"])
def test_trap_1_no_ordinary_tool_result_has_an_empty_mask(qwen, output):
    """Catches the same where a newline of the wrapper stands on both sides of the output."""
    result = message("tool", (Source.TOOL_RESULT, output))
    tokenized = tokenize_one(qwen, *opening(), policy("", tool_calls=(call("x"),)), result, tools=TOOLS)
    assert env_target_mask(tokenized).any()


def test_trap_1_an_output_that_is_one_token_with_the_wrapper_is_scaffold_by_the_fixed_rule(qwen):
    """Catches a silent change of the rule at its worst case: `...`, its newline and the wrapper's are one token."""
    result = message("tool", (Source.TOOL_RESULT, "...\n"))
    tokenized = tokenize_one(qwen, *opening(), policy("", tool_calls=(call("x"),)), result, tools=TOOLS)
    assert "...\n\n" in token_texts(qwen, tokenized.token_ids)
    assert not tokenized.obs_mask.any()


def test_trap_2_role_tags_wrappers_prompts_system_and_task_are_never_trained(qwen):
    """Catches `everything that was not sampled` as the mask."""
    messages = (*opening(), policy("", tool_calls=(call("ls"),)), message("tool", (Source.TOOL_RESULT, "a.log")))
    tokenized = tokenize_one(qwen, *messages, tools=TOOLS)
    chosen = tokenized.token_ids[env_target_mask(tokenized, world_loss_target="all")]
    assert "".join(token_texts(qwen, chosen)) == "a.log"
    rest = text_of(qwen, tokenized, Source.SCAFFOLD, Source.SYSTEM, Source.TASK)
    assert "<tool_response>" in rest
    assert "You are on call." in rest
    assert "# Tools" in rest


def test_trap_3_real_tokens_equal_to_the_pad_token_keep_their_source(smol):
    """Catches padding detected by token id: SmolLM2 pads with its end-of-turn token."""
    messages = (*opening(), policy("ls", sampled=sampled(smol, "ls")), stdout("a.log\n"))
    tokenized = tokenize_one(smol, *messages)
    pads = tokenized.token_ids == smol.hf.pad_token_id
    assert pads.sum() == 4
    assert tokenized.action_mask[pads].sum() == 1
    assert not tokenized.source_mask(Source.PADDING).any()


def test_trap_4_the_conversation_is_tokenised_as_a_whole(chat):
    """Catches tokenising each segment alone, which is another sequence than the one that a server sees."""
    messages = (*opening(), policy("ls"), message("user", (Source.STDOUT, "to"), (Source.STATUS, "tal 4\n")))
    tokenized = tokenize_one(chat, *messages)
    assert tokenized.token_ids.tolist() == plain_ids(chat, *messages)
    assert "total" in token_texts(chat, tokenized.token_ids)


def test_trap_5_sampled_ids_and_logprobs_are_kept_where_re_encoding_would_drift(chat):
    """Catches decoding and re-encoding: this sampler said one token per character."""
    said = sampled(chat, "grep -c ERROR a.log")
    tokenized = tokenize_one(chat, *opening(), policy("grep -c ERROR a.log", sampled=said), stdout("3\n"))
    assert tokenized.token_ids[tokenized.action_mask].tolist() == list(said.token_ids)
    np.testing.assert_allclose(tokenized.sampling_logprobs[tokenized.action_mask], said.logprobs, rtol=1e-6)
    assert np.isnan(tokenized.sampling_logprobs[~tokenized.action_mask]).all()
    assert tokenized.token_ids.tolist() != plain_ids(chat, *opening(), policy("grep -c ERROR a.log"), stdout("3\n"))


def test_trap_6_a_history_that_the_template_rewrites_is_split_not_sliced(qwen):
    """Catches slicing the re-rendered history by length: Qwen3 drops earlier thinking after a new user turn."""
    messages = (*opening(), policy("ls", reasoning="List first."), stdout("a.log\n"), policy("done"))
    first, second = tokenize_trajectory(episode(*messages), qwen)
    assert "List first." in text_of(qwen, first, Source.POLICY)
    assert "List first." not in text_of(qwen, second, Source.POLICY)
    assert not first.obs_mask.any()
    owned_by_second = second.token_ids[second.owned_mask() & second.obs_mask]
    assert "".join(token_texts(qwen, owned_by_second)) == "a.log\n"


def test_trap_7_parallel_tool_results_share_one_turn(qwen):
    """Catches tool results rendered one by one, which closes and opens a user turn between them."""
    results = [message("tool", (Source.TOOL_RESULT, text)) for text in ("a.log\n", "/home\n")]
    messages = (*opening(), policy("", tool_calls=(call("ls"), call("pwd"))), *results)
    tokenized = tokenize_one(qwen, *messages, tools=TOOLS)
    assert tokenized.token_ids.tolist() == plain_ids(qwen, *messages, tools=TOOLS)
    opened = tokenized.token_ids.tolist().count(qwen.added["<|im_start|>"].id)
    assert opened == 4
    # The newline before the closing tag merges with the output's own: by the fixed rule that token is scaffold.
    assert text_of(qwen, tokenized, Source.TOOL_RESULT, turn=3) == "a.log"
    assert text_of(qwen, tokenized, Source.TOOL_RESULT, turn=4) == "/home"


def test_trap_8_harness_text_is_not_environment_text(chat):
    """Catches echo, status and notices counted as what the world answered."""
    observation = message(
        "user", (Source.COMMAND_ECHO, "$ ls\n"), (Source.STDOUT, "a.log\n"), (Source.STATUS, "[exit status 0]")
    )
    tokenized = tokenize_one(chat, *opening(), policy("ls"), observation)
    assert text_of(chat, tokenized, Source.STDOUT) == "a.log\n"
    warned = tokenized.token_ids[tokenized.warning_mask]
    assert "".join(token_texts(chat, warned)) == "$ ls\n[exit status 0]"


def test_trap_9_grader_text_is_a_target_only_when_that_is_asked_for(smol):
    """Catches a policy that is taught to predict its verifier."""
    messages = (*opening(), policy("3"), message("user", (Source.GRADER, "Correct.")))
    tokenized = tokenize_one(smol, *messages)
    assert not env_target_mask(tokenized, world_loss_target="all").any()
    chosen = tokenized.token_ids[env_target_mask(tokenized, grader_is_target=True)]
    assert "".join(token_texts(smol, chosen)) == "Correct."


def test_trap_10_nothing_is_cut_by_a_length_budget(smol):
    """Catches observations dropped by a budget: every target of the whole is a target of exactly one window."""
    turns = [m for k in range(12) for m in (policy(f"cat {k}"), stdout(f"line {k}\n" * 9))]
    trajectory = episode(*opening(), *turns)
    (whole,) = tokenize_trajectory(trajectory, smol)
    windows = tokenize_trajectory(trajectory, smol, max_tokens=128)
    assert len(windows) > 2
    assert sum(int(env_target_mask(w).sum()) for w in windows) == int(env_target_mask(whole).sum())


def test_trap_11_the_last_observation_is_trained_though_no_turn_follows(chat):
    """Catches ids taken from the next request, which the last observation never has."""
    tokenized = tokenize_one(chat, *opening(), policy("ls"), stdout("last words\n"))
    assert "last words" in text_of(chat, tokenized, Source.STDOUT)
    assert env_target_mask(tokenized).sum() == tokenized.obs_mask.sum() > 0


def test_trap_12_a_mask_is_about_the_predicted_token_and_token_0_has_none(smol):
    """Catches masks shifted by one: the first target is the observation's first token, not the one before it."""
    tokenized = tokenize_one(smol, *opening(), policy("ls"), stdout("zebra\n"))
    first = int(np.flatnonzero(env_target_mask(tokenized))[0])
    (text,) = token_texts(smol, tokenized.token_ids[first : first + 1])
    assert "zebra".startswith(text)
    assert tokenized.role_mask(Role.CONTEXT)[first - 1]
    assert not tokenized.owned_mask()[0]


@pytest.mark.parametrize("output", HOSTILE_OUTPUTS)
@pytest.mark.parametrize("role", ["user", "tool"])
def test_tool_text_never_becomes_control_tokens(chat, output, role):
    """Catches tool output that ends its own turn or opens an assistant turn by spelling a control token."""
    observation = message(role, (Source.STDOUT, output))
    tokenized = tokenize_one(chat, *opening(), policy("cat x"), observation, policy("done"))
    of_world = tokenized.token_ids[tokenized.source_mask(Source.STDOUT)]
    assert chat.added_ids.isdisjoint(of_world.tolist())
    shown = b"".join(chat.token_bytes(int(t)) for t in of_world).decode().strip()
    # At the end one character may stand in a token with the template's newline, which is scaffold by the fixed rule.
    assert shown in (output.strip(), output.strip()[:-1])
    template_alone = plain_text(chat, *opening(), policy("cat x"), message(role, (Source.STDOUT, "x")), policy("done"))
    controls = [token for token in tokenized.token_ids.tolist() if token in chat.added_ids]
    expected = [t for t in chat.hf(template_alone, add_special_tokens=False)["input_ids"] if t in chat.added_ids]
    assert controls == expected


def test_a_prompt_is_exactly_the_beginning_of_what_is_trained(chat):
    """Catches a train context that differs from the sampling context, which makes every ratio wrong."""
    turns = [m for k in range(3) for m in (policy(f"cat {k}", sampled=sampled(chat, f"cat {k}")), stdout(f"{k}\n\n"))]
    messages = (*opening(), *turns)
    tokenized = tokenize_one(chat, *messages)
    for turn in (2, 4, 6):
        prompt = render_prompt(messages[:turn], chat)
        start = int(np.flatnonzero(tokenized.action_mask & (tokenized.turns == turn))[0])
        assert prompt.tolist() == tokenized.token_ids[:start].tolist()
