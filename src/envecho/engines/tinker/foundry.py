"""Fine-tuning sessions of a Foundry project: Tinker's verbs over plain JSON, an operation to poll after each.

    POST  fine_tuning/sessions                              a session with fresh LoRA weights, or from a checkpoint
    POST  fine_tuning/sessions/ID/forward | forward_backward | optim_step | checkpoint | checkpoint_sample | sample
    GET   fine_tuning/sessions/ID/request/REQUEST           pending, completed or failed, with the result

Written from the public description (Azure/azure-rest-api-specs, session-finetuning; the package
azure-ai-finetuningsessions 1.0.0b1) and tested against a player of a recorded exchange; it never ran on Foundry. Not
here: any arithmetic.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from envecho.engines.tinker.service import Logprobs, LossName, RemoteSample, Row, Waiting
from envecho.errors import EngineError
from envecho.seam import AdamParams, SamplingParams

_PREVIEW: Final = "FineTuningSessions=V1Preview"
_API_VERSION: Final = "v1"
_HEARTBEAT_SECONDS: Final = 30.0
_LONGEST_POLL_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 60.0
_TRIES: Final = 5
_SAMPLES_AT_ONCE: Final = 16


@final
class FoundryService:
    """A Foundry project; fulfils `RemoteService`.

    Args:
        base_model: the service's name of it.
        endpoint: `https://RESOURCE.services.ai.azure.com/api/projects/PROJECT`.
        token: a bearer token for the scope `https://ai.azure.com/.default`.
    """

    def __init__(self, base_model: str, *, endpoint: str, token: str) -> None:
        self._base_model, self._endpoint, self._token = base_model, endpoint.rstrip("/"), token

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"Foundry at {self._endpoint}"

    @property
    def base_model(self) -> str:
        """The service's name of the base model."""
        return self._base_model

    @property
    def max_context_tokens(self) -> None:
        """The service does not say."""

    def create(self, *, rank: int, seed: int) -> FoundrySession:
        """Start a session with fresh LoRA weights."""
        return self._session({"lora_config": {"rank": rank, "seed": seed}})

    def restore(self, address: str, *, rank: int, with_optimizer: bool) -> FoundrySession:
        """Start a session from a checkpoint; the service brings the optimiser's state along, wanted or not."""
        session, _, checkpoint = address.partition("/")
        source = {"source_session_id": f"session_{session.split('_', 1)[-1]}", "checkpoint_id": checkpoint}
        return self._session({"lora_config": {"rank": rank}, "from_checkpoint": source})

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """Send one request and return its JSON; a busy service and a broken connection are tried again.

        Raises:
            EngineError: it was refused, or failed too often.
        """
        url = f"{self._endpoint}/{path}?{urllib.parse.urlencode({'api-version': _API_VERSION, **query})}"
        headers = {"Authorization": f"Bearer {self._token}", "Foundry-Features": _PREVIEW}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                request = urllib.request.Request(url, data=data, headers=headers, method=method)
                with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                if last or error.code not in (408, 429, 500, 502, 503, 504):
                    told = error.read().decode(errors="replace")[:300]
                    raise EngineError(f"{self.name} answered {path} with {error.code}: {told}") from error
            except (urllib.error.URLError, TimeoutError, ValueError) as error:
                # A request that changes weights may have arrived; sent again, it would count twice.
                if last or method != "GET":
                    raise EngineError(
                        f"{self.name} was lost at {path}: {error}; go on from the last checkpoint"
                    ) from error
            time.sleep(2.0**attempt)
        raise AssertionError("the last try returns or raises")

    def wait(self, session: str, request: str) -> dict[str, Any]:
        """Poll an operation until it is over, and return its result."""
        pause = 0.05
        while True:
            found = self.call("GET", f"fine_tuning/sessions/{session}/request/{request}")
            if found["status"] == "completed":
                return found.get("result") or {}
            if found["status"] != "pending":
                raise EngineError(f"{self.name} failed an operation: {found.get('error') or found['status']}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def _session(self, settings: Mapping[str, Any]) -> FoundrySession:
        body = {"type": "training", "base_model": self._base_model, **settings}
        made = self.call("POST", "fine_tuning/sessions", body)
        self.wait(made["session_id"], made["request_id"])
        return FoundrySession(self, made["session_id"])


@final
class FoundrySession:
    """LoRA weights under training, kept alive by a heartbeat; fulfils `RemoteModel`."""

    def __init__(self, service: FoundryService, session: str) -> None:
        self._service, self._session = service, session
        threading.Thread(target=self._beat, daemon=True).start()

    def forward(self, rows: Sequence[Row]) -> Waiting:
        """Score rows."""
        return self._pass("forward", "forward_input", rows, "cross_entropy")

    def forward_backward(self, rows: Sequence[Row], loss: LossName) -> Waiting:
        """Accumulate the gradient of rows."""
        return self._pass("forward_backward", "forward_backward_input", rows, loss)

    def optim_step(self, params: AdamParams) -> Mapping[str, float]:
        """Apply AdamW; the service has no clip."""
        names = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
        result = self.run("optim_step", {"adam_params": {name: getattr(params, name) for name in names}})
        return {name: float(value) for name, value in (result.get("metrics") or {}).items()}

    def save(self) -> str:
        """Keep weights and optimiser under a new name."""
        name = _new_name()
        self.run("checkpoint", {"path": name})
        return f"{self._session}/{name}"

    def adapter_archive(self) -> bytes:
        """Refused: the service hands out no weights through this API."""
        raise EngineError(f"{self._service.name} hands out no weights; save without the adapter")

    def sampler(self) -> FoundrySampler:
        """Make the weights ready for sampling."""
        name = _new_name()
        self.run("checkpoint_sample", {"path": name})
        return FoundrySampler(self, name)

    def run(self, verb: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        """Start an operation and wait for its result."""
        started = self._service.call("POST", f"fine_tuning/sessions/{self._session}/{verb}", body, **query)
        return self._service.wait(self._session, started["request_id"])

    def _pass(self, verb: str, key: str, rows: Sequence[Row], loss: LossName) -> Waiting:
        inputs: dict[str, Any] = {"data": [_datum(row, loss) for row in rows]}
        if loss == "cross_entropy":
            inputs["loss_fn"] = "cross_entropy"
        else:
            inputs |= {
                "loss_fn": "cispo",
                "loss_fn_config": {"clip_low_threshold": 1.0, "clip_high_threshold": 1.0},
            }
        result = self.run(verb, {key: inputs})
        outputs = result.get("loss_fn_outputs") or []
        found = [np.array(output["logprobs"]["data"], dtype=np.float32) for output in outputs]
        if len(found) != len(rows):
            raise EngineError(f"{self._service.name} told log-probs of {len(found)} rows, expected {len(rows)}")
        return _Told(found)

    def _beat(self) -> None:
        while True:
            time.sleep(_HEARTBEAT_SECONDS)
            try:
                self._service.call("POST", f"fine_tuning/sessions/{self._session}/heartbeat", {})
            except EngineError:
                return  # the session is over; the next verb says so where somebody listens


@final
class FoundrySampler:
    """A copy of the weights that samples; fulfils `RemoteSampler`."""

    def __init__(self, session: FoundrySession, checkpoint: str) -> None:
        self._session, self._checkpoint = session, checkpoint

    def sample(
        self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[RemoteSample]:
        """Continue the prompts, some at once, each with its own seed."""
        with ThreadPoolExecutor(max_workers=_SAMPLES_AT_ONCE) as pool:
            return list(pool.map(lambda asked: self._one(asked[0], params, asked[1]), zip(prompts, seeds, strict=True)))

    def _one(self, prompt: NDArray[np.int32], params: SamplingParams, seed: int) -> RemoteSample:
        sampling: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature, "seed": seed}
        sampling |= {"top_p": 1.0, "top_k": -1}
        if params.stop_token_ids:
            sampling["stop_criteria"] = list(params.stop_token_ids)
        body = {"num_samples": 1, "prompt": _model_input(prompt), "sampling_params": sampling}
        result = self._session.run("sample", body, checkpoint_id=self._checkpoint)
        (sequence,) = result["sequences"]
        ids, logprobs = sequence["tokens"], sequence.get("logprobs") or []
        if len(logprobs) != len(ids):
            raise EngineError("Foundry sampled without a log-prob for each token; they cannot be trained")
        return RemoteSample(
            token_ids=np.array(ids, dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            stopped=bool(ids) and ids[-1] in params.stop_token_ids,
        )


@final
class _Told:
    """Log-probs that are there already."""

    def __init__(self, logprobs: list[Logprobs]) -> None:
        self._logprobs = logprobs

    def __call__(self) -> list[Logprobs]:
        return self._logprobs


def _datum(row: Row, loss: LossName) -> dict[str, Any]:
    coefficients = row.coefficients[1:].tolist()
    inputs: dict[str, Any] = {"target_tokens": {"data": row.token_ids[1:].tolist()}}
    if loss == "cross_entropy":
        inputs["weights"] = {"data": coefficients}
    else:
        ones, zeros = [1.0] * len(coefficients), [0.0] * len(coefficients)
        inputs |= {"weights": {"data": ones}, "advantages": {"data": coefficients}, "logprobs": {"data": zeros}}
    return {"model_input": _model_input(row.token_ids[:-1]), "loss_fn_inputs": inputs}


def _model_input(token_ids: NDArray[np.int32]) -> dict[str, Any]:
    return {"chunks": [{"tokens": token_ids.tolist()}]}


def _new_name() -> str:
    return f"envecho-{uuid.uuid4().hex[:16]}"
