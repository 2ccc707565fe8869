"""What happened: roles, segments, messages, trajectories, and the Parquet store that keeps them."""

from envecho.trajectory.branches import ExactBranch, SpanKind, TokenSpan
from envecho.trajectory.calls import CALL_LABEL, CallOutcome, call_outcome, call_outcomes
from envecho.trajectory.record import (
    ChatRole,
    Message,
    SampledTokens,
    Segment,
    StopReason,
    ToolCall,
    Trajectory,
)
from envecho.trajectory.roles import SOURCES, Role, Source, source_precedence

__all__ = [
    "CALL_LABEL",
    "SOURCES",
    "CallOutcome",
    "ChatRole",
    "ExactBranch",
    "Message",
    "Role",
    "SampledTokens",
    "Segment",
    "Source",
    "SpanKind",
    "StopReason",
    "TokenSpan",
    "ToolCall",
    "Trajectory",
    "call_outcome",
    "call_outcomes",
    "source_precedence",
]
