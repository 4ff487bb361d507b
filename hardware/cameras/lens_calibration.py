"""Calibrating a lens: from views of the board to intrinsics and distortion, or a refusal that says what to do better.

Refused is what fits badly (reprojection error), what was seen in too small a part of the picture (the distortion at the
edges would be a guess), what was tilted too little (focal length and distance cannot be told apart), and what leaves the
focal length uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.cameras.charuco import Board
from hardware.cameras.errors import CalibrationRefusedError, CameraError
from hardware.cameras.lens import Lens
from hardware.cameras.views import Coverage, View, coverage

Float = NDArray[np.float64]


@dataclass(frozen=True)
class LensLimits:
    """When a calibration is refused. Sharp pictures of a flat board give 0.1 to 0.3 px at 640 x 480."""

    error_px_640: float = 0.5
    """Reprojection error (RMS) for a picture 640 wide, in proportion for others: at 60 cm half a pixel is half a
    millimetre on the table, a third of what a planner's points are off."""
    coverage: float = 0.75
    """Share of the picture's cells in which corners were seen."""
    tilt_deg: float = 30.0
    """Range of tilts about each axis of the picture, 15 degrees to either side."""
    focal_std: float = 0.01
    """Standard deviation of the focal length as a share of it: 1 % is 6 mm at 60 cm."""
    views: int = 8
    """Views that are needed. A view gives two equations for nine unknowns and noise."""

    def error_px(self, width: int) -> float:
        """The largest reprojection error for pictures of this width."""
        return self.error_px_640 * width / 640.0


@dataclass(frozen=True)
class LensCalibration:
    """A lens and how well it is known."""

    lens: Lens
    error_px: float  # RMS over all corners of the views used
    view_errors_px: dict[str, float]
    left_out: dict[str, str]  # views that were not used, and why
    coverage: Coverage
    focal_std: float  # as a share of the focal length
    used: tuple[str, ...] = field(default=())


def calibrate_lens(board: Board, views: Sequence[View], limits: LensLimits = LensLimits()) -> LensCalibration:
    """Intrinsics and distortion from views of the board.

    Views that fit far worse than the rest (moved, blurred, a bent board) are left out, at most a third of them. Raises
    ``CalibrationRefusedError``, and ``CameraError`` for pictures of different sizes.
    """
    sizes = {view.sighting.size for view in views}
    if len(sizes) > 1:
        raise CameraError(f"the views have different sizes: {', '.join(f'{w} x {h}' for w, h in sorted(sizes))}")
    if len(views) < limits.views:
        raise CalibrationRefusedError(
            f"the board was found in {len(views)} pictures, {limits.views} are needed; take more, with the board tilted "
            "differently and near all edges of the picture"
        )
    left_out: dict[str, str] = {}
    kept = list(views)
    while True:
        found = _fit(board, kept, left_out)
        allowed = max(3.0 * float(np.median(list(found.view_errors_px.values()))), limits.error_px(_width(kept)))
        bad = {name: error for name, error in found.view_errors_px.items() if error > allowed}
        if not bad:
            break
        worst = max(bad, key=lambda name: bad[name])
        left_out[worst] = f"its corners are {bad[worst]:.2f} px off"
        kept = [view for view in kept if view.name != worst]
        if len(left_out) > len(views) // 3 or len(kept) < limits.views:
            raise CalibrationRefusedError(
                f"{len(left_out)} of {len(views)} views do not fit the others: {_listed(left_out)}; keep board and camera "
                "still, the light bright and the board flat, and take them again"
            )
    _refuse_if_poor(found, limits)
    return found


def _fit(board: Board, views: Sequence[View], left_out: dict[str, str]) -> LensCalibration:
    size = views[0].sighting.size
    places = [board.corners[view.sighting.ids].astype(np.float32) for view in views]
    pixels = [view.sighting.corners.astype(np.float32) for view in views]
    try:
        error, matrix, distortion, turns, _, deviations, _, view_errors = cv2.calibrateCameraExtended(
            places, pixels, size, None, None
        )
    except cv2.error as failure:
        raise CalibrationRefusedError(
            "no lens fits these views; tilt the board in different directions and move it across the whole picture"
        ) from failure
    matrix, distortion = np.asarray(matrix, np.float64), np.ravel(np.asarray(distortion, np.float64))[:5]
    if not (np.all(np.isfinite(matrix)) and np.all(np.isfinite(distortion)) and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CalibrationRefusedError("no lens fits these views; tilt the board more and in different directions")
    lens = Lens.from_opencv(matrix, distortion.tolist(), size)
    names = [view.name for view in views]
    normals = [np.asarray(cv2.Rodrigues(turn)[0])[:, 2] for turn in turns]
    spread = np.ravel(deviations)[:2] / (matrix[0, 0], matrix[1, 1])
    return LensCalibration(
        lens,
        float(error),
        dict(zip(names, np.ravel(view_errors).astype(float).tolist(), strict=True)),
        dict(left_out),
        coverage([view.sighting for view in views], normals),
        float(np.max(spread)),
        tuple(names),
    )


def _refuse_if_poor(found: LensCalibration, limits: LensLimits) -> None:
    reasons = []
    width = found.lens.intrinsics.width
    if found.error_px > limits.error_px(width):
        worst = sorted(found.view_errors_px, key=lambda name: -found.view_errors_px[name])[:3]
        reasons.append(
            f"the reprojection error is {found.error_px:.2f} px, at most {limits.error_px(width):.2f} is good enough (worst: "
            f"{', '.join(worst)}); keep the board flat and still and the light bright"
        )
    if found.coverage.share < limits.coverage:
        missing = ", ".join(found.coverage.missing) or "the edges"
        reasons.append(
            f"the board was seen in {100 * found.coverage.share:.0f} % of the picture, {100 * limits.coverage:.0f} % are "
            f"needed; missing: {missing}"
        )
    for tilt, axis in zip(found.coverage.tilts_deg, ("left and right", "up and down"), strict=True):
        if tilt < limits.tilt_deg:
            reasons.append(
                f"the board was turned {axis} by {tilt:.0f} degrees in all, {limits.tilt_deg:.0f} are needed; tilt it more"
            )
    if not reasons and found.focal_std > limits.focal_std:
        reasons.append(
            f"the focal length is only known to {100 * found.focal_std:.1f} %, {100 * limits.focal_std:.0f} % is needed; take "
            "more views, nearer and more tilted"
        )
    if reasons:
        raise CalibrationRefusedError("this calibration is not good enough: " + "; ".join(reasons))


def _width(views: Sequence[View]) -> int:
    return views[0].sighting.size[0]


def _listed(left_out: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in left_out.items())
