"""The demo's evaluation: two held-out pools, the base and the trained model, and the copy baselines.

Not here: any figure's definition (`envecho.evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from envecho.evaluation import (
    Evaluation,
    ObservationRef,
    PoolResult,
    PoolSums,
    PoolTokens,
    Predictor,
    Readout,
    ReadoutPrediction,
    attribute_all,
    best_baseline,
    build_readouts,
    choose_observations,
    compare_predictors,
    evaluate_baselines,
    evaluate_pool,
    fit_baselines,
    pool_facts,
    read_out,
    tokenize_pool,
    view_trajectory,
)
from envecho.recipes.demo_data import HELD_OUT, Pools
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Role

READOUT_POOL = "new_boxes"
NUM_SWAPS = 1


class DemoEvaluation:
    """Collects results predictor by predictor; the readouts' commands are drawn before any model has answered.

    `train_tokens` counts the training pool's tokens by role, each owned token once, when the baselines were added.
    """

    def __init__(
        self, pools: Pools, tokenizer: ChatTokenizer, *, max_tokens: int, seed: int, num_readouts: int
    ) -> None:
        self._pools, self._tokenizer = pools, tokenizer
        self._max_tokens, self._seed = max_tokens, seed
        self._results: dict[str, dict[Predictor, PoolResult]] = {pool: {} for pool in HELD_OUT}
        self._refs: list[ObservationRef] = choose_observations(pools[READOUT_POOL], num_readouts, seed=seed)
        self._readouts: dict[Predictor, Sequence[ReadoutPrediction]] = {}
        self.train_tokens: dict[str, int] = {}

    def add_baselines(self) -> None:
        """Fit n-gram and copier on the training tokens, tune them on the validation pool, and evaluate both."""
        train = tokenize_pool(self._pools["train"], self._tokenizer, max_tokens=self._max_tokens)
        tuning = tokenize_pool(self._pools["validation"], self._tokenizer, max_tokens=self._max_tokens)
        self.train_tokens = {
            str(role): sum(int((s.role_mask(role) & s.owned_mask()).sum()) for s in train) for role in Role
        }
        fitted = fit_baselines(train, len(self._tokenizer.hf), tuning_sequences=tuning, seed=self._seed)
        for pool in HELD_OUT:
            found = evaluate_baselines(
                fitted, self._pools[pool], self._tokenizer, max_tokens=self._max_tokens, seed=self._seed
            )
            for name, result in found.items():
                self._results[pool][name] = result

    def add_model(self, name: Literal["base", "trained"], engine: Engine) -> None:
        """Evaluate the engine's model as it is now on both pools, and read out the chosen commands."""
        for pool in HELD_OUT:
            self._results[pool][name] = evaluate_pool(
                engine, self._pools[pool], self._tokenizer, num_swaps=NUM_SWAPS, seed=self._seed
            )
        shown = self._results[READOUT_POOL][name]
        self._readouts[name] = read_out(engine, shown.sequences, shown.tokens, self._refs, self._tokenizer)

    def evaluation(self) -> Evaluation:
        """Return what `evaluation.json` holds."""
        shown = self._results[READOUT_POOL]
        first = self._refs[0].trajectory_id if self._refs else self._pools[READOUT_POOL][0].id
        tokens: dict[Predictor, PoolTokens] = {name: result.tokens for name, result in shown.items()}
        views = view_trajectory(READOUT_POOL, first, shown["trained"].sequences, tokens, self._tokenizer)
        return Evaluation(
            pools={
                pool: {name: found.result for name, found in results.items()} for pool, results in self._results.items()
            },
            readouts=tuple(self._build_readouts()),
            token_views=tuple(views),
            comparisons=tuple(
                comparison
                for pool, results in self._results.items()
                for comparison in compare_predictors(pool, results, seed=self._seed)
            ),
            attributions=tuple(
                found for pool, sums in self.sums().items() for found in attribute_all(pool, sums, seed=self._seed)
            ),
            facts={pool: pool_facts(f"{pool}.parquet", sums["trained"]) for pool, sums in self.sums().items()},
        )

    def sums(self) -> dict[str, dict[Predictor, PoolSums]]:
        """Return what `sums.parquet` holds."""
        return {pool: {name: found.sums for name, found in of.items()} for pool, of in self._results.items()}

    def _build_readouts(self) -> list[Readout]:
        return build_readouts(READOUT_POOL, self._pools[READOUT_POOL], self._refs, self._readouts)

    def summary_pools(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """Return `summary.json`'s pools: base, trained, and as `ngram` the better of the two copy baselines."""
        pools: dict[str, Mapping[str, Mapping[str, Any]]] = {}
        for pool, results in self._results.items():
            best = best_baseline({name: found.result for name, found in results.items()})
            pools[pool] = {
                "base": results["base"].result.measures(),
                "trained": results["trained"].result.measures(),
                "ngram": results[best].result.measures(),
            }
        return pools
