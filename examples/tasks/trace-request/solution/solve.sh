#!/bin/bash
cd /app/logs
cat front.log
grep ERROR back.log
grep ERROR back.log | head -n 1 | cut -d' ' -f2
grep req-63 front.log | cut -d' ' -f3 >/app/route.txt
cat /app/route.txt
