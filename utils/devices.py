"""The device that a command line names, or that there is, and how a GPU multiplies float32."""

from collections.abc import Iterator
from contextlib import contextmanager

TF32, FLOAT32 = "tf32", "float32"
PRECISIONS = (TF32, FLOAT32)
"""How a GPU multiplies float32: TF32 keeps 10 of the 23 bits of each factor's mantissa and adds in float32."""


def check_device(name: str) -> None:
    """Raise a `ValueError` where `--device` names a GPU and torch finds none."""
    import torch  # not above: it would slow --help

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but torch finds no GPU; use --device cpu.")


def choose_device() -> str:
    """`cuda` where torch finds a GPU, else `cpu`."""
    import torch  # not above: it would slow --help

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def cuda_products(precision: str) -> Iterator[None]:
    """Within the block CUDA's matrix products and convolutions of float32 are computed so, see `PRECISIONS`.

    Raises:
        ValueError: there is no such precision.
    """
    import torch  # not above: it would slow --help

    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == TF32
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
