"""What a page is made of and how much it takes on. No torch, no Gradio."""

from dataclasses import dataclass, field
from pathlib import Path

from ..analysis.face_arguments import FaceSearch


@dataclass(frozen=True)
class Limits:
    """What a page accepts.

    Args:
        upload_mb: the largest file, in megabytes.
        video_s: the longest video, in seconds.
        video_fps: frames a second that are analysed of it.
        queue: visitors that may wait; later ones are told to come back.
        live_s: how long a webcam is followed before it has to be started again, in seconds.
        kept_s: after how long what was uploaded is deleted, in seconds.
    """

    upload_mb: int = 50
    video_s: float = 60.0
    video_fps: float = 5.0
    queue: int = 64
    live_s: int = 120
    kept_s: int = 600


@dataclass(frozen=True)
class AppSettings:
    """A page.

    Args:
        model: folder or Hub repository of a checkpoint.
        adapters: further ones to ask in the same pass.
        title: headline; the model's name by default.
        source: address of the model, where it has one.
        device: where to compute; None takes an accelerator if there is one.
        faces: how faces are found. `detect` falls back to the mean face where no detector is ready.
        examples: folder of pictures to try and to search; None draws faces.
        limits: what is accepted.
    """

    model: str
    adapters: tuple[str, ...] = ()
    title: str = ""
    source: str = ""
    device: str | None = None
    faces: FaceSearch = field(default_factory=FaceSearch)
    examples: Path | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def headline(self) -> str:
        """What the page is called."""
        return self.title or Path(self.model).name or self.model
