#!/bin/bash
cd /app
sha256sum -c SHA256SUMS
echo data/b.txt >bad.txt
sha256sum data/*.txt >SHA256SUMS.new
sha256sum -c SHA256SUMS.new
