"""The head's pose from its landmarks."""

import numpy as np
import pytest

from mf2 import head_pose_mf2
from mf2.dataset_tools.synthetic.face_model import Expression, Identity
from mf2.dataset_tools.synthetic.rendering import Scene, render_face
from mf2.head_pose_mf2 import head_pose
from mf2.labels_mf2 import FLIP_68, MEAN_FACE_68

POSES = [(0, 0, 0), (20, 0, 0), (-20, 0, 0), (0, 35, 0), (0, -35, 0), (0, 0, 30), (15, -25, -40), (-10, 40, 20)]


def turn(pitch, yaw, roll):
    """`(3, 3)` of a head turned to the right by yaw, then down by pitch, then clockwise by roll."""
    p, y, r = np.radians((pitch, yaw, roll))
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    turn_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return turn_z @ turn_x @ turn_y


def photograph(pose, place=(0.0, 0.0), distance=1000.0, size=(480, 640)):
    """The points of the average head, a camera's picture of it; lengths in eye distances, `place` in view angles."""
    head = head_pose_mf2._rigid_head() @ turn(*pose).T
    in_view = (head[:, :2] + np.array(place) * distance) / (distance - head[:, 2:])
    points = np.zeros((68, 2))
    points[head_pose_mf2._RIGID_POINTS] = in_view * max(size) + (size[1] / 2, size[0] / 2)
    return points


@pytest.mark.parametrize("pose", POSES)
def test_the_pose_of_a_photographed_head(pose):
    far = photograph(pose)
    np.testing.assert_allclose(head_pose(far, (480, 640)), pose, atol=0.05)
    np.testing.assert_allclose(head_pose(far), pose, atol=0.05)
    np.testing.assert_allclose(head_pose(far * 0.2 + 7), pose, atol=0.05)  # neither size nor place matter
    # Half a metre away and at the picture's edge: the ray's direction keeps the error small.
    near = photograph(pose, place=(0.35, -0.25), distance=8.0)
    np.testing.assert_allclose(head_pose(near, (480, 640)), pose, atol=3.0)
    assert np.abs(np.subtract(head_pose(near), pose)).max() > 6


def test_many_heads_are_each_as_if_alone():
    """One without depth among them has no pose and spoils none."""
    poses = [(0, 0, 0), (20, -30, 10)]
    heads = [photograph(pose, place=(0.1, 0.2)) for pose in poses]
    flat = np.linspace((0, 0), (67, 67), 68)
    found = head_pose_mf2.head_poses(np.stack([heads[0], flat, heads[1]]), np.array([(480, 640), (9, 9), (100, 90)]))
    np.testing.assert_allclose(found[0], head_pose(heads[0], (480, 640)), atol=1e-9)
    np.testing.assert_allclose(found[2], head_pose(heads[1], (100, 90)), atol=1e-9)
    assert np.isnan(found[1]).all()


def test_a_mirrored_face_looks_the_other_way():
    points = np.array(MEAN_FACE_68) + np.random.default_rng(0).normal(0, 0.02, (68, 2))
    pitch, yaw, roll = head_pose(points)
    mirrored = (points * (-1, 1))[list(FLIP_68)]
    np.testing.assert_allclose(head_pose(mirrored), (pitch, -yaw, -roll), atol=1e-3)


def test_generated_faces_look_where_their_scene_says():
    """Their relief is flatter than a head's, so that angles come out smaller; their order is right."""
    scenes = [Scene(pitch=pitch, yaw=yaw, roll=roll) for pitch, yaw, roll in ((-8, -20, -10), (0, 0, 0), (8, 20, 10))]
    faces = [render_face(Identity(), Expression(np.zeros(12)), scene, 112) for scene in scenes]
    low, middle, high = (np.array(head_pose(face.landmarks_px, (112, 112))) for face in faces)
    np.testing.assert_allclose(middle, (0, 0, 0), atol=4)
    assert (high - middle > (3, 8, 6)).all() and (middle - low > (3, 8, 6)).all()


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.full((68, 2), np.nan), np.ones((5, 2)), np.ones((2, 68, 2))])
def test_points_without_a_head(points):
    with pytest.raises(ValueError, match=r"shape|one place"):
        head_pose(points)
