"""Converts pictures of faces to aligned, normalised `pixel_values` and AU boxes.

The steps for one picture: read (any format, upright, 8-bit RGB) → locate faces (68 points, given or detected, or none)
→ compose alignment, resize and augmentation into *one* affine matrix → sample once → colour changes and normalisation.
The landmarks are mapped by the same matrix, and the AU boxes are computed from them at the end, so that the boxes are
consistent with the picture under every transform.

Coordinates are those of `regions_mf2`: continuous, an image spans [0, width] × [0, height]. Pixels outside of a
picture are black.

The two backends only differ in sampling: `MF2ImageProcessor` uses torch, in batches and on any device (it has
transformers' name "torchvision" but does not need torchvision), `MF2ImageProcessorPil` uses Pillow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch.nn import functional as F
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .images_mf2 import ImageSource, image_name, is_rescaled, read_image, split_images
from .labels_mf2 import AU_IDS, EYE_CENTERS, FLIP_68, NUM_LANDMARKS, get_action_unit
from .landmarks_mf2 import (
    PREFERRED_DETECTOR,
    LandmarkDetector,
    check_landmark_word,
    detect_in_pictures,
    find_detector,
)
from .regions_mf2 import affine, align_faces, apply_matrix, au_boxes_from_landmarks, check_landmarks, cover_matrix
from .sampling_mf2 import sample_pil, shrink_source

logger = logging.get_logger(__name__)

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R BT.601)."""


# ---------------------------------------------------------------------------------------------------- augmentation
@dataclass(frozen=True)
class Augmentation:
    """Random augmentation for training: crop, horizontal flip, rotation and colour changes.

    The crop is torchvision's RandomResizedCrop of the aligned face with a fixed aspect ratio, because AUs depend on
    the proportions of the face. A flip also swaps the left and right points.

    Args:
        crop_scale: range of the crop's area as a fraction of the aligned image, within (0, 1].
        flip: probability of the horizontal flip.
        rotation_deg: maximal rotation about the centre in both directions, in degrees.
        brightness, contrast, saturation: maximal relative change in both directions, in [0, 1].
    """

    crop_scale: tuple[float, float] = (0.8, 1.0)
    flip: float = 0.5
    rotation_deg: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; it must be a range within (0, 1].")
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1].")
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"rotation_deg is {self.rotation_deg}; it must lie in [0, 180].")

    def sample(self, rng: np.random.Generator) -> "AugmentationSample":
        """Draw one augmentation. Every call draws the same number of random values, for any ranges."""
        area, x, y, flip, angle, *colours = rng.random(8)
        low, high = self.crop_scale
        side = float(np.sqrt(low + (high - low) * area))
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (1 + r * (2 * u - 1) for r, u in zip(ranges, colours, strict=True))
        return AugmentationSample(
            crop_xy=((1 - side) * x, (1 - side) * y),
            crop_side=side,
            flip=bool(flip < self.flip),
            angle_rad=float(np.deg2rad(self.rotation_deg * (2 * angle - 1))),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
        )


class AugmentationSample(NamedTuple):
    """One drawn augmentation; lengths are fractions of the aligned image."""

    crop_xy: tuple[float, float] = (0.0, 0.0)
    crop_side: float = 1.0
    flip: bool = False
    angle_rad: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def matrix(self, size: tuple[int, int]) -> np.ndarray:
        """`(3, 3)`: pixels of the aligned image to pixels of the augmented one; rotate, then crop, then flip."""
        extent = np.array(size[::-1], dtype=np.float64)
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        rotation = np.array([[cos, -sin], [sin, cos]])
        matrix = affine(rotation, extent / 2 - rotation @ extent / 2)
        matrix = affine(np.eye(2) / self.crop_side, -np.array(self.crop_xy) * extent / self.crop_side) @ matrix
        if self.flip:
            matrix = affine(np.diag((-1.0, 1.0)), (extent[0], 0.0)) @ matrix
        return matrix


def draw_augmentations(
    augment: Augmentation, seeds: Sequence[int] | None, num_images: int
) -> list[AugmentationSample]:
    """Draw one augmentation per image, as a function of its seed, or of fresh randomness without seeds."""
    if seeds is None:
        return [augment.sample(np.random.default_rng()) for _ in range(num_images)]
    if len(seeds) != num_images:
        raise ValueError(f"{len(seeds)} augment_seeds for {num_images} images; give one for each.")
    return [augment.sample(np.random.default_rng(seed)) for seed in seeds]


def augment_geometry(
    samples: Sequence[AugmentationSample], matrices: np.ndarray, landmarks_px: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Add an augmentation to each matrix into the target, `(N, 3, 3)`, and to the landmarks there, `(N, 68, 2)`."""
    changes = np.stack([sample.matrix(size) for sample in samples])
    landmarks_px = apply_matrix(landmarks_px, changes)
    flipped = np.array([sample.flip for sample in samples])
    landmarks_px[flipped] = landmarks_px[flipped][:, FLIP_68]
    return changes @ matrices, landmarks_px


def jitter_colors(pixels: torch.Tensor, samples: Sequence[AugmentationSample]) -> torch.Tensor:
    """Change brightness, contrast and saturation, in this order, by one linear map of the colours of each image.

    Each change blends the image with another one, as in torchvision: black, its mean grey, and its grey version.

    Args:
        pixels: `(batch, 3, H, W)` float in [0, 255].
        samples: one augmentation per image.
    Returns:
        The same shape, clamped to [0, 255] once at the end.
    """
    factors = torch.tensor([(s.brightness, s.contrast, s.saturation) for s in samples])
    brightness, contrast, saturation = factors.to(pixels).view(-1, 3, 1, 1).unbind(dim=1)
    luma = pixels.new_tensor(LUMA)
    mean_gray = pixels.mean(dim=(2, 3)) @ luma  # (batch,)

    colors = saturation * torch.eye(3).to(pixels) + (1 - saturation) * luma.expand(3, 3)  # grey stays grey
    colors = colors * brightness * contrast  # (batch, 3, 3)
    shift = ((1 - contrast) * brightness).flatten() * mean_gray
    mixed = torch.baddbmm(shift.view(-1, 1, 1), colors, pixels.flatten(2))
    return mixed.clamp_(0, 255).view_as(pixels)


# -------------------------------------------------------------------------------------------------------- sampling
def sample_torch(images: np.ndarray, matrices: np.ndarray, size: tuple[int, int], device: Any = None) -> torch.Tensor:
    """Sample pictures of equal shape bilinearly; pixels outside of them are black.

    Args:
        images: `(batch, H, W, 3)` uint8.
        matrices: `(batch, 3, 3)`, pixels of the images to pixels of the target.
        size: height and width of the target.
        device: device of the computation.
    Returns:
        `(batch, 3, height, width)` float32 in [0, 255].
    """
    height, width = images.shape[1:3]
    to_unit = affine(np.diag((2 / width, 2 / height)), (-1.0, -1.0))
    inverse = torch.from_numpy((to_unit @ np.linalg.inv(matrices))[:, :2]).float().to(device)
    ys = torch.arange(size[0], device=inverse.device).view(1, -1, 1, 1) + 0.5
    xs = torch.arange(size[1], device=inverse.device).view(1, 1, -1, 1) + 0.5
    across, down, shift = inverse[:, None, None].unbind(dim=-1)  # (batch, 1, 1, 2) each
    grid = xs * across + (ys * down + shift)  # (batch, height, width, 2) in [-1, 1] inside of the picture

    pixels = torch.from_numpy(images).to(inverse.device).permute(0, 3, 1, 2).contiguous().float()
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    is_outside = grid.abs().amax(dim=-1) > 1
    return sampled.masked_fill_(is_outside[:, None], 0.0)


def crop_boxes(pixels: torch.Tensor, boxes: torch.Tensor, crop_size: tuple[int, int]) -> torch.Tensor:
    """Crop normalised boxes bilinearly: `(N, 3, H, W)`, `(N, A, 2, 4)` -> `(N, A, 2, 3, height, width)`."""
    height, width = crop_size
    x1, y1, x2, y2 = boxes.flatten(1, 2)[..., None].unbind(dim=2)  # (N, 2A, 1) each
    xs = x1 + (x2 - x1) * (torch.arange(width, device=boxes.device) + 0.5) / width
    ys = y1 + (y2 - y1) * (torch.arange(height, device=boxes.device) + 0.5) / height
    shape = (*xs.shape[:2], height, width)
    grid = torch.stack((xs[:, :, None].expand(shape), ys[..., None].expand(shape)), dim=-1) * 2 - 1
    crops = F.grid_sample(pixels, grid.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False)
    crops = crops.view(len(pixels), 3, *boxes.shape[1:3], height, width)  # (N, 3, A, 2, height, width)
    return crops.permute(0, 2, 3, 1, 4, 5).contiguous()


# -------------------------------------------------------------------------------------------------- locating faces
GivenLandmarks = np.ndarray | torch.Tensor | Sequence[ArrayLike | None]
Landmarks = GivenLandmarks | str | LandmarkDetector | None


def given_faces(
    landmarks: GivenLandmarks, images: Sequence[np.ndarray], names: Sequence[str]
) -> list[np.ndarray | None]:
    """Convert given landmarks to one `(faces, 68, 2)` array, or None, for each picture.

    Args:
        landmarks: `(68, 2)` for a single picture, `(pictures, 68, 2)`, or a list with `(68, 2)`, `(faces, 68, 2)` or
            None for each picture. A face with only NaN counts as None.
        images: the pictures, `(height, width, 3)`; a warning names those whose points lie outside.
        names: names of the pictures in messages.
    """
    is_one_face = len(landmarks) > 0 and np.shape(landmarks[0]) == (2,)
    entries = [landmarks] if is_one_face else list(landmarks)
    if len(entries) != len(images):
        raise ValueError(f"{len(entries)} sets of landmarks for {len(images)} images; give one (or None) for each.")
    return [_check_picture_landmarks(*entry) for entry in zip(entries, images, names, strict=True)]


def _check_picture_landmarks(entry: ArrayLike | None, image: np.ndarray, name: str) -> np.ndarray | None:
    if entry is None:
        return None
    try:
        faces = np.asarray(entry, dtype=np.float64)
        faces = faces[None] if faces.ndim == 2 else faces
        if faces.ndim == 3:
            faces = faces[~np.isnan(faces).all(axis=(1, 2))]
        if not len(faces):
            return None
        faces = check_landmarks(faces)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The landmarks of {name} cannot be used: {error}") from error
    centers, (height, width) = faces.mean(axis=1), image.shape[:2]
    if not ((centers >= 0) & (centers <= (width, height))).all():
        x, y = centers[0]
        logger.warning(
            f"The landmarks of {name} lie about ({x:.0f}, {y:.0f}), outside of its {width}×{height} pixels; they must "
            "be in pixels of this picture, EXIF orientation applied."
        )
    return faces


def detect_faces(
    detector: LandmarkDetector, images: Sequence[np.ndarray], names: Sequence[str]
) -> list[np.ndarray | None]:
    """Detect the `(faces, 68, 2)` landmarks of each image; None with a warning if there is no face."""
    landmarks = [[face.landmarks_px for face in faces] for faces in detect_in_pictures(detector, images)]
    for name, points in zip(names, landmarks, strict=True):
        if not points:
            logger.warning(f"No face was found in {name}: it is taken as a face crop, with mean-face regions.")
    return [np.stack(points).astype(np.float64) if points else None for points in landmarks]


def largest_face(faces: np.ndarray) -> np.ndarray:
    """The face whose points have the largest bounding box: `(faces, 68, 2)` -> `(1, 68, 2)`."""
    width_height = faces.max(axis=1) - faces.min(axis=1)
    return faces[[width_height.prod(axis=-1).argmax()]]


# -------------------------------------------------------------------------------------- the base class's settings
def _refuse_unsupported(settings: dict[str, Any]) -> None:
    """Raise a `ValueError` for a setting of transformers' base class that has no effect here."""
    bilinear = Image.Resampling.BILINEAR
    resample = settings.get("resample")
    unsupported = {
        "resample": (
            resample not in (None, bilinear),
            "pictures are sampled bilinearly, without aliasing; leave it out",
        ),
        "do_convert_rgb": (settings.get("do_convert_rgb") is False, "the model reads RGB; leave it out"),
        "data_format": (
            settings.get("data_format") not in (None, "channels_first"),
            "pixel_values are channels first; move the axis of what is returned",
        ),
        "return_tensors": (settings.get("return_tensors") not in (None, "pt", "np"), "it must be 'pt' or 'np'"),
    }
    for name, (is_set, advice) in unsupported.items():
        if is_set:
            raise ValueError(f"{name} is {settings[name]}: {advice}.")


def _check_sizes(pictures: Sequence[np.ndarray], names: Sequence[str], settings: dict[str, Any]) -> None:
    """Check that pictures have the size of the model if `do_resize` is False."""
    if settings.get("do_resize") is not False:
        return
    size = (settings["size"].height, settings["size"].width)
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape[:2] != size:
            height, width = picture.shape[:2]
            raise ValueError(
                f"do_resize is False, but {name} is {width}×{height} pixels and size {size[1]}×{size[0]}; leave "
                "do_resize out, or give pictures of that size."
            )


def _scale_factors(images: Sequence[ImageSource], names: Sequence[str], settings: dict[str, Any]) -> list[float]:
    """The factor for the 0…255 values of each picture.

    It is `rescale_factor` or, with `do_rescale=False`, the factor that restores the values of the input.
    """
    if settings["do_rescale"]:
        return [settings["rescale_factor"]] * len(images)
    factors = [1 / 255 if is_rescaled(source) else 1.0 for source in images]
    if settings["do_normalize"] and 1.0 in factors:
        raise ValueError(
            f"do_rescale is False, but the values of {names[factors.index(1.0)]} go to 255, and image_mean and "
            "image_std are for [0, 1]; leave do_rescale out, give floats in [0, 1], or set do_normalize=False, too."
        )
    return factors


# ------------------------------------------------------------------------------------------------------ processors
class MF2ImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings of the processor, which can also be passed in a call.

    do_align (`bool`): align faces with landmarks by their eyes; otherwise an image is only resized.
    au_ids (`list[int]`): the AUs for which boxes are made, in output order.
    au_region_size (`float`): side of an AU box as a fraction of the image.
    eye_centers (`list[list[float]]`): the template, x and y of both eye centres as fractions, image left first.
    landmark_detector (`str`): the registered detector that `landmarks="detect"` prefers; in a call, the one it runs.
    landmark_model_file (`str`): model file of that detector, in a call only; see `landmarks_mf2.find_model_file`.
    max_pixels (`int`): maximal number of pixels of a picture.
    """

    do_align: bool | None
    au_ids: list[int] | tuple[int, ...] | None
    au_region_size: float | None
    eye_centers: list | tuple | None
    landmark_detector: str | None
    landmark_model_file: str | None
    max_pixels: int | None


class _FaceCall(NamedTuple):
    """The arguments of `preprocess` besides the pictures and the settings."""

    landmarks: Landmarks
    face: str
    augment: Augmentation | None
    augment_seeds: Sequence[int] | None
    return_au_crops: bool
    detector: str | None
    model_file: str | None


class _FaceImageProcessing(BaseImageProcessor):
    """The common parts of the two backends, which add `_sample`."""

    valid_kwargs = MF2ImageProcessorKwargs
    size = {"height": 224, "width": 224}
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_rescale = True
    do_normalize = True
    do_align = True
    au_ids = list(AU_IDS)
    au_region_size = 0.14
    eye_centers = [list(center) for center in EYE_CENTERS]
    landmark_detector = PREFERRED_DETECTOR
    max_pixels = 2**26
    model_input_names = ["pixel_values", "au_boxes", "au_ids"]

    def preprocess(
        self,
        images: ImageSource | Iterable[ImageSource],
        landmarks: Landmarks = None,
        face: str = "largest",
        augment: Augmentation | None = None,
        augment_seeds: Sequence[int] | None = None,
        return_au_crops: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Align, resize, augment and normalise faces, and place their AU boxes.

        Args:
            images: one or several pictures of any sizes, see `read_image`.
            landmarks: 68 points in pixels of the (EXIF-upright) picture: `(68, 2)` for one, `(images, 68, 2)`, or a
                list with None for pictures without points; `"detect"` or a detector to detect them; `"mean_face"` or
                None to treat every picture as a face crop, whose centre fills the target, with the boxes of the mean
                face.
            face: `"largest"`, or `"all"` for one row per face of a picture.
            augment: random augmentation, for training.
            augment_seeds: one seed per image, which determines its augmentation; random by default.
            return_au_crops: also return the pixels of the AU boxes.
            return_tensors: `"pt"` or `"np"`.
            **kwargs: any of `MF2ImageProcessorKwargs`, for this call; `device` is the device of the sampling. With
                `do_rescale=False`, floats in [0, 1] stay unchanged; so do values in 0…255, which cannot be normalised.
        Returns:
            For N faces, A AUs:
            - **pixel_values** `(N, 3, H, W)` float32.
            - **au_boxes** `(N, A, 2, 4)` float32, x1 y1 x2 y2 in [0, 1] of the processed image.
            - **au_ids** `(N, A)` int64, the AUs of the boxes.
            - **align_matrix** `(N, 2, 3)` float32, pixels of the picture to pixels of the processed image.
            - **landmarks_px** `(N, 68, 2)` float32, pixels of the processed image.
            - **landmarks_found** `(N,)` bool, False if the mean face was used.
            - **image_index** `(N,)` int64, the index of the picture of each row.
            - **au_crops** `(N, A, 2, 3, h, w)` float32, if requested.
        Raises:
            ValueError: an unreadable picture, invalid landmarks or an invalid option; the message has a remedy.
        """
        detector, model_file = (kwargs.pop(name, None) for name in ("landmark_detector", "landmark_model_file"))
        call = _FaceCall(landmarks, face, augment, augment_seeds, return_au_crops, detector, model_file)
        return super().preprocess(split_images(images), call, return_tensors=return_tensors, **kwargs)

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        if not (kwargs["size"].height and kwargs["size"].width):
            raise ValueError(f"size is {dict(kwargs['size'])}; give height and width.")
        for name in ("crop_size", "do_center_crop", "pad_size", "do_pad"):
            if kwargs.get(name):
                raise ValueError(f"{name} is {kwargs[name]}, which has no effect here; set size, do_align or augment.")
        _refuse_unsupported(kwargs)
        kwargs["au_ids"] = [get_action_unit(int(au_id)).id for au_id in kwargs["au_ids"]]
        if np.shape(kwargs["eye_centers"]) != (2, 2):
            raise ValueError(f"eye_centers is {kwargs['eye_centers']}; give x and y of both, image left first.")
        return kwargs

    def _preprocess_image_like_inputs(
        self, images: list[ImageSource], call: _FaceCall, **settings: Any
    ) -> BatchFeature:
        names = [image_name(source, image_idx) for image_idx, source in enumerate(images)]
        options = {"max_pixels": settings["max_pixels"], "channels": settings["input_data_format"]}
        pictures = [read_image(source, name, **options) for source, name in zip(images, names, strict=True)]
        _check_sizes(pictures, names, settings)
        factors = _scale_factors(images, names, settings)
        image_idx, source_landmarks = self._locate(pictures, names, call, settings)
        size = (settings["size"].height, settings["size"].width)

        covers = np.stack([cover_matrix(picture.shape[:2], size) for picture in pictures])[image_idx]
        matrices, landmarks_px, is_found = align_faces(
            source_landmarks, covers, size, settings["eye_centers"], settings["do_align"]
        )
        if call.augment:
            samples = draw_augmentations(call.augment, call.augment_seeds, len(pictures))
            samples = [samples[idx] for idx in image_idx]
            matrices, landmarks_px = augment_geometry(samples, matrices, landmarks_px, size)

        pixels = self._sample([pictures[idx] for idx in image_idx], matrices, size, settings["device"])
        if call.augment:
            pixels = jitter_colors(pixels, samples)
        boxes = au_boxes_from_landmarks(landmarks_px, size, settings["au_ids"], settings["au_region_size"])
        data = {
            "pixel_values": self._normalize(
                pixels.mul_(pixels.new_tensor(factors)[image_idx].view(-1, 1, 1, 1)), settings
            ),
            "au_boxes": torch.from_numpy(boxes),
            "au_ids": torch.tensor(settings["au_ids"], dtype=torch.int64).expand(len(boxes), -1).contiguous(),
            "align_matrix": torch.from_numpy(matrices[:, :2]).float(),
            "landmarks_px": torch.from_numpy(landmarks_px).float(),
            "landmarks_found": torch.from_numpy(is_found),
            "image_index": torch.from_numpy(image_idx),
        }
        data = {name: tensor.to(pixels.device) for name, tensor in data.items()}
        if call.return_au_crops:
            crop_size = tuple(max(1, round(settings["au_region_size"] * side)) for side in size)
            data["au_crops"] = crop_boxes(data["pixel_values"], data["au_boxes"], crop_size)
        return BatchFeature(data, tensor_type=settings["return_tensors"])

    def _locate(
        self, pictures: Sequence[np.ndarray], names: Sequence[str], call: _FaceCall, settings: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The faces to process: image index `(N,)` and landmarks in that image `(N, 68, 2)`, NaN without landmarks."""
        if call.face not in ("largest", "all"):
            raise ValueError(f"face is {call.face!r}; it must be 'largest' or 'all'.")
        landmarks = check_landmark_word(call.landmarks)
        if isinstance(landmarks, str):
            preferred, device = self.landmark_detector, settings["device"]
            landmarks = find_detector(preferred, device, call.detector, call.model_file)

        faces: list[np.ndarray | None] = [None] * len(pictures)
        if isinstance(landmarks, LandmarkDetector):
            faces = detect_faces(landmarks, pictures, names)
        elif landmarks is not None:
            faces = given_faces(landmarks, pictures, names)
        rows = [np.full((1, NUM_LANDMARKS, 2), np.nan) if points is None else points for points in faces]
        if call.face == "largest":
            rows = [largest_face(row) for row in rows]
        return np.repeat(np.arange(len(rows)), [len(row) for row in rows]), np.concatenate(rows)

    def _normalize(self, pixels: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
        """Normalise rescaled pixels `(N, 3, H, W)` in place."""
        if settings["do_normalize"]:
            mean, std = (pixels.new_tensor(settings[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
            pixels.sub_(mean).div_(std)
        return pixels

    def _sample(
        self, images: Sequence[np.ndarray], matrices: np.ndarray, size: tuple[int, int], device: Any
    ) -> torch.Tensor:
        """Sample `(H, W, 3)` uint8 pictures by `(N, 3, 3)` matrices -> `(N, 3, height, width)` float32 in [0, 255]."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The settings. `auto_map` names both backends (Pillow's first), so that remote code finds either."""
        settings = super().to_dict()
        if "AutoImageProcessor" in settings.get("auto_map", {}):
            module = __name__.rsplit(".", 1)[-1]
            classes = (MF2ImageProcessorPil, MF2ImageProcessor)
            settings["auto_map"]["AutoImageProcessor"] = [f"{module}.{entry.__name__}" for entry in classes]
        return settings


class MF2ImageProcessor(_FaceImageProcessing, TorchvisionBackend):
    """The image processor with torch; see `MF2ImageProcessorKwargs` for the settings."""

    def _sample(
        self, images: Sequence[np.ndarray], matrices: np.ndarray, size: tuple[int, int], device: Any
    ) -> torch.Tensor:
        sources = [shrink_source(image, matrix, size) for image, matrix in zip(images, matrices, strict=True)]
        rows_by_shape: dict[tuple[int, ...], list[int]] = {}
        for row, (source, _) in enumerate(sources):
            rows_by_shape.setdefault(source.shape, []).append(row)
        pixels = torch.empty(len(images), 3, *size, device=device)
        for rows in rows_by_shape.values():
            batch, batch_matrices = (np.stack(parts) for parts in zip(*(sources[row] for row in rows), strict=True))
            pixels[rows] = sample_torch(batch, batch_matrices, size, device)
        return pixels


class MF2ImageProcessorPil(_FaceImageProcessing, PilBackend):
    """The image processor with Pillow; its samples only differ from those of torch by rounding."""

    def _sample(
        self, images: Sequence[np.ndarray], matrices: np.ndarray, size: tuple[int, int], device: Any
    ) -> torch.Tensor:
        sources = [shrink_source(image, matrix, size) for image, matrix in zip(images, matrices, strict=True)]
        sampled = np.stack([sample_pil(source, matrix, size) for source, matrix in sources])
        return torch.from_numpy(sampled).to(device)


__all__ = ["Augmentation", "MF2ImageProcessor", "MF2ImageProcessorPil"]
