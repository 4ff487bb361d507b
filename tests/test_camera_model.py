"""Pinhole geometry: pixels and points must map onto each other, or every planned point is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.camera_model import CameraModel, Frame, Intrinsics

FRONT = CameraModel.look_at(Intrinsics.from_fov_y(512, 384, np.radians(36.0)), (0.60, 0.0, 0.50), (0.19, 0.0, 0.0))


def test_the_target_of_look_at_is_in_the_middle_of_the_picture() -> None:
    assert FRONT.project(np.array([0.19, 0.0, 0.0])) == pytest.approx([256.0, 192.0], abs=1e-9)


def test_a_pose_made_by_look_at_is_a_right_handed_rotation() -> None:
    rotation = FRONT.T_base_camera[:3, :3]
    assert rotation.T @ rotation == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_directions_in_the_front_camera_picture() -> None:
    """The front camera faces the arm: right is +y, up (away from the viewer) is -x; higher things appear higher."""
    middle = FRONT.project(np.array([0.19, 0.0, 0.0]))
    right, behind, above = FRONT.project(np.array([[0.19, 0.05, 0.0], [0.14, 0.0, 0.0], [0.19, 0.0, 0.05]]))
    assert right[0] > middle[0] + 10 and right[1] == pytest.approx(middle[1], abs=1.0)
    assert behind[1] < middle[1] - 10
    assert above[1] < middle[1] - 10


def test_field_of_view_reaches_exactly_to_the_picture_edge() -> None:
    intrinsics = Intrinsics.from_fov_y(512, 384, np.radians(36.0))
    camera = CameraModel(intrinsics, np.eye(4))
    top = camera.project(np.array([0.0, -np.tan(np.radians(18.0)), 1.0]))
    assert top == pytest.approx([256.0, 0.0], abs=1e-9)
    assert intrinsics.fx == intrinsics.fy


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.35), st.floats(-0.25, 0.25), st.floats(0.0, 0.2))
def test_on_plane_undoes_project(x: float, y: float, z: float) -> None:
    point = np.array([x, y, z])
    assert FRONT.on_plane(FRONT.project(point), z) == pytest.approx(point, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 512), st.floats(0, 384))
def test_project_undoes_ray(u: float, v: float) -> None:
    origin, direction = FRONT.ray(np.array([u, v]))
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    assert FRONT.project(origin + 0.7 * direction) == pytest.approx([u, v], abs=1e-6)


def test_shapes_follow_the_input() -> None:
    points = np.full((4, 3, 3), 0.1)
    pixels = FRONT.project(points)
    assert pixels.shape == (4, 3, 2)
    assert FRONT.on_plane(pixels).shape == (4, 3, 3)
    assert FRONT.on_plane(pixels[0, 0]).shape == (3,)


def test_points_behind_the_camera_have_no_pixel() -> None:
    assert np.isnan(FRONT.project(np.array([1.2, 0.0, 1.0]))).all()


def test_pixels_above_the_horizon_meet_no_table() -> None:
    level = CameraModel.look_at(FRONT.intrinsics, (0.6, 0.0, 0.3), (0.0, 0.0, 0.3))
    up, down = level.on_plane(np.array([[256.0, 10.0], [256.0, 380.0]]))
    assert np.isnan(up).all()
    assert down[2] == pytest.approx(0.0, abs=1e-12) and down[0] < 0.6


def test_looking_straight_down_keeps_plus_y_to_the_right() -> None:
    camera = CameraModel.look_at(FRONT.intrinsics, (0.2, 0.0, 0.6), (0.2, 0.0, 0.0))
    pixels = camera.project(np.array([[0.2, 0.0, 0.0], [0.2, 0.05, 0.0]]))
    assert pixels[0] == pytest.approx([256.0, 192.0])
    assert pixels[1][0] > 256.0


def test_resized_camera_sees_the_same_normalised_point() -> None:
    small = CameraModel(FRONT.intrinsics.resized(128, 96), FRONT.T_base_camera)
    point = np.array([0.22, -0.07, 0.03])
    assert small.project(point) / [128, 96] == pytest.approx(FRONT.project(point) / [512, 384])


def test_a_frame_has_no_depth_unless_asked() -> None:
    frame = Frame(np.zeros((384, 512, 3), np.uint8), FRONT, 0.0)
    assert frame.depth_m is None and frame.segmentation is None
