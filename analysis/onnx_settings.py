"""What `mf2 export` can write, and how near PyTorch it has to be. No torch."""

MIN_OPSET = 18
"""What torch's exporter writes by itself; `GridSample` came with opset 16."""

TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
"""Largest difference to PyTorch in float32, of a value v as a fraction of 1 + |v|, by the type of the weights."""

CHECKED_BATCHES = (1, 3, 8)
"""Batch sizes at which a file is compared with PyTorch."""
