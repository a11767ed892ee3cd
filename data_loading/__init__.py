"""From a data set in the MFA schema to batches."""
