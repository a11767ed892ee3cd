"""Pre-train MF² on faces with captions, action units and emotions."""

import sys
from collections.abc import Sequence

from mf2.training.arguments import PretrainArguments, parse_arguments
from mf2.utils.command_line import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run pre-training with the arguments of the command line."""
    arguments = parse_arguments(PretrainArguments, argv, description=__doc__)
    from mf2.training.pretraining import pretrain  # imported after --help and argument errors, as it imports torch

    pretrain(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
