#!/bin/bash
# check.py writes /logs/verifier/reward.json.
python3 -I /tests/check.py
