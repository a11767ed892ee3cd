"""Readers of annotated data sets, one file a data set, and what they share."""
