"""From a data set in the MFA schema to batches: splits, tokenised captions, collators."""
