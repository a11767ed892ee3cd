"""Adapt MF² to a task: a DFN adapter from cached states, or full, LoRA or head-only fine-tuning beside it."""

import sys
from collections.abc import Sequence

from mf2.training.arguments import FinetuneArguments, parse_arguments
from mf2.utils.command_line import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune as the command line says."""
    arguments = parse_arguments(FinetuneArguments, argv, description=__doc__)
    from mf2.training.finetuning import finetune  # after --help and argument errors: it loads torch

    finetune(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
