"""The metadata of an exported file: the meaning of its outputs, and the preprocessing of pictures."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ..labels_mf2 import LabelSpace

METADATA_KEY = "mf2"
"""Key of the JSON object in a file's metadata."""
INPUT_NAMES = ("pixel_values", "au_boxes")
PREPROCESSING_FIELDS = (
    "image_size",
    "image_mean",
    "image_std",
    "rescale_factor",
    "do_align",
    "eye_centers",
    "au_region_size",
)
"""Fields that determine the preprocessing of a picture."""


@dataclass(frozen=True)
class FileDescription:
    """The JSON object in a file's metadata.

    Args:
        version: version of mf2 that wrote the file.
        dtype: of the weights; inputs and outputs are float32.
        au_codes, au_names, au_thresholds: of the AU outputs, in order.
        region_au_codes: AUs of the input `au_boxes`, in order.
        emotions: of the emotion outputs, in order.
        image_size: height and width of `pixel_values`.
        image_mean, image_std: of red, green and blue, for values in [0, 1].
        rescale_factor: factor applied to pixel values 0…255 before normalisation.
        do_align: whether faces with landmarks are aligned by their eyes.
        au_region_size: side of an AU box as a fraction of the image.
        eye_centers: x and y of both eye centres in an aligned image as fractions, image left first.
        landmark_detector: the detector that the checkpoint prefers.
        affect: whether valence and arousal are outputs; files without the field have none.
        int8: of a file in int8 its layers, faces and scores, see `Int8Record`; None of others.
    """

    version: str
    dtype: str
    au_codes: list[str]
    au_names: list[str]
    au_thresholds: list[float]
    region_au_codes: list[str]
    emotions: list[str]
    image_size: list[int]
    image_mean: list[float]
    image_std: list[float]
    rescale_factor: float
    do_align: bool
    au_region_size: float
    eye_centers: list[list[float]]
    landmark_detector: str
    int8: dict[str, Any] | None = None
    affect: bool = False

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: Path) -> "FileDescription":
        """Read it from a file's metadata.

        Raises:
            ValueError: the file was not written by `mf2 export`, or by an older version without all fields.
        """
        if METADATA_KEY not in metadata:
            raise ValueError(f"{file} was not written by `mf2 export --onnx`: its metadata have no {METADATA_KEY!r}.")
        content = json.loads(metadata[METADATA_KEY])
        required = [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [name for name in required if name not in content]:
            raise ValueError(
                f"{file} was exported by mf2 {content.get('version')}, which did not write {', '.join(missing)}; "
                "export it again: mf2 export --model CHECKPOINT --onnx FILE"
            )
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})

    @property
    def label_space(self) -> LabelSpace:
        """AUs, emotions, and valence and arousal, of the outputs."""
        au_ids, regions = (
            tuple(int(code.removeprefix("AU")) for code in codes) for codes in (self.au_codes, self.region_au_codes)
        )
        return LabelSpace(au_ids, tuple(self.emotions), tuple(self.au_thresholds), regions, self.affect)

    @property
    def size(self) -> dict[str, int]:
        """`height` and `width` of the model's input, as in an image processor."""
        return dict(zip(("height", "width"), self.image_size, strict=True))

    def has_same_preprocessing(self, other: "FileDescription") -> bool:
        """Whether both models get the same pixels."""
        return all(getattr(self, name) == getattr(other, name) for name in PREPROCESSING_FIELDS)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the metadata."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
