"""What a seeing policy looks at: maps of the table around a point, cut out of camera frames.

A patch is a square of the table around the point, seen straight from above: the plane through the point is projected into
the frame and the frame is warped onto it. A pixel is the same length everywhere and for every camera, one on the wrist
included, so an error of the point is a shift of the patch, and rows and columns are x and y of the base frame. Things that
stand up lean away from the camera, as on an aerial photograph.

Policies crop whatever frame they are given. In simulation a full frame costs tens of milliseconds to draw, so ``Eyes``
draws only the window that a patch needs; a window is an ordinary ``Frame`` with the intrinsics of that window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import RobotError
from hardware.robot import Observation

if TYPE_CHECKING:
    from hardware.arm_spec import ArmSpec
    from hardware.safety import Applied
    from sim.robot import SimRobot
    from sim.scene import CameraSpec

Float = NDArray[np.float64]
Picture = NDArray[np.uint8]  # (H, W, 3) RGB

#: Length of a patch's pixel. At 2.5 mm the smallest object is 9 pixels wide, and a shift of a millimetre still shows.
PIXEL_M = 0.0025
#: Side (pixels) of the frame that is drawn of a wrist camera: it comes so near that a window would be most of it.
WRIST_PX = 80
#: Pixels kept around a patch when demonstrations are stored: training moves the point by up to so many pixels (45 mm).
MARGIN_PX = 18


@dataclass(frozen=True)
class View:
    """A patch that a policy looks at, through one camera."""

    camera: str
    pixels: int

    @property
    def side_m(self) -> float:
        """Side of the patch on the table."""
        return self.pixels * PIXEL_M

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return asdict(self)


#: 13 cm of the table around the point, through the front and the wrist camera.
VIEWS: tuple[View, ...] = (View("front", 52), View("wrist", 52))


def look_at(frame: Frame, view: View, point: Float, *, margin_px: int = 0) -> Picture:
    """What a view shows of a frame around ``point``, (P, P, 3) with P = ``view.pixels`` plus twice the margin."""
    return patch(frame, point, view.pixels + 2 * margin_px)


def patch(frame: Frame, point: Float, pixels: int) -> Picture:
    """The square of the horizontal plane through ``point`` (3,) around it, (pixels, pixels, 3); x grows down, y to the right.

    Black where the frame ends, and all of it if the camera stands so that it cannot see the plane.
    """
    corners = frame.model.project(_corners(point, pixels * PIXEL_M))  # (4, 2)
    if not np.all(np.isfinite(corners)):
        return np.zeros((pixels, pixels, 3), np.uint8)
    rgb = frame.rgb
    covered = float(np.linalg.norm(corners[2] - corners[0]) / math.sqrt(2.0))  # pixels of the frame along a side
    if covered > 1.5 * pixels:
        # Taking every third pixel of a fine picture would flicker: shrink the part that matters by averaging first.
        rgb, corners = _shrunk(rgb, corners, pixels / covered)
    onto = np.array([[0, 0], [pixels, 0], [pixels, pixels], [0, pixels]], np.float32)
    # OpenCV counts from the middle of the first pixel, we from its corner.
    turn = cv2.getPerspectiveTransform(onto - 0.5, corners.astype(np.float32) - 0.5)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(rgb, turn, (pixels, pixels), flags=flags, borderMode=cv2.BORDER_CONSTANT))


def _corners(point: Float, side_m: float) -> Float:
    """The four corners (4, 3) of a patch, in the order of its picture: top left, top right, bottom right, bottom left."""
    half = 0.5 * side_m
    return np.asarray(point, float) + half * np.array([[-1.0, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]])


def _shrunk(rgb: Picture, corners: Float, scale: float) -> tuple[Picture, Float]:
    height, width = rgb.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, low + 1, (width, height)).astype(int)
    part = rgb[low[1] : high[1], low[0] : high[0]]
    size = np.maximum(np.round((high - low) * scale), 1).astype(int)
    small = cv2.resize(part, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
    return np.asarray(small), (corners - low) * (size / (high - low))


def window(model: CameraModel, point: Float, side_m: float, pixels: int) -> tuple[float, float, float, float, float]:
    """The part of a camera's picture that a patch needs: left, top, right, bottom in its pixels, and the scale to draw it at.

    Raises ``RobotError`` if the camera cannot see the point's plane.
    """
    corners = model.project(_corners(point, side_m))
    if not np.all(np.isfinite(corners)):
        raise RobotError(f"the camera does not look down on the point {np.round(point, 3).tolist()}; check its pose")
    (left, top), (right, bottom) = corners.min(axis=0) - 2.0, corners.max(axis=0) + 2.0
    return left, top, right, bottom, pixels / max(right - left, bottom - top)


def cut_out(model: CameraModel, part: tuple[float, float, float, float, float]) -> CameraModel:
    """The same camera, showing only a part of its picture, as ``window`` gives it."""
    left, top, right, bottom, scale = part
    k = model.intrinsics
    own = Intrinsics(
        max(8, math.ceil((right - left) * scale)), max(8, math.ceil((bottom - top) * scale)),
        k.fx * scale, k.fy * scale, (k.cx - left) * scale, (k.cy - top) * scale,
    )  # fmt: skip
    return CameraModel(own, model.T_base_camera)


class Eyes:
    """Draws in simulation what a policy needs for one goal, and no more: about 1.5 ms a picture instead of tens.

    ``told`` names the cameras as they are believed to stand, where that differs from where they really stand: frames then
    show what the real camera sees and carry the believed model, as on a badly calibrated rig.
    """

    def __init__(
        self, robot: SimRobot, views: Sequence[View], point: Float, *, told: Mapping[str, CameraSpec] | None = None
    ) -> None:
        self._robot, self._views, self._point = robot, tuple(views), np.asarray(point, float)
        self._told = dict(told or {})

    def frames(self, cameras: Sequence[str]) -> dict[str, Frame]:
        """A fresh frame of each camera. Raises ``RobotError`` for one that the policy has no view of."""
        views = {view.camera: view for view in self._views}
        for name in cameras:
            if name not in views:
                raise RobotError(f"no view of a camera {name!r}; there are views of: {', '.join(views)}")
        return {name: self._frame(views[name]) for name in cameras}

    def believed(self, camera: str) -> CameraModel:
        """The camera as calibration has it; for one on the wrist, where measured joints put it."""
        from hardware.kinematics import forward
        from sim.rendering import camera_model

        spec = self._told.get(camera) or self._robot.world.camera(camera)
        tool = forward(self._robot.spec, self._robot.observe().q) if spec.mount == "wrist" else np.eye(4)
        return camera_model(spec, tool)

    def _frame(self, view: View) -> Frame:
        from sim import rendering

        world = self._robot.world
        true, believed = world.camera_model(view.camera), self.believed(view.camera)
        if world.camera(view.camera).mount == "wrist":
            k = true.intrinsics
            part = (0.0, 0.0, float(k.width), float(k.height), WRIST_PX / max(k.width, k.height))
        else:
            pixels = view.pixels + 2 * MARGIN_PX
            part = window(believed, self._point, pixels * PIXEL_M, pixels)
        true, believed = cut_out(true, part), cut_out(believed, part)
        size = true.intrinsics.width * true.intrinsics.height
        wanted = rendering.Wanted(shadow=world.scene.look.shadow)
        drawn = rendering.take_picture(
            world.client, rendering.chosen_renderer("auto", size), true, world.scene.look, wanted, world.time_s
        )
        return Frame(drawn.rgb, believed, drawn.stamp_s)


class SeeingRobot:
    """A simulated robot whose cameras are ``Eyes``; everything else is the robot's own."""

    def __init__(self, robot: SimRobot, eyes: Eyes) -> None:
        self._robot, self._eyes = robot, eyes
        self.spec: ArmSpec = robot.spec
        self.control_hz = robot.control_hz

    @property
    def camera_names(self) -> Sequence[str]:
        """Names that ``observe`` accepts."""
        return self._robot.camera_names

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """The state now, with a fresh picture of each camera named."""
        blind = self._robot.observe()
        return Observation(blind.stamp_s, blind.q, blind.command, self._eyes.frames(cameras))

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) and let one control period pass."""
        return self._robot.act(target, made_s=made_s)

    def reset_fault(self) -> None:
        """Release a latched fault."""
        self._robot.reset_fault()

    def close(self) -> None:
        """Close the world."""
        self._robot.close()
