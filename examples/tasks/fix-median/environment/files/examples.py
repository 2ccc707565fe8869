from median import median

print(median([3, 1, 2]), "expected 2")
print(median([4, 1, 3, 2]), "expected 2.5")
