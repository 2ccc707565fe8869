#!/bin/bash
cd /app
ls photos
cat index.csv
while IFS=, read -r number place; do
  mv photos/IMG_$number.txt photos/$place-$number.txt
done <index.csv
ls photos
