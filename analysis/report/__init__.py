"""The web page of an analysis."""
