#!/usr/bin/env bash
# Verifier-free training of the demo model in the tool world and on the tasks in Harbor's format, and its cross-entropy on
# held-out episodes. No grader is read anywhere.
#
#   results/worlds/make.sh [OUT]        OUT is runs/worlds
#
# docs/worlds.md has the table. Then: python results/worlds/make_table.py OUT
set -euo pipefail
out=${1:-runs/worlds}
here=$(dirname "$0")
mkdir -p "$out"

envecho train "$here/../../configs/explored.toml" --world tools --episodes 160 --out "$out/tools" --overwrite
envecho collect --world tools --policy explore --split new_domains --num 20 --out "$out/tools/trajectories/new_domains.parquet" --overwrite
envecho train "$here/../../configs/explored.toml" --world "$here/../../examples/tasks" --episodes 96 --out "$out/tasks" --overwrite

# The explorer shows the binary database of query-shop, thousands of bytes that nobody can know: it is left out.
mkdir -p "$out/tasks/judged"
envecho filter "$out/tasks/trajectories/held_out.parquet" --out "$out/tasks/judged/held_out.parquet" --overwrite \
  --task tasks/answer-questions --task tasks/checksum-manifest --task tasks/drop-duplicates --task tasks/trace-request

for world in tools tasks; do
  best=$(find "$out/$world/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1)
  pools=(--data "$out/tasks/judged/held_out.parquet")
  if [ "$world" = tools ]; then pools=(--data "$out/tools/trajectories/held_out.parquet" --data "$out/tools/trajectories/new_domains.parquet"); fi
  envecho eval --model "$best" --base smollm2-135m "${pools[@]}" --train "$out/$world/trajectories/train.parquet" --out "$out/$world/eval" --overwrite
done
