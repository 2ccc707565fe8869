def median(values):
    """Return the value in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle]
