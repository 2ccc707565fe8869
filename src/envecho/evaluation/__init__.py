"""What was learnt, measured on held-out trajectories with controls: base model, copy baselines, swapped commands."""

from envecho.evaluation.baselines import CopyBaselines, evaluate_baselines, fit_baselines
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.pool import PoolResult, compare_predictors, evaluate_pool, summarize_pool, tokenize_pool
from envecho.evaluation.readouts import (
    ObservationRef,
    build_readouts,
    choose_observations,
    read_out,
    view_trajectory,
)
from envecho.evaluation.results import (
    Comparison,
    Evaluation,
    OperationResult,
    Predictor,
    PredictorResult,
    Readout,
    ReadoutPrediction,
    Stat,
    SwapCounts,
    best_baseline,
    read_evaluation,
    write_evaluation,
)
from envecho.evaluation.scores import PoolTokens, TokenLabels, label_tokens, pool_tokens, score_pool
from envecho.evaluation.swap import SwapPlan, SwapScores, plan_swaps, swap_candidates

__all__ = [
    "Comparison",
    "CopyBaselines",
    "Evaluation",
    "ObservationRef",
    "OperationResult",
    "PoolResult",
    "PoolTokens",
    "Predictor",
    "PredictorResult",
    "Readout",
    "ReadoutPrediction",
    "Stat",
    "SwapCounts",
    "SwapPlan",
    "SwapScores",
    "TokenLabels",
    "best_baseline",
    "build_readouts",
    "choose_observations",
    "compare_predictors",
    "evaluate_baselines",
    "evaluate_pool",
    "fit_baselines",
    "label_tokens",
    "plan_swaps",
    "pool_tokens",
    "ratio_stat",
    "read_evaluation",
    "read_out",
    "score_pool",
    "summarize_pool",
    "swap_candidates",
    "tokenize_pool",
    "view_trajectory",
    "write_evaluation",
]
