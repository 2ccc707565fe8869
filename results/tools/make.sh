#!/usr/bin/env bash
# Whose text the episodes of tool calls are: the tool world, and the Agent World Model scenarios in examples/awm.
#
#   results/tools/make.sh [OUT]        OUT is runs/tools-accounting
#
# Writes accounting.json beside this file: tokens of SmolLM2-135M by source, for each file of episodes. No training.
set -euo pipefail
out=${1:-runs/tools-accounting}
here=$(dirname "$0")
mkdir -p "$out"

for policy in oracle explore; do
  envecho collect --world tools --split train --policy $policy --num 260 --out "$out/tools_train_$policy.parquet" --overwrite
  envecho collect --world tools --split new_domains --policy $policy --num 50 --out "$out/tools_new_domains_$policy.parquet" --overwrite
done
envecho collect --world "$here/../../examples/awm/gen_envs.jsonl" --policy explore --num 14 --workers 2 --out "$out/awm_explore.parquet" --overwrite
python -m envecho.recipes.tool_accounting --model smollm2-135m --json "$out"/*.parquet > "$here/accounting.json"
