"""Training: pre-training, task adaptation, evaluation and benchmarks."""
