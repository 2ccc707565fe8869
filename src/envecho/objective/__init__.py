"""What is trained and what it is worth: `EchoConfig`, and its compilation into one weight per token."""

from envecho.objective.compile import CompiledBatch, compile_batch
from envecho.objective.config import EchoConfig

__all__ = ["CompiledBatch", "EchoConfig", "compile_batch"]
