"""`check_engine`: it passes what fulfils the seam, and names what each broken engine breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from envecho.engines.check import check_engine, check_names
from envecho.engines.local import LocalEngine
from envecho.errors import ConfigError, EngineError
from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, Engine, SamplingParams, TurnRequest


class Broken:
    """An engine that does everything as the one inside; each test breaks one verb."""

    def __init__(self, inner: LocalEngine) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class DividesPerCall(Broken):
    """METHOD trap 15: a mean over the sequences of each call."""

    def forward_backward(self, batch: WeightedBatch):
        weights = batch.env_weights / batch.num_sequences
        return self.inner.forward_backward(dataclasses.replace(batch, env_weights=weights))


class ReadsTargetsAtTheSamplingTemperature(Broken):
    """METHOD trap 13: one temperature for all tokens."""

    def forward_backward(self, batch: WeightedBatch):
        policy = dataclasses.replace(
            batch, env_weights=torch.zeros_like(batch.env_weights), env_targets=torch.zeros_like(batch.env_targets)
        )
        hot = dataclasses.replace(
            policy,
            policy_weights=batch.env_targets.float(),
            advantages=batch.env_weights,
            kl_weights=torch.zeros_like(batch.kl_weights),
            entropy_weights=torch.zeros_like(batch.kl_weights),
            policy_loss=dataclasses.replace(batch.policy_loss, name="sft", importance_cap=None),
        )
        out, env = self.inner.forward_backward(policy), self.inner.forward_backward(hot)
        return dataclasses.replace(
            out, loss=out.loss + env.policy_loss, env_loss=env.policy_loss, env_logprobs=env.policy_logprobs
        )


class FillsMissingLogProbs(Broken):
    """METHOD trap 17: a placeholder where the sampler's log-prob is unknown."""

    def forward_backward(self, batch: WeightedBatch):
        filled = torch.nan_to_num(batch.sampling_logprobs, nan=0.0)
        return self.inner.forward_backward(dataclasses.replace(batch, sampling_logprobs=filled))


class TrainsWhatIsOnlyLogged(Broken):
    """METHOD trap 18: a target of weight 0 gets a gradient."""

    def forward_backward(self, batch: WeightedBatch):
        weights = torch.where(batch.env_targets, batch.env_weights.clamp(min=0.01), batch.env_weights)
        return self.inner.forward_backward(dataclasses.replace(batch, env_weights=weights))


class ForgetsTheClip(Broken):
    """A policy loss whose ratio is free."""

    def forward_backward(self, batch: WeightedBatch):
        spec = dataclasses.replace(batch.policy_loss, clip_low=1.0, clip_high=1e9)
        return self.inner.forward_backward(dataclasses.replace(batch, policy_loss=spec))


class RatioOverCurrent(Broken):
    """An engine that lacks the data for a ratio and takes 1 without a word."""

    def forward_backward(self, batch: WeightedBatch):
        spec = batch.policy_loss
        if spec.name == "grpo" and spec.ratio_denominator == "proximal":
            spec = dataclasses.replace(spec, ratio_denominator="current", importance_cap=None)
        return self.inner.forward_backward(dataclasses.replace(batch, policy_loss=spec))


class HalvesTheEntropyGradient(Broken):
    """The value of the entropy term is right, its gradient is not."""

    def forward_backward(self, batch: WeightedBatch):
        if not bool(batch.entropy_weights.any()):
            return self.inner.forward_backward(batch)
        out = self.inner.forward_backward(dataclasses.replace(batch, entropy_weights=batch.entropy_weights / 2))
        return dataclasses.replace(out, entropy_loss=2 * out.entropy_loss, loss=2 * out.loss)


class ReportsTheClippedNorm(Broken):
    """A norm after clipping hides that every step is clipped."""

    def optim_step(self, params: AdamParams) -> float:
        norm = self.inner.optim_step(params)
        return norm if params.grad_clip_norm is None else min(norm, params.grad_clip_norm)


class KeepsItsWeights(Broken):
    """`load_model` that does nothing."""

    def load_model(self, folder: Path) -> None:
        pass


class MeasuresIntoTheGradient(Broken):
    """`term_gradients` that leaves its gradient behind."""

    def term_gradients(self, batch: WeightedBatch):
        found = self.inner.term_gradients(batch)
        self.inner.forward_backward(batch)
        return found


class DrawsByPlace(Broken):
    """A session whose draws depend on the number of rows."""

    @contextmanager
    def sampling_session(self):
        with self.inner.sampling_session() as session:

            class Placed:
                drop = session.drop

                def sample(self, requests: Sequence[TurnRequest], params: SamplingParams):
                    return session.sample(
                        [dataclasses.replace(r, key=(*r.key, len(requests))) for r in requests], params
                    )

            yield Placed()


BREAKS: dict[type[Broken], set[str]] = {
    DividesPerCall: {
        "the loss is the weighted sum",
        "gradients of parts add up",
        "the norm of parts is that of the whole",
    },
    ReadsTargetsAtTheSamplingTemperature: {"actions are read at their temperature, targets at 1"},
    FillsMissingLogProbs: {"missing sampling log-probs are refused"},
    TrainsWhatIsOnlyLogged: {"no weight means no change", "logged targets leave the step unchanged"},
    ForgetsTheClip: {"policy loss grpo, ratio over sampling", "policy loss cispo, ratio over proximal"},
    RatioOverCurrent: {"policy loss grpo, ratio over proximal", "importance cap"},
    HalvesTheEntropyGradient: {"entropy bonus"},
    ReportsTheClippedNorm: {"clipping is reported before it happens"},
    KeepsItsWeights: {"a model comes back from its folder"},
    MeasuresIntoTheGradient: {"terms are measured and nothing changes"},
    DrawsByPlace: {"a session samples like sample"},
}


@pytest.mark.parametrize("kind", BREAKS, ids=lambda kind: kind.__name__)
def test_the_kit_names_what_a_broken_engine_breaks(kind: type[Broken], tiny_llama: Path, tmp_path: Path):
    """Catches a kit that passes everything: these mistakes were seen in shipped trainers, or are one edit away."""
    engine: Any = kind(LocalEngine(tiny_llama, device="cpu", compute_dtype="float32"))
    names = tuple(sorted({*BREAKS[kind], "training lowers the loss"}))
    failed = {check.name for check in check_engine(engine, tmp_path, vocab_size=61, only=names).failures}
    assert failed == BREAKS[kind]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen3"])
def test_the_local_engine_fulfils_the_seam(
    architecture: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """Catches an engine that has the Protocol's names but not its meaning."""
    engine = LocalEngine(
        request.getfixturevalue(architecture), device="cpu", compute_dtype=dtype, tokens_per_micro_batch=16
    )
    assert isinstance(engine, Engine)
    report = check_engine(engine, tmp_path, vocab_size=61, tolerance=1e-4 if dtype == "float32" else 6e-2)
    assert not report.failures, str(report)
    assert {check.status for check in report.checks} == {"passed"}


def test_what_an_engine_lacks_is_skipped_with_its_own_reason(tiny_llama: Path, tmp_path: Path):
    """Catches a kit that fails an honest engine, or that needs a norm where none is told."""

    class Modest(Broken):
        @property
        def capabilities(self):
            lacks = {"grad_norm": "the server tells none", "kl": "no reference here", "loss_gspo": "not there"}
            return dataclasses.replace(self.inner.capabilities, lacks=lacks)

        def optim_step(self, params: AdamParams) -> None:
            self.inner.optim_step(params)

    engine: Any = Modest(LocalEngine(tiny_llama, device="cpu", compute_dtype="float32"))
    report = check_engine(engine, tmp_path, vocab_size=61)
    assert not report.failures, str(report)
    skipped = {check.name: check.message for check in report.checks if check.status == "skipped"}
    assert skipped["KL to a reference"] == "kl: no reference here"
    assert skipped["the norm is what the loss falls by"] == "grad_norm: the server tells none"
    assert {name for name in skipped if "gspo" in name} == {name for name in check_names() if "gspo" in name}


def test_an_engine_without_a_norm_is_still_checked_through_its_log_probs(tiny_llama: Path, tmp_path: Path):
    """Catches a kit that sees a wrong sum by the norm alone: hosted services tell none."""

    class Silent(DividesPerCall):
        @property
        def capabilities(self):
            return dataclasses.replace(self.inner.capabilities, lacks={"grad_norm": "not told"})

        def optim_step(self, params: AdamParams) -> None:
            self.inner.optim_step(params)

    engine: Any = Silent(LocalEngine(tiny_llama, device="cpu", compute_dtype="float32"))
    report = check_engine(engine, tmp_path, vocab_size=61)
    assert "gradients of parts add up" in {check.name for check in report.failures}
    folder = tmp_path / "again"
    folder.mkdir()
    with pytest.raises(EngineError, match="gradients of parts add up"):
        check_engine(engine, folder, vocab_size=61, only=("gradients of parts add up",), raise_on_failure=True)


def test_a_check_that_does_not_exist_is_refused_by_name(tiny_llama: Path, tmp_path: Path):
    """Catches a filter with a typing error that runs nothing and passes."""
    engine = LocalEngine(tiny_llama, device="cpu", compute_dtype="float32")
    with pytest.raises(ConfigError, match="Did you mean 'entropy bonus'"):
        check_engine(engine, tmp_path, vocab_size=61, only=("entropy bonuses",))
