"""Loads data sets in the MFA schema as batches: splits, tokenised captions, collators."""
