"""The `mf2` command line."""

from .main_command import COMMANDS, main

__all__ = ["COMMANDS", "main"]
