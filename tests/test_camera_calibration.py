"""Calibration recovers a known lens and known poses from rendered boards, and refuses what would be inaccurate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_scenes import (
    BOARD,
    CORNERS_M,
    LENS,
    SMALL,
    T_BASE_BOARD,
    T_BASE_SMALL,
    T_TOOL_CAMERA,
    apart,
    board_poses,
    ideal_views,
    lens_pictures,
    looking_at,
    render,
    views_of,
    wrist_scene,
    write_pictures,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hardware.arms import SO101
from hardware.cameras import (
    Board,
    CalibrationRefusedError,
    CameraError,
    Lens,
    LensLimits,
    calibrate_lens,
    camera_pose,
    find_board,
    hand_eye,
    load_views,
    place_board,
    save_board,
    save_views,
    touched_corners,
)
from hardware.cameras.charuco import board_page, board_picture
from hardware.cameras.hand_eye import solve_ax_xb
from hardware.kinematics import inverse

Float = NDArray[np.float64]
OVERHEAD = looking_at((0.2, 0.0, 0.0), (0.6, 0.05, 0.45), 0.05)


def rays(lens: Lens) -> Float:
    """Directions of a grid of pixels in the middle 90 % of the picture, (N, 3)."""
    uv = np.stack(np.meshgrid(np.linspace(32, 608, 15), np.linspace(24, 456, 11)), -1).reshape(-1, 2)
    xy = (lens.straightened(uv) - lens.matrix[:2, 2]) / np.diag(lens.matrix)[:2]
    rays = np.column_stack([xy, np.ones(len(xy))])
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def rays_apart_px(a: Lens, b: Lens) -> float:
    """RMS difference of two lenses in pixels, but for a rotation: which way a camera faces is found with its pose."""
    u, _, vt = np.linalg.svd(rays(a).T @ rays(b))
    turned = rays(a) @ u @ vt
    return float(b.intrinsics.fx * np.sqrt(np.mean(np.sum((turned - rays(b)) ** 2, axis=1))))


# ---- the board


def test_the_board_is_found_where_it_was_drawn() -> None:
    for board in (BOARD, Board(8, 6, 0.02, 0.015), Board(5, 7, 0.03, 0.022)):
        sighting = find_board(board, np.pad(board_picture(board, 60), 60, constant_values=255))
        assert sighting is not None and len(sighting.ids) == (board.columns - 1) * (board.rows - 1)
        expected = 60.0 * board.corners[sighting.ids][:, :2] / board.square_m + 60.0 - 0.5
        assert np.max(np.abs(sighting.corners - expected)) < 0.1


def test_the_page_has_the_size_it_says(tmp_path: Path) -> None:
    from PIL import Image

    save_board(BOARD, tmp_path / "board.png")
    picture = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (round(210 / 25.4 * 300), round(297 / 25.4 * 300))
    with Image.open(tmp_path / "board.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    sighting = find_board(BOARD, picture)
    assert sighting is not None and len(sighting.ids) == 24
    across_mm = np.ptp(sighting.corners[:, 0]) / 300 * 25.4
    assert across_mm == pytest.approx(1000 * 5 * BOARD.square_m, abs=0.1)
    save_board(BOARD, tmp_path / "board.pdf", (279.4, 215.9))
    pdf = (tmp_path / "board.pdf").read_bytes()
    assert b"/MediaBox [ 0 0 792.0 612.0 ]" in pdf


def test_impossible_boards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="needs a page of"):
        board_page(replace(BOARD, square_m=0.05, marker_m=0.03))
    with pytest.raises(CameraError, match=r"\.png or \.pdf"):
        save_board(BOARD, tmp_path / "board.jpg")
    with pytest.raises(CameraError, match="a marker must be smaller"):
        Board(square_m=0.03, marker_m=0.03)
    with pytest.raises(CameraError, match="at least 4 x 4"):
        Board(columns=3)


def test_a_hidden_blurred_or_missing_board() -> None:
    rng = np.random.default_rng(3)
    pose = np.linalg.inv(looking_at((0.2, 0.0, 0.0), (0.25, 0.0, 0.45))) @ T_BASE_BOARD
    picture = render(pose, rng)
    partly = picture.copy()
    partly[:, :300] = 90
    sighting = find_board(BOARD, partly)
    assert sighting is not None and 8 <= len(sighting.ids) < 24
    assert np.all(sighting.corners[:, 0] > 295)
    mostly = picture.copy()
    mostly[:, :460] = 90
    assert find_board(BOARD, mostly) is None
    assert find_board(BOARD, np.full_like(picture, 120)) is None
    assert find_board(BOARD, rng.integers(0, 256, picture.shape).astype(np.uint8)) is None


# ---- the lens


@pytest.fixture(scope="module")
def lens_views() -> list:  # type: ignore[type-arg]  # of View
    return views_of(lens_pictures(0))


def test_a_lens_is_recovered_from_pictures(lens_views: list) -> None:  # type: ignore[type-arg]
    found = calibrate_lens(BOARD, lens_views)
    k, true = found.lens.intrinsics, LENS.intrinsics
    assert found.error_px < 0.1
    assert (k.fx, k.fy) == pytest.approx((true.fx, true.fy), rel=0.002)
    assert (k.cx, k.cy) == pytest.approx((true.cx, true.cy), abs=1.5)
    assert found.lens.distortion[:2] == pytest.approx(LENS.distortion[:2], abs=0.03)
    assert rays_apart_px(found.lens, LENS) < 0.25
    assert rays_apart_px(Lens(LENS.intrinsics), LENS) > 2.0  # without distortion it would be this far off
    assert found.focal_std < 0.002 and found.left_out == {}


def test_half_a_pixel_is_not_lost_between_the_conventions() -> None:
    """Many precise views pin the principal point down to less than half a pixel."""
    rng = np.random.default_rng(4)
    found = calibrate_lens(BOARD, ideal_views(board_poses(rng, 40), rng, noise_px=0.03))
    assert found.lens.intrinsics.cx == pytest.approx(LENS.intrinsics.cx, abs=0.25)
    assert found.lens.intrinsics.cy == pytest.approx(LENS.intrinsics.cy, abs=0.25)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), noise_px=st.floats(0.02, 0.3))
def test_the_stated_uncertainty_is_honest(seed: int, noise_px: float) -> None:
    rng = np.random.default_rng(seed)
    found = calibrate_lens(BOARD, ideal_views(board_poses(rng, 20), rng, noise_px=noise_px))
    off = max(
        abs(found.lens.intrinsics.fx / LENS.intrinsics.fx - 1), abs(found.lens.intrinsics.fy / LENS.intrinsics.fy - 1)
    )
    assert off < 5.0 * found.focal_std
    assert found.error_px == pytest.approx(np.sqrt(2.0) * noise_px, rel=0.2)


def test_noisy_and_soft_pictures_cost_accuracy_but_work() -> None:
    rng = np.random.default_rng(5)
    pictures = [render(pose, rng, noise=8.0, blur_px=1.3) for pose in board_poses(rng, 14)]
    found = calibrate_lens(BOARD, views_of(pictures))
    assert found.lens.intrinsics.fx == pytest.approx(LENS.intrinsics.fx, rel=0.005)
    assert 0.05 < found.error_px < 0.4


def test_a_view_that_does_not_fit_is_named_and_left_out() -> None:
    rng = np.random.default_rng(6)
    views = ideal_views(board_poses(rng, 15), rng)
    moved = views[4].sighting
    bent = replace(moved, corners=moved.corners + 4.0 * np.sin(0.03 * moved.corners[:, ::-1]))
    views[4] = replace(views[4], sighting=bent)
    found = calibrate_lens(BOARD, views)
    assert list(found.left_out) == ["view_004.png"] and "px off" in found.left_out["view_004.png"]
    assert "view_004.png" not in found.used and len(found.used) == 14
    assert found.lens.intrinsics.fx == pytest.approx(LENS.intrinsics.fx, rel=0.005)


def test_too_few_views_are_refused() -> None:
    rng = np.random.default_rng(7)
    with pytest.raises(CalibrationRefusedError, match="found in 7 pictures, 8 are needed"):
        calibrate_lens(BOARD, ideal_views(board_poses(rng, 7), rng))


def test_a_large_reprojection_error_is_refused() -> None:
    rng = np.random.default_rng(8)
    views = ideal_views(board_poses(rng, 20), rng, noise_px=0.6)
    with pytest.raises(
        CalibrationRefusedError, match=r"the reprojection error is 0\.\d\d px, at most 0\.50 is good enough"
    ):
        calibrate_lens(BOARD, views)
    assert calibrate_lens(BOARD, views, LensLimits(error_px_640=1.0)).error_px > 0.7


def test_views_in_the_middle_of_the_picture_are_refused() -> None:
    rng = np.random.default_rng(9)
    poses = board_poses(rng, 15, spread=0.1)
    for pose in poses:  # further away, so that the board is small
        pose[2, 3] += 0.5
    with pytest.raises(
        CalibrationRefusedError, match=r"the board was seen in \d+ % of the picture, 75 % are needed; missing"
    ):
        calibrate_lens(BOARD, ideal_views(poses, rng))


def test_a_board_that_was_hardly_tilted_is_refused() -> None:
    rng = np.random.default_rng(10)
    with pytest.raises(CalibrationRefusedError, match=r"turned left and right by \d+ degrees in all, 30 are needed"):
        calibrate_lens(BOARD, ideal_views(board_poses(rng, 15, tilt_deg=4.0), rng, noise_px=0.05))


def test_pictures_of_two_sizes_are_refused() -> None:
    rng = np.random.default_rng(11)
    views = ideal_views(board_poses(rng, 10), rng)
    views[3] = replace(views[3], sighting=replace(views[3].sighting, size=(1280, 960)))
    with pytest.raises(CameraError, match="different sizes: 640 x 480, 1280 x 960"):
        calibrate_lens(BOARD, views)


# ---- a fixed camera


@pytest.fixture(scope="module")
def table_views() -> list:  # type: ignore[type-arg]
    rng = np.random.default_rng(12)
    return views_of([render(np.linalg.inv(OVERHEAD) @ T_BASE_BOARD, rng) for _ in range(2)])


def test_a_fixed_camera_is_found(table_views: list, lens_views: list) -> None:  # type: ignore[type-arg]
    placement = place_board(BOARD, CORNERS_M)
    assert placement.T_base_board == pytest.approx(T_BASE_BOARD) and placement.error_m == pytest.approx(0.0, abs=1e-9)
    for lens in (LENS, calibrate_lens(BOARD, lens_views).lens):
        found = camera_pose(BOARD, table_views, lens, placement)
        distance_mm, angle_deg = apart(found.T_base_camera, OVERHEAD)
        assert distance_mm < 1.5 and angle_deg < 0.2
        assert found.table_error_m < 0.0005 and found.camera_std_m < 0.001 and found.error_px < 0.2


@settings(max_examples=10)
@given(
    st.floats(-np.pi, np.pi), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.sets(st.sampled_from("ABCD"), min_size=2)
)
def test_a_board_may_lie_anywhere(yaw: float, x: float, y: float, letters: set[str]) -> None:
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    places = {
        letter: tuple((turn @ np.array([u, -v]) + [x, y]).tolist())
        for letter, (u, v) in BOARD.letters.items()
        if letter in letters
    }
    pose = place_board(BOARD, places, height_m=0.004).T_base_board
    for letter, (u, v) in BOARD.letters.items():
        expected = [*(turn @ np.array([u, -v]) + [x, y]), 0.004]
        assert (pose @ np.array([u, v, 0.0, 1.0]))[:3] == pytest.approx(expected, abs=1e-9), letter
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0) and pose[2, 2] == pytest.approx(-1.0)


def test_wrongly_measured_corners_are_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match=r"are 6\.\d mm from where a board of this size has them"):
        place_board(BOARD, {"A": CORNERS_M["A"], "B": (CORNERS_M["B"][0], CORNERS_M["B"][1] + 0.0125)})
    swapped = {"A": CORNERS_M["B"], "B": CORNERS_M["A"], "C": CORNERS_M["C"], "D": CORNERS_M["D"]}
    with pytest.raises(CalibrationRefusedError, match="check which corner is which"):
        place_board(BOARD, swapped)
    with pytest.raises(CalibrationRefusedError, match="two corners"):
        place_board(BOARD, {"A": (0.1, 0.1)})
    with pytest.raises(CameraError, match="no corner E"):
        place_board(BOARD, {"A": (0.1, 0.1), "E": (0.2, 0.1)})


def test_corners_are_touched_with_the_tool() -> None:
    touches = {
        letter: np.array([*inverse(SO101, (x, y, 0.004)), 0.0])
        for letter, (x, y) in {"A": (0.16, -0.08), "B": (0.16, 0.08), "C": (0.26, 0.08)}.items()
    }
    assert touched_corners(SO101, touches)["B"] == pytest.approx((0.16, 0.08), abs=1e-6)
    raised = touches | {"A": np.array([*inverse(SO101, (0.16, -0.08, 0.03)), 0.0])}
    with pytest.raises(CalibrationRefusedError, match="corner A was touched the tool was 30 mm above"):
        touched_corners(SO101, raised)


def test_poses_that_cannot_be_trusted_are_refused(table_views: list) -> None:  # type: ignore[type-arg]
    placement = place_board(BOARD, CORNERS_M)
    with pytest.raises(CalibrationRefusedError, match="not found in any picture"):
        camera_pose(BOARD, [], LENS, placement)
    moved = render(
        np.linalg.inv(looking_at((0.23, 0.02, 0.0), (0.6, 0.05, 0.45))) @ T_BASE_BOARD, np.random.default_rng(0)
    )
    with pytest.raises(CalibrationRefusedError, match="did board or camera move between the pictures"):
        camera_pose(BOARD, [*table_views, *views_of([moved])], LENS, placement)
    with pytest.raises(CameraError, match="the lens was calibrated at 320 x 240"):
        camera_pose(BOARD, table_views, Lens(LENS.intrinsics.resized(320, 240)), placement)
    rng = np.random.default_rng(13)
    far = looking_at((0.2, 0.0, 0.0), (2.6, 0.0, 1.9))
    views = ideal_views([np.linalg.inv(far) @ T_BASE_BOARD], rng, noise_px=0.3)
    with pytest.raises(CalibrationRefusedError, match="not known well enough|two poses of the board"):
        camera_pose(BOARD, views, LENS, placement)


# ---- a camera on the wrist


def test_a_camera_on_the_wrist_is_found() -> None:
    joints, pictures = wrist_scene(0)
    found = hand_eye(SMALL, views_of(pictures, joints, SMALL), LENS, SO101)
    distance_mm, angle_deg = apart(found.T_tool_camera, T_TOOL_CAMERA)
    assert distance_mm < 0.3 and angle_deg < 0.1
    assert apart(found.T_base_board, T_BASE_SMALL)[0] < 0.5
    assert found.joint_error_deg < 0.05 and found.board_error_m < 0.0005 and found.camera_std_m < 0.0005


def test_an_arm_that_is_half_a_degree_off_costs_a_millimetre() -> None:
    joints, pictures = wrist_scene(0)
    rng = np.random.default_rng(9)
    noisy = [q + np.array([*rng.normal(0.0, np.radians(0.5), 5), 0.0]) for q in joints]
    found = hand_eye(SMALL, views_of(pictures, noisy, SMALL), LENS, SO101)
    distance_mm, angle_deg = apart(found.T_tool_camera, T_TOOL_CAMERA)
    assert distance_mm < 2.5 and angle_deg < 0.8
    assert distance_mm < 3.0 * 1000.0 * found.camera_std_m
    assert found.joint_error_deg == pytest.approx(0.5, abs=0.15)
    assert 0.002 < found.board_error_m < 0.008


def test_what_an_arm_does_that_does_not_fit_is_refused() -> None:
    joints, pictures = wrist_scene(0)
    views = views_of(pictures, joints, SMALL)
    with pytest.raises(CalibrationRefusedError, match="7 views show the board and have joint angles, 8 are needed"):
        hand_eye(SMALL, views[:7], LENS, SO101)
    rng = np.random.default_rng(9)
    noisy = [q + np.array([*rng.normal(0.0, np.radians(4.0), 5), 0.0]) for q in joints]
    with pytest.raises(CalibrationRefusedError, match=r"joints seem to be off by \d\.\d degrees"):
        hand_eye(SMALL, views_of(pictures, noisy, SMALL), LENS, SO101)
    pan_only = [np.array([0.1 * k, *joints[0][1:]]) for k in range(len(joints))]
    with pytest.raises(CalibrationRefusedError, match="turned about one axis only"):
        hand_eye(SMALL, views_of(pictures, pan_only, SMALL), LENS, SO101)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_closed_form_is_exact_without_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def pose() -> Float:
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(rng.uniform(-1.2, 1.2, 3))[0], rng.uniform(-0.3, 0.3, 3)
        return T

    X, Y = pose(), pose()
    A = [pose() for _ in range(6)]
    B = [np.linalg.inv(a @ X) @ Y for a in A]
    assert solve_ax_xb(A, B) == pytest.approx(X, abs=1e-8)


# ---- folders of views


def test_views_survive_their_folder(tmp_path: Path) -> None:
    joints, pictures = wrist_scene(0)
    blank = np.full_like(pictures[0], 100)
    taken = [(pictures[0], joints[0]), (blank, joints[1]), (pictures[2], None)]
    save_views(tmp_path / "views", SMALL, taken, touches={"A": joints[0]})
    views = load_views(tmp_path / "views")
    assert views.board == SMALL and views.unseen == ("view_001.png",)
    assert [view.name for view in views.views] == ["view_000.png", "view_002.png"]
    assert views.views[0].q == pytest.approx(joints[0]) and views.views[1].q is None
    assert views.touches["A"] == pytest.approx(joints[0])
    assert load_views(tmp_path / "views", BOARD).board == BOARD


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "is wrong at the file"),
        ('{"schema": 2}', "is wrong at schema"),
        ('{"schema": 1, "joints": {"view_000.png": [1, 2]}}', r"is wrong at joints\.view_000\.png"),
        (
            '{"schema": 1, "joints": {"view_009.png": [0, 0, 0, 0, 0, 0]}}',
            r"joints for view_009\.png, which is not there",
        ),
        ('{"schema": 1, "corners_mm": {"E": [1, 2]}}', r"is wrong at corners_mm\.E"),
        ('{"schema": 1, "touches": {"A": [0, 0, 0, 0, 0, NaN]}}', r"is wrong at "),
    ],
)
def test_wrong_view_tables_are_named(tmp_path: Path, table: str, message: str) -> None:
    write_pictures(tmp_path, [np.full((48, 64, 3), 100, np.uint8)])
    (tmp_path / "views.json").write_text(table)
    with pytest.raises(CameraError, match=message):
        load_views(tmp_path)


def test_folders_without_views(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="there is no folder"):
        load_views(tmp_path / "none")
    with pytest.raises(CameraError, match="holds no pictures"):
        load_views(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CameraError, match="cannot write"):
        save_views(tmp_path / "file" / "views", BOARD, [])
    save_views(tmp_path / "views", BOARD, [])
    assert json.loads((tmp_path / "views" / "views.json").read_text())["board"]["square_mm"] == 35.0
