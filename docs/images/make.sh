#!/bin/sh
# Make the pictures of the README again, as `make images` does: about ten minutes on two cores, most of them the demo itself.
set -eu
cd "$(dirname "$0")/../.."

python docs/images/record.py docs/images/demo.svg --shown-as "make demo" -- envecho demo --out runs/demo --overwrite
python docs/images/record.py docs/images/show.svg --still --columns 84 --rows 200 --lines 44 --shown-as "envecho show new_boxes.parquet --model smollm2-135m --index 2" \
    -- envecho show runs/demo/trajectories/new_boxes.parquet --model smollm2-135m --index 2
mkdir -p build
envecho report results/demo/seed-0 --out build/seed-0.html
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1500 \
    --screenshot=docs/images/report.png "file://$PWD/build/seed-0.html"
