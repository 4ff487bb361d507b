"""Where a fixed camera stands: from the board lying on the table at a known place.

The place is known from at least two of the board's corners A to D, measured from the arm's base or touched with the tool.
The board lies flat with its print up, so two corners are enough; more tell how well they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.camera_model import CameraModel
from hardware.cameras.charuco import Board
from hardware.cameras.errors import CalibrationRefusedError, CameraError
from hardware.cameras.lens import Lens
from hardware.cameras.views import View
from hardware.kinematics import tool_position

Float = NDArray[np.float64]


@dataclass(frozen=True)
class PoseLimits:
    """When a pose is refused."""

    place_m: float = 0.005
    """How well the corners of the board must agree (RMS): backlash alone lets an SO-101 miss by 3 mm."""
    touch_height_m: float = 0.010
    """How far from the table the tool may seem to be when it touches the board."""
    error_px_640: float = 1.0
    """Reprojection error (RMS) for a picture 640 wide; twice a lens's, whose error is in it."""
    table_m: float = 0.003
    """How far off the table points may be: with that an object of 2 cm is still between the jaws."""
    camera_std_m: float = 0.005
    """Standard deviation of the camera's position."""


@dataclass(frozen=True)
class Placement:
    """A board lying on the table."""

    T_base_board: Float  # (4, 4)
    error_m: float  # RMS distance of the corners from where they were measured


@dataclass(frozen=True)
class BoardPose:
    """Where a fixed camera stands, and how well that is known."""

    T_base_camera: Float  # (4, 4)
    error_px: float  # reprojection, RMS
    table_error_m: float  # RMS distance on the table between seen and true corners
    camera_std_m: float  # standard deviation of the camera's position
    placement_error_m: float  # how well the measured corners agreed


def place_board(
    board: Board,
    corners: Mapping[str, tuple[float, float]],
    *,
    height_m: float = 0.0,
    limits: PoseLimits = PoseLimits(),
) -> Placement:
    """The pose of a board from the base-frame places (x, y) in metres of two or more of its corners.

    ``height_m`` is how far its print lies above the base frame's z = 0. Raises ``CalibrationRefusedError``.
    """
    letters = board.letters
    unknown = sorted(set(corners) - set(letters))
    if unknown:
        raise CameraError(f"the board has no corner {unknown[0]}; its corners are {', '.join(letters)}")
    if len(corners) < 2:
        raise CalibrationRefusedError("where two corners of the board lie must be known, better all four: A, B, C, D")
    # Seen from above, the board's y axis runs the other way.
    on_board = np.array([(letters[name][0], -letters[name][1]) for name in corners])
    in_base = np.array([corners[name] for name in corners], float)
    u, _, vt = np.linalg.svd((on_board - on_board.mean(0)).T @ (in_base - in_base.mean(0)))
    turn = vt.T @ np.diag([1.0, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    shift = in_base.mean(0) - turn @ on_board.mean(0)
    error = float(np.sqrt(np.mean(np.sum((on_board @ turn.T + shift - in_base) ** 2, axis=1))))
    if error > limits.place_m:
        raise CalibrationRefusedError(
            f"the corners {', '.join(corners)} are {1000 * error:.1f} mm from where a board of this size has them, "
            f"{1000 * limits.place_m:.0f} mm are allowed; measure again, check which corner is which and the size of a square"
        )
    pose = np.eye(4)
    pose[:2, :2] = turn @ np.diag([1.0, -1.0])
    pose[2, 2] = -1.0
    pose[:3, 3] = *shift, height_m
    return Placement(pose, error)


def touched_corners(
    spec: ArmSpec, touches: Mapping[str, Float], *, height_m: float = 0.0, limits: PoseLimits = PoseLimits()
) -> dict[str, tuple[float, float]]:
    """Base-frame places (x, y) of corners that the tool touched with joint vectors (6,).

    Raises ``CalibrationRefusedError`` when the tool was not near the table then.
    """
    places = {letter: tool_position(spec, q) for letter, q in touches.items()}
    for letter, place in places.items():
        if abs(place[2] - height_m) > limits.touch_height_m:
            raise CalibrationRefusedError(
                f"when corner {letter} was touched the tool was {1000 * (place[2] - height_m):.0f} mm above the board; touch "
                "it with the tip of the closed jaws, and calibrate the arm if that is what was done"
            )
    return {letter: (place[0], place[1]) for letter, place in places.items()}


def camera_pose(
    board: Board, views: Sequence[View], lens: Lens, placement: Placement, limits: PoseLimits = PoseLimits()
) -> BoardPose:
    """Where a fixed camera stands, from views of the board that did not move. Raises ``CalibrationRefusedError``."""
    if not views:
        raise CalibrationRefusedError(
            "the board was not found in any picture; is it in view, in the light and large enough?"
        )
    _insist_on_size(views, lens)
    places = np.concatenate([board.corners[view.sighting.ids] for view in views])
    pixels = np.concatenate([lens.straightened(view.sighting.corners) for view in views])
    T_camera_board, error_px = solve_pose(places, pixels, lens)
    allowed = limits.error_px_640 * lens.intrinsics.width / 640.0
    if error_px > allowed:
        raise CalibrationRefusedError(
            f"the board's corners are {error_px:.2f} px from where they should be, {allowed:.2f} are allowed; "
            + ("did board or camera move between the pictures? Else " if len(views) > 1 else "")
            + "calibrate the lens again and check the size of a square"
        )
    T_base_camera = placement.T_base_board @ np.linalg.inv(T_camera_board)
    in_base = places @ placement.T_base_board[:3, :3].T + placement.T_base_board[:3, 3]
    seen = CameraModel(lens.intrinsics, T_base_camera).on_plane(pixels + 0.5, float(placement.T_base_board[2, 3]))
    table_error = float(np.sqrt(np.mean(np.sum((seen - in_base) ** 2, axis=1))))
    std = _position_std(places, T_camera_board, lens, max(error_px, 0.05))
    found = BoardPose(T_base_camera, error_px, table_error, std, placement.error_m)
    if T_base_camera[2, 3] <= 0.0 or not table_error <= limits.table_m or not std <= limits.camera_std_m:
        raise CalibrationRefusedError(
            f"the camera's pose is not known well enough: points on the table are {1000 * table_error:.1f} mm off "
            f"({1000 * limits.table_m:.0f} allowed), its position is uncertain by {1000 * std:.1f} mm "
            f"({1000 * limits.camera_std_m:.0f} allowed); use a larger board, move the camera closer, or look less flatly"
        )
    return found


def solve_pose(places: Float, pixels: Float, lens: Lens) -> tuple[Float, float]:
    """Pose (4, 4) of the board in the camera frame and reprojection error (px, RMS).

    ``places`` (N, 3) in the board's plane, ``pixels`` (N, 2) rectified OpenCV pixels. Raises ``CalibrationRefusedError`` when
    two poses explain the picture equally well.
    """
    count, turns, shifts, _ = cv2.solvePnPGeneric(
        places.reshape(-1, 1, 3), pixels.reshape(-1, 1, 2), lens.matrix, None, flags=cv2.SOLVEPNP_IPPE
    )
    if not count:
        raise CalibrationRefusedError("the board's pose cannot be found; bring it closer to the camera")
    refined = []
    for turn, shift in zip(turns, shifts, strict=True):
        turn, shift = cv2.solvePnPRefineLM(
            places.reshape(-1, 1, 3), pixels.reshape(-1, 1, 2), lens.matrix, None,
            np.asarray(turn, np.float64).copy(), np.asarray(shift, np.float64).copy(),
        )  # fmt: skip
        refined.append((_rms(places, pixels, lens, turn, shift), turn, shift))
    refined.sort(key=lambda item: item[0])
    error, turn, shift = refined[0]
    # Where nothing fits there is nothing to confuse: then the error says so.
    fits = error < 2.0 * lens.intrinsics.width / 640.0
    if fits and len(refined) > 1 and refined[1][0] < 1.2 * error and _angle(refined[0][1], refined[1][1]) > 0.05:
        raise CalibrationRefusedError(
            "two poses of the board explain the picture equally well; bring it closer to the camera or look at it more aslant"
        )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], np.ravel(shift)
    return pose, error


def _rms(places: Float, pixels: Float, lens: Lens, turn: Float, shift: Float) -> float:
    projected = np.asarray(cv2.projectPoints(places, turn, shift, lens.matrix, None)[0]).reshape(-1, 2)
    return float(np.sqrt(np.mean(np.sum((projected - pixels) ** 2, axis=1))))


def _angle(a: Float, b: Float) -> float:
    between = np.asarray(cv2.Rodrigues(a)[0]).T @ np.asarray(cv2.Rodrigues(b)[0])
    return float(np.linalg.norm(cv2.Rodrigues(between)[0]))


def _position_std(places: Float, T_camera_board: Float, lens: Lens, error_px: float) -> float:
    """Standard deviation (m) of the camera's position in the board's frame, for corners that are off by ``error_px``."""
    turn = cv2.Rodrigues(T_camera_board[:3, :3])[0]
    _, jacobian = cv2.projectPoints(places, turn, T_camera_board[:3, 3], lens.matrix, None)
    J = np.asarray(jacobian, np.float64)[:, :6]
    per_axis = error_px / np.sqrt(2.0)
    covariance = per_axis**2 * np.linalg.pinv(J.T @ J)
    # The camera's position is -R^T t; how it changes with rotation vector and translation, by small steps.
    step, base = 1e-6, _eye(np.ravel(turn), T_camera_board[:3, 3])
    numbers = np.concatenate([np.ravel(turn), T_camera_board[:3, 3]])
    D = np.stack([(_eye(*np.split(numbers + step * e, 2)) - base) / step for e in np.eye(6)], axis=1)
    return float(np.sqrt(np.trace(D @ covariance @ D.T)))


def _eye(turn: Float, shift: Float) -> Float:
    return np.asarray(-np.asarray(cv2.Rodrigues(turn)[0]).T @ shift, np.float64)


def _insist_on_size(views: Sequence[View], lens: Lens) -> None:
    width, height = lens.intrinsics.width, lens.intrinsics.height
    for view in views:
        if view.sighting.size != (width, height):
            w, h = view.sighting.size
            raise CameraError(f"{view.name} is {w} x {h}, but the lens was calibrated at {width} x {height}")
