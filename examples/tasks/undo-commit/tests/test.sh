#!/bin/bash
# Both files as they must be, in the last commit and in the folder. -c: no hooks, no settings of the repository.
cd /app/site || exit 1
good=1
[ "$(cat page.txt)" = $'welcome\nopen from 9 to 5' ] || good=0
[ "$(cat news.txt)" = 'new lamp' ] || good=0
[ "$(git -c core.fsmonitor=false show HEAD:page.txt)" = $'welcome\nopen from 9 to 5' ] || good=0
[ "$(git -c core.fsmonitor=false show HEAD:news.txt)" = 'new lamp' ] || good=0
echo "$good" >/logs/verifier/reward.txt
