"""Saliency maps of action units: gradients with respect to the pixels, drawn on the face."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..modeling_mf2 import MF2Model

NUM_SAMPLES = 16
NOISE = 0.1
"""Standard deviation of the noise, as a fraction of the picture's value range."""
BLUR = 0.02
"""Standard deviation of the blur, as a fraction of the picture's side."""
COLORS = matplotlib.colormaps["inferno"]
MAX_OPACITY = 0.75


def au_saliency(
    model: MF2Model,
    pixel_values: torch.Tensor,
    au_boxes: torch.Tensor,
    au_idx: Sequence[int],
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Magnitude of the gradient of an AU's logit at each pixel, averaged over noisy copies and blurred.

    Works for every tower, frozen ones included, as the gradient is with respect to the pixels and not a layer. It
    shows what the model reacts to, which is not necessarily what a person would point at.

    Args:
        model: in evaluation mode.
        pixel_values: `(3, H, W)` of one face, from the processor.
        au_boxes: `(A, 2, 4)`, its regions.
        au_idx: indices of the AUs in the label space.
        num_samples: number of noisy copies; more give smoother maps and take longer.
        seed: random seed of the noise.
    Returns:
        `(len(au_idx), H, W)` float32, non-negative, each map sums to 1.
    Raises:
        ValueError: the logits are not differentiable with respect to the pixels.
    Source: SmoothGrad (Smilkov et al., arXiv 1706.03825) with the absolute gradient, summed over the channels.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = NOISE * float(pixel_values.max() - pixel_values.min())
    total = torch.zeros(len(au_idx), *pixel_values.shape[1:])
    with _differentiable_tower(model), torch.enable_grad():
        for _ in range(num_samples):
            noise = torch.randn(pixel_values.shape, generator=generator).to(pixel_values)
            noisy = (pixel_values + spread * noise)[None].requires_grad_()
            # without its mirror image: the map is of the face as it is
            logits = model.recognize(model.encode_branches(noisy, au_boxes[None], mirror=False)).au_logits
            if logits is None:
                raise ValueError("The model names no AUs, so there is nothing to explain.")
            total += torch.stack([_gradient(logits[0, idx], noisy) for idx in au_idx])
    sigmas = (0, BLUR * total.shape[1], BLUR * total.shape[2])
    maps = gaussian_filter(total.numpy(), sigmas)
    return maps / np.maximum(maps.sum(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)


@contextmanager
def _differentiable_tower(model: MF2Model) -> Iterator[None]:
    """Enable gradients through a frozen tower and through the states that a DFN adapter reads, but not for weights."""
    is_frozen = model.config.freeze_vision
    side_networks: list[Any] = [module for module in model.modules() if getattr(module, "detaches_states", False)]
    model.config.freeze_vision = False
    for side in side_networks:
        side.detaches_states = False
    try:
        yield
    finally:
        model.config.freeze_vision = is_frozen
        for side in side_networks:
            side.detaches_states = True


def _gradient(logit: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """`(H, W)` magnitude of the gradient at each pixel of `(1, 3, H, W)`, on the CPU."""
    if not logit.requires_grad:
        raise ValueError("The AU logits cannot be differentiated to the pixels: the model reads detached states.")
    (gradient,) = torch.autograd.grad(logit, pixels, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("The AU logits do not depend on the pixels.")
    return gradient[0].abs().sum(0).float().cpu()


def draw_saliency(pixels: np.ndarray, saliency: np.ndarray, size: int) -> Image.Image:
    """Draw a saliency map over a face; opacity grows with saliency.

    Args:
        pixels: `(H, W, 3)` uint8.
        saliency: `(H, W)`, non-negative.
        size: width and height of the picture in pixels.
    """
    strength = saliency / max(float(np.quantile(saliency, 0.995)), np.finfo(np.float32).tiny)
    strength = np.clip(strength, 0, 1)[..., None]
    opacity = MAX_OPACITY * np.sqrt(strength)
    colors = COLORS(strength[..., 0])[..., :3] * 255
    blended = pixels * (1 - opacity) + colors * opacity
    return Image.fromarray(blended.round().astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
