"""Pictures: from a camera model to PyBullet's matrices, and the choice between its two renderers.

TinyRenderer is always there, casts shadows and costs nothing per picture but 0.2 us per pixel. The EGL plugin costs 5 ms
per picture on Mesa's software rasteriser and next to nothing per pixel, so it wins above about 160 pixels a side.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import SceneError
from sim.bullet import BulletClient, pybullet
from sim.scene import CameraSpec, Look

Float = NDArray[np.float64]
RendererName = Literal["auto", "egl", "tiny"]
RENDERERS: tuple[RendererName, ...] = ("auto", "egl", "tiny")
#: Set to ``egl`` or ``tiny`` to overrule the automatic choice.
RENDERER_VARIABLE = "EMBODIED_RENDERER"
_NEAR_M, _FAR_M = 0.01, 6.0
_PROBE = """
import sys, pybullet as p
p.connect(p.DIRECT)
if p.loadPlugin(sys.argv[1], "_eglRendererPlugin") < 0:
    sys.exit(1)
shape = p.createVisualShape(p.GEOM_BOX, halfExtents=[0.5, 0.5, 0.5], rgbaColor=[1, 0, 0, 1])
p.createMultiBody(0, -1, shape)
view = p.computeViewMatrix([0, 0, 3], [0, 0, 0], [0, 1, 0])
rgb = p.getCameraImage(64, 64, view, p.computeProjectionMatrixFOV(40, 1, 0.1, 10))[2]
pixel = rgb[32][32] if hasattr(rgb, "shape") else rgb[4 * (32 * 64 + 32):]
sys.exit(0 if pixel[0] > 60 and pixel[1] < 60 else 1)
"""


def egl_plugin_path() -> str | None:
    """The plugin's shared library, if this PyBullet came with it."""
    found = importlib.util.find_spec("eglRenderer")
    return found.origin if found else None


@lru_cache(maxsize=1)
def egl_works() -> bool:
    """Whether the EGL plugin can draw here. Tried in another process, since a broken GL driver may kill the one it is in."""
    path = egl_plugin_path()
    if path is None:
        return False
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE, path], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def chosen_renderer(asked: str, pixels: int) -> Literal["egl", "tiny"]:
    """Resolve ``auto`` for pictures of about that many pixels. Raises ``SceneError`` for a name that is not a renderer."""
    name = os.environ.get(RENDERER_VARIABLE, "") or asked if asked == "auto" else asked
    if name in ("auto", "tiny"):
        # On Mesa's software rasteriser EGL proved slower at 512 x 384 (156 ms against 80), blurs the faces of boxes, and
        # the shipped planner was trained on TinyRenderer's pictures: who has a GPU asks for EGL by name.
        return "tiny"
    if name == "egl":
        if not egl_works():
            raise SceneError("the EGL renderer does not work on this machine; use renderer='tiny' or 'auto'")
        return "egl"
    raise SceneError(f"there is no renderer {name!r}; choose one of: {', '.join(RENDERERS)}")


def intrinsics_of(spec: CameraSpec, size: tuple[int, int] | None = None) -> Intrinsics:
    """The camera's intrinsics, for its own size or for another (width, height)."""
    own = Intrinsics.from_fov_y(spec.width, spec.height, math.radians(spec.fov_y_deg))
    return own if size is None else own.resized(*size)


def camera_model(spec: CameraSpec, T_base_tool: Float, size: tuple[int, int] | None = None) -> CameraModel:
    """Where a camera of the scene is now; ``T_base_tool`` (4, 4) matters only to one that rides on the wrist."""
    intrinsics = intrinsics_of(spec, size)
    if spec.mount == "fixed":
        return CameraModel.look_at(intrinsics, np.array(spec.position), np.array(spec.target))
    in_tool = CameraModel.look_at(intrinsics, np.array(spec.position), np.array(spec.target))
    return CameraModel(intrinsics, T_base_tool @ in_tool.T_base_camera)


def view_matrix(model: CameraModel) -> list[float]:
    """OpenGL view matrix, column-major as PyBullet wants it."""
    R, eye = model.T_base_camera[:3, :3], model.T_base_camera[:3, 3]
    flipped = (R * np.array([1.0, -1.0, -1.0])).T  # OpenGL cameras look along -z with y up
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = flipped, -flipped @ eye
    return view.T.ravel().tolist()


def projection_matrix(intrinsics: Intrinsics) -> list[float]:
    """OpenGL projection matrix, column-major, of pinhole intrinsics."""
    k, n, f = intrinsics, _NEAR_M, _FAR_M
    m = np.zeros((4, 4))
    m[0, 0], m[1, 1] = 2 * k.fx / k.width, 2 * k.fy / k.height
    m[0, 2], m[1, 2] = 1 - 2 * k.cx / k.width, 2 * k.cy / k.height - 1
    m[2, 2], m[2, 3], m[3, 2] = -(f + n) / (f - n), -2 * f * n / (f - n), -1.0
    return m.T.ravel().tolist()


@dataclass(frozen=True)
class Wanted:
    """What a picture should contain besides colour."""

    depth: bool = False
    segmentation: bool = False
    shadow: bool = False


def take_picture(
    client: BulletClient,
    renderer: Literal["egl", "tiny"],
    model: CameraModel,
    look: Look,
    wanted: Wanted,
    stamp_s: float,
) -> Frame:
    """Draw what ``model`` sees. Shadows exist only in TinyRenderer; elsewhere the wish is ignored."""
    k = model.intrinsics
    picture = client.getCameraImage(
        k.width, k.height, view_matrix(model), projection_matrix(k),
        lightDirection=look.light_direction, lightDistance=2.0, lightColor=(1.0, 1.0, 1.0),
        lightAmbientCoeff=look.light_ambient, lightDiffuseCoeff=1.0 - look.light_ambient, lightSpecularCoeff=0.04,
        shadow=int(wanted.shadow and renderer == "tiny"),
        renderer=pybullet.ER_TINY_RENDERER if renderer == "tiny" else pybullet.ER_BULLET_HARDWARE_OPENGL,
        flags=0 if wanted.segmentation else pybullet.ER_NO_SEGMENTATION_MASK,
    )  # fmt: skip
    shape = (k.height, k.width)
    rgb = np.ascontiguousarray(np.asarray(picture[2], np.uint8).reshape(*shape, 4)[..., :3])
    depth = segmentation = None
    if wanted.depth:
        buffer = np.asarray(picture[3], np.float32).reshape(shape)
        depth = (_FAR_M * _NEAR_M / (_FAR_M - (_FAR_M - _NEAR_M) * buffer)).astype(np.float32)
    if wanted.segmentation:
        segmentation = np.asarray(picture[4], np.int32).reshape(shape)
    return Frame(rgb, model, stamp_s, depth, segmentation)
