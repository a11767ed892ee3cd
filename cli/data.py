"""`mf2 data …`: the stages of a data set, and `build`, which runs them in order."""

from collections.abc import Sequence

from ..dataset_tools.stages import STAGES, StageParser
from ..utils.command_line import Command, run_one_of

COMMANDS = STAGES | {
    "build": Command(
        "dataset_tools.build",
        "run the stages in a configuration file, skipping those with unchanged inputs",
        "mf2 data build --config mfa.yaml --dry_run",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mf2 data COMMAND …`; returns the exit status."""
    return run_one_of("mf2 data", COMMANDS, argv, "Make a data set, stage by stage.", StageParser)
