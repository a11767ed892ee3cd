"""Adapt MF² to a task: a DFN adapter on cached states, or full, LoRA or head-only fine-tuning."""

import sys
from collections.abc import Sequence

from mf2.training.arguments import FinetuneArguments, parse_arguments
from mf2.utils.command_line import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run fine-tuning with the arguments of the command line."""
    arguments = parse_arguments(FinetuneArguments, argv, description=__doc__)
    from mf2.training.finetuning import finetune  # imported after --help and argument errors, as it imports torch

    finetune(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
