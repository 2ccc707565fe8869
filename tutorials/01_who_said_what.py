"""Tutorial 1: who said what.

    python tutorials/01_who_said_what.py

A language-model agent types a command, and a world answers. In what the model reads, the world's answer stands between
words that nobody learns anything from: tags of the chat template, the harness's notices, the exit status. Before
anything is trained, each of these words needs an owner. That is all that this tutorial is about.
"""

from rich.console import Console

from envecho import ChatTokenizer, Message, Role, Segment, Source, Trajectory, tokenize_trajectory
from envecho.engines.pretrained import resolve_model
from envecho.tokens.view import joint_texts, rich_counts, rich_legend, rich_view, token_view

# --- 1. An episode is a list of messages, and a message is a list of segments ----------------------------------------
#
# A segment is a run of text with one writer, its *source*. Whoever runs the world knows the source at the moment when
# the text comes into being, so it is recorded there and never guessed later.

episode = Trajectory(
    id="episode-1",
    task_id="count-errors",
    messages=(
        Message(role="system", segments=(Segment(source=Source.SYSTEM, text="You are in a bash shell."),)),
        Message(role="user", segments=(Segment(source=Source.TASK, text="How many errors are in app.log?"),)),
        Message(role="assistant", segments=(Segment(source=Source.POLICY, text="grep -c ERROR app.log"),)),
        Message(
            role="user",
            segments=(
                Segment(source=Source.COMMAND_ECHO, text="$ grep -c ERROR app.log\n"),
                Segment(source=Source.STDOUT, text="17\n"),
                Segment(source=Source.STATUS, text="[exit status 0]"),
            ),
        ),
        Message(role="assistant", segments=(Segment(source=Source.POLICY, text="answer: 17"),)),
    ),
    reward=1.0,
)

# --- 2. Sources are many, roles are four -----------------------------------------------------------------------------
#
# The four roles are those of OpenEnv's RFC 010. `context` is read and never trained. `action` is what the policy wrote:
# reinforcement learning trains it. `env_output` is what the world really said: ECHO trains it. `warning` is the harness
# speaking: it looks like the world, but a model that predicts it has learnt a phrase and no world.

for source in (Source.TASK, Source.POLICY, Source.STDOUT, Source.COMMAND_ECHO, Source.STATUS):
    print(f"{source.value:14} -> {source.role.value}")
assert Source.STDOUT.role is Role.ENV_OUTPUT
assert Source.STATUS.role is Role.WARNING

# --- 3. A real tokenizer cuts the rendered text into ids, and every id keeps its owner -------------------------------
#
# The chat template puts its own tags around the messages. These belong to nobody: their source is `scaffold`, and their
# role is context. Only the characters of a segment carry the segment's source.

tokenizer = ChatTokenizer.from_pretrained(resolve_model("smollm2-135m"))
(tokens,) = tokenize_trajectory(episode, tokenizer)

texts = joint_texts(tokenizer, tokens.token_ids)
print(f"\n{len(tokens)} tokens; what they say begins with {''.join(texts)[:30]!r}")
rendered = tokenizer.hf.apply_chat_template(
    [{"role": message.role, "content": message.content} for message in episode.messages], tokenize=False
)
assert "".join(texts).rstrip() == rendered.rstrip(), "the ids say what the template says, nothing else"

# --- 4. Masks are derived, not stored --------------------------------------------------------------------------------
#
# There is one source per token. Every mask follows from it, so that no two masks can contradict each other.

masks = {"action": tokens.action_mask, "env_output": tokens.obs_mask, "warning": tokens.warning_mask}
for name, mask in masks.items():
    print(f"{name:11} {''.join(text for text, marked in zip(texts, mask, strict=True) if marked)!r}")
assert not (masks["action"] & masks["env_output"]).any()
assert not (masks["env_output"] & masks["warning"]).any()

answer = "".join(text for text, marked in zip(texts, masks["env_output"], strict=True) if marked)
assert answer == "17\n", "ECHO learns the world's words, and neither the echoed command nor the exit status"

# --- 5. Look at it ---------------------------------------------------------------------------------------------------
#
# `envecho show FILE --model M` draws the same view of any file. Grey is context, blue the policy, green the world,
# yellow the harness.

console = Console(width=100, highlight=False)
view = token_view(tokens, texts)
print()
console.print(rich_legend())
console.print(rich_view(view))
console.print(rich_counts(view))
