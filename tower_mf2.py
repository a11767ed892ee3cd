"""The vision tower of MF²: any vision model of transformers or timm, its tokens and maps, and AU regions of these.

Symbols in shapes as in `modeling_mf2`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, Blip2VisionModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_utils import PreTrainedModel

from .configuration_mf2 import MF2Config
from .regions_mf2 import mirrored_centers

# ------------------------------------------------------------------------------------------------------------- tower
_ATTENTION_SUPPORT = {
    "sdpa": "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention_2": "_supports_flash_attn",
    "flash_attention_3": "_supports_flash_attn",
}
"""Attention implementation -> class attribute of transformers models that says whether it is supported."""


def build_vision_tower(config: MF2Config) -> PreTrainedModel:
    """Build the tower of `config.vision_config`, without its unused pooler."""
    is_eva = config.vision_config.model_type == "blip_2_vision_model"  # AutoModel does not list it
    model_class = Blip2VisionModel if is_eva else AutoModel._model_mapping[type(config.vision_config)]
    accepted = inspect.signature(model_class.__init__).parameters
    kwargs = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    if not getattr(model_class, _ATTENTION_SUPPORT.get(config.vision_config._attn_implementation, ""), True):
        kwargs["attn_implementation"] = "eager"  # the requested implementation is then only used by the branches
    tower = model_class._from_config(config.vision_config, **kwargs)
    if is_eva:
        # This is BLIP-2's `ln_vision`, which belongs to the Q-Former: each branch trains its own copy.
        tower.post_layernorm = nn.Identity()
    if isinstance(getattr(tower, "pooler", None), nn.AdaptiveAvgPool2d):
        tower.pooler = nn.Identity()  # ResNet's, which takes no part in the weights
    return tower


def image_size_of(tower: PreTrainedModel) -> tuple[int, int]:
    """Height and width of the images that a tower is built for; 224 px if it accepts any size."""
    size = getattr(tower.config, "image_size", None)
    if size is None:  # timm keeps it in the patch embedding
        size = next((module.img_size for module in tower.modules() if getattr(module, "img_size", None)), 224)
    return (size, size) if isinstance(size, int) else tuple(size)


def tokens_to_map(tokens: torch.Tensor, height: int, width: int, patch_size: int | None = None) -> torch.Tensor:
    """(B, prefix + h · w, W) tokens of an image of that size in pixels -> (B, W, h, w).

    Prefix tokens (class, registers) are those besides the grid, which is that of the patches or, without a known patch
    size, the largest grid with the aspect ratio of the image.
    """
    count = tokens.shape[1]
    if patch_size:
        rows, cols = height // patch_size, width // patch_size
    else:
        rows = int((count * height / width) ** 0.5)
        while rows and rows * round(rows * width / height) > count:
            rows -= 1
        cols = round(rows * width / height)
    if not rows * cols or not 0 <= count - rows * cols <= 16:
        raise ValueError(
            f"{count} vision tokens of a {height}×{width} image form no grid; use a square image or another tower."
        )
    return tokens[:, count - rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))


def map_to_tokens(feature_map: torch.Tensor) -> torch.Tensor:
    """(B, W, h, w) features of a convolutional tower -> (B, h · w, W) tokens with position encodings.

    The tokens of a ViT have positions; these get DETR's fixed sine encoding (Carion et al., arXiv 2005.12872), half of
    the channels for y and half for x, added to the normalised features.
    """
    width, rows, cols = feature_map.shape[1:]
    encodings = []
    for count in (rows, cols):
        # From half a period over the image to half a period per cell.
        frequencies = torch.pi * torch.logspace(0, 1, width // 4, base=count, device=feature_map.device)
        angles = (torch.arange(count, device=feature_map.device) + 0.5)[:, None] / count * frequencies
        encodings.append(torch.cat([angles.sin(), angles.cos()], dim=-1))
    row_encoding, col_encoding = encodings
    position = torch.cat([row_encoding[:, None].expand(-1, cols, -1), col_encoding[None].expand(rows, -1, -1)], dim=-1)
    tokens = F.layer_norm(feature_map.flatten(2).transpose(1, 2), (width,))
    return tokens + F.pad(position.flatten(0, 1), (0, width - position.shape[-1])).to(tokens.dtype)


@dataclass
class VisionFeatures:
    """`tokens` (B, N, W) of the whole face, and `maps`, (B, W_l, h_l, w_l) for each of `local_feature_levels`."""

    tokens: torch.Tensor
    maps: list[torch.Tensor]


@dataclass
class SampledFeatures:
    """The features of a frozen tower that the branches read, which can be cached instead of the picture.

    Args:
        tokens: `(B, N, W)` tokens of the whole face.
        regions: `(B, A, R, ΣW_l)` samples of the maps in the AU regions, with concatenated levels; None without the
            local branch.
        face: `(B, F)` features of the linear readout; None without one.
        readout: `(B, A + E)` logits of the readout, if already computed.
        places: `(B, A, 4)` x and y of the two centres of each AU's regions; None without the local branch.
    """

    tokens: torch.Tensor
    regions: torch.Tensor | None
    face: torch.Tensor | None = None
    readout: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, torch.Tensor]) -> "SampledFeatures":
        """From the arguments of `MF2Model.forward` that stand for them."""
        regions, readout, places = map(inputs.get, ("region_features", "readout_logits", "region_places"))
        return cls(inputs["vision_tokens"], regions, readout=readout, places=places)


def read_levels(tower: PreTrainedModel, pixel_values: torch.Tensor, levels: Sequence[int]) -> list[torch.Tensor]:
    """The features of a tower at these levels (-1 is its output): maps `(B, W_l, h_l, w_l)` or tokens `(B, N, W_l)`.

    Raises:
        ValueError: the tower has no such level.
    """
    if isinstance(tower, BackboneMixin):
        hidden = tower(pixel_values, return_dict=True).feature_maps
        last = hidden[-1]
    else:
        outputs = tower(pixel_values, output_hidden_states=set(levels) != {-1}, return_dict=True)
        last, hidden = outputs.last_hidden_state, outputs.hidden_states
    for level in levels:
        if level != -1 and not -len(hidden) <= level < len(hidden):
            raise ValueError(
                f"global_feature_level or local_feature_levels holds {level}; this tower has the levels 0 to "
                f"{len(hidden) - 1}, and -1 is its output."
            )
    return [last if level == -1 else hidden[level] for level in levels]


def as_map(config: MF2Config, level: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """A level of `read_levels` as a map `(B, W_l, h_l, w_l)`."""
    patch_size = getattr(config.vision_config, "patch_size", None)
    patch_size = patch_size if isinstance(patch_size, int) else None
    return level if level.ndim == 4 else tokens_to_map(level, *pixel_values.shape[-2:], patch_size)


def read_tower(tower: PreTrainedModel, config: MF2Config, pixel_values: torch.Tensor) -> VisionFeatures:
    """The face's tokens, of `global_feature_level`, and the maps of `local_feature_levels`."""
    levels = (config.global_feature_level, *config.local_feature_levels)
    face, *local = read_levels(tower, pixel_values, levels)
    return VisionFeatures(
        tokens=map_to_tokens(face) if face.ndim == 4 else face,
        maps=[as_map(config, level, pixel_values) for level in local],
    )


def probe_tower(config: MF2Config, read: Callable[[PreTrainedModel, torch.Tensor], VisionFeatures]) -> VisionFeatures:
    """Apply `read` to an image and the tower of the configuration on the meta device, to get the shapes."""
    with torch.device("meta"), torch.no_grad():
        tower = build_vision_tower(config)
        return read(tower, torch.empty(1, 3, *image_size_of(tower), device="meta"))


# ------------------------------------------------------------------------------------------------------- AU regions
def sample_regions(feature_map: torch.Tensor, boxes: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Sample a grid of features in boxes of a feature map bilinearly (RoIAlign with one sample per cell).

    In fp32: `grid_sample` has no bf16 kernel on the CPU, and positions need more than eight bits.

    Args:
        feature_map: `(B, W, h, w)`.
        boxes: `(B, K, 4)` x1 y1 x2 y2, normalised to [0, 1] over the image that the map covers.
        grid_size: Samples along each side of a box.
    Returns:
        `(B, K, grid_size², W)` in the map's dtype.
    """
    steps = (torch.arange(grid_size, device=boxes.device, dtype=torch.float32) + 0.5) / grid_size
    corner, size = boxes[..., :2].float(), (boxes[..., 2:] - boxes[..., :2]).float()
    xs = corner[..., 0:1] + size[..., 0:1] * steps
    ys = corner[..., 1:2] + size[..., 1:2] * steps
    points = torch.stack(torch.broadcast_tensors(xs[..., None, :], ys[..., :, None]), dim=-1).flatten(2, 3)
    sample = _read_points if torch.compiler.is_exporting() else _grid_sample
    with torch.autocast(feature_map.device.type, enabled=False):
        return sample(feature_map.float(), points).to(feature_map.dtype)


def _grid_sample(feature_map: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of a map `(B, W, h, w)` at points `(B, K, P, 2)`, x and y in [0, 1] -> `(B, K, P, W)`."""
    sampled = F.grid_sample(feature_map, points * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def _read_points(feature_map: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The same by reading the four cells around each point, with all their channels at once.

    For exported graphs: onnxruntime's GridSample computes a point's cells and weights again for each channel.
    """
    height, width = feature_map.shape[-2:]
    last = points.new_tensor([width - 1, height - 1])
    place = torch.minimum((points * (last + 1) - 0.5).clamp(min=0), last)
    low = place.floor()
    ends = torch.stack([low, torch.minimum(low + 1, last)], dim=-1)  # (B, K, P, xy, 2)
    weights = torch.stack([low + 1 - place, place - low], dim=-1)
    cells = (ends[..., 1, :, None] * width + ends[..., 0, None, :]).long().flatten(-2)  # (B, K, P, 4)
    weights = (weights[..., 1, :, None] * weights[..., 0, None, :]).flatten(-2)
    images = torch.arange(feature_map.shape[0], device=points.device)[:, None, None, None]
    by_cell = feature_map.flatten(2).transpose(1, 2).flatten(0, 1)  # (B · h · w, W)
    return (by_cell[cells + images * (height * width)] * weights[..., None]).sum(-2)


def box_centers(au_boxes: torch.Tensor) -> torch.Tensor:
    """`(B, A, 2, 4)` x1 y1 x2 y2 -> `(B, A, 4)`: x and y of the first centre, then of the second."""
    return ((au_boxes[..., :2] + au_boxes[..., 2:]) / 2).flatten(2)


def check_boxes(pixel_values: torch.Tensor, au_boxes: torch.Tensor | None, au_ids: Sequence[int]) -> None:
    """Raise a `ValueError` unless there are two boxes of each face and AU, `(B, A, 2, 4)`."""
    wanted = (pixel_values.shape[0], len(au_ids), 2, 4)
    if au_boxes is None or tuple(au_boxes.shape) != wanted:
        shape = None if au_boxes is None else tuple(au_boxes.shape)
        raise ValueError(
            f"au_boxes has shape {shape}; the local branch needs {wanted}, for AUs "
            f"{', '.join(map(str, au_ids))}. The processor makes them: "
            f"processor.for_label_spaces(model.label_space)(images=…, landmarks=…)."
        )


@torch.compiler.assume_constant_result
def _mirrored_centers(au_ids: tuple[int, ...]) -> list[list[int]]:
    return mirrored_centers(au_ids)  # in NumPy, into which a compiler does not look


def mirror_faces(
    pixel_values: torch.Tensor, au_boxes: torch.Tensor | None, au_ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The mirror image, as the processor would prepare it.

    Args:
        pixel_values: `(B, 3, H, W)`.
        au_boxes: `(B, K, 2, 4)` of the AUs `au_ids`; None without regions.
    """
    if au_boxes is not None:
        rows = torch.arange(len(au_ids), device=au_boxes.device)[:, None]
        centers = torch.tensor(_mirrored_centers(tuple(au_ids)), device=au_boxes.device)
        left, top, right, bottom = au_boxes[:, rows, centers].unbind(-1)
        au_boxes = torch.stack([1 - right, top, 1 - left, bottom], dim=-1)
    return pixel_values.flip(-1), au_boxes


def select_boxes(
    au_boxes: torch.Tensor | None, au_ids: torch.Tensor | Sequence[int] | None, wanted: Sequence[int]
) -> torch.Tensor | None:
    """Select the boxes of the wanted AUs, in their order.

    Args:
        au_boxes: `(B, K, 2, 4)`.
        au_ids: `(B, K)` or `(K,)` AU numbers of the boxes, as the processor returns them; None returns all boxes.
        wanted: A AU numbers.
    Returns:
        `(B, A, 2, 4)`.
    Raises:
        ValueError: a wanted AU has no box, or `au_ids` does not match the boxes.
    """
    if au_boxes is None or au_ids is None:
        return au_boxes
    box_aus = torch.as_tensor(au_ids)
    if box_aus.shape[-1:] != au_boxes.shape[1:2]:
        raise ValueError(
            f"au_ids has shape {tuple(box_aus.shape)}, but there are {au_boxes.shape[1]} au_boxes per face."
        )
    given, *others = box_aus.reshape(-1, au_boxes.shape[1]).unique(dim=0).tolist() or [list(wanted)]
    if others:
        raise ValueError(f"Faces of one batch have boxes of different AUs, {given} and {others[0]}; give them apart.")
    if missing := [au_id for au_id in wanted if au_id not in given]:
        raise ValueError(
            f"au_boxes are of the AUs {', '.join(map(str, given))}, but the label space that answers also needs "
            f"{', '.join(map(str, missing))}; make them with processor.for_label_spaces(model.label_space)."
        )
    return au_boxes if given == list(wanted) else au_boxes[:, [given.index(au_id) for au_id in wanted]]
