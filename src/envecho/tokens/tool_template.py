"""Whether a chat template shows tools: asked before a rollout leaves it to the template.

Not here: how a template's text is followed (`marks`, `spans`).
"""

from __future__ import annotations

from typing import Any

from envecho.errors import TemplateError
from envecho.tokens.chat import ChatDict, ChatTokenizer

_NAME, _ANSWER = "look_up_probe", "probe answer 7"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}


def check_tool_template(tokenizer: ChatTokenizer) -> None:
    """Render a probe conversation with and without a tool, and refuse a template that shows no difference.

    A tool message must show its text behind an assistant turn of plain text, as a sampled turn is one.

    Raises:
        TemplateError: the template knows no tools, or no tool messages.
    """
    asked: list[ChatDict] = [{"role": "user", "content": "ask"}]
    acted = [*asked, {"role": "assistant", "content": "a call"}, {"role": "tool", "content": _ANSWER}]
    with_tool = tokenizer.template_text(asked, tools=[_TOOL], generation_prompt=True)
    answered = tokenizer.template_text(acted, tools=[_TOOL], generation_prompt=True)
    missing = (
        "tool schemas" if _NAME not in with_tool else "messages of the role tool" if _ANSWER not in answered else ""
    )
    if missing:
        raise TemplateError(
            f"the chat template of {tokenizer.hf.name_or_path!r} shows no {missing}; use the tool protocol `text`, "
            "which describes tools in the system message, or a model whose template knows tools"
        )
