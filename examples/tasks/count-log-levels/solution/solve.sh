#!/bin/bash
cd /app
cat service.log
cut -d' ' -f2 service.log | sort | uniq -c
cut -d' ' -f2 service.log | sort | uniq -c | awk '{ print $2, $1 }' >levels.txt
cat levels.txt
