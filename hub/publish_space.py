"""A Space of a published model: the page of `mf2 app` with the code that it needs, for one commit of the model.

The Space holds a copy of this package, so that it needs nothing but released packages at the pinned releases. On
ZeroGPU the model stays on the CPU until it is called (`app/zero_gpu.py`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import SpaceCardData
from packaging.requirements import Requirement

from mf2.dataset_tools.card_template import render_card
from mf2.hub.cards import PinnedRepo, Placement
from mf2.hub.file_names import CARD_NAME
from mf2.hub.publish_contents import ADAPTER, SPACE, Contents

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "analysis",
    "app",
    "baselines",
    "data_loading",
    "dataset_tools",
    "evaluation",
    "hub",
    "model_cards",
    "onnx_runtime",
    "utils",
)
"""Folders of this package that the page imports or reads; and the files at its root."""
CODE_SUFFIXES = frozenset({".css", ".jinja", ".js", ".json", ".md", ".py", ".txt", ".yaml"})
REQUIREMENTS = Path(__file__).with_name("space_requirements.txt")
"""What the Space installs, at the releases of constraints/app.txt."""
LANDMARKER_NAME, LANDMARKER_PACKAGE = "face_landmarker.task", "mediapipe"
PYTHON = "3.11"
CODE_FOLDER = "mf2"
UNKNOWN_COMMIT = "0" * 40
"""Stands for the commit of a model that is not published yet."""
SHORT_DESCRIPTION = "Facial action units, emotion and captions"
APP = '''"""The page of {name}, from one commit of its repository."""

from mf2.app.space import open_space

demo, options = open_space(
    model={model},
    adapters={adapters},
)

if __name__ == "__main__":
    demo.launch(**options)
'''


def make_space(
    contents: Contents, placement: Placement, sha: str, repo_id: str, landmarker: Path | None = None
) -> Contents:
    """Assemble the Space of a published checkpoint or adapter.

    Args:
        contents: of the model, as published.
        placement: of the model.
        sha: commit of the model.
        repo_id: of the Space.
        landmarker: MediaPipe's model file, to be uploaded with it; without one every picture is taken as a face crop.
    Raises:
        ValueError: the contents are not a model, or the landmarker is no file.
    """
    if contents.repo_type != "model":
        raise ValueError(f"--space shows a checkpoint or an adapter; {contents.source} is a {contents.kind}.")
    if landmarker is not None and not landmarker.is_file():
        raise ValueError(f"--space_landmarker {landmarker} is no file; see `mf2 detectors` for where it comes from.")
    published = PinnedRepo(placement.repo_id, sha)
    base = placement.base if contents.kind == ADAPTER else None
    requirements = list_requirements(with_landmarker=landmarker is not None)
    app = make_app(base or published, [published] if base else [])
    card = make_space_card(contents, placement, repo_id, requirements)
    files: dict[str, Path | str] = {CARD_NAME: card, "app.py": app, "requirements.txt": "\n".join(requirements) + "\n"}
    files |= list_code()
    if landmarker is not None:
        files[LANDMARKER_NAME] = landmarker
    return Contents(SPACE, contents.source, files, (), contents.sources)


def make_app(model: PinnedRepo, adapters: Sequence[PinnedRepo]) -> str:
    """Write `app.py`: which commits are shown."""
    name = (adapters[0] if adapters else model).repo_id
    model_place, *adapter_places = (json.dumps([repo.repo_id, repo.sha]) for repo in (model, *adapters))
    return APP.format(name=name, model=model_place, adapters=f"[{', '.join(adapter_places)}]")


def make_space_card(contents: Contents, placement: Placement, repo_id: str, requirements: Sequence[str]) -> str:
    """Write the Space's README, whose front matter says how it is run."""
    pins = dict(line.split("==") for line in requirements)
    base = [placement.base.repo_id] if placement.base and contents.kind == ADAPTER else []
    data = SpaceCardData(
        title=repo_id.split("/")[-1],
        sdk="gradio",
        sdk_version=pins["gradio"],
        python_version=PYTHON,
        app_file="app.py",
        license="apache-2.0",
        models=[placement.repo_id, *base],
        tags=["mf2", "facial-action-units"],
        emoji="🙂",
        colorFrom="indigo",
        colorTo="purple",
        pinned=False,
        short_description=SHORT_DESCRIPTION,
    )
    return render_card("space.md", card_data=data.to_yaml(), title=repo_id.split("/")[-1], model=placement.repo_id)


def list_requirements(with_landmarker: bool) -> list[str]:
    """List the pinned requirements of the Space, one `name==version` each."""
    lines = [line for line in REQUIREMENTS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [line for line in lines if with_landmarker or Requirement(line).name != LANDMARKER_PACKAGE]


def list_code() -> Mapping[str, Path]:
    """List the files of this package that the page needs, by path in the Space."""
    files = [*ROOT.glob("*.py"), *(file for name in PACKAGES for file in (ROOT / name).rglob("*"))]
    shown = [file for file in files if file.suffix in CODE_SUFFIXES and "__pycache__" not in file.parts]
    return {f"{CODE_FOLDER}/{file.relative_to(ROOT).as_posix()}": file for file in sorted(shown)}
