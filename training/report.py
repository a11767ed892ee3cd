"""What a finished run shows: a picture of a few evaluation faces."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mf2.labels_mf2 import EMOTION_UNLABELLED
from mf2.modeling_mf2 import MF2ForConditionalGeneration
from mf2.processing_mf2 import MF2Processor
from mf2.training.checkpoint import replacing_file
from mf2.training.data import FaceExample

COLORS = matplotlib.colormaps["viridis"]
ROW_INCHES = 3.5
CAPTION_LINES = 22  # what fits beside a face


# ------------------------------------------------------------------------------------------------------------ overlay
def draw_overlay(
    model: MF2ForConditionalGeneration, processor: MF2Processor, examples: Sequence[FaceExample], file: str | Path
) -> None:
    """Draw faces one below the other: AU regions coloured by probability, the AUs, the emotion and captions.

    Args:
        model: in evaluation mode, on the device where it is to run.
        examples: rows of an evaluation split.
        file: the PNG to write.
    """
    landmarks = [example.landmarks_px for example in examples]
    inputs = processor(images=[example.image for example in examples], landmarks=landmarks).to(model.device)
    with torch.no_grad():
        outputs = model.recognize(model.encode_branches(inputs["pixel_values"], inputs["au_boxes"]))
    states = processor.post_process_facial_states(outputs, model.label_space)
    captions = write_captions(model, processor, inputs)
    figure = Figure(figsize=(13, ROW_INCHES * len(examples)))
    margin = 0.1 / len(examples)
    grid = figure.add_gridspec(
        len(examples), 3, width_ratios=(1.05, 1, 1.8), left=0.02, right=0.98, wspace=0.16, hspace=0.2
    )
    grid.update(bottom=margin, top=1 - margin)
    for place, example in enumerate(examples):
        picture, bars, text = (figure.add_subplot(grid[place, column]) for column in range(3))
        probs = np.array(list(states[place]["aus"].values()))
        _draw_regions(picture, _pixels(inputs["pixel_values"][place], processor), inputs["au_boxes"][place], probs)
        _draw_bars(bars, states[place]["aus"], model.label_space.thresholds, example.aus)
        _write_text(text, states[place], model.label_space.emotions, example.emotion, captions[place])
    with replacing_file(file) as partial:
        figure.savefig(partial, dpi=100, format="png")


def write_captions(model: MF2ForConditionalGeneration, processor: MF2Processor, inputs: Any) -> list[dict[str, str]]:
    """What each branch that is on has learned to write, by kind, for every image."""
    kinds = []
    if model.config.use_emo_vl:
        kinds += ["emotion", "key_au"] if model.config.emo_text == "random" else [model.config.emo_text]
    if model.config.use_au_vl:
        kinds.append("au")
    written = {}
    for kind in kinds:
        ids = model.generate(inputs["pixel_values"], inputs["au_boxes"], caption_kind=kind, num_beams=1)
        written[kind] = processor.batch_decode(ids)
    return [dict(zip(written, texts, strict=True)) for texts in zip(*written.values(), strict=True)]


def _pixels(pixel_values: torch.Tensor, processor: MF2Processor) -> np.ndarray:
    """Normalised `(3, H, W)` back to `(H, W, 3)` in [0, 1]."""
    mean, std = (np.asarray(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
    return np.clip(pixel_values.cpu().numpy().transpose(1, 2, 0) * std + mean, 0, 1)


def _draw_regions(axes: Axes, pixels: np.ndarray, boxes: torch.Tensor, probs: np.ndarray) -> None:
    """The face with a frame for each region, the likelier AU of a shared one on top."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, interpolation="bicubic")
    axes.set_axis_off()
    for index in np.argsort(probs):
        for x1, y1, x2, y2 in boxes[index].cpu().numpy() * (width, height, width, height):
            corner, size = (x1 - 0.5, y1 - 0.5), (x2 - x1, y2 - y1)
            line = 0.6 + 2.4 * probs[index]
            axes.add_patch(Rectangle(corner, *size, fill=False, linewidth=line, edgecolor=COLORS(probs[index])))


def _draw_bars(axes: Axes, probs: dict[str, float], thresholds: Sequence[float], truth: np.ndarray) -> None:
    """Probabilities as bars, thresholds as ticks, labelled active AUs with a dot."""
    places = np.arange(len(probs))
    values = np.array(list(probs.values()))
    axes.barh(places, values, color=COLORS(values), height=0.72)
    axes.vlines(thresholds, places - 0.42, places + 0.42, color="black", linewidth=1)
    axes.plot(np.full((truth == 1).sum(), 1.05), places[truth == 1], "o", color="black", clip_on=False, markersize=5)
    axes.set(xlim=(0, 1), ylim=(len(probs) - 0.4, -0.6), yticks=places, yticklabels=list(probs))
    axes.set_title("AU probability  ( | threshold,  ● label )", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _write_text(
    axes: Axes, state: dict[str, Any], emotions: Sequence[str], truth: int, captions: dict[str, str]
) -> None:
    axes.set_axis_off()
    label = "" if truth == EMOTION_UNLABELLED else f"   (label: {emotions[truth]})"
    axes.text(0, 1, f"{state['emotion']} {state['emotions'][state['emotion']]:.0%}{label}", fontsize=13, va="top")
    titles = {"emotion": "Emotion caption", "key_au": "Key-AU caption", "au": "AU caption"}
    lines = []
    for kind, caption in captions.items():
        lines.append(f"{titles[kind]}:")
        lines += [part for line in caption.splitlines() for part in textwrap.wrap(line, 84, subsequent_indent="    ")]
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], "…"]
    axes.text(0, 0.9, "\n".join(lines), fontsize=8, va="top", linespacing=1.3)
