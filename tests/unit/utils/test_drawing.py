"""Annotated pictures: tags cover neither each other nor, where there is room, faces; panels stand in columns."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mf2.utils.drawing import LINE, MARGIN, PANEL_WIDTH, TITLE, WARNING, FaceState, compose, draw_panel, panel_height
from mf2.utils.tag_layout import overlap, place_tags

CODES = ["AU1", "AU2", "AU4", "AU6", "AU7", "AU12", "AU15", "AU25"]
PICTURE = (640.0, 480.0)


def grid_of_boxes(num_columns: int, num_rows: int, side: float) -> list[tuple[float, float, float, float]]:
    xs, ys = np.linspace(5, 635 - side, num_columns), np.linspace(5, 475 - side, num_rows)
    return [(x, y, x + side, y + side) for y in ys for x in xs]


@pytest.mark.parametrize("boxes", [grid_of_boxes(6, 2, 60), grid_of_boxes(5, 4, 80), grid_of_boxes(9, 6, 60)])
def test_tags_cover_no_other_tag_and_no_face_while_there_is_room(boxes):
    places = place_tags(boxes, [[(160.0, 14.0), (40.0, 14.0), (14.0, 14.0)]] * len(boxes), PICTURE)
    tags = [place[1] for place in places]
    assert all(not overlap(*pair) for pair in itertools.combinations(tags, 2))
    assert all(x1 >= 0 and y1 >= 0 and x2 <= PICTURE[0] and y2 <= PICTURE[1] for x1, y1, x2, y2 in tags)
    covered = [overlap(tag, box) for i, tag in enumerate(tags) for j, box in enumerate(boxes) if i != j]
    assert not any(covered)


def test_long_tags_are_taken_where_they_fit():
    (first, tag), (second, _) = place_tags(
        [(100, 100, 160, 160), (180, 100, 240, 160)],
        [[(70.0, 14.0), (20.0, 14.0)], [(500.0, 14.0), (20.0, 14.0)]],
        PICTURE,
    )
    assert (first, second) == (0, 0), "the second goes below"
    assert tag == (100, 86, 170, 100)


def test_a_crowd_without_room_for_all_tags_has_those_that_fit():
    boxes = [(0.0, 0.0, 20.0, 20.0)] * 7
    places = place_tags(boxes, [[(10.0, 10.0)]] * 7, (20.0, 20.0))
    tags = [place[1] for place in places if place]
    assert len(tags) == 4 and all(not overlap(*pair) for pair in itertools.combinations(tags, 2))


def state(number: int, box: tuple[float, ...]) -> FaceState:
    x1, y1, x2, y2 = box
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    return FaceState(
        title=f"face {number}",
        regions_px=np.tile(corners, (len(CODES), 2, 1, 1)),
        aus=dict.fromkeys(CODES, 0.8),
        thresholds=dict.fromkeys(CODES, 0.5),
        box_px=box,
    )


@pytest.mark.parametrize("num_faces", [1, 2, 3, 5, 8, 12])
def test_every_face_has_a_panel_that_is_whole(num_faces):
    faces = [state(number, box) for number, box in enumerate(grid_of_boxes(6, 2, 60)[:num_faces])]
    height = panel_height(len(CODES), 0)
    sheet = compose(Image.new("RGB", (640, 480)), faces, num_faces, height)
    assert 1.2 < sheet.width / sheet.height < 3
    of_panels = np.asarray(sheet)[:, round(640 * max(1.0, sheet.height / 480)) :]
    assert num_faces * height * PANEL_WIDTH <= 1.01 * of_panels[..., 0].size, "no panel is shrunk"
    for count in range(num_faces):
        fewer = np.asarray(compose(Image.new("RGB", (640, 480)), faces[:count], num_faces, height))
        assert (fewer[:, -of_panels.shape[1] :] != of_panels).any(), "a panel for each"


def test_no_panel_is_a_picture_with_tags():
    picture = Image.new("RGB", (640, 480))
    drawn = compose(picture, [state(0, (100, 100, 160, 160))], 0, 100)
    assert drawn.size == picture.size and np.asarray(drawn).any()


def test_active_inactive_and_unlabelled_aus_look_different():
    """The mark before a name: a dot, a ring, nothing."""
    labelled = replace(state(0, (10, 10, 60, 60)), active_labels=["AU1"], inactive_labels=["AU2"])
    panel = np.asarray(draw_panel(labelled, 300, 1.0).convert("L"))
    first_line = MARGIN + TITLE
    marks = [panel[first_line + LINE * row : first_line + LINE * (row + 1), : MARGIN - 2] for row in range(3)]
    dot, ring, nothing = ((mark < 128).sum() for mark in marks)
    assert dot > 1.3 * ring > 0 == nothing
    x, y = MARGIN - 7, first_line + LINE + LINE // 2
    assert panel[y, x] > 200 > panel[y - LINE, x], "a ring is hollow"


def test_a_caption_that_contradicts_the_probabilities_is_marked():
    right = replace(state(0, (10, 10, 60, 60)), emotion="Anger", captions={"emotion": "The face shows anger."})
    wrong = replace(right, captions={"emotion": "The face shows a neutral mood. It shows in the dropped jaw."})
    assert right.text_lines() == [("Emotion: The face shows anger.", False)]
    assert all(is_flagged for _, is_flagged in wrong.text_lines())
    text = " ".join(line.strip() for line, _ in wrong.text_lines())
    assert text.endswith("[AU26 not recognised; Neutral not the likeliest]")

    def has_warning(face):
        return (np.asarray(draw_panel(face, 300, 1.0)) == WARNING).all(-1).any()

    assert has_warning(wrong) and not has_warning(right)
