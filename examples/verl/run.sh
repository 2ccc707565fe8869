#!/usr/bin/env bash
# GRPO with ECHO inside verl on one machine. What is set here is what ECHO needs, and little else: everything of verl's
# configuration can follow as arguments, for instance trainer.n_gpus_per_node=8.
#
#   MODEL=Qwen/Qwen3-0.6B WORLD=terminal ./run.sh
#
# DRY=1 composes the configuration by verl's own hydra, builds every dataclass of the actor, and starts nothing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

MODEL=${MODEL:?a folder, or a name on the hub}
WORLD=${WORLD:-terminal}
TRAIN=${TRAIN:-train}
HELD_OUT=${HELD_OUT:-validation}
DATA=${DATA:-data/verl-$WORLD}
NUM_TASKS=${NUM_TASKS:-256}
NUM_HELD_OUT=${NUM_HELD_OUT:-64}
COEFF=${COEFF:-0.05}
PYTHON=${PYTHON:-python3}

prepare() { # SPLIT NUM
  [ -f "$DATA/$1.parquet" ] ||
    "$PYTHON" -m envecho.plugins.verl.dataset --world "$WORLD" --split "$1" --num "$2" --out "$DATA/$1.parquet"
}
prepare "$TRAIN" "$NUM_TASKS"
prepare "$HELD_OUT" "$NUM_HELD_OUT"

module=verl.trainer.main_ppo
[ -z "${DRY:-}" ] || module=envecho.plugins.verl.dry_run

exec "$PYTHON" -m "$module" \
  data.train_files="$DATA/$TRAIN.parquet" \
  data.val_files="$DATA/$HELD_OUT.parquet" \
  data.train_batch_size=32 \
  data.max_prompt_length=1024 \
  data.max_response_length=4096 \
  algorithm.adv_estimator=grpo \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.strategy=fsdp2 \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=32 \
  actor_rollout_ref.actor.use_dynamic_bsz=True \
  actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True \
  actor_rollout_ref.actor.loss_agg_mode=token-mean \
  actor_rollout_ref.actor.fsdp_config._target_=envecho.plugins.verl.EchoFSDPEngineConfig \
  +actor_rollout_ref.actor.fsdp_config.objective.world_model_coeff="$COEFF" \
  +actor_rollout_ref.actor.fsdp_config.objective.normalizer=global_token_mean \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=8 \
  actor_rollout_ref.rollout.temperature=1.0 \
  actor_rollout_ref.rollout.calculate_log_probs=True \
  actor_rollout_ref.rollout.agent.agent_loop_config_path="$here/agent_loop.yaml" \
  trainer.use_v1=True \
  trainer.logger='["console"]' \
  trainer.project_name=envecho \
  trainer.experiment_name="verl-$WORLD" \
  trainer.n_gpus_per_node=1 \
  trainer.nnodes=1 \
  "$@"
