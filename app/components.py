"""Gradio's inputs for pictures and videos, which hand over files as they were uploaded.

Gradio's own open and convert a file first, and say of a broken one only that there was an error. They are changed
object by object: Gradio writes an interface file into the folder of every subclass.
"""

from typing import Any

import gradio as gr


def picture_input(label: str, **options: Any) -> gr.Image:
    """A picture that is uploaded, pasted, or taken with a webcam; handlers get the path of its file.

    Args:
        options: further ones of `gradio.Image`.
    """
    return _handing_over_files(
        gr.Image(type="filepath", image_mode=None, format="png", buttons=[], label=label, **options)
    )


def video_input(label: str, **options: Any) -> gr.Video:
    """A video that is uploaded or recorded; handlers get the path of its file.

    Args:
        options: further ones of `gradio.Video`.
    """
    return _handing_over_files(gr.Video(buttons=[], label=label, **options))


def _handing_over_files(component: Any) -> Any:
    """The component, whose handlers get the path of an upload; of a picture inside the request, Gradio's file."""
    convert = component.preprocess

    def preprocess(payload: Any) -> Any:
        is_file = payload is not None and payload.path and not (payload.url or "").startswith("data:")
        return payload.path if is_file else convert(payload)

    component.preprocess = preprocess
    return component
