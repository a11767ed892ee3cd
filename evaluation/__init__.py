"""How well a checkpoint, an adapter or another system does: predictions, metrics, intervals, calibration."""
