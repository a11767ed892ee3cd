"""Reads pictures from any source as 8-bit RGB arrays, with one clear error for unreadable ones."""

import base64
import binascii
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard, Union, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps

if TYPE_CHECKING:
    import torch

ImageSource = Union[str, os.PathLike, bytes, BinaryIO, Mapping[str, Any], Image.Image, np.ndarray, "torch.Tensor"]

MIN_SIDE = 8
UPRIGHT = 1
"""The EXIF orientation of an upright picture."""


def _is_tensor(source: Any) -> "TypeGuard[torch.Tensor]":
    """Whether `source` is a tensor, without importing torch."""
    return isinstance(source, getattr(sys.modules.get("torch"), "Tensor", ()))


def _is_array(source: Any) -> "TypeGuard[np.ndarray | torch.Tensor]":
    return isinstance(source, np.ndarray) or _is_tensor(source)


def split_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """Split one picture, a list of pictures, or a batched array `(batch, …)` into a list of single pictures."""
    if isinstance(images, (str, bytes, os.PathLike, Image.Image, Mapping)) or hasattr(images, "read"):
        return [cast(ImageSource, images)]
    if _is_array(images):
        return list(images) if images.ndim == 4 else [images]
    images = list(images)
    if not images:
        raise ValueError("No images were given: the list is empty.")
    return images


def read_image(
    source: ImageSource, name: str = "the image", max_pixels: int = 2**26, channels: str | None = None
) -> np.ndarray:
    """Read any picture as upright 8-bit RGB.

    Args:
        source: a path, the bytes of an image file, a file object open for reading bytes, a data URI
            (`data:image/…;base64,…`), the undecoded image of a data set (`{"bytes": …, "path": …}`), a PIL image, or
            an array or tensor: `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels. Integers are 8-bit, or
            16-bit if a value exceeds 255 or the type is uint16; floats lie in [0, 1], or in [0, 255] if one exceeds 1.
        name: name of the picture in error messages.
        max_pixels: the maximal number of pixels, checked before a file is decoded.
        channels: `"channels_first"` or `"channels_last"` for arrays; inferred by default, with a preference for last.
    Returns:
        `(height, width, 3)` uint8. The EXIF orientation is applied; transparent pixels are blended with white.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a picture, or is too small or too large; the message has a remedy.
    """
    source = _unwrap(source, name)
    if _is_array(source):
        array = _from_array(source, name, max_pixels, channels)
    elif isinstance(source, Image.Image):
        array = _from_pil(source, name, max_pixels)
    elif isinstance(source, (str, bytes, os.PathLike)):
        with _open_file(source, name) as image:
            array = _from_pil(image, name, max_pixels)
    else:
        raise ValueError(
            f"{name} is a {type(source).__name__}; give a path, bytes, an open file, a data URI, a PIL image, an "
            "array or a tensor."
        )
    return array


def _unwrap(source: ImageSource, name: str) -> Any:
    """The bytes or the path in a file object, a data URI or an undecoded image; other sources stay unchanged."""
    if isinstance(source, Mapping):
        content = source.get("bytes")
        content = source.get("path") if content is None else content
        if content is None:
            raise ValueError(f"{name} has {', '.join(map(str, source)) or 'no keys'}; it needs 'bytes' or a 'path'.")
        return content
    if isinstance(source, str) and source.startswith("data:"):
        header, _, content = source.partition(",")
        try:
            if not header.endswith(";base64"):
                raise ValueError("it is not base64")
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{name} is no data URI of an image ({error}); write data:image/png;base64,….") from error
    if hasattr(source, "read") and not (isinstance(source, Image.Image) or _is_array(source)):
        stored = source.read()
        if not isinstance(stored, bytes):
            raise ValueError(f"{name} is a file that was opened as text; open it with mode 'rb'.")
        return stored
    return source


def _open_file(source: str | bytes | os.PathLike, name: str) -> Image.Image:
    """Open a file, reading only its header; errors of Pillow become a `ValueError`."""
    if not isinstance(source, bytes):
        is_address = str(source).startswith(("http://", "https://"))
        source = Path(source)
        if not source.exists():
            advice = "fetch it first, only the pipeline does" if is_address else "give a path on this machine"
            raise FileNotFoundError(f"{name} does not exist; {advice}.")
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if num_bytes == 0:
        raise ValueError(f"{name} is empty (0 bytes); remove it or fetch it again.")
    try:
        return _open_lazily(source)
    except OPEN_ERRORS as error:
        if _is_heif(source) and _register_heif(name):
            return _open_file(source, name)
        raise ValueError(f"{name} cannot be opened as an image ({error}); remove it or convert it.") from error


OPEN_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def _open_lazily(source: bytes | Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check_size` has its own bound
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""The brands of HEIC and HEIF files, which follow `ftyp`."""


def _is_heif(source: bytes | Path) -> bool:
    """Whether it is a HEIC or HEIF picture, as iPhones make them."""
    if isinstance(source, Path):
        source = source.read_bytes() if source.is_file() else b""
    return source[4:8] == b"ftyp" and source[8:12] in HEIF_BRANDS


def _register_heif(name: str) -> bool:
    """Register HEIC with Pillow; False if it is registered already, a `ValueError` if pillow-heif is missing."""
    if "HEIF" in Image.OPEN:
        return False
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        raise ValueError(
            f"{name} is a HEIC picture, which needs pillow-heif ({error}): pip install 'mf2-face[heif]', or convert "
            "it to JPEG."
        ) from error
    return True


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{name} is {width}×{height} pixels; each side must have at least {MIN_SIDE}. Leave it out.")
    if width * height > max_pixels:
        raise ValueError(
            f"{name} is {width}×{height} = {width * height} pixels; at most {max_pixels} are accepted. Shrink it, or "
            "raise max_pixels if its source is trusted."
        )


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    _check_size(*image.size, name, max_pixels)
    try:
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT:
            image = ImageOps.exif_transpose(image)
        if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
            mode = "RGBA" if image.has_transparency_data else "RGB"
            image = image if image.mode == mode else image.convert(mode)  # which copies even what has the mode
        array = np.asarray(image)
    except Exception as error:  # decoders meet damaged data with errors of any type
        raise ValueError(
            f"{name} is damaged ({type(error).__name__}: {error}); remove it or fetch it again."
        ) from error
    return _to_rgb(array, name)


def _from_array(source: "np.ndarray | torch.Tensor", name: str, max_pixels: int, channels: str | None) -> np.ndarray:
    if _is_tensor(source):
        tensor = source.detach().cpu()
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    else:
        values = cast(np.ndarray, source)
    axis = 2 if values.ndim == 2 else _channel_axis(values.shape, name, channels)
    array = values if axis == 2 else np.moveaxis(values, axis, -1)
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    return _to_rgb(array, name)


def _to_rgb(array: np.ndarray, name: str) -> np.ndarray:
    """`(H, W)`, or `(H, W, C)` with 1, 3 or 4 channels, of any type -> `(H, W, 3)` uint8 on white."""
    array = np.atleast_3d(_to_uint8(array, name))
    if array.shape[-1] == 4:
        alpha = array[..., 3:] / 255.0
        return np.rint(array[..., :3] * alpha + 255.0 * (1 - alpha)).astype(np.uint8)
    return array if array.shape[-1] == 3 else np.broadcast_to(array, (*array.shape[:2], 3))


CHANNEL_AXES = {"channels_first": 0, "channels_last": 2}
"""The axis of the channels, by transformers' names."""


def _channel_axis(shape: tuple[int, ...], name: str, channels: str | None) -> int:
    channels = getattr(channels, "value", channels)  # of transformers' ChannelDimension
    if channels and channels not in CHANNEL_AXES:
        raise ValueError(f"The channels of {name} are {channels!r}; give one of {', '.join(CHANNEL_AXES)}.")
    candidates = [CHANNEL_AXES[channels]] if channels else [2, 0]
    for axis in candidates:
        if len(shape) == 3 and shape[axis] in (1, 3, 4):
            return axis
    raise ValueError(f"{name} has the shape {shape}; expected (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4.")


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Convert values of any type to 0…255, by the rules of `read_image`."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        full, limit, expected = (1.0 if high <= 1 else 255.0), 255, "[0, 1] or [0, 255]"
    else:
        is_deep = high > 255 or (array.dtype.kind, array.dtype.itemsize) == ("u", 2)
        full, limit, expected = (65535.0 if is_deep else 255.0), 65535, "[0, 255] or [0, 65535]"
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"{name} has values from {low} to {high} ({array.dtype}); expected {expected}. Rescale it, and do not "
            "normalise it before."
        )
    return np.rint(array * (255.0 / full)).astype(np.uint8)


def is_rescaled(source: ImageSource) -> bool:
    """Whether it is an array or a tensor of floats within [0, 1], as `do_rescale` returns them."""
    if not _is_array(source):
        return False
    is_float = source.is_floating_point() if _is_tensor(source) else cast(np.ndarray, source).dtype.kind == "f"
    return bool(is_float and source.max() <= 1)


def image_name(source: ImageSource, image_idx: int) -> str:
    """The name of a picture in error messages: its position in the batch, and its file if it has one."""
    path = source.get("path") if isinstance(source, Mapping) else source
    if not isinstance(path, (str, os.PathLike)):
        path = next((getattr(source, key) for key in ("filename", "name") if hasattr(source, key)), "")
    path = path if isinstance(path, (str, os.PathLike)) and not str(path).startswith("data:") else ""
    return f"image {image_idx} ({os.fspath(path)})" if path else f"image {image_idx}"
