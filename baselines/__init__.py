"""Baselines: other systems of the paper's tables, trained and evaluated like MF²; see `interface`."""
