"""What a result depends on beside its inputs."""

import os
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from mf2 import __version__

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables of which launchers that start several processes set one."""


def describe_environment(world_size: int) -> dict[str, Any]:
    """Versions that a result depends on, and the number of processes."""
    return {
        "mf2": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "world_size": world_size,
    }


def check_all_processes_run(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to be the only one of several processes that were asked for.

    `accelerate launch --cpu --num_processes N` starts one, which would train with a batch of 1/N; the address at which
    the others were to meet it is all that it leaves of them.

    Raises:
        ValueError: says how to start them.
    """
    is_of_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    if is_of_accelerate and "MASTER_ADDR" in environment and not any(name in environment for name in WORLD_SIZES):
        raise ValueError(
            "accelerate was asked for several processes, but on CPUs it starts one, with its own share of the batch. "
            "Start them with torchrun --nproc_per_node N SCRIPT …, or leave out --num_processes (and the environment "
            "variable MASTER_ADDR, where it is set)."
        )
