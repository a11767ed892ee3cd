"""Hair, and what lies behind the face: neck, shoulders and long hair."""

from dataclasses import dataclass

import numpy as np

from .face_canvas import Array, Canvas, Surface, smoothstep, srgb_to_linear
from .face_parts import Face, outline_table


@dataclass(frozen=True)
class HairStyle:
    """Where hair lies, as functions of the angle around the face (0 up, 1 at eye height, 2 at the chin).

    Attributes:
        volume: how far it stands out over the skull at the top and at the sides.
        line: how far below the crown it begins, at the middle of the forehead and at its corners.
        ends: angle where the hair in front of the ears stops.
        back: how far down hair hangs behind the face; -inf for none.
        curl: 0 straight to 1 frizzy.
        sweep: how much deeper the line lies on one side of the parting.
        density: 1 for full hair; less shows the scalp.
    """

    volume: tuple[float, float]
    line: tuple[float, float]
    ends: float
    back: float = -np.inf
    curl: float = 0.0
    sweep: float = 0.0
    density: float = 1.0


HAIR_STYLES: dict[str, HairStyle] = {
    "shaved": HairStyle((0.01, 0.0), (0.52, 0.34), 1.02, density=0.40),
    "short": HairStyle((0.14, 0.06), (0.52, 0.32), 1.10, sweep=0.04),
    "receding": HairStyle((0.07, 0.05), (0.26, 0.12), 1.08),
    "parted": HairStyle((0.19, 0.08), (0.52, 0.36), 1.12, sweep=0.12),
    "fringe": HairStyle((0.17, 0.12), (0.80, 0.60), 1.15, back=1.0),
    "bob": HairStyle((0.17, 0.20), (0.50, 0.38), 1.62, back=1.55, sweep=0.12),
    "long": HairStyle((0.16, 0.16), (0.48, 0.36), 1.50, back=3.0, sweep=0.10),
    "tied": HairStyle((0.10, 0.03), (0.48, 0.32), 1.06),
    "curly": HairStyle((0.34, 0.28), (0.52, 0.36), 1.20, back=0.9, curl=1.0),
    "wavy": HairStyle((0.22, 0.24), (0.50, 0.38), 1.55, back=2.2, curl=0.45, sweep=0.10),
}


def _strands(canvas: Canvas, face: Face, style: HairStyle) -> Array:
    """(H, W) noise that is long along the strands, which fall from the parting, and broken up by curls."""
    rng = face.noise(11)
    x, y = canvas.x - face.identity.hair_part, canvas.y + 1.75
    wave = style.curl * 0.20 * np.sin(9 * canvas.y + 4 * canvas.x + rng.uniform(0, 6))
    across = np.arctan2(x, y) * 34 + wave * 10
    table = np.arange(256)
    straight = np.interp(across % 255, table, rng.standard_normal(256)) + 0.7 * np.interp(
        across * 2.3 % 255, table, rng.standard_normal(256)
    )
    if style.curl < 0.9:
        return straight.astype(np.float32)
    phase = rng.uniform(0, 6, 6)
    knots = np.cos(17 * canvas.x + phase[0] + 2 * np.sin(8 * canvas.y + phase[1])) * np.cos(
        17 * canvas.y + phase[2] + 2 * np.sin(9 * canvas.x + phase[3])
    )
    return (1.3 * knots + 0.4 * straight).astype(np.float32)


def paint_hair(surface: Surface, face: Face) -> None:
    """The hair in front: from the hairline over the skull and down the sides."""
    style = HAIR_STYLES.get(face.identity.hair_style)
    if style is None:
        return
    canvas = face.canvas
    angle, radius = outline_table(face.points)
    turn = np.abs(angle) / (np.pi / 2)
    strands = _strands(canvas, face, style)
    side = smoothstep(0.15, 0.85, turn)
    volume = (style.volume[0] * (1 - side) + style.volume[1] * side) * smoothstep(
        style.ends + 0.35, style.ends - 0.1, turn
    )
    curls = style.curl * 0.035 * np.sin(23 * angle + 3 * np.sin(7 * angle))
    depth = np.interp(turn, [0.0, 0.28, 0.45, 0.70, 1.0], [style.line[0], style.line[0], style.line[1], 0.11, 0.055])
    parting = np.tanh(6 * (angle - 0.55 * face.identity.hair_part)) * np.sign(face.identity.hair_part or 1.0)
    depth = depth - style.sweep * parting * (1 - smoothstep(0.5, 1.0, turn))
    outer = canvas.rho - np.interp(canvas.theta, angle, radius + volume + curls)
    inner = np.interp(canvas.theta, angle, radius - depth) - canvas.rho + 0.022 * strands
    end = (np.abs(canvas.theta) / (np.pi / 2) - style.ends) * 1.0 + 0.02 * strands
    mask = canvas.coverage(outer) * smoothstep(0.035, -0.035, inner) * smoothstep(0.03, -0.03, end)
    _lay_hair(surface, face, style, mask.astype(np.float32), strands)
    thickness = 0.10 * smoothstep(0.0, 0.16, -inner) * (0.3 + volume.max() * 3)
    surface.detail += mask * thickness.astype(np.float32)


def _lay_hair(surface: Surface, face: Face, style: HairStyle, mask: Array, strands: Array) -> None:
    color = srgb_to_linear(face.identity.hair_color)
    shade = np.clip(1 + 0.22 * strands, 0.3, 1.9)[..., None]
    covered = mask * style.density * np.clip(1 + (1 - style.density) * 0.5 * strands, 0, 1)
    surface.paint(covered, color * shade)
    surface.detail = surface.detail * (1 - mask) + mask * (0.006 + 0.022 * style.curl) * strands
    surface.gloss = surface.gloss * (1 - mask) + mask * style.density * (0.55 - 0.35 * style.curl)
    surface.alpha = np.maximum(surface.alpha, mask)


def paint_back(surface: Surface, face: Face) -> None:
    """Neck, clothes and the hair that hangs behind the face."""
    canvas, identity = face.canvas, face.identity
    width = (face.points[16, 0] - face.points[0, 0]) / 2
    neck = width * (0.60 + 0.12 * identity.masculinity)
    slope = neck + 0.9 * smoothstep(1.75, 2.6, canvas.y) + 0.05 * smoothstep(1.5, 1.0, canvas.y)
    surface.albedo[:] = face.skin
    surface.alpha = canvas.coverage(np.abs(canvas.x) - slope) * (canvas.y > 0.6)
    surface.form += 0.5 * np.sqrt(np.clip(1 - (canvas.x / (1.15 * slope)) ** 2, 0.02, 1))
    chin = face.points[8, 1]
    surface.albedo *= (0.42 + 0.58 * smoothstep(-0.15, 0.75, canvas.y - chin + 0.25 * canvas.x**2))[..., None]
    collar = canvas.y - 2.28 + 0.35 * np.clip(np.abs(canvas.x) - 0.25, 0, 1)
    cloth = canvas.coverage(-collar)
    surface.paint(cloth, srgb_to_linear(identity.cloth_color))
    style = HAIR_STYLES.get(identity.hair_style)
    if style is None or style.back == -np.inf:
        return
    strands = _strands(canvas, face, style)
    _, radius = outline_table(face.points)
    outer = width + 0.6 * style.volume[1] + 0.06 * np.sin(3 * canvas.y) * style.curl
    hang = canvas.coverage(np.abs(canvas.x) - outer + 0.10 * smoothstep(0.5, 1.6, canvas.y))
    mask = hang * smoothstep(0.06, -0.06, canvas.y - style.back + 0.03 * strands) * (canvas.y > -0.6)
    open_front = smoothstep(neck * 0.80, neck * 1.05, np.abs(canvas.x) + 0 * canvas.y)
    mask = mask * np.maximum(open_front, canvas.y < chin - 0.3)
    _lay_hair(surface, face, style, mask.astype(np.float32), strands)
