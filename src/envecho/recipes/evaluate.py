"""The job behind `envecho eval`: some predictors on some pools, one model in memory at a time.

    each pool whole, in parts       -> sums -> figures, slices, comparisons, attributions
    a bounded sample of each pool   -> swapped actions, controls, probes, compressors, readouts, coloured views

Not here: any figure's definition (`envecho.evaluation`), and how results are printed (`envecho.cli`).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from envecho.engines.distributed import open_local
from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError, DataError
from envecho.evaluation import (
    CopyBaselines,
    Evaluation,
    ObservationRef,
    PoolResult,
    PoolSums,
    PoolTokens,
    Predictor,
    PredictorResult,
    Readout,
    ReadoutPrediction,
    StreamOptions,
    attribute_all,
    build_readouts,
    choose_observations,
    compare_all,
    evaluate_baselines,
    evaluate_pool,
    evaluate_stream,
    fit_baselines,
    pool_facts,
    read_out,
    stream_baselines,
    summarize_sums,
    tokenize_pool,
    view_trajectory,
    write_evaluation,
    write_sums,
)
from envecho.evaluation.compression import compress
from envecho.evaluation.controls import run_controls
from envecho.evaluation.facts import ChangedText
from envecho.evaluation.probes import run_probes
from envecho.recipes.floor import MeasuredFloor, measure_floor
from envecho.recipes.progress import progress_bar, say
from envecho.reports import write_report
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.tokens.view import TokenView
from envecho.trajectory import Trajectory
from envecho.trajectory.store import count_trajectories, read_trajectories

ModelRole = Literal["base", "trained"]

SAMPLE: Final = 64
"""Trajectories of a pool that controls, probes and compressors see: each costs several passes over its history."""

NUM_QUESTIONS: Final = 64
"""Questions of each probe, per pool."""

NUM_READOUTS: Final = 6
NUM_SWAPS: Final = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What is to be measured.

    `models` are names or folders; `pools` name files or folders of trajectories; `train` is what the model was trained
    on, without which there are no copy baselines. `temperature` adds `ce_at_temperature`. `controls` are actions that
    are swapped or blanked, shuffled observations and compressors, `probes` are questions; both look at `sample`
    trajectories of each pool, or all of a smaller one. `floor` carries the sample's actions out again.
    """

    models: Mapping[ModelRole, str]
    pools: Mapping[str, Path]
    train: Path | None = None
    temperature: float | None = None
    controls: bool = True
    probes: bool = True
    floor: bool = False
    sample: int = SAMPLE
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation, and the sums that it was made of, by pool and predictor."""

    evaluation: Evaluation
    sums: Mapping[str, Mapping[Predictor, PoolSums]]

    def write(self, folder: Path) -> Path:
        """Write `evaluation.json`, `sums.parquet` and `report.html` into a folder; return the path of the page."""
        folder.mkdir(parents=True, exist_ok=True)
        write_sums(folder / "sums.parquet", self.sums)
        write_evaluation(folder / "evaluation.json", self.evaluation)
        return write_report(folder)


def evaluate(job: EvaluationJob) -> Evaluated:
    """Measure every predictor on every pool.

    Raises:
        ConfigError: the models have different tokenizers.
        DataError: a pool is empty, no file of trajectories, or holds an id twice.
        EngineError: a model cannot be found, loaded or taken apart.
    """
    samples = {name: _sample(path, job.sample, seed=job.seed) for name, path in job.pools.items()}
    folders: dict[ModelRole, Path] = {role: resolve_model(name) for role, name in job.models.items()}
    tokenizer = _one_tokenizer([ChatTokenizer.from_pretrained(folder) for folder in folders.values()])
    sizes = {name: max(1, count_trajectories(path)) for name, path in job.pools.items()}
    steps = (len(folders) + (job.train is not None)) * sum(sizes.values())
    floors = _floors(job, samples, tokenizer) if job.floor else {}
    with progress_bar("evaluating", total=steps) as advance:
        run = _Run(job=job, samples=samples, floors=floors, tokenizer=tokenizer, advance=advance)
        for role, folder in folders.items():
            run.add_model(role, folder)
        if job.train is not None:
            run.add_baselines(job.train)
        if job.controls:
            run.add_compressors(job.train)
    return run.evaluated()


def require_trajectories(path: Path) -> None:
    """Refuse a file or folder that holds something else than stored trajectories, with the command that imports it.

    Raises:
        DataError: the file is no Parquet file, or the folder holds none.
    """
    if path.is_file():
        with path.open("rb") as file:
            is_stored = file.read(4) == b"PAR1"
        found = f"a file that ends in {path.suffix!r}" if path.suffix else "a file without an ending"
    elif path.is_dir():
        is_stored = any(path.glob("*.parquet"))
        names = sorted(entry.name for entry in path.iterdir())
        found = f"a folder with {', '.join(names[:3]) or 'nothing in it'}"
    else:
        return
    if not is_stored:
        raise DataError(
            f"expected stored trajectories (.parquet), found {found}; traces of an agent are brought in with "
            f"`envecho import {path} --out {path.with_suffix('.parquet')}`",
            file=path,
        )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Some trajectories of a pool, in its order, and whether they are all of it."""

    trajectories: list[Trajectory]
    is_whole: bool


def _sample(path: Path, count: int, *, seed: int) -> _Sample:
    """Draw trajectories by their ids, so that neither their order nor other files matter."""
    num_read = 0

    def numbered() -> Iterator[tuple[int, Trajectory]]:
        nonlocal num_read
        for trajectory in read_trajectories(path):
            num_read += 1
            yield num_read, trajectory

    def rank(entry: tuple[int, Trajectory]) -> bytes:
        return hashlib.sha256(f"{seed} {entry[1].id}".encode(errors="surrogatepass")).digest()

    require_trajectories(path)
    drawn = sorted(heapq.nsmallest(count, numbered(), key=rank), key=lambda entry: entry[0])
    if not drawn:
        raise DataError("expected at least one held-out trajectory, found none", file=path)
    return _Sample(trajectories=[trajectory for _, trajectory in drawn], is_whole=len(drawn) == num_read)


def _floors(job: EvaluationJob, samples: Mapping[str, _Sample], tokenizer: ChatTokenizer) -> dict[str, MeasuredFloor]:
    """Carry every sample's actions out again, and say on stderr what came of it."""
    floors: dict[str, MeasuredFloor] = {}
    for pool, sample in samples.items():
        floors[pool] = measure_floor(sample.trajectories, tokenizer, seed=job.seed)
        say(f"{pool}: {floors[pool]}")
    return floors


def _one_tokenizer(tokenizers: Sequence[ChatTokenizer]) -> ChatTokenizer:
    """Return the tokenizer that all models share."""
    first, *others = tokenizers
    for other in others:
        if other.hf.get_vocab() != first.hf.get_vocab() or other.hf.chat_template != first.hf.chat_template:
            raise ConfigError(
                "--base and --model have different tokenizers or chat templates, so their tokens cannot be compared; "
                "give the model that --model was trained from, or evaluate each alone"
            )
    return first


@dataclass(kw_only=True)
class _Run:
    """Collects results predictor by predictor; what is shown is drawn before any model has answered."""

    job: EvaluationJob
    samples: Mapping[str, _Sample]
    floors: Mapping[str, MeasuredFloor]
    tokenizer: ChatTokenizer
    advance: Callable[[int], None]
    max_tokens: int | None = None
    sums: dict[str, dict[Predictor, PoolSums]] = field(default_factory=dict)
    results: dict[str, dict[Predictor, PredictorResult]] = field(default_factory=dict)
    sequences: dict[str, tuple[TokenizedTrajectory, ...]] = field(default_factory=dict)
    tokens: dict[str, dict[Predictor, PoolTokens]] = field(default_factory=dict)
    readouts: dict[str, dict[Predictor, Sequence[ReadoutPrediction]]] = field(default_factory=dict)
    refs: dict[str, list[ObservationRef]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pool, sample in self.samples.items():
            self.refs[pool] = choose_observations(sample.trajectories, NUM_READOUTS, seed=self.job.seed)

    def add_model(self, role: ModelRole, folder: Path) -> None:
        """Measure one model on every pool."""
        engine = open_local(folder, trains=False)
        self.max_tokens = engine.capabilities.max_context_tokens
        for pool, sample in self.samples.items():
            num_swaps = NUM_SWAPS if self.job.controls else 0
            found = evaluate_pool(
                engine,
                sample.trajectories,
                self.tokenizer,
                num_swaps=num_swaps,
                changed=self._changed(pool),
                seed=self.job.seed,
            )
            sums = self._model_sums(pool, engine, found)
            result = summarize_sums(sums, seed=self.job.seed)
            update = {"action_swap_gap": found.result.action_swap_gap, "swap_counts": found.result.swap_counts}
            result = result.model_copy(update=update | self._asked(engine, sample.trajectories))
            answers = read_out(engine, found.sequences, found.tokens, self.refs[pool], self.tokenizer)
            self.sums.setdefault(pool, {})[role] = sums
            self.results.setdefault(pool, {})[role] = result
            self.tokens.setdefault(pool, {})[role] = found.tokens
            self.sequences[pool] = found.sequences
            self.readouts.setdefault(pool, {})[role] = answers

    def _changed(self, pool: str) -> ChangedText | None:
        return self.floors[pool].changed if pool in self.floors else None

    def _model_sums(self, pool: str, engine: Engine, found: PoolResult) -> PoolSums:
        """The sums over the whole pool; where the sample is all of it, they are known already."""
        if self.samples[pool].is_whole and self.job.temperature is None:
            self.advance(len(found.sums.trajectory_ids))
            return found.sums
        options = StreamOptions(changed=self._changed(pool), on_progress=self.advance)
        trajectories = read_trajectories(self.job.pools[pool])
        return evaluate_stream(engine, trajectories, self.tokenizer, temperature=self.job.temperature, options=options)

    def _asked(self, engine: Engine, trajectories: Sequence[Trajectory]) -> dict[str, object]:
        seed = self.job.seed
        asked: dict[str, object] = {}
        if self.job.controls:
            asked["controls"] = run_controls(engine, trajectories, self.tokenizer, seed=seed)
        if self.job.probes:
            asked["probes"] = run_probes(engine, trajectories, self.tokenizer, seed=seed, max_questions=NUM_QUESTIONS)
        return asked

    def add_baselines(self, train: Path) -> None:
        """Fit the copy baselines on what the model was trained on, and measure them on every pool."""
        require_trajectories(train)
        sequences = tokenize_pool(read_trajectories(train), self.tokenizer, max_tokens=self.max_tokens)
        fitted = fit_baselines(sequences, len(self.tokenizer.hf), seed=self.job.seed)
        for pool, path in self.job.pools.items():
            options = StreamOptions(max_tokens=self.max_tokens, changed=self._changed(pool), on_progress=self.advance)
            found = stream_baselines(fitted, read_trajectories(path), self.tokenizer, options=options)
            self.sums[pool].update(found)
            self.results[pool].update({name: summarize_sums(s, seed=self.job.seed) for name, s in found.items()})
            self.tokens[pool].update(self._shown_tokens(pool, fitted))

    def _shown_tokens(self, pool: str, fitted: CopyBaselines) -> dict[Predictor, PoolTokens]:
        """Score the one trajectory that is shown, for its coloured view."""
        shown = self._shown(pool)
        offset = next(n for n, sequence in enumerate(self.sequences[pool]) if sequence.trajectory_id == shown.id)
        found = evaluate_baselines(fitted, [shown], self.tokenizer, max_tokens=self.max_tokens, seed=self.job.seed)
        return {
            name: replace(result.tokens, sequence_index=result.tokens.sequence_index + offset)
            for name, result in found.items()
        }

    def _shown(self, pool: str) -> Trajectory:
        """The trajectory of a pool whose tokens are kept: that of the first readout."""
        trajectories, refs = self.samples[pool].trajectories, self.refs[pool]
        return next((t for t in trajectories if refs and t.id == refs[0].trajectory_id), trajectories[0])

    def add_compressors(self, train: Path | None) -> None:
        """Measure compressors, which see an episode as the model does, and some of what it was trained on."""
        seed = self.job.seed
        seen = None if train is None else _sample(train, self.job.sample, seed=seed).trajectories
        for pool, sample in self.samples.items():
            self.results[pool].update(compress(sample.trajectories, train=seen, seed=seed))

    def evaluated(self) -> Evaluated:
        """Return everything that was measured."""
        evaluation = Evaluation(
            pools=self.results,
            comparisons=tuple(
                comparison
                for pool, sums in self.sums.items()
                for comparison in compare_all(pool, sums, seed=self.job.seed)
            ),
            attributions=tuple(
                found for pool, sums in self.sums.items() for found in attribute_all(pool, sums, seed=self.job.seed)
            ),
            readouts=tuple(self._readouts()),
            token_views=tuple(self._views()),
            facts={pool: pool_facts(path.name, self.sums[pool]["trained"]) for pool, path in self.job.pools.items()},
            floors={pool: measured.floor for pool, measured in self.floors.items()},
            models={role: name for role, name in self.job.models.items()},  # noqa: C416
            temperature=self.job.temperature,
        )
        return Evaluated(evaluation=evaluation, sums=self.sums)

    def _readouts(self) -> Iterator[Readout]:
        for pool, sample in self.samples.items():
            yield from build_readouts(pool, sample.trajectories, self.refs[pool], self.readouts[pool])

    def _views(self) -> Iterator[TokenView]:
        for pool, tokens in self.tokens.items():
            yield from view_trajectory(pool, self._shown(pool).id, self.sequences[pool], tokens, self.tokenizer)
