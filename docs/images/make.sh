#!/bin/sh
# Make the pictures of the README again, as `make images` does: three to eleven minutes on two cores, most of them the demo itself.
set -eu
cd "$(dirname "$0")/../.."
BIN="${BIN:-.venv/bin}"

"$BIN/python" docs/images/record.py docs/images/demo.svg --shown-as "make demo" -- "$BIN/envecho" demo --out runs/demo --overwrite
"$BIN/python" docs/images/record.py docs/images/show.svg --still --columns 84 --rows 200 --lines 44 \
    --shown-as "envecho show new_boxes.parquet --model smollm2-135m --index 2" \
    -- "$BIN/envecho" show runs/demo/trajectories/new_boxes.parquet --model smollm2-135m --index 2
mkdir -p build
"$BIN/envecho" report results/demo/seed-0 --out build/seed-0.html
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1500 \
    --screenshot=docs/images/report.png "file://$PWD/build/seed-0.html"
