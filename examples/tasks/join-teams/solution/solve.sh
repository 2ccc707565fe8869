#!/bin/bash
cd /app
cat people.csv
cat teams.csv
join -t, people.csv teams.csv
join -t, people.csv teams.csv | cut -d, -f2,3 | sort >roster.csv
cat roster.csv
