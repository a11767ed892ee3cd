"""Options of `mf2 export` and its tolerances. Does not import torch."""

MIN_OPSET = 18
"""The default of torch's exporter; `GridSample` needs opset 16."""

TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
"""Dtype of the weights -> largest difference to PyTorch in float32, relative to 1 + |value|."""

INT8 = "int8"
"""Weights and activations of 8 bits; scores on labelled faces decide instead of a tolerance."""
MAX_LOSS = 0.005
"""What int8 may lose of the AU F1 and of the emotion top-1, each a fraction."""

CHECKED_BATCHES = (1, 3, 8)
"""Batch sizes at which a file is compared with PyTorch."""
