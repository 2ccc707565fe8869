"""A Tinker server by its own package: the hosted service, SkyRL's open server, and what else speaks that protocol.

Only names that the package exports are used. Retries are the package's: it waits about five minutes for a server that
went away. Not here: any arithmetic.
"""

from __future__ import annotations

import importlib
import os
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from envecho.engines.tinker.service import Logprobs, LossName, RemoteSample, Row, Waiting
from envecho.errors import ConfigError, EngineError, did_you_mean
from envecho.extras import require_extra
from envecho.seam import AdamParams, SamplingParams

_PINNED: Final = {"clip_low_threshold": 1.0, "clip_high_threshold": 1.0}
_KEY_FOR_OPEN_SERVERS: Final = "tml-none"
_SECONDS_TO_ANSWER: Final = 10.0


@final
class SdkService:
    """A server that the `tinker` package talks to; fulfils `RemoteService`.

    Args:
        base_model: the server's name of it.
        server: address of the server, None for the hosted service.
        api_key: None takes `TINKER_API_KEY`; a `server` that asks for none gets a placeholder.

    Raises:
        ConfigError: the package is not installed in its range, or the server has no such model.
        EngineError: nothing answers, or the server refuses the key.
    """

    def __init__(self, base_model: str, *, server: str | None, api_key: str | None) -> None:
        require_extra("tinker")
        self._tinker = importlib.import_module("tinker")
        self._base_model, self._server = base_model, server
        if server is not None:
            _require_answer(server)
        options: dict[str, Any] = {} if server is None else {"base_url": server}
        key = api_key if api_key is not None else _key_for(server)
        if key is not None:
            options["api_key"] = key
        with self.errors("connect"):
            self._client = self._tinker.ServiceClient(**options)
            models = self._client.get_server_capabilities().supported_models
        known = {str(model.model_name): model.max_context_length for model in models}
        if base_model not in known:
            raise ConfigError(
                f"{self.name} has no base model {base_model!r}; it has {', '.join(sorted(known)) or 'none'}."
                f"{did_you_mean(base_model, known)}"
            )
        self._max_context_tokens = known[base_model]

    @property
    def name(self) -> str:
        """What errors call it."""
        return "the hosted Tinker service" if self._server is None else f"the Tinker server {self._server}"

    @property
    def base_model(self) -> str:
        """The server's name of the base model."""
        return self._base_model

    @property
    def max_context_tokens(self) -> int | None:
        """The longest sequence that the server says it takes."""
        return self._max_context_tokens

    def create(self, *, rank: int, seed: int) -> SdkModel:
        """Start from fresh LoRA weights."""
        with self.errors("create LoRA weights"):
            client = self._client.create_lora_training_client(base_model=self._base_model, rank=rank, seed=seed)
        return SdkModel(self, client)

    def restore(self, address: str, *, rank: int, with_optimizer: bool) -> SdkModel:
        """Start from a checkpoint; the server knows its rank."""
        with self.errors(f"load {address}"):
            if with_optimizer:
                client = self._client.create_training_client_from_state_with_optimizer(address)
            else:
                client = self._client.create_training_client_from_state(address)
        return SdkModel(self, client)

    def download(self, address: str) -> bytes:
        """Return the archive of sampler weights at a `tinker://RUN/...` address."""
        run, _, checkpoint = address.removeprefix("tinker://").partition("/")
        with self.errors(f"archive {address}"):
            found = self._client.create_rest_client().get_checkpoint_archive_url(run, checkpoint).result()
            if not re.match(r"https?://", found.url):
                raise EngineError(f"{self.name} gave {found.url!r} as an archive's address, expected http or https")
            with urllib.request.urlopen(found.url) as answer:
                return answer.read()

    def datum(self, row: Row, loss: LossName) -> Any:
        """A row as the package's Datum: position i of the input predicts token i + 1."""
        inputs: dict[str, Any] = {"target_tokens": self._tensor(row.token_ids[1:].astype(np.int64))}
        values = self._tensor(row.coefficients[1:])
        if loss == "cross_entropy":
            inputs["weights"] = values
        else:
            inputs["advantages"] = values
            inputs["logprobs"] = self._tensor(np.zeros(len(row.token_ids) - 1, dtype=np.float32))
        return self._tinker.Datum(model_input=self.model_input(row.token_ids[:-1]), loss_fn_inputs=inputs)

    def model_input(self, token_ids: NDArray[np.int32]) -> Any:
        """Token ids as the package's ModelInput."""
        return self._tinker.ModelInput.from_ints(token_ids.tolist())

    def types(self, name: str) -> Callable[..., Any]:
        """A class that the package exports."""
        return getattr(self._tinker, name)

    @contextmanager
    def errors(self, verb: str) -> Generator[None]:
        """Raise the package's errors, and those of a download, as EngineError."""
        try:
            yield
        except (self._tinker.TinkerError, urllib.error.URLError, TimeoutError) as error:
            raise EngineError(
                f"{self.name} could not {verb}: {error or type(error).__name__}. What the last checkpoint holds is"
                " safe on the server; when it answers again, go on from there (envecho train --resume)"
            ) from error

    def _tensor(self, values: NDArray[Any]) -> Any:
        return self._tinker.TensorData.from_numpy(np.ascontiguousarray(values))


@final
class SdkModel:
    """LoRA weights under training; fulfils `RemoteModel`."""

    def __init__(self, service: SdkService, client: Any) -> None:
        self._service, self._client = service, client

    def forward(self, rows: Sequence[Row]) -> Waiting:
        """Score rows."""
        data = [self._service.datum(row, "cross_entropy") for row in rows]
        with self._service.errors("score"):
            future = self._client.forward(data, "cross_entropy")
        return _Answer(self._service, future, "score")

    def forward_backward(self, rows: Sequence[Row], loss: LossName) -> Waiting:
        """Accumulate the gradient of rows."""
        data = [self._service.datum(row, loss) for row in rows]
        name, config = ("cross_entropy", None) if loss == "cross_entropy" else ("cispo", _PINNED)
        with self._service.errors("accumulate a gradient"):
            future = self._client.forward_backward(data, name, config)
        return _Answer(self._service, future, "accumulate a gradient")

    def optim_step(self, params: AdamParams) -> Mapping[str, float]:
        """Apply AdamW; the package's clip of 0 is none."""
        clip = params.grad_clip_norm
        adam = self._service.types("AdamParams")(
            learning_rate=params.learning_rate,
            beta1=params.beta1,
            beta2=params.beta2,
            eps=params.eps,
            weight_decay=params.weight_decay,
            grad_clip_norm=0.0 if clip is None or np.isinf(clip) else clip,
        )
        with self._service.errors("step"):
            metrics = self._client.optim_step(adam).result().metrics
        return {name: float(value) for name, value in (metrics or {}).items()}

    def save(self) -> str:
        """Keep weights and optimiser under a new name."""
        with self._service.errors("save"):
            return str(self._client.save_state(_new_name()).result().path)

    def adapter_archive(self) -> bytes:
        """Return the archive of the sampler weights."""
        with self._service.errors("save"):
            address = str(self._client.save_weights_for_sampler(_new_name()).result().path)
        return self._service.download(address)

    def sampler(self) -> SdkSampler:
        """Make the weights ready for sampling."""
        with self._service.errors("make weights ready for sampling"):
            return SdkSampler(self._service, self._client.save_weights_and_get_sampling_client())


@final
class SdkSampler:
    """A copy of the weights that samples; fulfils `RemoteSampler`."""

    def __init__(self, service: SdkService, client: Any) -> None:
        self._service, self._client = service, client

    def sample(
        self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[RemoteSample]:
        """Continue all prompts at once, each with its own seed."""
        make = self._service.types("SamplingParams")
        with self._service.errors("sample"):
            futures = [
                self._client.sample(
                    prompt=self._service.model_input(prompt),
                    num_samples=1,
                    sampling_params=make(
                        max_tokens=params.max_tokens,
                        temperature=params.temperature,
                        seed=seed,
                        stop=list(params.stop_token_ids) or None,
                    ),
                )
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            return [self._sample(future.result().sequences[0]) for future in futures]

    def _sample(self, sequence: Any) -> RemoteSample:
        if sequence.logprobs is None or len(sequence.logprobs) != len(sequence.tokens):
            raise EngineError(f"{self._service.name} sampled without a log-prob for each token; they cannot be trained")
        return RemoteSample(
            token_ids=np.array(sequence.tokens, dtype=np.int32),
            logprobs=np.array(sequence.logprobs, dtype=np.float32),
            stopped=sequence.stop_reason == "stop",
        )


@final
class _Answer:
    """Waits for the log-probs of a pass."""

    def __init__(self, service: SdkService, future: Any, verb: str) -> None:
        self._service, self._future, self._verb = service, future, verb

    def __call__(self) -> list[Logprobs]:
        with self._service.errors(self._verb):
            outputs = self._future.result().loss_fn_outputs
        return [np.asarray(output["logprobs"].to_numpy(), dtype=np.float32).reshape(-1) for output in outputs]


def _key_for(server: str | None) -> str | None:
    return _KEY_FOR_OPEN_SERVERS if server is not None and not os.environ.get("TINKER_API_KEY") else None


def _require_answer(server: str) -> None:
    """Ask once whether anything is there: the package would wait for minutes."""
    try:
        with urllib.request.urlopen(f"{server.rstrip('/')}/api/v1/healthz", timeout=_SECONDS_TO_ANSWER):
            return
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        raise EngineError(f"nothing answers at {server}: {error}. Start the server, or correct its address") from None


def _new_name() -> str:
    return f"envecho-{uuid.uuid4().hex[:16]}"
