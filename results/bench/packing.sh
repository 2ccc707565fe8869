#!/bin/sh
# Padding with and without packing on pools of three worlds and of imported traces:
#     results/bench/packing.sh runs/imported runs/packing
# The first folder is what results/imported/make.sh made; the second holds the pools of the worlds.
set -eu
imported=$1 pools=$2
mkdir -p "$pools"
for world in depot:256 terminal:128 tools:128; do
    envecho collect --world "${world%:*}" --policy explore --num "${world#*:}" --out "$pools/${world%:*}.parquet"
done
python -m envecho.recipes.bench_packing --out results/bench/packing.json --timed depot --timed terminal \
    --pool "depot=$pools/depot.parquet" --pool "terminal=$pools/terminal.parquet" --pool "tools=$pools/tools.parquet" \
    --pool "chats (imported)=$imported/all-chats.parquet" --pool "swe-agent (imported)=$imported/all-swe-agent.parquet"
