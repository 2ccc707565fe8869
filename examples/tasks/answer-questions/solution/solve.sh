#!/bin/bash
cd /app
cat questions.txt
cat access.log
grep -c ' 500 ' access.log >answers.txt
sort -k4,4nr access.log | head -n 1 | cut -d' ' -f2 >>answers.txt
grep /pay access.log | head -n 1 | cut -d' ' -f1 >>answers.txt
cat answers.txt
