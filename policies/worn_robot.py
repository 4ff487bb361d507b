"""The simulated robot with used servos: play in the gears, and a dead band in which a servo does not push.

    play       the encoder and the motor sit before the gears. The motor may turn by ``backlash_rad`` before the link
               follows, so measured and true angle differ by up to half of it, one way or the other by the last motion.
    dead band  a servo stops ``dead_band_rad`` short of its target, on the side from which it came.

Both act below the safety core and above the physics, exactly where latency and joint offsets do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.images import Eyes, View
from policies.randomization import Appearance, Wear
from sim.dynamics import Dynamics
from sim.rendering import camera_model
from sim.robot import SimRobot
from sim.rollout import Stage
from sim.scene import Scene
from sim.world import World

Float = NDArray[np.float64]


class WornRobot(SimRobot):
    """``SimRobot`` whose five arm servos have play and a dead band. The gripper's do not: it works by force."""

    def __init__(self, world: World, wear: Wear, *, control_hz: float = 20.0) -> None:
        self._wear = wear
        self._slack = np.zeros(6)  # motor angle minus link angle
        self._link: Float | None = None
        super().__init__(world, control_hz=control_hz)

    def _measured(self) -> Float:
        return super()._measured() + self._slack

    def _to_true(self, command: Float) -> list[float]:
        """The link angles (6,) that a commanded motor angle leads to."""
        motor = np.asarray(super()._to_true(command))
        now = self.world.arm_q()
        if self._link is None:
            self._link = now.copy()
        half = 0.5 * self._wear.backlash_rad
        # The gears push the link only once the play is used up.
        link = np.clip(self._link, motor - half, motor + half)
        link[5] = motor[5]
        self._slack = motor - link
        self._slack[5] = 0.0
        self._link = link
        way = link - now
        reached = now + np.sign(way) * np.maximum(np.abs(way) - self._wear.dead_band_rad, 0.0)
        reached[5] = link[5]
        true: list[float] = reached.tolist()
        return true


class WornStage(Stage):
    """A stage whose episodes may be played by a worn robot, in another light and by moved cameras."""

    wear = Wear()
    appearance: Appearance | None = None

    def load(self, scene: Scene, start_q: Float | None = None, dynamics: Dynamics | None = None) -> None:
        """Swap in a scene as ``appearance`` shows it, and a robot with this stage's ``wear``."""
        super().load(scene if self.appearance is None else self.appearance.on(scene), start_q, dynamics)
        if not self.wear.none:
            self.robot = WornRobot(self.world, self.wear)

    def pointed(self, point: Float, camera: str = "front") -> Float:
        """Where a point (3,) of the true scene seems to lie, m: its pixel is right, the calibration may not be.

        Whoever points into the picture points at the pixel, and calibration makes a place of it.
        """
        told = {} if self.appearance is None else self.appearance.told
        if camera not in told:
            return point.copy()
        pixel = self.world.camera_model(camera).project(point)
        return camera_model(told[camera], np.eye(4)).on_plane(pixel, float(point[2]))

    def eyes(self, views: Sequence[View], point: Float) -> Eyes:
        """Cameras for a policy that looks at a goal point, calibrated as this episode has it."""
        return Eyes(self.robot, views, point, told={} if self.appearance is None else self.appearance.told)
