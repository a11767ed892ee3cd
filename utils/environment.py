"""The software environment of a run, and the check that all of its processes were started."""

import os
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from mf2 import __version__

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables with the number of processes, of which multi-process launchers set one."""


def describe_environment(world_size: int) -> dict[str, Any]:
    """The versions of the main packages, and the number of processes."""
    return {
        "mf2": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "world_size": world_size,
    }


def check_all_processes_run(environment: Mapping[str, str] = os.environ) -> None:
    """Check that a run of several processes is not left with only one of them.

    `accelerate launch --cpu --num_processes N` starts one process, which would train with 1/N of the batch; only the
    address in MASTER_ADDR shows that there should be others.

    Raises:
        ValueError: there is only one; the message says how to start all.
    """
    uses_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    if uses_accelerate and "MASTER_ADDR" in environment and not any(name in environment for name in WORLD_SIZES):
        raise ValueError(
            "accelerate was asked for several processes, but on CPUs it starts one, with its own share of the batch. "
            "Start them with torchrun --nproc_per_node N SCRIPT …, or leave out --num_processes (and the environment "
            "variable MASTER_ADDR, where it is set)."
        )
