#!/bin/bash
cd /app/links
ls -l
find . -xtype l
find . -xtype l -delete
find . | sort
