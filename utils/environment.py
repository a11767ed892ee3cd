"""What a result depends on beside its inputs."""

from typing import Any

import torch
import transformers

from mf2 import __version__


def describe_environment(world_size: int) -> dict[str, Any]:
    """Versions that a result depends on, and the number of processes."""
    return {
        "mf2": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "world_size": world_size,
    }
