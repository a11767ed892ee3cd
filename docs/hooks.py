"""mkdocs: let mkdocstrings find the package, whose folder is the checkout, under its name `mf2`."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path


def on_startup(command: str, dirty: bool) -> None:
    """Put a folder with a link `mf2` to the checkout first on the path."""
    folder = Path(tempfile.mkdtemp(prefix="mf2-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "mf2").symlink_to(Path(__file__).parents[1], target_is_directory=True)
    sys.path.insert(0, str(folder))
