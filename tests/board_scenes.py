"""Pictures of a calibration board as a lens with known intrinsics and distortion takes them from known places."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.arms import SO101
from hardware.camera_model import CameraModel, Intrinsics
from hardware.cameras.charuco import Board, Sighting, board_picture, find_board
from hardware.cameras.lens import Lens
from hardware.cameras.views import View
from hardware.kinematics import forward, forward_batch

Float = NDArray[np.float64]
Picture = NDArray[np.uint8]

#: A usual webcam: off centre, barrel distortion of 25 pixels in the corners.
LENS = Lens(Intrinsics(640, 480, 612.0, 608.0, 331.5, 233.0), (-0.22, 0.11, 0.0012, -0.0008, -0.03))
BOARD = Board()
_TEXTURE_PX = 60  # per square


def looking_at(target: Sequence[float], eye: Sequence[float], roll: float = 0.0) -> Float:
    """Pose (4, 4) of a camera at ``eye`` that looks at ``target``, turned about its axis by ``roll``."""
    pose = CameraModel.look_at(LENS.intrinsics, np.array(eye, float), np.array(target, float)).T_base_camera.copy()
    c, s = np.cos(roll), np.sin(roll)
    pose[:3, :3] = pose[:3, :3] @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return pose


def render(
    T_camera_board: Float,
    rng: np.random.Generator,
    *,
    lens: Lens = LENS,
    board: Board = BOARD,
    noise: float = 2.0,
    blur_px: float = 0.5,
) -> Picture:
    """The picture (H, W, 3) BGR: every ray through the true, distorted lens onto the board; 2 x 2 rays a pixel."""
    k = lens.intrinsics
    texture = _texture(board)
    R, t = T_camera_board[:3, :3], T_camera_board[:3, 3]
    eye, directions = -R.T @ t, _rays(lens) @ R.astype(np.float32)
    depth = np.float32(-eye[2]) / directions[..., 2]
    scale = np.float32(_TEXTURE_PX / board.square_m)
    maps = directions[..., :2] * (scale * depth[..., None])
    maps += (scale * eye[:2] + _TEXTURE_PX // 2 - 0.5).astype(np.float32)
    maps[depth < 0] = -1e4
    grey = cv2.remap(texture, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=110)
    grey = cv2.resize(grey, (k.width, k.height), interpolation=cv2.INTER_AREA).astype(np.float32)
    if blur_px:
        grey = cv2.GaussianBlur(grey, (0, 0), blur_px)
    grey = grey + rng.normal(0.0, noise, grey.shape) if noise else grey
    return np.repeat(np.clip(np.round(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@lru_cache(maxsize=4)
def _texture(board: Board) -> Picture:
    picture = np.pad(board_picture(board, _TEXTURE_PX), _TEXTURE_PX // 2, constant_values=255)
    return np.where(picture == 0, 25, 235).astype(np.uint8)  # ink is not black, nor paper white


@lru_cache(maxsize=4)
def _rays(lens: Lens) -> NDArray[np.float32]:
    """Directions (2 H, 2 W, 3) in the camera frame of the quarters of all pixels."""
    k = lens.intrinsics
    # In OpenCV's pixels the middle of the first one is 0.
    u, v = (np.arange(2 * k.width) - 0.5) / 2, (np.arange(2 * k.height) - 0.5) / 2
    pixels = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    xy = (lens.straightened(pixels) - lens.matrix[:2, 2]) / np.diag(lens.matrix)[:2]
    xy = xy.reshape(len(v), len(u), 2)
    return np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=-1).astype(np.float32)


def board_poses(rng: np.random.Generator, count: int, *, tilt_deg: float = 35.0, spread: float = 1.0) -> list[Float]:
    """Poses (4, 4) of a board held before a camera: all over the picture (``spread`` 1), tilted up to ``tilt_deg``."""
    width, height = BOARD.size_m
    middle = np.array([0.5 * width, 0.5 * height, 0.0])
    poses = []
    for number in range(count):
        level, upright = np.radians(tilt_deg) * rng.uniform(-1.0, 1.0, 2)
        turn = (
            cv2.Rodrigues(np.array([level, upright, 0.0]))[0] @ cv2.Rodrigues(np.array([0, 0, rng.uniform(-3, 3)]))[0]
        )
        distance = rng.uniform(0.28, 0.5)
        # Around the picture in turn, so that a handful of views covers it.
        angle = 2.0 * np.pi * number / count
        off = spread * rng.uniform(0.1, 0.42) * distance * np.array([np.cos(angle), 0.75 * np.sin(angle)])
        pose = np.eye(4)
        pose[:3, :3] = turn
        pose[:3, 3] = np.array([*off, distance]) - turn @ middle
        poses.append(pose)
    return poses


@lru_cache(maxsize=2)
def lens_pictures(seed: int, count: int = 14) -> tuple[Picture, ...]:
    """Pictures for calibrating ``LENS``."""
    rng = np.random.default_rng(seed)
    return tuple(render(pose, rng) for pose in board_poses(rng, count))


def ideal_views(
    poses: Sequence[Float], rng: np.random.Generator, *, noise_px: float = 0.1, lens: Lens = LENS
) -> list[View]:
    """Views without pictures: corners projected and shifted at random; those outside the picture are missing."""
    views = []
    for number, pose in enumerate(poses):
        turn = cv2.Rodrigues(pose[:3, :3])[0]
        pixels = cv2.projectPoints(BOARD.corners, turn, pose[:3, 3], lens.matrix, lens.coefficients)[0].reshape(-1, 2)
        pixels = pixels + rng.normal(0.0, noise_px, pixels.shape)
        size = (lens.intrinsics.width, lens.intrinsics.height)
        ids = np.flatnonzero(np.all((pixels > 0) & (pixels < np.array(size) - 1), axis=1))
        views.append(View(f"view_{number:03d}.png", Sighting(ids, pixels[ids], size)))
    return views


def views_of(pictures: Sequence[Picture], joints: Sequence[Float] | None = None, board: Board = BOARD) -> list[View]:
    """Views of those pictures in which the board is found."""
    found = [find_board(board, picture) for picture in pictures]
    return [
        View(f"view_{k:03d}.png", sighting, None if joints is None else joints[k])
        for k, sighting in enumerate(found)
        if sighting is not None
    ]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> Path:
    """PNG files view_000.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"view_{number:03d}.png"), picture)
    return folder


#: Where the board lies on the table: print up, A to B along +y, A to D along +x.
T_BASE_BOARD = np.array([[0.0, 1.0, 0.0, 0.10], [1.0, 0.0, 0.0, -0.12], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
CORNERS_M = {
    letter: (float(T_BASE_BOARD[0, 3] + y), float(T_BASE_BOARD[1, 3] + x)) for letter, (x, y) in BOARD.letters.items()
}
#: A camera on the wrist is near the table: a smaller board, in the middle of where the arm reaches.
SMALL = Board(square_m=0.02, marker_m=0.015)
T_BASE_SMALL = np.array([[0.0, 1.0, 0.0, 0.15], [1.0, 0.0, 0.0, -0.07], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
#: 5 cm in front of the gripper and 8 cm back from its tip, a quarter turn about its axis, aslant to the tip.
T_TOOL_CAMERA = np.eye(4)
T_TOOL_CAMERA[:3, :3] = cv2.Rodrigues(np.array([0.0, 0.0, 1.5]))[0] @ cv2.Rodrigues(np.array([0.4, 0.05, 0.0]))[0]
T_TOOL_CAMERA[:3, 3] = 0.055, 0.012, -0.08


def wrist_joints(rng: np.random.Generator, count: int) -> list[Float]:
    """Joint vectors (6,) with which the wrist camera sees most of the small board."""
    lower, upper = [-0.6, -1.7, -1.6, -0.3, -1.8, 0.0], [0.6, 0.6, 1.5, 1.6, 1.8, 0.0]
    q = rng.uniform(lower, upper, (40_000, 6))
    tool = forward_batch(SO101, q)
    camera = tool @ T_TOOL_CAMERA
    middle = (T_BASE_SMALL @ np.array([*np.mean(SMALL.corners, axis=0), 1.0]))[:3]
    seen = np.einsum("nji,nj->ni", camera[:, :3, :3], middle - camera[:, :3, 3])
    uv = seen[:, :2] / seen[:, 2:] * np.diag(LENS.matrix)[:2] + LENS.matrix[:2, 2]
    steep = -camera[:, 2, 2]  # cosine of the angle between optical axis and straight down
    inside = np.all(np.abs(uv - [320, 240]) < [120, 90], axis=1)
    good = (seen[:, 2] > 0.16) & (seen[:, 2] < 0.4) & (steep > 0.55) & inside & (tool[:, 2, 3] > 0.03)
    return list(q[good][:count])


@lru_cache(maxsize=2)
def wrist_scene(seed: int, count: int = 15) -> tuple[tuple[Float, ...], tuple[Picture, ...]]:
    """Joint vectors and what the wrist camera sees of the small board with them."""
    rng = np.random.default_rng(seed)
    joints = wrist_joints(rng, count)
    poses = [np.linalg.inv(forward(SO101, q) @ T_TOOL_CAMERA) @ T_BASE_SMALL for q in joints]
    return tuple(joints), tuple(render(pose, rng, board=SMALL) for pose in poses)


def apart(T: Float, true: Float) -> tuple[float, float]:
    """Distance (mm) and angle (degrees) between two poses."""
    difference = np.linalg.inv(true) @ T
    turn = np.linalg.norm(cv2.Rodrigues(difference[:3, :3])[0])
    return 1000.0 * float(np.linalg.norm(difference[:3, 3])), float(np.degrees(turn))
