"""Lists of both lengths, beyond those of the examples; what the module prints or leaves on exit counts for nothing."""

import importlib.util

spec = importlib.util.spec_from_file_location("median", "/app/median.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for values, wanted in (([3, 1, 2], 2), ([4, 1, 3, 2], 2.5), ([7], 7), ([10, 20], 15), ([5, 1, 9, 7, 3], 5)):
    assert module.median(list(values)) == wanted
