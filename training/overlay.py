"""Draws `overlay.png`, the results of a run on a few evaluation faces."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mf2.data_loading.splits import FaceExample
from mf2.evaluation.caption_scores import caption_kinds
from mf2.labels_mf2 import EMOTION_UNLABELLED, LabelSpace
from mf2.modeling_mf2 import MF2ForConditionalGeneration
from mf2.processing_mf2 import MF2Processor
from mf2.utils.drawing import FaceState, boxes_to_corners, compose, panel_height, to_pixels
from mf2.utils.files import replacing

CAPTION_LINES = 18  # lines for the captions of a face


def draw_overlay(
    model: MF2ForConditionalGeneration, processor: MF2Processor, examples: Sequence[FaceExample], file: str | Path
) -> None:
    """Draw a column of faces: AU regions coloured by probability, AUs, emotion, captions and labels.

    Captions that contradict the probabilities are marked.

    Args:
        model: in evaluation mode, on its device.
        examples: rows of an evaluation split.
        file: PNG file to write.
    """
    landmarks = [example.landmarks_px for example in examples]
    inputs = processor(images=[example.image for example in examples], landmarks=landmarks).to(model.device)
    with torch.no_grad():
        outputs = model.recognize(model.encode_branches(inputs["pixel_values"], inputs["au_boxes"]))
    states = processor.post_process_facial_states(outputs, model.label_space)
    captions = write_captions(model, processor, inputs)
    panel_px = panel_height(len(model.label_space.au_ids), CAPTION_LINES)
    drawn = []
    for index, example in enumerate(examples):
        face = Image.fromarray(to_pixels(inputs["pixel_values"][index], processor.image_processor))
        regions = _region_corners(inputs["au_boxes"][index], face.size)
        state = _describe(states[index], captions[index], regions, example, model.label_space)
        drawn.append(compose(face, [state], 1, panel_px))
    sheet = Image.fromarray(np.concatenate([np.asarray(picture) for picture in drawn]))
    with replacing(file) as partial:
        sheet.save(partial, format="png")


def write_captions(model: MF2ForConditionalGeneration, processor: MF2Processor, inputs: Any) -> list[dict[str, str]]:
    """Generate every kind of caption that the model was trained on, for every image, as the recognisers support it."""
    written = {}
    for kind in caption_kinds(model.config, model.label_space):
        settings = {"caption_kind": kind, "rerank": "agreement", "tokenizer": processor.tokenizer}
        ids = model.generate(inputs["pixel_values"], inputs["au_boxes"], **settings)
        written[kind] = processor.batch_decode(ids)
    return [{kind: texts[index] for kind, texts in written.items()} for index in range(len(inputs["pixel_values"]))]


def _region_corners(boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Convert `(A, 2, 4)` boxes in [0, 1] to `(A, 2, 4, 2)` corners in pixels; `size` is width and height."""
    return boxes_to_corners(boxes.cpu().numpy() * (*size, *size))


def _describe(
    state: Mapping[str, Any],
    captions: Mapping[str, str],
    regions_px: np.ndarray,
    example: FaceExample,
    label_space: LabelSpace,
) -> FaceState:
    """Combine an example's predictions and labels for drawing."""
    is_labelled = bool(label_space.emotions) and example.emotion != EMOTION_UNLABELLED
    emotion = state.get("emotion", "")
    labels = dict(zip(label_space.au_codes, example.aus, strict=True))
    return FaceState(
        title="",
        regions_px=regions_px[: len(label_space.au_ids)],
        aus=state.get("aus", {}),
        thresholds=label_space.thresholds_by_code,
        emotion=emotion,
        emotion_prob=state["emotions"][emotion] if emotion else 0.0,
        captions=captions,
        active_labels=[code for code, label in labels.items() if label == 1],
        inactive_labels=[code for code, label in labels.items() if label == 0],
        emotion_label=label_space.emotions[example.emotion] if is_labelled else "",
    )
