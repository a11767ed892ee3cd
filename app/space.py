"""The page as a Space: the `app.py` that `mf2 publish --space` writes calls this with the commits that it shows."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import zero_gpu  # first: what it imports on ZeroGPU has to come before torch
from .examples import draw_examples
from .settings import AppSettings

if TYPE_CHECKING:
    import gradio as gr

LANDMARKER = Path("face_landmarker.task")
LANDMARKER_VARIABLE = "MF2_FACE_LANDMARKER"

Commit = Sequence[str]
"""A repository and a commit of it."""


def open_space(model: Commit, adapters: Sequence[Commit] = ()) -> tuple["gr.Blocks", dict[str, Any]]:
    """Download the model and build its page; a `face_landmarker.task` in the Space's folder finds the faces.

    Args:
        model: of the checkpoint.
        adapters: of DFN adapters that answer in the same pass.
    Returns:
        The page, and the arguments of its `launch`.
    """
    from .page import build_page, launch_options
    from .viewer import Viewer

    if LANDMARKER.is_file():
        os.environ.setdefault(LANDMARKER_VARIABLE, str(LANDMARKER.resolve()))
    folder = Path(tempfile.mkdtemp(prefix="mf2-space-"))
    repo_id, sha = adapters[0] if adapters else model
    settings = AppSettings(
        model=str(download(model, folder)),
        adapters=tuple(str(download(adapter, folder)) for adapter in adapters),
        title=repo_id.split("/")[-1],
        source=address_of(repo_id, sha),
        device="cpu" if zero_gpu.is_zero_gpu() else None,
    )
    examples = folder / "examples"
    examples.mkdir()
    page = build_page(Viewer.load(settings, draw_examples(examples)), settings, folder / "index")
    return page, launch_options(settings)


def download(commit: Commit, folder: Path) -> Path:
    """Download a commit of a repository into a folder of the repository's name; returns that folder."""
    from huggingface_hub import snapshot_download

    repo_id, sha = commit
    place = folder / repo_id.replace("/", "__") / repo_id.split("/")[-1]
    return Path(snapshot_download(repo_id, revision=sha, local_dir=place))


def address_of(repo_id: str, sha: str) -> str:
    """The page of a commit on the Hub."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repo_id}/tree/{sha}"
