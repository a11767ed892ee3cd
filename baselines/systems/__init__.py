"""One file per system, with the class `System`. The name of a file is the name of the system in all commands."""
