#!/bin/bash
cd /app
cat orders.csv
awk -F, '{ sum[$1] += $3 } END { for (name in sum) print name "," sum[name] }' orders.csv
awk -F, '{ sum[$1] += $3 } END { for (name in sum) print name "," sum[name] }' orders.csv | sort >totals.csv
cat totals.csv
