"""Policies behind a model server: token ids in, ids and log-probs out, weights pushed after each step.

    ServedSampler(url, kind=...)                    turns for `rollout`, and refusal of what cannot be trained on
    ServedEngine(engine, sampler, folder=...)       an engine that trains here and samples there
    ChatPolicy(Wire(url, options), params)          text alone, for collecting

Not here: starting a server.
"""

from envecho.rollout.served.chat import ChatParams, ChatPolicy
from envecho.rollout.served.dialect import ServerKind
from envecho.rollout.served.engine import SamplerCheck, ServedEngine
from envecho.rollout.served.folders import SharedFolder
from envecho.rollout.served.probe import ServerFacts
from envecho.rollout.served.sampler import ServedSampler, ServedSession, request_seed
from envecho.rollout.served.wire import ServerLostError, ServerRefusedError, Wire, WireOptions

__all__ = [
    "ChatParams",
    "ChatPolicy",
    "SamplerCheck",
    "ServedEngine",
    "ServedSampler",
    "ServedSession",
    "ServerFacts",
    "ServerKind",
    "ServerLostError",
    "ServerRefusedError",
    "SharedFolder",
    "Wire",
    "WireOptions",
    "request_seed",
]
