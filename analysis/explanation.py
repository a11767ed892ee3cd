"""Explanation of a face: probabilities, AU regions, captions with their check, and saliency maps; and its picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..caption_meaning_mf2 import CaptionFlags, flag_caption
from ..dataset_tools.contact_sheet import draw_grid
from ..evaluation.caption_scores import caption_kinds
from ..labels_mf2 import ACTION_UNITS
from ..utils.drawing import FaceState, compose, panel_height, to_pixels
from .caption_check import CAPTION_PREFIX
from .faces import Face
from .media import Frame
from .overlay import region_corners
from .recognizer import Recognizer
from .saliency import au_saliency, draw_saliency

MIN_SHOWN = 3
"""Minimum number of saliency maps; if fewer AUs are active, those of the most probable AUs."""
MAP_PX, MAP_COLUMNS = 180, 6
PANEL_LINES = 18


@dataclass(frozen=True)
class Explanation:
    """What a model recognises in a face.

    Args:
        frame, face: the frame and the face in it.
        inputs: the model's inputs, `pixel_values` `(1, 3, H, W)` and `au_boxes` `(1, A, 2, 4)`.
        regions_px: `(A, 2, 4, 2)`, corners of the AU regions in pixels of the picture.
        row: column -> probability, and `emotion`, the most probable one.
        thresholds: AU code -> probability from which the AU is active.
        captions: kind -> caption.
        flags: kind -> parts of the caption that the probabilities do not support.
    """

    frame: Frame
    face: Face
    inputs: Mapping[str, torch.Tensor]
    regions_px: np.ndarray
    row: Mapping[str, Any]
    thresholds: Mapping[str, float]
    captions: Mapping[str, str]
    flags: Mapping[str, CaptionFlags]

    @property
    def aus(self) -> dict[str, float]:
        """AU code -> probability."""
        return {code: self.row[code] for code in self.thresholds}

    @property
    def active(self) -> list[str]:
        """Codes of the AUs at or above their threshold."""
        return [code for code, prob in self.aus.items() if prob >= self.thresholds[code]]

    def to_dict(self) -> dict[str, Any]:
        """The explanation as a JSON object."""
        detected = self.face.detected
        return {
            "face": self.face.id,
            "box": None if detected is None else [round(float(side), 1) for side in detected.box_xyxy_px],
            **{name: value for name, value in self.row.items() if name not in self.aus},
            "aus": self.aus,
            "thresholds": dict(self.thresholds),
            "active": self.active,
            "regions_px": dict(zip(self.aus, self.regions_px.round(1).tolist(), strict=True)),
            "captions": dict(self.captions),
            "unsupported": {kind: flags.unsupported for kind, flags in self.flags.items()},
            "rival_emotions": {kind: flags.rivals for kind, flags in self.flags.items()},
            "denied": {kind: flags.denied for kind, flags in self.flags.items()},
        }

    def to_text(self) -> str:
        """A line on the recognised state, and one per caption with its flags."""
        active = ", ".join(f"{code} {self.aus[code]:.0%}" for code in self.active) or "no active AU"
        lines = [f"face {self.face.id}: {self.row.get('emotion', '')} {active}".replace("  ", " ")]
        for kind, caption in self.captions.items():
            flag = f"  [{flags}]" if (flags := self.flags[kind]) else ""
            lines.append(f"  {kind}: {' '.join(caption.split())}{flag}")
        return "\n".join(lines)


def explain(recognizer: Recognizer, frame: Frame, face: Face, rerank: str | None = "agreement") -> Explanation:
    """Recognise a face, generate its captions and check them; `rerank` as in `Recognizer.write_captions`."""
    model = recognizer.model
    batch = recognizer.image_processor([frame.image], landmarks=[face.landmarks_px])
    (row,) = recognizer.recognize(batch)
    (captions,) = recognizer.write_captions(batch, caption_kinds(model.config, model.label_space), rerank)
    captions = {name.removeprefix(CAPTION_PREFIX): text for name, text in captions.items()}
    space = recognizer.label_spaces[""]
    thresholds = space.thresholds_by_code
    return Explanation(
        frame=frame,
        face=face,
        inputs=batch,
        regions_px=region_corners(face.landmarks_px, frame.size, space.au_ids, recognizer.image_processor),
        row=row,
        thresholds=thresholds,
        captions=captions,
        flags={kind: flag_caption(kind, text, row, thresholds) for kind, text in captions.items()},
    )


# ------------------------------------------------------------------------------------------------------------ drawing
def draw_explanation(explanation: Explanation, recognizer: Recognizer) -> Image.Image:
    """Draw the face with its regions, probabilities and captions above the saliency maps (none without AUs)."""
    emotion = explanation.row.get("emotion", "")
    state = FaceState(
        title=f"face {explanation.face.id}",
        regions_px=explanation.regions_px,
        aus=explanation.aus,
        thresholds=explanation.thresholds,
        emotion=emotion,
        emotion_prob=explanation.row.get(f"emotion_{emotion}", 0.0),
        captions=explanation.captions,
    )
    height = panel_height(len(explanation.aus), PANEL_LINES)
    if explanation.frame.image is None:
        raise ValueError(f"{explanation.frame.source.name} has no picture to draw on: {explanation.frame.error}")
    face_panel = compose(Image.fromarray(explanation.frame.image), [state], 1, height)
    if not explanation.aus:
        return face_panel
    maps_panel = draw_maps(explanation, recognizer)
    size = (max(face_panel.width, maps_panel.width), face_panel.height + maps_panel.height)
    picture = Image.new("RGB", size, maps_panel.getpixel((0, 0)))
    picture.paste(face_panel, (0, 0))
    picture.paste(maps_panel, (0, face_panel.height))
    return picture


def draw_maps(explanation: Explanation, recognizer: Recognizer) -> Image.Image:
    """Draw the saliency maps of the active AUs (at least those of the `MIN_SHOWN` most probable), by probability."""
    codes = sorted(explanation.aus, key=explanation.aus.__getitem__, reverse=True)
    shown = [code for code in codes if code in explanation.active or codes.index(code) < MIN_SHOWN]
    order = list(explanation.aus)
    pixel_values, au_boxes = (
        explanation.inputs[name][0].to(recognizer.device) for name in ("pixel_values", "au_boxes")
    )
    maps = au_saliency(recognizer.model, pixel_values, au_boxes, [order.index(code) for code in shown])
    pixels = to_pixels(pixel_values, recognizer.image_processor)
    cells = [
        (
            draw_saliency(pixels, saliency, MAP_PX),
            f"{code}  {explanation.aus[code]:.0%}",
            ACTION_UNITS[int(code[2:])].name,
        )
        for code, saliency in zip(shown, maps, strict=True)
    ]
    return draw_grid(cells, min(MAP_COLUMNS, len(cells)), MAP_PX)
