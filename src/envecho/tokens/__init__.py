"""Messages to ids with exactly one source per token; target selection; the coloured view.

No torch here: `tokenize_segments` imports it when it is called.
"""

from envecho.tokens.chat import ChatTokenizer, token_texts
from envecho.tokens.closing import with_closed_turns
from envecho.tokens.segments import RoleSegment, SegmentTokens, SegmentTrajectory, tokenize_segments
from envecho.tokens.targets import WorldLossTarget, env_target_mask, target_sources
from envecho.tokens.tokenize import render_prompt, tokenize_trajectory
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.tool_template import check_tool_template

__all__ = [
    "ChatTokenizer",
    "RoleSegment",
    "SegmentTokens",
    "SegmentTrajectory",
    "TokenizedTrajectory",
    "WorldLossTarget",
    "check_tool_template",
    "env_target_mask",
    "render_prompt",
    "target_sources",
    "token_texts",
    "tokenize_segments",
    "tokenize_trajectory",
    "with_closed_turns",
]
