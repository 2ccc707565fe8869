"""The sums are worked out here from the same orders."""

from pathlib import Path

ORDERS = [("anna", 20), ("bruno", 85), ("anna", 35), ("clara", 12), ("bruno", 5), ("anna", 18)]
sums = {name: sum(amount for other, amount in ORDERS if other == name) for name, _ in ORDERS}
wanted = "".join(f"{name},{total}\n" for name, total in sorted(sums.items()))
assert Path("/app/totals.csv").read_text() == wanted
