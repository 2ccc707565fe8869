#!/bin/bash
set -e
mkdir -p site
cd site
git init -q -b main
git config user.name anna
git config user.email anna@example.org
git config commit.gpgsign false
export GIT_AUTHOR_DATE='2025-01-01T00:00:00Z' GIT_COMMITTER_DATE='2025-01-01T00:00:00Z'
printf 'welcome\nopen from 9 to 5\n' >page.txt
git add page.txt
git commit -q -m 'first page'
printf 'open\n' >page.txt
printf 'new lamp\n' >news.txt
git add page.txt news.txt
git commit -q -m 'news'
