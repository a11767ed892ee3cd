"""Training: pre-training and task adaptation."""
