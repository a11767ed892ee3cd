"""The parametric face: its points follow FACS and are exact in the picture; what must show in texture does."""

import numpy as np
import pytest

from mf2.dataset_tools.synthetic.canvas import Surface, get_canvas
from mf2.dataset_tools.synthetic.domains import (
    DOMAINS,
    get_domain,
    sample_expression,
    sample_frame,
    sample_identity,
    sample_setting,
)
from mf2.dataset_tools.synthetic.face_model import AVERAGE_FACE, Expression, Identity, face_points, neutral_points
from mf2.dataset_tools.synthetic.face_parts import Face
from mf2.dataset_tools.synthetic.hair import HAIR_STYLES, Hair
from mf2.dataset_tools.synthetic.rendering import Camera, Scene, paint_head, render_face
from mf2.labels_mf2 import AU_IDS, FLIP_68

TEXTURE_AUS = (6, 7, 23, 24)
STILL = Scene(blur=0.0, noise=0.0)
TURNED = Scene(yaw=16.0, pitch=-9.0, roll=8.0, shift=(0.03, -0.02), blur=0.0, noise=0.0)


def express(**intensities: float) -> Expression:
    """`express(AU12=1.0)`."""
    values = np.zeros(len(AU_IDS), np.float32)
    for code, value in intensities.items():
        values[AU_IDS.index(int(code[2:]))] = value
    return Expression(values)


def moved(**intensities: float) -> np.ndarray:
    """(68, 2) shift of each point of the average person, in eye distances, y down."""
    return face_points(Identity(), express(**intensities)) - neutral_points(Identity())


# ----------------------------------------------------------------------------------------------------------- points
@pytest.mark.parametrize(
    ("au", "points", "axis", "sign"),
    [
        ("AU1", (20, 21, 22, 23), 1, -1),  # inner brows up
        ("AU2", (17, 18, 25, 26), 1, -1),  # outer brows up
        ("AU4", (19, 20, 21, 22, 23, 24), 1, 1),  # brows down
        ("AU4", (21,), 0, 1),  # and together
        ("AU7", (37, 38, 43, 44), 1, 1),  # the lids close in on the eye
        ("AU7", (40, 41, 46, 47), 1, -1),
        ("AU10", (50, 51, 52), 1, -1),  # upper lip up
        ("AU12", (48, 54, 60, 64), 1, -1),  # corners of the mouth up
        ("AU12", (48,), 0, -1),  # and outwards
        ("AU12", (54,), 0, 1),
        ("AU15", (48, 54), 1, 1),  # corners down
        ("AU25", (65, 66, 67), 1, 1),  # lower lip away from the upper one
        ("AU26", (6, 7, 8, 9, 10), 1, 1),  # chin down
    ],
)
def test_aus_move_their_points_as_facs_says(au, points, axis, sign):
    assert (sign * moved(**{au: 1.0})[list(points), axis] > 0.008).all()


def test_movement_grows_with_intensity_and_leaves_the_rest_alone():
    weak, strong = moved(AU12=0.5), moved(AU12=1.0)
    np.testing.assert_allclose(2 * weak, strong, atol=1e-6)
    assert np.abs(strong[:31]).max() == 0


@pytest.mark.parametrize("au_id", TEXTURE_AUS)
def test_texture_aus_move_points_less_than_people_differ(au_id):
    rng = np.random.default_rng(0)
    faces = [neutral_points(sample_identity(rng, get_domain("default"))) for _ in range(40)]
    spread = np.std(faces, axis=0)
    shift = np.abs(moved(**{f"AU{au_id}": 1.0}))
    assert shift.max() < 0.021
    assert (shift < spread).all()


def test_the_jaw_opens_the_mouth_only_where_the_lips_part():
    def gap(**intensities):
        points = face_points(Identity(), express(**intensities))
        return points[66, 1] - points[62, 1]

    assert gap() == gap(AU26=1.0) == 0
    assert gap(AU25=1.0, AU26=1.0) > 2 * gap(AU25=1.0) > 0.1


def test_the_average_face_is_symmetric():
    np.testing.assert_allclose(AVERAGE_FACE[list(FLIP_68)] * [-1, 1], AVERAGE_FACE, atol=1e-6)


def test_asymmetric_faces_move_more_on_the_left_of_the_picture():
    both = Expression(express(AU12=0.5).intensities, asymmetry=0.3)
    shift = face_points(Identity(), both) - neutral_points(Identity())
    assert abs(shift[48, 1]) == pytest.approx(1.3 / 0.7 * abs(shift[54, 1]), rel=1e-4)
    assert both.intensity(12, -1) > both.intensity(12) > both.intensity(12, 1)


# --------------------------------------------------------------------------------------------------------- exactness
@pytest.mark.parametrize("scene", [STILL, TURNED], ids=["frontal", "turned"])
def test_landmarks_are_where_the_picture_shows_their_point(scene):
    """A dot painted on the relief at each landmark is found in the picture at the landmark's pixel."""
    canvas, size = get_canvas(60), 160
    face, camera = Face(canvas, Identity(), express(AU12=0.8, AU25=0.8, AU26=0.6)), Camera(scene, size)
    form = paint_head(face, Hair(face)).form
    expected = camera.project(face.points, form, canvas)
    rows, columns = np.mgrid[:size, :size]
    for point in (8, 19, 27, 30, 36, 41, 45, 48, 54, 57, 62, 66):
        layer = np.zeros((*canvas.shape, 4), np.float32)
        layer[..., :3] = canvas.bump(*face.points[point], 0.07, 0.07)[..., None]
        layer[..., 3] = 1
        seen = camera.composite(layer, form, canvas, np.zeros((size, size, 3), np.float32))[..., 0]
        seen = np.where(seen > 0.3, seen, 0)
        center = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
        np.testing.assert_allclose(center, expected[point], atol=1.0)


def test_a_symmetric_face_has_mirrored_landmarks_in_the_picture():
    landmarks = render_face(Identity(), express(AU4=0.7), STILL, 112).landmarks_px
    mirrored = landmarks[list(FLIP_68)] * [-1, 1] + [111, 0]
    np.testing.assert_allclose(mirrored, landmarks, atol=0.05)


def test_the_outline_of_the_head_runs_through_the_jaw_points():
    canvas = get_canvas(60)
    face = Face(canvas, Identity(), express(AU26=1.0))
    surface = paint_head(face, Hair(face))
    for x, y in face.points[3:14]:
        window = canvas.window([(x, y)], 1.5 / 60)
        assert 0.2 < surface.alpha[window.index].mean() < 0.8


def test_the_open_mouth_is_drawn_between_the_inner_lip_points():
    closed, opened = (
        render_face(Identity(), expression, STILL, 160) for expression in (express(), express(AU25=1, AU26=1))
    )
    x, y = opened.landmarks_px[60:68].mean(axis=0).round().astype(int)
    assert opened.image[y, x].max() < 60 < closed.image[y, x].max()


def test_other_sizes_show_the_same_face():
    small, large = (render_face(Identity(), express(AU6=1, AU12=1), STILL, size) for size in (64, 192))
    np.testing.assert_allclose((small.landmarks_px + 0.5) * 3, large.landmarks_px + 0.5, atol=0.15)
    assert abs(small.image.mean() - large.image.mean()) < 3


# ----------------------------------------------------------------------------------------------------------- texture
REGIONS = {6: (36, 41, 0.25), 7: (40, 41, 0.12), 23: (51, 57, 0.20), 24: (51, 57, 0.20)}


@pytest.mark.parametrize("au_id", TEXTURE_AUS)
@pytest.mark.parametrize("melanin", [0.05, 0.5, 0.95])
def test_texture_aus_show_in_the_picture(au_id, melanin):
    """Around their place in the face the picture changes clearly more than it does elsewhere."""
    identity = Identity(melanin=melanin)
    rest, active = (
        render_face(identity, expression, STILL) for expression in (express(), express(**{f"AU{au_id}": 0.7}))
    )
    change = np.abs(active.image.astype(float) - rest.image).mean(axis=-1)
    *landmarks, radius = REGIONS[au_id]
    x, y = rest.landmarks_px[landmarks].mean(axis=0)
    rows, columns = np.mgrid[:112, :112]
    near = np.hypot(columns - x, rows - y) < radius * 0.29 * 112
    assert change[near].mean() > 1.2
    assert change[near].mean() > 5 * np.median(change)


@pytest.mark.parametrize("au_id", AU_IDS)
def test_every_au_changes_the_picture(au_id):
    identity = sample_identity(np.random.default_rng(5), get_domain("default"))
    rest, active = (
        render_face(identity, expression, STILL) for expression in (express(), express(**{f"AU{au_id}": 0.5}))
    )
    assert np.abs(active.image.astype(int) - rest.image).max() > 20


def mouth(**intensities: float) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a mouth as (rows, columns): its green over its red, low where lips are, and its brightness."""
    face = render_face(Identity(), express(**intensities), STILL, 224)
    (left, _), (right, _) = face.landmarks_px[[49, 53]].round().astype(int)
    (_, top), (_, bottom) = face.landmarks_px[[33, 8]].round().astype(int)
    pixels = face.image[top:bottom, left:right].astype(float)
    return pixels[..., 1] / pixels[..., 0], pixels.mean(axis=-1)


@pytest.mark.parametrize("others", [{}, {"AU12": 0.8}, {"AU15": 0.8}, {"AU26": 0.8}, {"AU10": 0.6}], ids=str)
def test_tightened_lips_show_a_narrower_red_without_stripes(others):
    rest, half, tight = (mouth(AU23=amount, **others) for amount in (0.0, 0.5, 1.0))
    skin, lips = np.median(rest[0]), np.percentile(rest[0], 2)
    heights = [(ratio < (skin + lips) / 2).sum(axis=0).mean() for ratio, _ in (rest, half, tight)]
    assert heights[0] > 1.2 * heights[1] > 1.2**2 * heights[2] > 3
    upright = [np.abs(np.diff(brightness, n=2, axis=1)).mean() for _, brightness in (rest, half, tight)]
    assert max(upright[1:]) < 1.25 * upright[0]


def test_tightening_changes_nothing_but_the_mouth():
    rest, tight = (render_face(Identity(), express(AU23=amount), STILL, 224) for amount in (0.0, 1.0))
    changed = np.argwhere((rest.image != tight.image).any(axis=-1))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert rest.landmarks_px[30, 1] < top and bottom < rest.landmarks_px[8, 1]
    assert rest.landmarks_px[4, 0] < left and right < rest.landmarks_px[12, 0]


# ----------------------------------------------------------------------------------------------------------- variety
def test_rendering_is_deterministic_and_leaves_shared_grids_alone():
    first = render_face(Identity(), express(AU1=0.5), TURNED, 64)
    render_face(Identity(texture_seed=9, hair_style="wavy"), express(AU2=1.0), TURNED, 64)
    again = render_face(Identity(), express(AU1=0.5), TURNED, 64)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.landmarks_px, again.landmarks_px)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("style", HAIR_STYLES)
def test_hair_beard_and_glasses_draw_without_numerical_trouble(style):
    identity = Identity(hair_style=style, beard=0.8, glasses=0.5, freckles=1.0, age=1.0)
    plain = render_face(Identity(hair_style="bald"), express(), TURNED, 64).image
    assert np.abs(render_face(identity, express(), TURNED, 64).image.astype(int) - plain).mean() > 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_keeps_the_face_in_the_picture(name):
    domain = get_domain(name)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        identity = sample_identity(rng, domain)
        scene = sample_frame(rng, sample_setting(rng, identity, domain), domain)
        expression = sample_expression(rng, rng.random(len(AU_IDS)))
        face = render_face(identity, expression, scene, 64)
        inside = face.landmarks_px[17:]
        assert face.image.shape == (64, 64, 3)
        assert (inside > 0).all() and (inside < 63).all()
        assert 15 < face.image.mean() < 245


def test_skin_tones_run_from_light_to_dark():
    luminance = [Face(get_canvas(20), Identity(melanin=m), express()).skin.sum() for m in np.linspace(0, 1, 9)]
    assert (np.diff(luminance) < 0).all()
    assert luminance[0] > 10 * luminance[-1]


# ------------------------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize("values", [[0.5] * 11, [1.5] + [0.0] * 11, [float("nan")] * 12])
def test_impossible_intensities_are_refused(values):
    with pytest.raises(ValueError, match=r"12 values in \[0, 1\]"):
        Expression(np.array(values))


def test_tiny_pictures_are_refused():
    with pytest.raises(ValueError, match=r"image size 16 .* 32 pixels"):
        render_face(Identity(), express(), size=16)


def test_unknown_domains_are_refused():
    with pytest.raises(ValueError, match=r"'moon'; known are default, shifted"):
        get_domain("moon")


def test_creases_only_touch_their_surroundings():
    canvas = get_canvas(40)
    surface = Surface(canvas, (0.5, 0.5, 0.5))
    surface.crease(np.array([(0.0, 0.0), (0.02, 0.0), (0.04, 0.0)], np.float32), 0.03, 1.0)
    touched = np.argwhere(surface.detail != 0) / 40 + (-1.85, -1.80)
    assert surface.detail.min() < -0.01
    assert np.abs(touched - (0.0, 0.02)).max() < 0.2
