"""`train`: the verifier-free loop over trajectories that exist.

    trajectories of the step -> compile_batch -> forward_backward -> optim_step -> metrics
    now and then: validation pool -> best model; state of everything -> checkpoint

Each step is a function of the configuration, the data and the state before it, so a run that is killed and resumed
ends in the same weights, bit for bit. Not here: model code (`envecho.engines`) and what a token is worth
(`envecho.objective`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from envecho.engines.local import LocalEngine
from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, EngineError
from envecho.objective import compile_batch
from envecho.seam import AdamParams, Engine
from envecho.tokens import ChatTokenizer
from envecho.training.checkpoints import Checkpoints, TrainingState
from envecho.training.config import RunConfig
from envecho.training.data import TrainingData, load_data
from envecho.training.health import train_row, validation_row
from envecho.training.metrics import MetricsLog
from envecho.training.run_folder import open_run_folder, require_usable
from envecho.training.schedules import learning_rate

OnEvent = Callable[[Mapping[str, Any]], None]
"""Receives every metrics row, and events of kind `start` (step, num_steps, num_trajectories) and `checkpoint` (step,
path)."""

_ROLES = ("context", "action", "env_output", "warning")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to. CE is in nats per token of the validation pool at T = 1, None without such a pool.

    `best_checkpoint` is the model folder that the validation pool selected among the steps that were looked at, never
    the untrained model; without a validation pool it is the last. `base_env_ce` is the CE before the first step:
    a best CE above it says that training made the model worse.
    """

    steps: int
    best_step: int
    best_checkpoint: Path
    best_env_ce: float | None
    base_env_ce: float | None
    num_steps_without_signal: int
    num_tokens: Mapping[str, int]
    wall_seconds: float


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    engine: Engine | None = None,
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Train as the configuration says into the run folder `out`; the engine holds the best model afterwards.

    Args:
        resume: continue the run in `out`, bit for bit, from its last checkpoint (from the start if it has none).
        overwrite: remove the run in `out` first; its trajectories stay.
        engine: a ready engine with the weights of `config.model.name`; None makes a `LocalEngine` from `[model]`.
        on_event: called in this thread with each metrics row; `training.progress.show_progress` gives a bar.

    Raises:
        ConfigError: the folder holds a run and neither flag says what to do, or it is another run than `config`; the
            objective selects no token; two pools share a trajectory.
        DataError: a pool cannot be read, is empty, or changed since the run that is resumed.
        EngineError: the model cannot be loaded, or no gradient flows in the first step that has something to train.
    """
    require_usable(out, config, resume=resume, overwrite=overwrite)
    folder = resolve_model(config.model.name)
    if engine is None:
        engine = _local_engine(config, folder)
    tokenizer = ChatTokenizer.from_pretrained(folder)
    data = load_data(config.data, config.objective, tokenizer, max_tokens=engine.capabilities.max_context_tokens)
    open_run_folder(out, config, overwrite=overwrite)
    run = _Run(config, out, engine=engine, data=data, on_event=on_event)
    run.start()
    while run.state.step < config.run.steps:
        run.advance()
    return run.finish()


def _local_engine(config: RunConfig, folder: Path) -> LocalEngine:
    model = config.model
    return LocalEngine(
        folder,
        device=model.device,
        compute_dtype=model.compute_dtype,
        tokens_per_micro_batch=model.tokens_per_micro_batch,
        seed=config.run.seed,
        gradient_checkpointing=model.gradient_checkpointing,
        trainable=model.trainable,
    )


@final
class _Run:
    """The parts of a run in progress and its state; `advance` is one optimiser step with what belongs to it."""

    def __init__(
        self, config: RunConfig, out: Path, *, engine: Engine, data: TrainingData, on_event: OnEvent | None
    ) -> None:
        self._config = config
        self._engine = engine
        self._data = data
        self._on_event = on_event
        self._metrics = MetricsLog(out / "metrics.jsonl")
        self._checkpoints = Checkpoints(out / "checkpoints")
        self._clock = time.monotonic()
        self.state = TrainingState(data_fingerprint=data.fingerprint)

    def start(self) -> None:
        """Take up the last checkpoint if there is one, drop what came after it, and look at the validation pool."""
        resumable = self._checkpoints.steps(resumable=True)
        if resumable:
            state = self._checkpoints.read_state(resumable[-1])
            if state.data_fingerprint != self._data.fingerprint:
                raise ConfigError(
                    f"{self._checkpoints.path(state.step)} was trained on other data than [data] train holds now;"
                    " restore the data, or start another run"
                )
            self._engine.load_state(self._checkpoints.path(state.step))
            self.state = state
        self._checkpoints.clean(after=self.state.step)
        self._metrics.truncate(after=self.state.step if resumable else -1)
        self._emit(
            {
                "kind": "start",
                "step": self.state.step,
                "num_steps": self._config.run.steps,
                "num_trajectories": len(self._data.train),
            }
        )
        if not resumable and self._data.validation:
            self._update(base_env_ce=self._validate())

    def advance(self) -> None:
        """Train one step, log it, and validate and save where it is time to."""
        self._train_step()
        is_best = self._is_validation_step() and self._look_for_best()
        self._save(is_best=is_best)

    def finish(self) -> TrainResult:
        """Give the engine the best model and say what the run came to."""
        state = self.state
        best = state.step if state.best_step is None else state.best_step
        if best != state.step:
            self._engine.load_model(self._checkpoints.path(best))
        return TrainResult(
            steps=state.step,
            best_step=best,
            best_checkpoint=self._checkpoints.path(best),
            best_env_ce=state.best_env_ce,
            base_env_ce=state.base_env_ce,
            num_steps_without_signal=state.num_steps_without_signal,
            num_tokens=state.num_tokens,
            wall_seconds=self._wall_seconds(),
        )

    def _train_step(self) -> None:
        started = time.monotonic()
        step, run = self.state.step + 1, self._config.run
        sequences = self._data.step_sequences(step, trajectories_per_step=run.trajectories_per_step, seed=run.seed)
        compiled = compile_batch(sequences, self._config.objective)
        output = self._engine.forward_backward(compiled.batch)
        rate = learning_rate(self._config.optimizer, step, run.steps)
        norm = self._engine.optim_step(_adam_params(self._config, rate))
        has_signal = bool((compiled.batch.env_weights != 0).any())
        if has_signal and not self.state.gradient_seen and norm == 0:
            raise EngineError(
                f"no gradient flows: step {step} weighs {compiled.counters['num_env_tokens']} tokens, and the norm of"
                " the model's gradient is 0; check [model] trainable and the engine"
            )
        self._update(
            step=step,
            gradient_seen=self.state.gradient_seen or has_signal,
            num_steps_without_signal=self.state.num_steps_without_signal + (not has_signal),
            num_tokens={
                role: self.state.num_tokens.get(role, 0) + int(compiled.counters[f"num_{role}_tokens"])
                for role in _ROLES
            },
        )
        row = train_row(
            step,
            compiled=compiled,
            sequences=sequences,
            output=output,
            grad_norm=norm,
            learning_rate=rate,
            seconds=time.monotonic() - started,
        )
        self._log(row)

    def _is_validation_step(self) -> bool:
        step, every = self.state.step, self._config.run.validate_every
        is_due = step == self._config.run.steps or (every > 0 and step % every == 0)
        return bool(self._data.validation) and is_due

    def _look_for_best(self) -> bool:
        env_ce = self._validate()
        if self.state.best_env_ce is not None and env_ce >= self.state.best_env_ce:
            return False
        self._update(best_step=self.state.step, best_env_ce=env_ce)
        return True

    def _validate(self) -> float:
        row = validation_row(self.state.step, self._engine, self._data.validation, self._data.validation_sequences)
        self._log(row)
        return row["env_ce"]

    def _save(self, *, is_best: bool) -> None:
        step, every, is_last = self.state.step, self._config.run.checkpoint_every, self._is_last_step()
        if every > 0 and (is_last or step % every == 0):
            self._update(wall_seconds=self._wall_seconds())
            self._clock = time.monotonic()
            path = self._checkpoints.write(step, self._engine.save_state, state=self.state)
        elif is_best or (is_last and not self._data.validation):
            path = self._checkpoints.write(step, self._engine.save_model)
        else:
            return
        self._checkpoints.prune(best=step if is_last and not self._data.validation else self.state.best_step)
        self._emit({"kind": "checkpoint", "step": step, "path": str(path)})

    def _is_last_step(self) -> bool:
        return self.state.step == self._config.run.steps

    def _wall_seconds(self) -> float:
        return self.state.wall_seconds + time.monotonic() - self._clock

    def _update(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    def _log(self, row: Mapping[str, Any]) -> None:
        self._metrics.append(row)
        self._emit(row)

    def _emit(self, event: Mapping[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(event)


def _adam_params(config: RunConfig, rate: float) -> AdamParams:
    optimizer = config.optimizer
    return AdamParams(
        learning_rate=rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm,
    )
