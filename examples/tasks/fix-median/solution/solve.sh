#!/bin/bash
cd /app
cat median.py
python3 examples.py
cat >median.py <<'END'
def median(values):
    """Return the value in the middle, or the mean of two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
END
python3 examples.py
