#!/bin/bash
cd /app/etc
grep -rn 8080 .
sed -i 's/port=8080/port=9090/' app.conf
sed -i 's/local:8080/local:9090/' proxy.yaml
grep -rn 9090 .
