"""Checks names of checkpoints and adapters on the command line: folders, or repositories of the Hub."""

import json
from pathlib import Path

from mf2.baselines.registry import MODEL_TYPE

ADAPTER_CONFIG_NAME = "adapter_config.json"
DEFAULT_MODEL = "outputs/demo"
"""Checkpoint of the demo, and default model of the commands."""


def _is_folder_name(name: str | Path) -> bool:
    path = Path(name)
    is_written_as_folder = path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) != 2
    return is_written_as_folder or path.parent == Path(DEFAULT_MODEL).parent or path.parent.is_dir()


def check_model_source(name: str | Path, mf2_only_purpose: str | None = None) -> None:
    """Raise for a missing folder, without repeated requests to the Hub.

    A name stands for a folder if it is written as a path, if its parent folder exists or is that of `DEFAULT_MODEL`,
    or if it has no owner; any other `owner/name` may be a repository. The base of an adapter is checked, too.

    Args:
        name: folder or Hub id.
        mf2_only_purpose: command or option, for messages, that only supports MF² and no baselines.
    Raises:
        FileNotFoundError: the folder, or the base of an adapter, does not exist.
        ValueError: the checkpoint is a baseline, and the purpose needs MF².
    """
    path = Path(name)
    if path.is_dir():
        _check_base(path)
        if mf2_only_purpose:
            _refuse_other_system(path, mf2_only_purpose)
    elif _is_folder_name(name):
        raise FileNotFoundError(
            f"There is no checkpoint or adapter at {name}; name a folder that is there or a repository of the Hub, or "
            "train a checkpoint: accelerate launch training/pretrain.py --config training/configs/demo.yaml"
        )


def _refuse_other_system(folder: Path, purpose: str) -> None:
    """Raise if a folder has a baseline; baselines are never on the Hub, as they are not published."""
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if config.get("model_type") == MODEL_TYPE:
        raise ValueError(
            f"{folder} holds {config['baseline']}, another system than MF², and {purpose} needs MF². "
            "`mf2 evaluate`, `mf2 calibrate` and `mf2 analyze` take other systems, too."
        )


def _check_base(folder: Path) -> None:
    """Raise if the base of an adapter is a missing folder; the Hub might have a repository of the same name."""
    config = folder / ADAPTER_CONFIG_NAME
    if not config.is_file():
        return
    base = json.loads(config.read_text("utf-8")).get("base_model_name_or_path") or ""
    if _is_folder_name(base) and not Path(base).is_dir():
        raise FileNotFoundError(
            f"The adapter {folder} was trained on the checkpoint {base}, which is not there; put it back, or write "
            f"where it is now into base_model_name_or_path of {config}."
        )
