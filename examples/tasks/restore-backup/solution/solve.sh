#!/bin/bash
cd /app
ls -l data
tar -tzf backup.tar.gz
tar -xzf backup.tar.gz data/ports.txt
cat data/ports.txt
cat data/names.txt
