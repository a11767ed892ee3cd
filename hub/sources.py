"""Checkpoints and adapters as they are named on a command line: folders, or repositories of the Hub."""

import logging
import warnings
from pathlib import Path
from typing import Any

DEFAULT_MODEL = "outputs/demo"
"""What the demo trains, and what commands use that are given no model."""


def check_model_source(name: str | Path) -> None:
    """Refuse what can only be a folder and is none, before the Hub is asked for it again and again.

    A folder is what is written as one, what lies in a folder that is here, and what would lie beside `DEFAULT_MODEL`;
    any other `name` or `owner/name` may be a repository.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = Path(name)
    is_written_as_folder = path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2
    is_here = len(path.parts) == 2 and (path.parent == Path(DEFAULT_MODEL).parent or path.parent.is_dir())
    if (is_written_as_folder or is_here) and not path.is_dir():
        raise FileNotFoundError(
            f"There is no checkpoint or adapter at {name}; name a folder that is there or a repository of the Hub, or "
            "train a checkpoint: accelerate launch training/pretrain.py --config training/configs/demo.yaml"
        )


def load_adapter(model: Any, name_or_path: str, adapter_name: str) -> None:
    """`model.load_adapter` beside other adapters, without a warning of those and a report that their weights lack.

    Raises:
        ValueError: weights of this adapter are missing.
    """
    logger = logging.getLogger("transformers.integrations.peft")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            info = model.load_adapter(name_or_path, adapter_name=adapter_name)
    finally:
        logger.setLevel(level)
    if missing := sorted(key for key in info.missing_keys if f".{adapter_name}." in key):
        raise ValueError(f"{name_or_path} lacks {len(missing)} weights of its adapter, {missing[0]} for example.")
