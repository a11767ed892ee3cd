"""Helpers for every package: atomic files, Markdown tables, command-line handling, drawing of faces."""
