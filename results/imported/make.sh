#!/usr/bin/env bash
# Verifier-free training of the demo model on traces that others wrote, and its cross-entropy on held-out tasks.
#
#   results/imported/make.sh TRACES [OUT]        TRACES/NAME/ holds the files of one pool, OUT is runs/imported
#
# Each pool is imported as text, without episodes in which no world answers, and split by task and repository with
# near-duplicates kept together; one model is trained on all training parts and measured on each held-out part, beside
# the model that it started from and two copy baselines. docs/imported.md says which public files the committed results
# were made from, results.json has their checksums. Then: python results/imported/make_table.py OUT
set -euo pipefail
traces=$1
out=${2:-runs/imported}
here=$(dirname "$0")
mkdir -p "$out/train" "$out/held-out"

for folder in "$traces"/*/; do
  pool=$(basename "$folder")
  envecho import "$folder" --out "$out/all-$pool.parquet" --calls-as-text --text-only --overwrite
  envecho filter "$out/all-$pool.parquet" --out "$out/$pool.parquet" --source stdout --source tool_result --overwrite
  envecho split "$out/$pool.parquet" --out "$out/split-$pool" --held-out 0.25 --overwrite
  cp "$out/split-$pool/train.parquet" "$out/train/$pool.parquet"
  cp "$out/split-$pool/held_out.parquet" "$out/held-out/$pool.parquet"
done
(cd "$traces" && find . -type f | sort | xargs sha256sum) > "$out/files.txt"

envecho train "$here/../../configs/imported.toml" --out "$out/run" --overwrite \
  --set data.train="[\"$out/train\"]" --set data.held_out="[\"$out/held-out\"]"

last=$(find "$out/run/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1)
pools=()
for pool in "$out"/held-out/*.parquet; do pools+=(--data "$pool"); done
envecho eval --model "$last" --base smollm2-135m "${pools[@]}" --train "$out/train" --out "$out/eval" --overwrite
