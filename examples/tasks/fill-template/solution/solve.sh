#!/bin/bash
cd /app
cat service.tmpl
cat values.txt
cp service.tmpl service.conf
while IFS== read -r name value; do
  sed -i "s/@$name@/$value/g" service.conf
done <values.txt
cat service.conf
