"""Pinhole cameras: intrinsics, pose, projection, and back-projection of pixels onto horizontal planes.

The camera frame follows OpenCV: x to the right of the picture, y down, z forward. Pixel (0, 0) is the *corner* of the
top-left pixel, so the centre of that pixel is (0.5, 0.5) and normalised coordinates are simply ``u / width``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels, no distortion."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_fov_y(cls, width: int, height: int, fov_y_rad: float) -> Intrinsics:
        """Square pixels, principal point in the middle, from the vertical field of view."""
        f = 0.5 * height / np.tan(0.5 * fov_y_rad)
        return cls(width, height, float(f), float(f), 0.5 * width, 0.5 * height)

    def resized(self, width: int, height: int) -> Intrinsics:
        """The intrinsics of the same picture scaled to ``width`` x ``height``."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)


@dataclass(frozen=True)
class CameraModel:
    """Where a camera stands and how it projects. ``T_base_camera`` is the 4x4 pose of the camera in the base frame."""

    intrinsics: Intrinsics
    T_base_camera: Float

    @classmethod
    def look_at(cls, intrinsics: Intrinsics, eye: Float, target: Float) -> CameraModel:
        """A camera at ``eye`` (3,) looking at ``target`` (3,), upright, in metres of the base frame."""
        eye, target = np.asarray(eye, float), np.asarray(target, float)
        z = target - eye
        z /= np.linalg.norm(z)
        x = np.cross(z, [0.0, 0.0, 1.0])
        if np.linalg.norm(x) < 1e-6:  # looking straight down: any heading will do, keep +y to the right
            x = np.array([0.0, 1.0, 0.0])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = x, np.cross(z, x), z, eye
        return cls(intrinsics, pose)

    def project(self, points: Float) -> Float:
        """Base-frame points (..., 3) in metres to pixels (..., 2); NaN for points behind the camera."""
        p = np.asarray(points, float)
        rotation, eye = self.T_base_camera[:3, :3], self.T_base_camera[:3, 3]
        c = (p - eye) @ rotation
        k = self.intrinsics
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = np.stack([k.fx * c[..., 0] / c[..., 2] + k.cx, k.fy * c[..., 1] / c[..., 2] + k.cy], -1)
        return np.where(c[..., 2:3] > 1e-6, uv, np.nan)

    def ray(self, uv: Float) -> tuple[Float, Float]:
        """The ray through pixels (..., 2): origin (3,) and unit directions (..., 3) in the base frame."""
        uv = np.asarray(uv, float)
        k = self.intrinsics
        d = np.stack([(uv[..., 0] - k.cx) / k.fx, (uv[..., 1] - k.cy) / k.fy, np.ones(uv.shape[:-1])], -1)
        d = d @ self.T_base_camera[:3, :3].T
        return self.T_base_camera[:3, 3].copy(), d / np.linalg.norm(d, axis=-1, keepdims=True)

    def on_plane(self, uv: Float, z: float = 0.0) -> Float:
        """Where the rays through pixels (..., 2) meet the horizontal plane at height ``z`` (m): (..., 3).

        NaN where the ray does not come down onto the plane (at or above the horizon).
        """
        origin, d = self.ray(uv)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (z - origin[2]) / d[..., 2:3]
        points = origin + t * d
        return np.where(t > 0, points, np.nan)


@dataclass(frozen=True)
class Frame:
    """One picture with the camera that took it."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    model: CameraModel
    stamp_s: float  # the robot's monotonic time at exposure
    depth_m: NDArray[np.float32] | None = None  # (H, W) distance along the optical axis
    segmentation: NDArray[np.int32] | None = None  # (H, W) simulation body ids, -1 background; never given to a model
