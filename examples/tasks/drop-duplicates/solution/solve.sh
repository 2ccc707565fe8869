#!/bin/bash
cd /app
cat hosts.txt
awk '!seen[$0]++' hosts.txt >unique.txt
cat unique.txt
wc -l unique.txt
