"""Checkpoints and adapters as they are named on a command line: folders, or repositories of the Hub."""

import json
from pathlib import Path

from mf2.baselines.registry import MODEL_TYPE

ADAPTER_CONFIG_NAME = "adapter_config.json"
DEFAULT_MODEL = "outputs/demo"
"""What the demo trains, and what commands use that are given no model."""


def _is_folder_name(name: str | Path) -> bool:
    path = Path(name)
    is_written_as_folder = path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) != 2
    return is_written_as_folder or path.parent == Path(DEFAULT_MODEL).parent or path.parent.is_dir()


def check_model_source(name: str | Path, of_mf2_alone: str | None = None) -> None:
    """Refuse what can only be a folder and is none, before the Hub is asked for it again and again.

    A folder is what is written as one, what lies in a folder that is here, what would lie beside `DEFAULT_MODEL`, and
    a name without an owner; any other `owner/name` may be a repository. An adapter's base is checked, too.

    Args:
        of_mf2_alone: what is to be done with it, as a message names it, where no other system can do so.

    Raises:
        FileNotFoundError: there is no such folder, or the base of an adapter is not there.
        ValueError: it is another system than MF², which cannot do what is to be done.
    """
    path = Path(name)
    if path.is_dir():
        _check_base(path)
        if of_mf2_alone:
            _refuse_other_system(path, of_mf2_alone)
    elif _is_folder_name(name):
        raise FileNotFoundError(
            f"There is no checkpoint or adapter at {name}; name a folder that is there or a repository of the Hub, or "
            "train a checkpoint: accelerate launch training/pretrain.py --config training/configs/demo.yaml"
        )


def _refuse_other_system(folder: Path, purpose: str) -> None:
    """Other systems are folders only: they are not published."""
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if config.get("model_type") == MODEL_TYPE:
        raise ValueError(
            f"{folder} holds {config['baseline']}, another system than MF², and {purpose} needs MF². "
            "`mf2 evaluate`, `mf2 calibrate` and `mf2 analyze` take other systems, too."
        )


def _check_base(folder: Path) -> None:
    """Refuse an adapter whose base is recorded as a folder that is not there; the Hub might have a namesake."""
    config = folder / ADAPTER_CONFIG_NAME
    if not config.is_file():
        return
    base = json.loads(config.read_text("utf-8")).get("base_model_name_or_path") or ""
    if _is_folder_name(base) and not Path(base).is_dir():
        raise FileNotFoundError(
            f"The adapter {folder} was trained on the checkpoint {base}, which is not there; put it back, or write "
            f"where it is now into base_model_name_or_path of {config}."
        )
