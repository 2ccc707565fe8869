"""A harness's own Jinja template, turned round: where in a rendered message the world's words lie.

    "<returncode>{{output.returncode}}</returncode>\\n<output>\\n{{output.output}}</output>"
    "<returncode>0</returncode>\\n<output>\\na.py\\n</output>"      -> the span of "a.py\\n"

Better than patterns where a file keeps the template that it was written with. Templates with loops or macros are not
turned round (None). Nothing of a template is executed. Not here: which templates a format keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jinja2
from jinja2 import nodes

_MAX_TEXT = 2_000_000
_KEEPS_TEXT = ("tojson", "trim", "string", "safe")


@dataclass(frozen=True, kw_only=True)
class Unrendered:
    """A template as a pattern; groups named `body...` are the world's words."""

    pattern: re.Pattern[str]

    def bodies(self, text: str) -> list[tuple[int, int]] | None:
        """Return the spans of the world's words in a message that this template wrote, None where it did not."""
        found = self.pattern.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if found is None:
            return None
        return sorted(found.span(name) for name in self.pattern.groupindex if found.start(name) >= 0)


def unrender(template: object, bodies: Sequence[str]) -> Unrendered | None:
    """Turn a template round; `bodies` are the variables that hold the world's words, such as `output`.

    None where it is no text, does not parse, or uses more of Jinja than variables and conditions.
    """
    if not isinstance(template, str) or not template.strip():
        return None
    try:
        parsed = jinja2.Environment(autoescape=False).parse(template)
        return Unrendered(pattern=re.compile(_Writer(bodies).of(parsed.body)))
    except (jinja2.TemplateError, NotImplementedError, re.error, RecursionError):
        return None


class _Writer:
    """Writes the pattern of a template's nodes; counts the groups, whose names must differ."""

    def __init__(self, bodies: Sequence[str]) -> None:
        self._bodies = bodies
        self._num_groups = 0

    def of(self, body: Iterable[nodes.Node]) -> str:
        return "".join(self._node(node) for node in body)

    def _node(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.TemplateData):
            return re.escape(node.data)
        if isinstance(node, nodes.Output):
            return self.of(node.nodes)
        if isinstance(node, nodes.Assign):
            return ""
        if isinstance(node, nodes.If):
            branches = [node.body, *(other.body for other in node.elif_), node.else_]
            patterns = sorted((self.of(branch) for branch in branches), key=len, reverse=True)
            return f"(?:{'|'.join(patterns)})"  # what says most is tried first: a bare variable matches anything
        if isinstance(node, nodes.Expr):
            return self._variable(node)
        raise NotImplementedError

    def _variable(self, node: nodes.Expr) -> str:
        name, is_json = _named(node)
        if name not in self._bodies:
            return "(?s:.*?)"
        self._num_groups += 1
        group = f"(?P<body{self._num_groups}>(?s:.*?))"
        return f'"{group}"' if is_json else group


def _named(node: nodes.Expr) -> tuple[str | None, bool]:
    """The last name of `output.output[:50] | tojson`, None for other things, and whether it is written as JSON."""
    is_json = False
    while not isinstance(node, nodes.Name | nodes.Getattr):
        if isinstance(node, nodes.Filter) and node.name in _KEEPS_TEXT and node.node is not None:
            is_json = is_json or node.name == "tojson"
            node = node.node
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node = node.node
        else:
            return None, is_json
    return (node.name if isinstance(node, nodes.Name) else node.attr), is_json
