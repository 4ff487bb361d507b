"""Lenses: pixels of a real camera to pixels of a pinhole one, so that everything above needs only ``CameraModel``.

Two pixel conventions meet here. OpenCV counts from the centre of the first pixel, this project from its corner; hence
``cx`` and ``cy`` of ``Intrinsics`` are half a pixel more than those of OpenCV's camera matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.camera_model import Intrinsics
from hardware.cameras.errors import CameraError
from hardware.cameras.picture_checks import Picture
from hardware.rig import CameraConfig

Float = NDArray[np.float64]

_ROUNDS = 60


@dataclass(frozen=True)
class Lens:
    """Intrinsics of the rectified picture, and OpenCV's k1, k2, p1, p2, k3 of the picture as it comes."""

    intrinsics: Intrinsics
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        k = self.intrinsics
        numbers = (k.fx, k.fy, k.cx, k.cy, *self.distortion)
        if len(self.distortion) not in (0, 4, 5) or not all(map(math.isfinite, numbers)) or min(k.fx, k.fy) <= 0.0:
            raise CameraError(
                "a lens needs four finite intrinsics, fx and fy above 0, and 0, 4 or 5 distortion coefficients"
            )

    @classmethod
    def from_opencv(cls, matrix: Float, distortion: Sequence[float], size: tuple[int, int]) -> Lens:
        """From OpenCV's camera matrix (3, 3) for pictures of ``size`` (width, height)."""
        fx, fy, cx, cy = (float(v) for v in (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
        return cls(Intrinsics(*size, fx, fy, cx + 0.5, cy + 0.5), tuple(float(v) for v in np.ravel(distortion)))

    @classmethod
    def from_config(cls, config: CameraConfig) -> Lens | None:
        """The lens of a rig file's camera, or None before its calibration."""
        if config.intrinsics is None:
            return None
        return cls(Intrinsics(config.width, config.height, *config.intrinsics), tuple(config.distortion))

    @property
    def matrix(self) -> Float:
        """OpenCV's camera matrix (3, 3)."""
        k = self.intrinsics
        return np.array([[k.fx, 0.0, k.cx - 0.5], [0.0, k.fy, k.cy - 0.5], [0.0, 0.0, 1.0]])

    @property
    def coefficients(self) -> Float:
        """The distortion (5,), zeros where there is none."""
        return np.array([*self.distortion, *[0.0] * (5 - len(self.distortion))])

    def rectified(self, picture: Picture) -> Picture:
        """The picture (H, W, 3) that a pinhole camera with these intrinsics would take; black where it sees further."""
        if not any(self.distortion):
            return picture
        return np.asarray(cv2.remap(picture, *_maps(self), interpolation=cv2.INTER_LINEAR), np.uint8)

    def straightened(self, corners: Float) -> Float:
        """Where OpenCV pixels (N, 2) of the picture as it comes are in the rectified one, as OpenCV pixels (N, 2)."""
        focal, centre = np.diag(self.matrix)[:2], self.matrix[:2, 2]
        seen = (np.asarray(corners, np.float64) - centre) / focal
        k1, k2, p1, p2, k3 = self.coefficients
        # cv2.undistortPoints stops after five rounds, hundredths of a pixel too early where the distortion is strong.
        straight = seen
        for _ in range(_ROUNDS):
            x, y = straight[:, 0], straight[:, 1]
            r2 = x * x + y * y
            radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
            aslant = [2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x), p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y]
            before, straight = straight, (seen - np.stack(aslant, axis=1)) / radial[:, None]
            if np.max(np.abs(straight - before), initial=0.0) < 1e-9:
                break
        return np.asarray(straight * focal + centre, np.float64)


@lru_cache(maxsize=8)
def _maps(lens: Lens) -> tuple[Any, Any]:
    k = lens.intrinsics
    size = (k.width, k.height)
    maps = cv2.initUndistortRectifyMap(lens.matrix, lens.coefficients, None, lens.matrix, size, cv2.CV_16SC2)
    return maps[0], maps[1]
