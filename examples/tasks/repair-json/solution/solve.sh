#!/bin/bash
cd /app
cat settings.json
python3 -m json.tool settings.json
sed -i "s/'/\"/g; s/False,/false/" settings.json
cat settings.json
python3 -m json.tool settings.json
