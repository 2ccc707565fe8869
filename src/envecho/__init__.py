"""envecho: train language-model agents to predict the world that they act in.

The public names, each imported from its room when it is first used: `import envecho` loads nothing else, torch least of
all. docs/api.md says what each name is. Not here: any code; inside the package, names come from their rooms.
"""

from typing import TYPE_CHECKING

__all__ = [
    "ChatTokenizer",
    "EchoConfig",
    "EnvechoError",
    "LocalEngine",
    "Message",
    "PoolSums",
    "Role",
    "RoleSegment",
    "SampledTokens",
    "Segment",
    "SegmentTrajectory",
    "Source",
    "StopReason",
    "TerminalWorld",
    "TokenizedTrajectory",
    "ToolCall",
    "Trajectory",
    "TrajectoryFilter",
    "TrajectoryWriter",
    "WeightedBatch",
    "__version__",
    "attribute",
    "compare_sums",
    "compile_batch",
    "echo_loss",
    "evaluate_stream",
    "read_sums",
    "read_trajectories",
    "summarize_sums",
    "tokenize_segments",
    "tokenize_trajectory",
    "write_trajectories",
]

if TYPE_CHECKING:
    from envecho.engines.local import LocalEngine
    from envecho.errors import EnvechoError
    from envecho.evaluation import PoolSums, attribute, compare_sums, evaluate_stream, read_sums, summarize_sums
    from envecho.losses import WeightedBatch, echo_loss
    from envecho.objective import EchoConfig, compile_batch
    from envecho.tokens import (
        ChatTokenizer,
        RoleSegment,
        SegmentTrajectory,
        TokenizedTrajectory,
        tokenize_segments,
        tokenize_trajectory,
    )
    from envecho.trajectory import Message, Role, SampledTokens, Segment, Source, StopReason, ToolCall, Trajectory
    from envecho.trajectory.filters import TrajectoryFilter
    from envecho.trajectory.store import TrajectoryWriter, read_trajectories, write_trajectories
    from envecho.worlds.terminal import TerminalWorld

    __version__: str
else:
    _HOMES = {
        "envecho.engines.local": ["LocalEngine"],
        "envecho.errors": ["EnvechoError"],
        "envecho.evaluation": [
            "PoolSums",
            "attribute",
            "compare_sums",
            "evaluate_stream",
            "read_sums",
            "summarize_sums",
        ],
        "envecho.losses": ["WeightedBatch", "echo_loss"],
        "envecho.objective": ["EchoConfig", "compile_batch"],
        "envecho.tokens": [
            "ChatTokenizer",
            "RoleSegment",
            "SegmentTrajectory",
            "TokenizedTrajectory",
            "tokenize_segments",
            "tokenize_trajectory",
        ],
        "envecho.trajectory": [
            "Message",
            "Role",
            "SampledTokens",
            "Segment",
            "Source",
            "StopReason",
            "ToolCall",
            "Trajectory",
        ],
        "envecho.trajectory.filters": ["TrajectoryFilter"],
        "envecho.trajectory.store": ["TrajectoryWriter", "read_trajectories", "write_trajectories"],
        "envecho.worlds.terminal": ["TerminalWorld"],
    }

    def __getattr__(name: str) -> object:
        import importlib
        import sys

        if name == "__version__":
            from importlib.metadata import version

            return version("envecho")
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module 'envecho' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        from envecho.collector import paused_collector

        with paused_collector():
            globals()[name] = getattr(importlib.import_module(home), name)
        return globals()[name]

    def __dir__() -> list[str]:
        return __all__
