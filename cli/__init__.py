"""The `mf2` command line."""

from .dispatch import COMMANDS, main, make_parser

__all__ = ["COMMANDS", "main", "make_parser"]
