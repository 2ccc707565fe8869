"""What was redacted is no action and no target: in contents, in calls and reasoning, and in sampled ids."""

from __future__ import annotations

import numpy as np

from envecho.tokens import ChatTokenizer, env_target_mask, token_texts, tokenize_trajectory
from envecho.tokens.view import REDACTED_BRACKETS, rich_view, segment_view, token_view
from envecho.trajectory import Message, SampledTokens, Segment, Source, ToolCall, Trajectory
from envecho.trajectory.redacted import redaction_mark

MARK = redaction_mark("github-token")


def says(role, *segments: tuple[Source, str], **keys) -> Message:
    return Message(role=role, segments=tuple(Segment(source=s, text=t) for s, t in segments), **keys)


def redacted_text(tokenizer: ChatTokenizer, sequence) -> str:
    return "".join(token_texts(tokenizer, sequence.token_ids[sequence.source_mask(Source.REDACTED)]))


def episode(call: Message) -> Trajectory:
    world = says("tool", (Source.STDOUT, "token: "), (Source.REDACTED, MARK), (Source.STDOUT, " ok\n"))
    return Trajectory(id="t", task_id="t", messages=(says("user", (Source.TASK, "Go.")), call, world))


def test_marks_in_an_output_a_call_and_reasoning_have_no_role_in_training(qwen: ChatTokenizer):
    """Catches a policy that is trained to write the mark, and a mark among the targets."""
    call = says(
        "assistant",
        (Source.POLICY, "I log in with "),
        (Source.REDACTED, MARK),
        reasoning=f"The key {MARK} works.",
        tool_calls=(ToolCall(name="bash", arguments=f'{{"command": "login {MARK} now"}}'),),
        labels={"redacted": "github-token"},
    )
    (sequence,) = tokenize_trajectory(episode(call), qwen)
    actions = "".join(token_texts(qwen, sequence.token_ids[sequence.action_mask]))
    assert "redacted" not in actions
    assert all(words in actions for words in ("The key", "works.", "I log in with", "login", "now", "<tool_call>"))
    assert redacted_text(qwen, sequence).count(MARK) == 4
    targets = "".join(token_texts(qwen, sequence.token_ids[env_target_mask(sequence)]))
    assert targets.split() == ["token:", "ok"]


def test_a_mark_that_nobody_put_there_is_the_policys_own_text(qwen: ChatTokenizer):
    """Catches a source that is guessed from text: without the label the policy itself wrote it."""
    call = says(
        "assistant",
        (Source.POLICY, "I write "),
        tool_calls=(ToolCall(name="bash", arguments=f'{{"command": "echo {MARK}"}}'),),
    )
    (sequence,) = tokenize_trajectory(episode(call), qwen)
    assert MARK in "".join(token_texts(qwen, sequence.token_ids[sequence.action_mask]))


def test_a_sampled_turn_that_held_a_secret_is_no_action(smol: ChatTokenizer):
    """Catches the secret in exact ids, which keep it, as an action with its log-probs."""
    ids = tuple(int(i) for i in smol.encode_text("login secret")[0])
    sampled = SampledTokens(token_ids=ids, logprobs=(-0.5,) * len(ids), temperature=1.0)
    call = says("assistant", (Source.REDACTED, "login secret"), sampled=sampled, labels={"redacted": "x"})
    (sequence,) = tokenize_trajectory(episode(call), smol)
    assert not sequence.action_mask.any()
    start = int(np.flatnonzero(sequence.source_mask(Source.REDACTED))[0])
    assert tuple(sequence.token_ids[start : start + len(ids)]) == ids
    plain = call.model_copy(update={"labels": {}, "segments": (Segment(source=Source.POLICY, text="login secret"),)})
    (sequence,) = tokenize_trajectory(episode(plain), smol)
    assert int(sequence.action_mask.sum()) == len(ids)


def test_redacted_tokens_are_set_off_in_the_terminal(smol: ChatTokenizer):
    """Catches a reader who takes the mark for something that the world printed."""
    (sequence,) = tokenize_trajectory(episode(says("assistant", (Source.POLICY, "go"))), smol)
    view = token_view(sequence, token_texts(smol, sequence.token_ids))
    assert f"{REDACTED_BRACKETS[0]} {MARK}{REDACTED_BRACKETS[1]}" in rich_view(view).plain


def test_a_call_behind_a_redacted_text_is_still_shown_as_the_policys():
    """Catches a whole turn shown as taken out because its text begins with a secret."""
    segments = ((Source.REDACTED, MARK), (Source.POLICY, "!"))
    call = says("assistant", *segments, tool_calls=(ToolCall(name="bash", arguments="{}"),))
    shown = [(token.text, token.source) for token in segment_view(episode(call)).tokens if token.turn == 1]
    assert shown == [
        (MARK, Source.REDACTED),
        ("!", Source.POLICY),
        ("\n", Source.SCAFFOLD),
        ("bash({})", Source.POLICY),
    ]
