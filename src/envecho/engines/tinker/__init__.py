"""`TinkerEngine`: LoRA weights on a server behind the Tinker API's verbs, trained by envecho's weights.

The server is told one coefficient per token and sums `coefficient * -log p`: roles, advantages, clips, normalisers and
lambda are ours, and both terms of ECHO travel in the same pass.

    service     what a server can be asked, as Protocols
    sdk         ... by the `tinker` package: the hosted service, SkyRL's open server
    foundry     ... by the sessions of Foundry Fine-Tuning
    surrogate   WeightedBatch -> coefficients
    probe       how a server adds coefficients up, measured before the run
    engine      the seam's verbs
    checkpoints what a folder holds of weights that stay on a server
"""

from envecho.engines.tinker.engine import TinkerEngine
from envecho.engines.tinker.opening import open_foundry, open_tinker
from envecho.engines.tinker.probe import ServerFacts, measure_server

__all__ = ["ServerFacts", "TinkerEngine", "measure_server", "open_foundry", "open_tinker"]
