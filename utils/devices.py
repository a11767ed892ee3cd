"""Chooses the device, and the precision of float32 products on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

TF32, FLOAT32 = "tf32", "float32"
PRECISIONS = (TF32, FLOAT32)
"""Precision of float32 products on a GPU; TF32 keeps 10 of the 23 mantissa bits of each factor and adds in float32."""


def check_device(name: str) -> None:
    """Raise a `ValueError` if `--device` names a GPU and torch finds none."""
    import torch  # imported here because it would slow --help

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but torch finds no GPU; use --device cpu.")


def choose_device() -> str:
    """`cuda` if torch finds a GPU, else `cpu`."""
    import torch  # imported here because it would slow --help

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def cuda_products(precision: str) -> Iterator[None]:
    """Set the precision (see `PRECISIONS`) of CUDA's float32 matrix products and convolutions within the block.

    Raises:
        ValueError: an unknown precision.
    """
    import torch  # imported here because it would slow --help

    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == TF32
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
