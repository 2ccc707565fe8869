#!/bin/sh
# Every figure of docs/findings.md, from nothing: `sh results/findings/make.sh`. About an hour on two cores.
set -eu
cd "$(dirname "$0")/../.."
runs=runs/findings
results=results/findings

# Two masks over the observations of a harness that echoes the command and states the exit status.
python -m envecho.recipes.wordy_pools --out $runs
for mask in env_only reference; do
    envecho train configs/findings-masks.toml --out $runs/$mask --overwrite --set objective.world_loss_target=$mask
    envecho eval --model "$(ls -d $runs/$mask/checkpoints/step-* | tail -n 1)" --base smollm2-135m --data $runs/new_boxes.parquet --train $runs/train.parquet \
        --sample 16 --out $runs/eval-$mask --overwrite
done

# What the arms of the depot study learnt, seed 0.
arms="grpo echo-0.02 shuffled reference"
envecho study configs/study-depot.toml --out $runs/depot --arms "$(echo "$arms" | tr ' ' ,)" --seeds 0
for arm in $arms; do
    envecho eval --model "$(ls -d $runs/depot/$arm/seed-0/phase-0/checkpoints/step-* | tail -n 1)" --base $runs/depot/start/seed-0/model \
        --data held_out=$runs/depot/start/seed-0/held_out.parquet --out "$runs/eval-depot-$arm" --overwrite
done

python results/findings/make_table.py --from $runs
