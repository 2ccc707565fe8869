import sqlite3
from pathlib import Path

with sqlite3.connect("/app/shop.db") as shop:
    for name in ("schema.sql", "rows.sql"):
        shop.executescript(Path("/app", name).read_text())
