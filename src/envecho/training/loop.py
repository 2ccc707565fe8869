"""`train`: one loop for trajectories that exist and for the policy's own rollouts.

    source of the step -> compiled batch -> passes -> forward_backward -> optim_step -> metrics, alarms
    now and then: validation pool -> best model; held-out tasks -> evaluation; state of everything -> checkpoint

Each step is a function of the configuration, the data and the state before it, so a run that is killed and resumed
ends in the same weights, bit for bit. Not here: model code (`envecho.engines`) and what a token is worth
(`envecho.objective`).
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, EngineError
from envecho.objective import CompiledBatch
from envecho.rollout.served import ServedEngine
from envecho.seam import AdamParams, Engine
from envecho.tokens import ChatTokenizer
from envecho.training.abilities import refuse_unable
from envecho.training.alarms import COLLAPSE, AlarmMonitor
from envecho.training.checkpoints import Checkpoints, TrainingState
from envecho.training.config import RunConfig
from envecho.training.data import TrainingData, load_data
from envecho.training.engines import open_reference, open_run_engine
from envecho.training.health import StepFacts, train_row, validation_row
from envecho.training.lambda_control import LambdaControl
from envecho.training.machine import describe_machine
from envecho.training.metrics import MetricsLog
from envecho.training.passes import with_passes
from envecho.training.policy_evaluation import PolicyEvaluation
from envecho.training.run_folder import open_run_folder, require_usable
from envecho.training.schedules import learning_rate
from envecho.training.signal import configured_terms, has_tokens, has_weight, scale_env, with_synthetic_advantages
from envecho.training.sources import (
    RolloutSource,
    StepSource,
    StoredSource,
    objective_needs_reference,
    open_rollout_suite,
)

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
        engine: a ready engine with the weights of `config.model.name`; None opens the one of `[model]`.
        on_event: called in this thread with each metrics row; `training.progress.show_progress` gives a bar.

    Raises:
        ConfigError: the folder holds a run and neither flag says what to do, or it is another run than `config`; the
            objective selects no token; two pools share a trajectory.
        DataError: a pool cannot be read, is empty, or changed since the run that is resumed.
        EngineError: the model cannot be loaded, or no gradient flows in the first step that has something to train.
    """
    require_usable(out, config, resume=resume, overwrite=overwrite)
    folder = resolve_model(config.model.name)
    with ExitStack() as stack:
        if engine is None:
            engine = stack.enter_context(open_run_engine(config, folder, out))
        refuse_unable(engine.capabilities, config)
        tokenizer = ChatTokenizer.from_pretrained(folder)
        data = _load(config, tokenizer, engine)
        open_run_folder(out, config, overwrite=overwrite)
        parts = _Parts(config, out, engine=engine, tokenizer=tokenizer, data=data)
        if objective_needs_reference(config.objective):
            parts.reference = open_reference(config.model, folder, seed=config.run.seed)
        run = _Run(config, out, parts=parts, on_event=on_event)
        run.start()
        while run.state.step < config.run.steps:
            run.advance()
        return run.finish()


def _load(config: RunConfig, tokenizer: ChatTokenizer, engine: Engine) -> TrainingData | None:
    if config.rollout is not None:
        return None
    return load_data(config.data, config.objective, tokenizer, max_tokens=engine.capabilities.max_context_tokens)


@final
class _Parts:
    """What a run is made of: the engine, where its steps come from, and what looks at it."""

    def __init__(
        self, config: RunConfig, out: Path, *, engine: Engine, tokenizer: ChatTokenizer, data: TrainingData | None
    ) -> None:
        self.engine, self.data = engine, data
        self.reference: Engine | None = None
        self.evaluation: PolicyEvaluation | None = None
        self.source: StepSource
        if data is not None:
            self.source = StoredSource(data, config)
            return
        assert config.rollout is not None
        suite = open_rollout_suite(config.rollout, config.world)
        self.source = RolloutSource(config, out, suite=suite, engine=engine, tokenizer=tokenizer)
        if config.evaluation.every:
            self.evaluation = PolicyEvaluation(config, out, suite=suite, engine=engine, tokenizer=tokenizer)

    @property
    def validation(self) -> TrainingData | None:
        """The data whose validation pool selects the checkpoint, where there is one."""
        return self.data if self.data is not None and self.data.validation else None


@final
class _Run:
    """The parts of a run in progress and its state; `advance` is one optimiser step with what belongs to it."""

    def __init__(self, config: RunConfig, out: Path, *, parts: _Parts, on_event: OnEvent | None) -> None:
        self._config = config
        self._parts = parts
        self._engine = parts.engine
        self._on_event = on_event
        self._metrics = MetricsLog(out / "metrics.jsonl")
        self._checkpoints = Checkpoints(out / "checkpoints")
        self._clock = time.monotonic()
        self.state = TrainingState(data_fingerprint=parts.source.fingerprint, machine=describe_machine())
        self._lambda = LambdaControl(config.objective, num_steps=config.run.steps)
        self._alarms = AlarmMonitor(config.health, terms=())

    def start(self) -> None:
        """Take up the last checkpoint if there is one, drop what came after it, and look before the first step."""
        resumable = self._checkpoints.steps(resumable=True)
        if resumable:
            self._take_up(self._checkpoints.read_state(resumable[-1]))
        self._lambda = LambdaControl(
            self._config.objective, num_steps=self._config.run.steps, scale=self.state.lambda_scale
        )
        self._alarms = AlarmMonitor(
            self._config.health, terms=configured_terms(self._config.objective), state=self.state.alarms
        )
        self._checkpoints.clean(after=self.state.step)
        self._metrics.truncate(after=self.state.step if resumable else -1)
        data = self._parts.data
        self._emit(
            {
                "kind": "start",
                "step": self.state.step,
                "num_steps": self._config.run.steps,
                "num_trajectories": 0 if data is None else len(data.train),
            }
        )
        if resumable:
            return
        if self._parts.validation is not None:
            self._update(base_env_ce=self._validate(self._parts.validation))
        self._evaluate()

    def _take_up(self, state: TrainingState) -> None:
        path = self._checkpoints.path(state.step)
        if state.data_fingerprint != self._parts.source.fingerprint:
            raise ConfigError(
                f"{path} was trained on other data than [data] train holds now; restore the data, or start another run"
            )
        here = describe_machine()
        differing = [name for name in here if state.machine.get(name, here[name]) != here[name]]
        if differing:
            told = "; ".join(f"{name} was {state.machine[name]}, is {here[name]}" for name in differing)
            warnings.warn(f"{path} goes on with other means, so not bit for bit: {told}", stacklevel=2)
        self._engine.load_state(path)
        self.state = state.model_copy(update={"machine": here})

    def advance(self) -> None:
        """Train one step, log it, look and save where it is time to."""
        self._train_step()
        is_best = self._is_validation_step() and self._look_for_best()
        self._evaluate()
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
        step, run = self.state.step + 1, self._config.run
        coeff = self._lambda.coeff(step)
        batch = self._parts.source.step(step, world_model_coeff=coeff)
        started = time.monotonic()
        compiled, num_passes = with_passes(batch.compiled, self._engine, reference=self._parts.reference)
        seen = self._probe(compiled) if batch.trajectories is not None else ()
        terms = self._engine.term_gradients(compiled.batch) if self._lambda.measures_at(step) else None
        if terms is not None:
            factor = self._lambda.observe(terms)
            compiled, coeff = scale_env(compiled, factor), coeff * factor
        output = self._engine.forward_backward(compiled.batch)
        rate = learning_rate(self._config.optimizer, step, run.steps)
        norm = self._engine.optim_step(_adam_params(self._config, rate))
        has_signal = has_weight(compiled)
        if has_signal and not self.state.gradient_seen and norm == 0 and batch.trajectories is None:
            raise EngineError(
                f"no gradient flows: step {step} weighs {compiled.counters['num_env_tokens']} tokens, and the norm of"
                " the model's gradient is 0; check [model] trainable and the engine"
            )
        self._update(
            step=step,
            gradient_seen=self.state.gradient_seen or has_signal,
            terms_seen=tuple(sorted({*self.state.terms_seen, *seen})),
            num_steps_without_signal=self.state.num_steps_without_signal + (not has_signal),
            num_tokens={
                role: self.state.num_tokens.get(role, 0) + int(compiled.counters[f"num_{role}_tokens"])
                for role in _ROLES
            },
        )
        facts = StepFacts(
            grad_norm=norm,
            learning_rate=rate,
            world_model_coeff=coeff,
            train_seconds=time.monotonic() - started,
            num_passes=num_passes,
            terms=terms,
            sampler=self._engine.last_check if isinstance(self._engine, ServedEngine) else None,
        )
        row = train_row(step, batch=dataclasses.replace(batch, compiled=compiled), output=output, facts=facts)
        self._log(row)
        self._raise_alarms(row)

    def _probe(self, compiled: CompiledBatch) -> tuple[str, ...]:
        """Prove of each term, the first time that it has tokens, that a gradient flows from it into the weights."""
        if "term_gradients" in self._engine.capabilities.lacks:
            return ()
        unseen = [t for t in configured_terms(self._config.objective) if t not in self.state.terms_seen]
        found = [term for term in unseen if has_tokens(compiled, term)]
        if not found:
            return ()
        probe = self._engine.term_gradients(with_synthetic_advantages(compiled.batch))
        norms = {"policy": probe.policy_norm, "env": probe.env_norm}
        for term in found:
            if norms[term] == 0:
                raise EngineError(
                    f"no gradient flows from the {term} term, although it is configured and weighs tokens;"
                    " check [model] trainable and the engine"
                )
        return tuple(found)

    def _raise_alarms(self, row: Mapping[str, Any]) -> None:
        if self._parts.data is not None:
            return
        for alarm in self._alarms.observe(row):
            lowered = alarm.name == COLLAPSE and self._lambda.guard()
            self._log(
                {
                    "kind": "alarm",
                    "step": self.state.step,
                    "name": alarm.name,
                    "reason": alarm.reason,
                    "lambda_scale": self._lambda.scale if lowered else None,
                }
            )
        self._update(alarms=self._alarms.state(), lambda_scale=self._lambda.scale)

    def _evaluate(self) -> None:
        evaluation = self._parts.evaluation
        if evaluation is not None and evaluation.is_due(self.state.step):
            self._log(evaluation.look(self.state.step))

    def _is_validation_step(self) -> bool:
        step, every = self.state.step, self._config.run.validate_every
        is_due = step == self._config.run.steps or (every > 0 and step % every == 0)
        return self._parts.validation is not None and is_due

    def _look_for_best(self) -> bool:
        assert self._parts.validation is not None
        env_ce = self._validate(self._parts.validation)
        if self.state.best_env_ce is not None and env_ce >= self.state.best_env_ce:
            return False
        self._update(best_step=self.state.step, best_env_ce=env_ce)
        return True

    def _validate(self, data: TrainingData) -> float:
        row = validation_row(self.state.step, self._engine, data.validation, data.validation_sequences)
        self._log(row)
        return row["env_ce"]

    def _save(self, *, is_best: bool) -> None:
        step, every, is_last = self.state.step, self._config.run.checkpoint_every, self._is_last_step()
        if every > 0 and (is_last or step % every == 0):
            self._update(wall_seconds=self._wall_seconds())
            self._clock = time.monotonic()
            path = self._checkpoints.write(step, self._engine.save_state, state=self.state)
            self._parts.source.settle(step)
        elif is_best or (is_last and self._parts.validation is None):
            path = self._checkpoints.write(step, self._engine.save_model)
        else:
            return
        self._checkpoints.prune(best=step if is_last and self._parts.validation is None else self.state.best_step)
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
