"""mkdocs: let mkdocstrings find the package, whose folder is the checkout, under its name `mf2`."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Put a folder with a link `mf2` to the checkout on the search path of the Python handler."""
    folder = Path(tempfile.mkdtemp(prefix="mf2-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "mf2").symlink_to(Path(config["config_file_path"]).parent, target_is_directory=True)
    config["plugins"]["mkdocstrings"].config["handlers"]["python"]["paths"] = [str(folder)]
    return config
