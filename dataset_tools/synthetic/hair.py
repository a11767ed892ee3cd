"""Paints hair, and everything behind the face: neck, clothes and the hair that falls behind them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .canvas import ANGLES, Surface, as_color, interpolate_periodic, smoothstep, srgb_to_linear, vector_length
from .face_model import Array
from .face_parts import Face


@dataclass(frozen=True)
class HairStyle:
    """The shape of a hair style. Angles around the face count in 90 degrees: 0 up, 1 at the side, 2 at the chin.

    Attributes:
        volume: thickness of the hair over the skull, at the top and at the sides.
        line: distance of the hairline from the crown, at the middle of the forehead and at its corners.
        ends: angle at which the hair in front of the ears ends.
        back: y down to which hair falls behind the face; 0 for none.
        curl: 0 straight to 1 frizzy.
        sweep: how much lower the hairline is on one side of the parting.
        density: 1 for full hair; with less the scalp shows; 0 for none.
    """

    volume: tuple[float, float]
    line: tuple[float, float]
    ends: float
    back: float = 0.0
    curl: float = 0.0
    sweep: float = 0.0
    density: float = 1.0


HAIR_STYLES: dict[str, HairStyle] = {
    "bald": HairStyle((0.00, 0.00), (0.52, 0.34), 1.02, density=0.0),
    "shaved": HairStyle((0.01, 0.00), (0.52, 0.34), 1.02, density=0.40),
    "short": HairStyle((0.14, 0.06), (0.52, 0.32), 1.08, sweep=0.04),
    "receding": HairStyle((0.07, 0.05), (0.26, 0.12), 1.06),
    "parted": HairStyle((0.19, 0.08), (0.52, 0.36), 1.08, sweep=0.12),
    "fringe": HairStyle((0.17, 0.10), (0.76, 0.60), 1.15, back=1.0),
    "bob": HairStyle((0.17, 0.20), (0.50, 0.38), 1.62, back=1.55, sweep=0.12),
    "long": HairStyle((0.16, 0.16), (0.48, 0.36), 1.50, back=3.0, sweep=0.10),
    "tied": HairStyle((0.10, 0.03), (0.48, 0.32), 1.03),
    "curly": HairStyle((0.34, 0.28), (0.52, 0.36), 1.30, curl=1.0),
    "wavy": HairStyle((0.22, 0.24), (0.50, 0.38), 1.55, back=2.2, curl=0.45, sweep=0.10),
}
_OVERLAP = 0.04  # the colour extends past the outline, so that no skin shows through its soft edge
_STRAND_DENSITY = 34  # strands per radian
_NOISE_LENGTH = 256


class Hair:
    """Paints the hair of one face, in front of it and behind it."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.style = HAIR_STYLES[face.identity.hair_style]

    @cached_property
    def strands(self) -> Array:
        """(H, W) noise stretched along the strands, which fall from the crown; isotropic for frizzy hair."""
        canvas, curl, rng = self.face.canvas, self.style.curl, self.face.noise(11)
        wave = 2 * curl * np.sin(9 * canvas.y + 4 * canvas.x + rng.uniform(0, 6))
        across = np.arctan2(canvas.x - self.face.identity.hair_part, canvas.y + 1.75) * _STRAND_DENSITY + wave
        strands = np.zeros(canvas.shape, np.float32)
        for weight, frequency in ((1.0, 1.0), (0.7, 2.3)):
            noise = rng.standard_normal(_NOISE_LENGTH, np.float32)
            strands += weight * interpolate_periodic(noise, frequency * across)
        if curl >= 0.9:
            phase = rng.uniform(0, 6, 4)
            bent_x = 17 * canvas.x + phase[0] + 2 * np.sin(8 * canvas.y + phase[1])
            bent_y = 17 * canvas.y + phase[2] + 2 * np.sin(9 * canvas.x + phase[3])
            strands = 1.3 * np.cos(bent_x) * np.cos(bent_y) + 0.4 * strands
        return strands

    def paint_front(self, surface: Surface) -> None:
        """Paint the hair from the hairline over the skull and down the sides."""
        style, canvas = self.style, self.face.canvas
        if style.density == 0:
            return
        radius = self.face.outline_radius
        outer = canvas.rho - canvas.radius_at_pixels(radius + self._volume(ANGLES))
        inner = canvas.radius_at_pixels(radius - self._depth(ANGLES)) - canvas.rho + 0.022 * self.strands
        ends = np.abs(canvas.theta) / (np.pi / 2) - style.ends + 0.02 * self.strands
        mask = smoothstep(0.035, -0.035, inner) * smoothstep(0.03, -0.03, ends)
        self._paint_strands(surface, mask * canvas.coverage(outer - _OVERLAP))
        surface.alpha = np.maximum(surface.alpha, mask * canvas.coverage(outer))
        surface.detail += mask * (0.03 + 0.30 * max(style.volume)) * smoothstep(0.0, 0.16, -inner)

    def _volume(self, angle: Array) -> Array:
        """The thickness of the hair outside the outline at each angle."""
        turn = np.abs(angle) / (np.pi / 2)
        top, side = self.style.volume
        volume = top + (side - top) * smoothstep(0.15, 0.85, turn)
        curls = 0.035 * self.style.curl * np.sin(23 * angle + 3 * np.sin(7 * angle))
        return volume * smoothstep(self.style.ends + 0.35, self.style.ends - 0.1, turn) + curls

    def _depth(self, angle: Array) -> Array:
        """The distance of the hairline inside the outline at each angle."""
        turn, part = np.abs(angle) / (np.pi / 2), self.face.identity.hair_part
        middle, corner = self.style.line
        depth = np.interp(
            turn, [0.0, 0.28, 0.45, 0.70, 1.0, self.style.ends + 0.02], [middle, middle, corner, 0.11, 0.05, 0.0]
        )
        side = np.tanh(6 * (angle - 0.55 * part)) * (1 if part >= 0 else -1)
        return depth - self.style.sweep * side * smoothstep(1.0, 0.5, turn)

    def paint_back(self, surface: Surface, neck: float) -> None:
        """Paint the hair that falls behind the ears, on both sides of a neck of that half-width."""
        style, canvas, points = self.style, self.face.canvas, self.face.points
        if style.back == 0:
            return
        width = float(points[16, 0] - points[0, 0]) / 2 + 0.75 * style.volume[1]
        half = width + 0.05 * style.curl * np.sin(5 * canvas.y) - 0.12 * smoothstep(0.6, 1.6, canvas.y)
        outer = vector_length(canvas.x / half, np.clip(-canvas.y, 0, None) / 1.1) - 1
        ends = canvas.y - style.back + 0.25 * (canvas.x / half) ** 2 + 0.03 * self.strands
        beside_neck = smoothstep(0.75 * neck, neck, np.abs(canvas.x))
        above_chin = smoothstep(-0.2, -0.4, canvas.y - points[8, 1])
        mask = smoothstep(0.06, -0.06, ends) * np.maximum(beside_neck, above_chin)
        self._paint_strands(surface, mask)
        surface.alpha = np.maximum(surface.alpha, mask * canvas.coverage(outer))

    def _paint_strands(self, surface: Surface, mask: Array) -> None:
        """Paint colour and relief of the strands where `mask` is 1."""
        density, curl = self.style.density, self.style.curl
        shade = np.clip(1 + 0.22 * self.strands, 0.3, 1.9)
        covered = mask * density * np.clip(1 + 0.5 * (1 - density) * self.strands, 0, 1)
        surface.paint(covered, as_color(srgb_to_linear(self.face.identity.hair_color)) * shade)
        surface.clear(mask)
        surface.detail += mask * (0.006 + 0.022 * curl) * self.strands
        surface.gloss += mask * density * (0.55 - 0.35 * curl)


def paint_back(surface: Surface, face: Face, hair: Hair) -> None:
    """Paint neck and clothes, in the shadow of the chin, and the hair that falls over them."""
    canvas, identity = face.canvas, face.identity
    neck = float(face.points[16, 0] - face.points[0, 0]) / 2 * (0.62 + 0.14 * identity.masculinity)
    half = neck + 0.9 * smoothstep(1.75, 2.6, canvas.y) + 0.05 * smoothstep(1.5, 1.0, canvas.y)
    surface.alpha = canvas.coverage(np.abs(canvas.x) - half) * smoothstep(0.5, 0.6, canvas.y)
    surface.form += 0.5 * np.sqrt(np.clip(1 - (canvas.x / (1.15 * half)) ** 2, 0.02, 1))
    shadow = smoothstep(0.75, -0.15, canvas.y - face.points[8, 1] + 0.25 * canvas.x**2)
    surface.albedo *= 1 - 0.58 * shadow
    collar = 2.28 - 0.35 * np.clip(np.abs(canvas.x) - 0.25, 0, 1) - canvas.y
    surface.paint(canvas.coverage(collar), srgb_to_linear(identity.cloth_color))
    hair.paint_back(surface, neck)
