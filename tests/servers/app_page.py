"""A page of `mf2 app` served on loopback by this process, for tests that visit it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mf2.app.examples import draw_examples
from mf2.app.settings import AppSettings


@contextmanager
def served_page(settings: AppSettings, folder: Path, num_examples: int = 3) -> Iterator[str]:
    """The address of the page; its uploads lie below the folder."""
    import pytest

    from mf2.app.page import build_page, launch_options
    from mf2.app.viewer import Viewer

    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        examples = draw_examples(folder, num_examples, size_px=64)
        page: Any = build_page(Viewer.load(settings, examples), settings, folder / "index")
        options = launch_options(settings) | {"prevent_thread_lock": True, "quiet": True}
        _, address, _ = page.launch(**options, server_name="127.0.0.1")
        try:
            yield address
        finally:
            page.close()
