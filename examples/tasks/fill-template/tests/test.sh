#!/bin/bash
# Writes 1 or 0 into /logs/verifier/reward.txt. -I: Python reads nothing from the folders of the task.
if python3 -I /tests/check.py; then echo 1; else echo 0; fi >/logs/verifier/reward.txt
