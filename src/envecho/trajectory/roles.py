"""Who wrote a piece of text: `Source`, and the RFC 010 `Role` that each source has.

Not here: what a role is worth in a loss (`envecho.objective`).
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The four token roles of OpenEnv RFC 010, in the order in which a token over two spans chooses."""

    CONTEXT = "context"
    WARNING = "warning"
    ENV_OUTPUT = "env_output"
    ACTION = "action"


class Source(StrEnum):
    """Who wrote a piece of text. The order of the members is part of the token rule and of stored files."""

    SYSTEM = "system"
    TASK = "task"
    SHELL_PROMPT = "shell_prompt"
    SCAFFOLD = "scaffold"
    GRADER = "grader"
    PADDING = "padding"
    POLICY = "policy"
    STDOUT = "stdout"
    STDERR = "stderr"
    TOOL_RESULT = "tool_result"
    TOOL_ERROR = "tool_error"
    USER_REPLY = "user_reply"
    COMMAND_ECHO = "command_echo"
    STATUS = "status"
    WRAPPER = "wrapper"
    TRUNCATION_NOTICE = "truncation_notice"
    TIMEOUT_NOTICE = "timeout_notice"
    FORMAT_WARNING = "format_warning"
    HARNESS_NOTICE = "harness_notice"
    HARNESS_ERROR = "harness_error"
    REDACTED = "redacted"

    @property
    def role(self) -> Role:
        """The RFC 010 role of this source."""
        return _ROLE_OF_SOURCE[self]

    @property
    def code(self) -> int:
        """The small integer that stands for this source in token arrays: its place in the order."""
        return _CODE_OF_SOURCE[self]


SOURCES: tuple[Source, ...] = tuple(Source)
"""All sources by code: `SOURCES[source.code] is source`."""

_CONTEXT = {
    Source.SYSTEM,
    Source.TASK,
    Source.SHELL_PROMPT,
    Source.SCAFFOLD,
    Source.GRADER,
    Source.PADDING,
    Source.REDACTED,
}
_ENV_OUTPUT = {Source.STDOUT, Source.STDERR, Source.TOOL_RESULT, Source.TOOL_ERROR, Source.USER_REPLY}


def _role(source: Source) -> Role:
    if source in _CONTEXT:
        return Role.CONTEXT
    if source in _ENV_OUTPUT:
        return Role.ENV_OUTPUT
    return Role.ACTION if source is Source.POLICY else Role.WARNING


_ROLE_OF_SOURCE = {source: _role(source) for source in Source}
_CODE_OF_SOURCE = {source: code for code, source in enumerate(Source)}
_ROLE_ORDER = {role: place for place, role in enumerate(Role)}


def source_precedence(source: Source) -> tuple[int, int]:
    """Sort key of the rule for a token that lies over two spans: the smallest key names its source.

    Context first, then warning, env_output, action; within a role the order of `Source`.
    """
    return _ROLE_ORDER[source.role], source.code
