"""Checkpoints as they are named on a command line: folders, or repositories of the Hub."""

from pathlib import Path

DEFAULT_MODEL = "outputs/demo"
"""What the demo trains, and what commands use that are given no model."""


def check_model_source(name: str | Path) -> None:
    """Refuse what can only be a folder and is none, before the Hub is asked for it again and again.

    A folder is what is written as one, what lies in a folder that is here, and `DEFAULT_MODEL`; any other `name` or
    `owner/name` may be a repository.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = Path(name)
    is_written_as_folder = path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2
    is_folder = is_written_as_folder or path == Path(DEFAULT_MODEL) or (len(path.parts) == 2 and path.parent.is_dir())
    if is_folder and not path.is_dir():
        raise FileNotFoundError(
            f"There is no checkpoint or adapter at {name}; name a folder that is there or a repository of the Hub, or "
            "train a checkpoint: accelerate launch training/pretrain.py --config training/configs/demo.yaml"
        )
