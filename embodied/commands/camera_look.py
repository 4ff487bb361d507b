"""``embodied camera show`` and ``check``: what a camera sees, and whether it may be relied on."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from embodied.commands.camera import DONE, FAILED, Check, Show, camera_of, png, say
from embodied.commands.output import print_json, save
from hardware.camera_model import CameraModel
from hardware.cameras import Board, CameraError, Lens, LensLimits, find_board, open_camera
from hardware.cameras.board_pose import solve_pose
from hardware.cameras.charuco import Sighting
from hardware.errors import EmbodiedError
from hardware.rig import CameraConfig

#: A board that the camera sees further than this above or below the table tells that camera or board was moved.
_MOVED_M = 0.008


def show(command: Show) -> int:
    """Take a picture; returns the exit status. Raises ``EmbodiedError``."""
    _, config = camera_of(command.rig, command.name)
    with open_camera(command.name, config) as camera:
        shot, health = camera.shot(), camera.health()
    lens = Lens.from_config(config)
    picture = shot.picture if lens is None else np.array(lens.rectified(shot.picture))
    model = config.model()
    if command.grid:
        if model is None:
            raise EmbodiedError(
                f"a grid needs a fixed, calibrated camera; calibrate the pose of {command.name!r} first, or leave --grid out"
            )
        _draw_grid(picture, model)
    save(command.out, png(picture))
    say(f"picture: {command.out}", as_json=command.json)
    for warning in health.warnings:
        say(f"warning: {warning}", as_json=command.json)
    if command.json:
        print_json(
            {
                "picture": str(command.out), "width": picture.shape[1], "height": picture.shape[0],
                "rectified": lens is not None, "warnings": health.warnings,
            }
        )  # fmt: skip
    return DONE


def _draw_grid(picture: NDArray[np.uint8], model: CameraModel) -> None:
    """Lines on the table every 5 cm, x from 0 to 40 cm and y from -25 to 25 cm; the axes thick, x red and y green."""
    along = np.linspace(0.0, 1.0, 60)
    for k in range(-5, 9):
        lines = []
        if k >= 0:
            lines.append((np.stack([0.05 * k + 0 * along, 0.5 * along - 0.25, 0 * along], 1), (0, 160, 0), k == 0))
        if k <= 5:
            lines.append((np.stack([0.4 * along, 0.05 * k + 0 * along, 0 * along], 1), (0, 0, 220), k == 0))
        for points, colour, thick in lines:
            pixels = model.project(points) - 0.5
            seen = pixels[np.all(np.isfinite(pixels) & (np.abs(pixels) < 1e4), axis=1)]
            cv2.polylines(picture, [np.round(seen).astype(np.int32)], False, colour, 3 if thick else 1, cv2.LINE_AA)


def check(command: Check) -> int:
    """Watch a camera; returns 1 when something is wrong with it. Raises ``EmbodiedError`` when it cannot be opened."""
    if command.seconds <= 0.0:
        raise EmbodiedError(f"--seconds must be more than zero, not {command.seconds}")
    _, config = camera_of(command.rig, command.name)
    ages: list[float] = []
    refused: list[str] = []
    picture = None
    with open_camera(command.name, config) as camera:
        until = time.monotonic() + command.seconds
        while time.monotonic() < until:
            try:
                shot = camera.shot()
                picture = shot.picture
                ages.append(time.monotonic() - shot.stamp_s)
            except CameraError as error:
                refused.append(str(error))
            time.sleep(0.02)
        health = camera.health()
    reads = len(ages) + len(refused)
    findings: dict[str, Any] = {
        "pictures": health.pictures, "fps": health.fps, "wanted_fps": config.fps, "max_age_s": max(ages, default=None),
        "refused_share": len(refused) / reads, "warnings": health.warnings, "fault": refused[-1] if refused else None,
        "lens_calibrated": config.lens_calibrated, "pose_calibrated": config.pose_calibrated,
    }  # fmt: skip
    problems = [f"{len(refused)} of {reads} reads were refused: {refused[-1]}"] if refused else []
    if health.fps is not None and health.fps < 0.8 * config.fps:
        findings["warnings"].append(
            f"{health.fps:.1f} pictures a second instead of {config.fps:g}: more light, or another USB socket"
        )
    say(f"{health.pictures} pictures, {health.fps or 0.0:.1f} a second, up to {max(ages, default=0.0):.3f} s old",
        as_json=command.json)  # fmt: skip
    board = command.options.board() or Board()
    sighting = None if picture is None else find_board(board, picture)
    if sighting is not None:
        problems += _check_calibration(config, board, sighting, findings, command)
    for warning in findings["warnings"]:
        say(f"warning: {warning}", as_json=command.json)
    for problem in problems:
        say(f"problem: {problem}", as_json=command.json)
    if command.json:
        print_json(findings | {"problems": problems})
    return FAILED if problems else DONE


def _check_calibration(
    config: CameraConfig, board: Board, sighting: Sighting, findings: dict[str, Any], command: Check
) -> list[str]:
    """Compare what the camera sees of a board lying on the table with what its calibration says; returns problems."""
    lens = Lens.from_config(config)
    if lens is None:
        return []
    T_camera_board, error_px = solve_pose(board.corners[sighting.ids], lens.straightened(sighting.corners), lens)
    findings["board_error_px"] = error_px
    say(f"board in view: the lens explains its corners to {error_px:.2f} px", as_json=command.json)
    problems = []
    if error_px > LensLimits().error_px(config.width):
        problems.append(
            "the lens has changed since its calibration (focus, zoom, size of the picture): calibrate it again"
        )
    model = config.model()
    if model is None:
        return problems
    T_base_board = model.T_base_camera @ T_camera_board
    places = {letter: (T_base_board @ np.array([*xy, 0.0, 1.0]))[:3].tolist() for letter, xy in board.letters.items()}
    findings["corners_mm"] = {letter: [round(1000.0 * v, 1) for v in place] for letter, place in places.items()}
    told = ", ".join(f"{letter} at {x:.0f}, {y:.0f}" for letter, (x, y, _) in findings["corners_mm"].items())
    say(
        f"by the calibration its corners are (mm from the base): {told}; measure whether they are", as_json=command.json
    )
    worst = max((place[2] for place in places.values()), key=abs)
    if abs(worst) > _MOVED_M:
        problems.append(
            f"the board seems to be {1000.0 * worst:.0f} mm above the table; unless it is, the camera was moved: calibrate its "
            "pose again"
        )
    return problems
