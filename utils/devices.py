"""The device that a command line names, or that there is."""


def check_device(name: str) -> None:
    """Raise a `ValueError` where `--device` names a GPU and torch finds none."""
    import torch  # not above: it would slow --help

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but torch finds no GPU; use --device cpu.")


def choose_device() -> str:
    """`cuda` where torch finds a GPU, else `cpu`."""
    import torch  # not above: it would slow --help

    return "cuda" if torch.cuda.is_available() else "cpu"
