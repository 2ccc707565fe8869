"""What happened: roles, segments, messages, trajectories, and the Parquet store that keeps them."""

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
    "SOURCES",
    "ChatRole",
    "Message",
    "Role",
    "SampledTokens",
    "Segment",
    "Source",
    "StopReason",
    "ToolCall",
    "Trajectory",
    "source_precedence",
]
