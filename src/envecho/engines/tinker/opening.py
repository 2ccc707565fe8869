"""`open_tinker` and `open_foundry`: a server, measured, with fresh LoRA weights on it.

Not here: the verbs (`engine`).
"""

from __future__ import annotations

from pathlib import Path

from envecho.engines.tinker.engine import TinkerEngine
from envecho.engines.tinker.foundry import FoundryService
from envecho.engines.tinker.probe import measure_server
from envecho.engines.tinker.sdk import SdkService
from envecho.engines.tinker.service import RemoteService
from envecho.errors import ConfigError


def open_tinker(
    base_model: str,
    *,
    server: str | None = None,
    rank: int = 32,
    seed: int = 0,
    max_context_tokens: int | None = None,
    api_key: str | None = None,
    download_adapter: bool = True,
) -> TinkerEngine:
    """Connect to a Tinker server, measure how it sums, and start fresh LoRA weights.

    Args:
        base_model: the server's name of the model.
        server: its address; None is the hosted service.
        rank, seed: of the LoRA weights.
        max_context_tokens: None takes what the server says, or the configuration of a base model that is a folder here.
        api_key: None takes the environment's `TINKER_API_KEY`.
        download_adapter: whether saving brings the LoRA weights into the folder.

    Raises:
        ConfigError: the package is not there, the server lacks the model, or nobody knows the context.
        EngineError: nothing answers, or the server sums in an unknown way.
    """
    service = SdkService(base_model, server=server, api_key=api_key)
    return _opened(service, rank=rank, seed=seed, context=max_context_tokens, download_adapter=download_adapter)


def open_foundry(
    base_model: str,
    *,
    endpoint: str,
    token: str,
    rank: int = 32,
    seed: int = 0,
    max_context_tokens: int,
) -> TinkerEngine:
    """Do the same with the fine-tuning sessions of the Foundry project at `endpoint`.

    Written from the public description of that API and never run on Foundry. `token` is a bearer token for the scope
    `https://ai.azure.com/.default`. The service hands out no LoRA weights, so a checkpoint's folder holds its address.

    Raises:
        EngineError: the service refuses or is lost, or sums in an unknown way.
    """
    service = FoundryService(base_model, endpoint=endpoint, token=token)
    return _opened(service, rank=rank, seed=seed, context=max_context_tokens, download_adapter=False)


def _opened(
    service: RemoteService, *, rank: int, seed: int, context: int | None, download_adapter: bool
) -> TinkerEngine:
    if rank < 1:
        raise ConfigError(f"the LoRA rank is {rank}, expected at least 1")
    longest = context or service.max_context_tokens or _context_of_folder(service.base_model)
    if longest is None:
        raise ConfigError(
            f"{service.name} does not say how long a sequence of {service.base_model} may be; state max_context_tokens"
        )
    return TinkerEngine(
        service,
        facts=measure_server(service),
        rank=rank,
        seed=seed,
        max_context_tokens=longest,
        download_adapter=download_adapter,
    )


def _context_of_folder(base_model: str) -> int | None:
    if not (Path(base_model) / "config.json").is_file():
        return None
    from transformers import AutoConfig

    found = getattr(AutoConfig.from_pretrained(base_model), "max_position_embeddings", None)
    return found if isinstance(found, int) else None
