"""Histories that a template rewrites: branches, over which every observation and action is owned exactly once.

A template may write an earlier turn differently later: Qwen3 drops the thinking of earlier turns after a new user
message. Ids of one long rendering would then not be what the policy saw. A branch is a maximal run of messages over
which every later rendering extends the earlier ones: in its rendering each action that it owns stands behind exactly
the prompt that it was sampled from, with all words that the policy wrote. The next branch renders the history
again, as the template now writes it, and owns only what is new. Not here: ids (`render`), lengths (`windows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from envecho.tokens.chat import ChatDict, ChatTokenizer, chat_dict
from envecho.tokens.spans import Body, Rendering, render_spans
from envecho.trajectory import Message


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One rendering of `messages[:end]`, which owns the messages from `first` on.

    `kept_turns` are the sampled turns that the template has not rewritten here. `context_differs` says that the
    template writes the one turn that this branch owns in another way than it prompted for it.
    """

    first: int
    end: int
    rendering: Rendering
    kept_turns: frozenset[int]
    context_differs: bool = False


@dataclass(kw_only=True)
class _History:
    """The messages of one episode, with what the template once wrote, rendered at most once each."""

    messages: Sequence[Message]
    tokenizer: ChatTokenizer
    tools: Sequence[Mapping[str, Any]]
    prompts: dict[int, str] = field(default_factory=dict[int, str])
    acted: dict[int, str] = field(default_factory=dict[int, str])

    @cached_property
    def chats(self) -> list[ChatDict]:
        """The messages as the template takes them."""
        return [chat_dict(message) for message in self.messages]

    def render(self, end: int, *, generation_prompt: bool = False) -> Rendering:
        return render_spans(self.messages[:end], self.tokenizer, tools=self.tools, generation_prompt=generation_prompt)

    def prompt(self, turn: int) -> str:
        """The text from which an action was sampled; an episode may begin with an assistant turn, from nothing."""
        if turn not in self.prompts:
            self.prompts[turn] = (
                self.tokenizer.template_text(self.chats[:turn], tools=self.tools, generation_prompt=True)
                if turn
                else ""
            )
        return self.prompts[turn]

    def acted_text(self, turn: int) -> str:
        """What the policy wrote in a turn, as the template writes it while that turn is the last one."""
        if turn not in self.acted:
            rendering = self.render(turn + 1)
            body = rendering.bodies[-1]
            self.acted[turn] = rendering.text[body.start : body.end]
        return self.acted[turn]

    def words_kept(self, body: Body, text: str) -> bool:
        """Whether a rendering still shows everything that the policy wrote in this turn.

        Text that only the template added while the turn was the last one (an empty thinking block) does not count.
        """
        message = self.messages[body.turn]
        shown = text[body.start : body.end]
        if not (message.reasoning or "").strip() and message.content.strip() in shown:
            return True
        return shown == self.acted_text(body.turn)

    def prompt_kept(self, body: Body, text: str) -> bool:
        """Whether a rendering shows before this turn exactly the prompt from which it was sampled."""
        prompt = self.prompt(body.turn)
        return not prompt or (len(prompt) == body.start and text.startswith(prompt))

    def extends(self, rendering: Rendering, first: int) -> bool:
        """Whether a rendering is right for every action from message `first` on."""
        owned = [body for body in rendering.bodies if body.turn >= first]
        return all(self.words_kept(body, rendering.text) and self.prompt_kept(body, rendering.text) for body in owned)

    def kept_turns(self, rendering: Rendering) -> frozenset[int]:
        """The sampled turns whose ids may stand in this rendering."""
        sampled = [body for body in rendering.bodies if self.messages[body.turn].sampled is not None]
        return frozenset(body.turn for body in sampled if self.words_kept(body, rendering.text))


def split_branches(
    messages: Sequence[Message], tokenizer: ChatTokenizer, *, tools: Sequence[Mapping[str, Any]] = ()
) -> list[Branch]:
    """Split an episode into branches; their owned messages `[first, end)` follow each other without gap or overlap.

    The last branch ends with the last message, so the final observation is always in one.

    Raises:
        TemplateError: the template's text cannot be followed.
    """
    history = _History(messages=messages, tokenizer=tokenizer, tools=tools)
    branches: list[Branch] = []
    whole = history.render(len(messages))
    first = 0
    while first < len(messages):
        if history.extends(whole, first):
            end, rendering, differs = len(messages), whole, False
        else:
            end, rendering, differs = _grow(history, first)
        branches.append(
            Branch(
                first=first,
                end=end,
                rendering=rendering,
                kept_turns=history.kept_turns(rendering),
                context_differs=differs,
            )
        )
        first = end
    return branches


def _grow(history: _History, first: int) -> tuple[int, Rendering, bool]:
    """The longest rendering from message `first` on that extends all shorter ones; at least that one message."""
    end, rendering = first + 1, history.render(first + 1)
    if not history.extends(rendering, first):
        return end, rendering, True
    while end < len(history.messages):
        longer = history.render(end + 1)
        if not history.extends(longer, first):
            break
        end, rendering = end + 1, longer
    return end, rendering, False


def render_open(
    messages: Sequence[Message], tokenizer: ChatTokenizer, *, tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[Rendering, frozenset[int]]:
    """Render messages up to the generation prompt, and say which sampled turns stand in it unchanged."""
    history = _History(messages=messages, tokenizer=tokenizer, tools=tools)
    rendering = history.render(len(messages), generation_prompt=True)
    return rendering, history.kept_turns(rendering)
