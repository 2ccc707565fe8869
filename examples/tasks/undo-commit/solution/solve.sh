#!/bin/bash
cd /app/site
git log --oneline
git show --stat HEAD
git checkout HEAD~1 -- page.txt
git commit -q -m 'bring back the page'
cat page.txt
