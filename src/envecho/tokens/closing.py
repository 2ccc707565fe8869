"""Assistant turns that no sampler drew, as the ids that a sampler would have drawn: with the token that ends the turn.

Where text is all there is, the end-of-turn token after it is the template's. A model that is to imitate such turns must
also learn to end them. Not here: which tokens are trained (`envecho.objective`).
"""

from __future__ import annotations

from envecho.tokens.chat import ChatTokenizer
from envecho.trajectory import Message, SampledTokens, Source, Trajectory


def with_closed_turns(trajectory: Trajectory, tokenizer: ChatTokenizer) -> Trajectory:
    """Return the trajectory with ids for every assistant turn of plain policy text: its text and the end-of-turn token.

    The text is encoded by itself, as a sampler that starts behind the generation prompt writes it. Turns with ids, with
    reasoning or tool calls, or with text of others stay as they are. Log-probs stay unknown.
    """
    messages = tuple(_closed(message, tokenizer) for message in trajectory.messages)
    return trajectory if messages == trajectory.messages else trajectory.with_messages(messages)


def _closed(message: Message, tokenizer: ChatTokenizer) -> Message:
    is_plain = not message.reasoning and not message.tool_calls
    is_policy = bool(message.segments) and all(segment.source is Source.POLICY for segment in message.segments)
    if message.role != "assistant" or message.sampled is not None or not (is_plain and is_policy):
        return message
    ids, _ = tokenizer.encode_text(message.content)
    return message.model_copy(update={"sampled": SampledTokens(token_ids=(*ids, tokenizer.end_of_turn_id))})
