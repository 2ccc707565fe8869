"""Scripted turns with the token that ends them."""

from __future__ import annotations

from envecho.tokens import ChatTokenizer, tokenize_trajectory, with_closed_turns
from envecho.trajectory import Message, SampledTokens, Segment, Source, Trajectory


def says(text: str, source: Source = Source.POLICY, **fields) -> Message:
    return Message(role="assistant", segments=(Segment(source=source, text=text),), **fields)


def test_an_imitated_turn_ends_with_the_end_of_turn_token_as_an_action(smollm2_tokenizer):
    """Catches a warm start from which a model never learns to end its turn: all its commands would be cut."""
    tokenizer = ChatTokenizer(smollm2_tokenizer)
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="List the files."),))
    answer = Message(role="user", segments=(Segment(source=Source.STDOUT, text="a.log\n"),))
    plain = Trajectory(id="t", task_id="k", messages=(task, says("ls -1"), answer, says("answer: a.log")))
    (before,) = tokenize_trajectory(plain, tokenizer)
    (after,) = tokenize_trajectory(with_closed_turns(plain, tokenizer), tokenizer)
    assert before.token_ids.tolist() == after.token_ids.tolist()
    gained = after.token_ids[after.action_mask & ~before.action_mask].tolist()
    assert gained == [tokenizer.end_of_turn_id] * 2
    assert (before.obs_mask == after.obs_mask).all()


def test_turns_that_are_exact_already_stay(smollm2_tokenizer):
    """Catches sampled ids that are replaced by a re-encoding of their text (METHOD trap 5)."""
    tokenizer = ChatTokenizer(smollm2_tokenizer)
    sampled = says("ls", sampled=SampledTokens(token_ids=(5, 6)))
    thought = says("ls", reasoning="look first")
    quoted = says("file", Source.STDOUT)
    episode = Trajectory(id="t", task_id="k", messages=(sampled, thought, quoted))
    assert with_closed_turns(episode, tokenizer) == episode
