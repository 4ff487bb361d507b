"""Where a camera sits on the wrist: from views of a board that stays put while the arm moves the camera (AX = XB).

With T_base_tool of every view from the joints (A) and T_camera_board from the picture (B), A X B is where the board lies; X,
the camera in the tool frame, is what makes that the same for all views. First in closed form: rotation by aligning the
rotation vectors of all pairs of views, translation by linear least squares. Then by maximum likelihood: a camera is
precise to a tenth of a pixel and a cheap arm's joints to half a degree, so X, the board's pose and small errors of every
view's joints are found together, such that the pictures are explained with the smallest joint errors.

What this cannot see: joint angles that are all wrong in the same way move the camera with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.cameras.board_pose import solve_pose
from hardware.cameras.charuco import Board
from hardware.cameras.errors import CalibrationRefusedError
from hardware.cameras.lens import Lens
from hardware.cameras.views import View
from hardware.kinematics import forward

Float = NDArray[np.float64]

_PIXEL_STD = 0.2
_JOINT_STD_RAD = np.radians(0.5)


@dataclass(frozen=True)
class HandEyeLimits:
    """When a hand-eye calibration is refused."""

    views: int = 8
    turn_deg: float = 12.0
    """RMS rotation between views about the axis about which they turn second most: with one axis only, the camera's place
    along it cannot be told."""
    joints_deg: float = 1.5
    """How far joint angles seem to be off (standard deviation): backlash of a degree is about half a degree of it."""
    camera_std_m: float = 0.005
    """Standard deviation of the camera's place on the wrist."""


@dataclass(frozen=True)
class HandEye:
    """Where a camera sits on the wrist, and how well that is known."""

    T_tool_camera: Float  # (4, 4)
    T_base_board: Float  # (4, 4) where the board lay
    camera_std_m: float  # standard deviation of the camera's place
    joint_error_deg: float  # standard deviation of the joint errors that explain the pictures
    board_error_m: float  # RMS distance by which the board seems to jump between views, joints taken as they are
    view_errors_deg: dict[str, float]  # largest joint error of each view
    error_px: float  # reprojection with those joint errors, RMS


def hand_eye(
    board: Board, views: Sequence[View], lens: Lens, spec: ArmSpec, limits: HandEyeLimits = HandEyeLimits()
) -> HandEye:
    """The camera's pose in the tool frame from views with joint vectors. Raises ``CalibrationRefusedError``."""
    kept = [view for view in views if view.q is not None]
    joints = [view.q for view in views if view.q is not None]
    if len(kept) < limits.views:
        raise CalibrationRefusedError(
            f"{len(kept)} views show the board and have joint angles, {limits.views} are needed; take more, with the wrist "
            "turned and bent differently"
        )
    problem = _Problem(
        spec, lens, [board.corners[view.sighting.ids] for view in kept],
        [lens.straightened(view.sighting.corners) for view in kept], joints,
    )  # fmt: skip
    A = [forward(spec, q) for q in joints]
    _insist_on_turning(A, limits)
    B = [solve_pose(p, uv, lens)[0] for p, uv in zip(problem.places, problem.pixels, strict=True)]
    X = solve_ax_xb(A, B)
    start = _Guess(X, _mean_pose([a @ X @ b for a, b in zip(A, B, strict=True)]), np.zeros((len(kept), 5)))
    best, hessian = _minimise(problem, start)
    freedom = max(best.errors.size - 12, 1)
    joint_std = float(np.sqrt(np.sum(best.errors**2) / freedom))
    # The pixels are many and weigh little; what is uncertain comes from the joints.
    covariance = np.linalg.inv(hessian)[:12, :12] * max(joint_std / _JOINT_STD_RAD, 0.1) ** 2
    camera_std = float(np.sqrt(np.trace(covariance[3:6, 3:6])))
    by_view = {view.name: float(np.degrees(np.max(np.abs(e)))) for view, e in zip(kept, best.errors, strict=True)}
    found = HandEye(
        best.X, best.Y, camera_std, float(np.degrees(joint_std)), _jumps(board, A, B, best), by_view, problem.error_px(best)
    )  # fmt: skip
    _refuse_if_poor(found, limits)
    return found


def _refuse_if_poor(found: HandEye, limits: HandEyeLimits) -> None:
    worst = ", ".join(sorted(found.view_errors_deg, key=lambda name: -found.view_errors_deg[name])[:3])
    if found.error_px > 2.0 or found.joint_error_deg > limits.joints_deg:
        raise CalibrationRefusedError(
            f"pictures and joint angles do not fit: joints seem to be off by {found.joint_error_deg:.1f} degrees "
            f"({limits.joints_deg:g} allowed), the board to jump by {1000 * found.board_error_m:.0f} mm (worst: {worst}); "
            "keep the arm still for each picture, and check its calibration and the size of a square"
        )
    if found.camera_std_m > limits.camera_std_m:
        raise CalibrationRefusedError(
            f"the camera's place is only known to {1000 * found.camera_std_m:.0f} mm, {1000 * limits.camera_std_m:.0f} mm are "
            "needed; take more views, with the wrist rolled and bent as differently as the board can be seen"
        )


def solve_ax_xb(A: Sequence[Float], B: Sequence[Float]) -> Float:
    """X (4, 4) so that A[i] X B[i] is as nearly as possible the same for all i, in closed form."""
    pairs = [
        (np.linalg.inv(A[j]) @ A[i], B[j] @ np.linalg.inv(B[i])) for i, j in combinations(range(len(A)), 2)
    ]  # a X = X b
    a_logs = np.array([_log(a[:3, :3]) for a, _ in pairs])
    b_logs = np.array([_log(b[:3, :3]) for _, b in pairs])
    # A turn of nearly half a circle has an ambiguous axis and says nothing reliable.
    good = np.linalg.norm(a_logs, axis=1) < 3.0
    u, _, vt = np.linalg.svd(b_logs[good].T @ a_logs[good])
    R = vt.T @ np.diag([1.0, 1.0, np.linalg.det(vt.T @ u.T)]) @ u.T
    left = np.concatenate([a[:3, :3] - np.eye(3) for a, _ in pairs])
    right = np.concatenate([R @ b[:3, 3] - a[:3, 3] for a, b in pairs])
    X = np.eye(4)
    X[:3, :3], X[:3, 3] = R, np.linalg.lstsq(left, right, rcond=None)[0]
    return X


def _insist_on_turning(A: Sequence[Float], limits: HandEyeLimits) -> None:
    logs = np.array([_log(A[j][:3, :3].T @ A[i][:3, :3]) for i, j in combinations(range(len(A)), 2)])
    second = float(np.degrees(np.linalg.svd(logs, compute_uv=False)[1] / np.sqrt(len(logs))))
    if second < limits.turn_deg:
        raise CalibrationRefusedError(
            f"between the views the camera turned about one axis only (about a second one by {second:.0f} degrees, "
            f"{limits.turn_deg:.0f} are needed); roll the wrist as well as bending it"
        )


@dataclass(frozen=True)
class _Guess:
    X: Float  # T_tool_camera
    Y: Float  # T_base_board
    errors: Float  # (views, 5) of the joints, rad

    def moved(self, change: Float) -> _Guess:
        """Both poses changed by a rotation vector and a shift in their own frames, and the joint errors."""
        errors = self.errors + change[12:].reshape(self.errors.shape)
        return _Guess(_moved(self.X, change[:6]), _moved(self.Y, change[6:12]), errors)


@dataclass(frozen=True)
class _Problem:
    spec: ArmSpec
    lens: Lens
    places: list[Float]  # per view (N, 3) on the board
    pixels: list[Float]  # per view (N, 2) rectified
    joints: list[Float]

    def view(self, k: int, guess: _Guess) -> Float:
        """Residuals (2 N,) of a view's pixels in standard deviations."""
        tool = forward(self.spec, self.joints[k][:5] + guess.errors[k])
        seen = _project(np.linalg.inv(tool @ guess.X) @ guess.Y, self.places[k], self.lens)
        return np.asarray((seen - self.pixels[k]).ravel() / _PIXEL_STD, np.float64)

    def residuals(self, guess: _Guess) -> Float:
        """All residuals: pixels, then joints."""
        views = [self.view(k, guess) for k in range(len(self.places))]
        return np.concatenate([*views, guess.errors.ravel() / _JOINT_STD_RAD])

    def jacobian(self, guess: _Guess) -> Float:
        """By small steps; a view's joints move only its own pixels."""
        step, count = 1e-6, guess.errors.size
        now = [self.view(k, guess) for k in range(len(self.places))]
        ends = np.cumsum([0, *(len(part) for part in now)])
        J = np.zeros((ends[-1] + count, 12 + count))
        for column, change in enumerate(step * np.eye(12 + count)):
            own = range(len(now)) if column < 12 else [(column - 12) // 5]
            moved = guess.moved(change)
            for k in own:
                J[ends[k] : ends[k + 1], column] = (self.view(k, moved) - now[k]) / step
        J[ends[-1] :, 12:] = np.eye(count) / _JOINT_STD_RAD
        return J

    def error_px(self, guess: _Guess) -> float:
        """Reprojection error, RMS."""
        squares = np.concatenate([self.view(k, guess) for k in range(len(self.places))]) ** 2
        return float(_PIXEL_STD * np.sqrt(2.0 * np.mean(squares)))


def _minimise(problem: _Problem, guess: _Guess) -> tuple[_Guess, Float]:
    """Levenberg-Marquardt; returns the best guess and the Hessian there."""
    damping = 1e-3
    now = problem.residuals(guess)
    J = problem.jacobian(guess)
    for _ in range(60):
        H = J.T @ J
        change = -np.linalg.solve(H + damping * np.diag(np.diag(H)), J.T @ now)
        tried = guess.moved(np.asarray(change, np.float64))
        then = problem.residuals(tried)
        gained = float(now @ now - then @ then)
        if gained > 0.0:
            done = gained < 1e-8 * float(now @ now)
            guess, now, J, damping = tried, then, problem.jacobian(tried), max(0.2 * damping, 1e-9)
            if done:
                break
        else:
            damping *= 10.0
            if damping > 1e6:
                break
    return guess, np.asarray(J.T @ J, np.float64)


def _jumps(board: Board, A: Sequence[Float], B: Sequence[Float], guess: _Guess) -> float:
    """RMS distance between where a view says the board's middle is and where it is."""
    middle = np.array([*np.mean(board.corners, axis=0), 1.0])
    places = [(a @ guess.X @ b @ middle - guess.Y @ middle)[:3] for a, b in zip(A, B, strict=True)]
    return float(np.sqrt(np.mean(np.sum(np.square(places), axis=1))))


def _moved(pose: Float, change: Float) -> Float:
    small = np.eye(4)
    small[:3, :3], small[:3, 3] = cv2.Rodrigues(change[:3])[0], change[3:]
    return pose @ small


def _project(T_camera_board: Float, places: Float, lens: Lens) -> Float:
    points = places @ T_camera_board[:3, :3].T + T_camera_board[:3, 3]
    K = lens.matrix
    return np.asarray(points[:, :2] / points[:, 2:] * (K[0, 0], K[1, 1]) + K[:2, 2], np.float64)


def _log(rotation: Float) -> Float:
    """Rotation vector (3,)."""
    return np.ravel(np.asarray(cv2.Rodrigues(rotation)[0], np.float64))


def _mean_pose(poses: Sequence[Float]) -> Float:
    """The rotation nearest to all (chordal mean), and the mean place."""
    u, _, vt = np.linalg.svd(np.mean([pose[:3, :3] for pose in poses], axis=0))
    mean = np.eye(4)
    mean[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    mean[:3, 3] = np.mean([pose[:3, 3] for pose in poses], axis=0)
    return mean
