#!/bin/bash
cd /app
cat jobs.txt
echo '30 3 * * * /app/bin/backup' >crontab
echo '0 8 * * 1 /app/bin/report' >>crontab
echo '15 * * * * /app/bin/clean' >>crontab
cat crontab
