"""Branches under Qwen3's template, which drops the thinking of earlier turns after a new user message."""

from __future__ import annotations

import numpy as np
from conversations import (
    TOOLS,
    call,
    episode,
    message,
    opening,
    plain_ids,
    policy,
    sampled,
    stdout,
    text_of,
    with_template,
)

from envecho.tokens import render_prompt, tokenize_trajectory
from envecho.trajectory import Source


def thinking(text: str, thought: str, **fields):
    return policy(f"<think>\n{thought}\n</think>\n\n{text}", **fields)


def owned_texts(chat, sequences, source: Source) -> list[str]:
    """Per sequence the text of the tokens of a source that it owns."""
    texts = []
    for sequence in sequences:
        chosen = sequence.token_ids[sequence.owned_mask() & sequence.source_mask(source)]
        texts.append(b"".join(chat.token_bytes(int(token)) for token in chosen).decode())
    return texts


def test_each_observation_and_each_action_is_owned_by_exactly_one_branch(qwen):
    """Catches observations trained several times, or never, when the history is rewritten."""
    messages = (*opening(), *(m for k in range(4) for m in (thinking(f"cat {k}", f"T{k}"), stdout(f"out {k}\n"))))
    branches = tokenize_trajectory(episode(*messages), qwen)
    assert len(branches) == 5
    assert "".join(owned_texts(qwen, branches, Source.STDOUT)) == "out 0\nout 1\nout 2\nout 3\n"
    actions = owned_texts(qwen, branches, Source.POLICY)
    assert [a for a in actions if a] == [f"<think>\nT{k}\n</think>\n\ncat {k}" for k in range(4)]
    assert [b.branch for b in branches] == list(range(5))


def test_thinking_that_the_template_keeps_over_tool_results_makes_one_branch(qwen):
    """Catches a split at every turn of a tool loop, where nothing is rewritten."""
    turns = [
        m
        for k in range(3)
        for m in (policy("", reasoning=f"T{k}", tool_calls=(call("ls"),)), message("tool", (Source.TOOL_RESULT, "a")))
    ]
    assert len(tokenize_trajectory(episode(*opening(), *turns, tools=TOOLS), qwen)) == 1


def test_the_empty_thinking_block_of_the_last_turn_does_not_split(qwen):
    """Catches a branch per turn for policies that do not think: the template alone adds that block."""
    turns = [m for k in range(3) for m in (policy(f"cat {k}"), stdout(f"{k}\n"))]
    assert len(tokenize_trajectory(episode(*opening(), *turns, policy("done")), qwen)) == 1


def test_the_owned_context_of_a_sampled_action_is_its_prompt(qwen):
    """Catches actions trained behind another context than the one that they were sampled from."""
    messages = opening()
    prompts = []
    for k in range(3):
        prompts.append(render_prompt(messages, qwen))
        text = f"<think>\nT{k}\n</think>\n\ncat {k}"
        messages += (policy(text, sampled=sampled(qwen, text)), stdout(f"out {k}\n"))
    branches = tokenize_trajectory(episode(*messages), qwen)
    for k, prompt in enumerate(prompts):
        (owner,) = [b for b in branches if (b.owned_mask() & b.action_mask & (b.turns == 2 + 2 * k)).any()]
        start = int(np.flatnonzero(owner.turns == 2 + 2 * k)[3])
        assert owner.token_ids[:start].tolist() == prompt.tolist()
        said = messages[2 + 2 * k].sampled
        own = owner.action_mask & (owner.turns == 2 + 2 * k)
        assert owner.token_ids[own].tolist() == list(said.token_ids)
        assert not owner.context_truncated


def test_a_rewritten_sampled_turn_is_context_without_logprobs(qwen):
    """Catches sampled ids put where the template has dropped half of them."""
    text = "<think>\nT\n</think>\n\nls"
    messages = (*opening(), policy(text, sampled=sampled(qwen, text)), stdout("a\n"), policy("done"))
    _, second = tokenize_trajectory(episode(*messages), qwen)
    assert text_of(qwen, second, Source.POLICY, turn=2) == "ls"
    assert np.isnan(second.sampling_logprobs[second.turns == 2]).all()
    assert second.token_ids.tolist() == plain_ids(qwen, *messages)


def test_a_history_that_nothing_rewrites_is_one_branch_that_owns_everything(smol):
    """Catches branches under templates that only ever append."""
    turns = [m for k in range(3) for m in (thinking(f"cat {k}", "x"), stdout(f"{k}\n"))]
    (only,) = tokenize_trajectory(episode(*opening(), *turns), smol)
    assert only.owned_from == 0


def test_an_episode_may_begin_with_the_policy_or_hold_no_action(smol):
    """Catches an empty prompt that a template refuses, and a prompt-only record."""
    (first,) = tokenize_trajectory(episode(policy("ls"), stdout("a\n")), smol)
    assert text_of(smol, first, Source.POLICY) == "ls"
    (second,) = tokenize_trajectory(episode(*opening()), smol)
    assert not second.action_mask.any()


def test_an_action_whose_prompt_the_template_never_shows_again_is_marked(smol):
    """Catches a policy weight on an action whose context is not the one that it was sampled from."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    odd = with_template(smol, template)
    branches = tokenize_trajectory(episode(*opening(), policy("ls", sampled=sampled(odd, "ls")), stdout("a\n")), odd)
    acting = [b for b in branches if (b.owned_mask() & b.action_mask).any()]
    assert acting
    assert all(b.context_truncated for b in acting)
    assert "".join(owned_texts(odd, branches, Source.STDOUT)) == "a\n"
