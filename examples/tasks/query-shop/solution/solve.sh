#!/bin/bash
cd /app
cat schema.sql
cat >query.py <<'END'
import sqlite3

shop = sqlite3.connect("shop.db")
rows = shop.execute(
    "select name, count(*) from orders join customers on customers.id = customer group by name order by 2 desc"
)
for name, count in rows:
    print(name, count)
END
python3 query.py
python3 query.py | head -n 1 | cut -d' ' -f1 >answer.txt
cat answer.txt
