"""The simulated robot: the same contract as the real one, every command through the same safety core."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.errors import RobotError
from hardware.profile import Profile
from hardware.robot import Observation
from hardware.safety import Applied, Limits, SafetyState, reset, step
from sim.dynamics import PHYSICS_HZ
from sim.world import World

Float = NDArray[np.float64]


class SimRobot:
    """``Robot`` over a ``World``. One ``act`` advances physics by exactly one control period (0.05 s at 20 Hz).

    Its clock is that of the physics, which stands still while a program thinks: an answer to the last observation has the
    age zero, however long it took. Only who answers an earlier observation is refused, as on every robot.
    """

    def __init__(
        self, world: World, *, control_hz: float = 20.0, profile: Profile = "sim", limits: Limits | None = None
    ) -> None:
        """Starts where the arm is. ``profile`` names the safety limits unless ``limits`` are given."""
        substeps = PHYSICS_HZ / control_hz
        if substeps < 1 or substeps != int(substeps):
            raise RobotError(f"control_hz must divide the physics rate of {PHYSICS_HZ} Hz, got {control_hz}")
        self.world = world
        self.spec: ArmSpec = world.spec
        self.control_hz = control_hz
        self._substeps = int(substeps)
        self._dt = 1.0 / control_hz
        self._limits = limits if limits is not None else Limits.profile(world.spec, profile)
        self._offset = np.asarray(world.dynamics.joint_offset, float)
        self._safety = SafetyState.start(self._measured(), self._limits)
        # Commands on their way to the servos: with a latency of 0.1 s at 240 Hz, each arrives 24 substeps late.
        self._delay = round(world.dynamics.latency_s * PHYSICS_HZ)
        self._pending: deque[tuple[int, list[float]]] = deque()
        self._clock = 0
        self.world.set_arm_target(self._to_true(self._safety.sent))

    @property
    def camera_names(self) -> Sequence[str]:
        """Cameras of the scene."""
        return tuple(camera.name for camera in self.world.scene.cameras)

    @property
    def fault(self) -> str | None:
        """The latched fault in words, or None."""
        return self._safety.fault.value if self._safety.fault is not None else None

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """Measured joints now, with a fresh frame of each camera named. Raises ``RobotError`` for an unknown camera."""
        for name in cameras:
            if name not in self.camera_names:
                raise RobotError(f"there is no camera {name!r}; this robot has: {', '.join(self.camera_names)}")
        frames = {name: self.world.render(name) for name in cameras}
        return Observation(self.world.time_s, self._measured(), self._safety.sent.copy(), frames)

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) through the safety core and let one control period pass; returns what was sent."""
        age = 0.0 if made_s is None else self._limits.age(self.world.time_s - made_s, self._dt)
        applied, self._safety = step(self._safety, self._measured(), target, self._limits, self._dt, age)
        command = self._to_true(applied.q)
        if self._delay == 0:
            self.world.set_arm_target(command)
            self.world.step(self._substeps)
        else:
            self._pending.append((self._clock + self._delay, command))
            end = self._clock + self._substeps
            while self._pending and self._pending[0][0] < end:
                due, late = self._pending.popleft()
                self.world.step(max(due - self._clock, 0))
                self._clock = max(due, self._clock)
                self.world.set_arm_target(late)
            self.world.step(end - self._clock)
            self._clock = end
        return applied

    def reset_fault(self) -> None:
        """Release a latched fault."""
        self._safety = reset(self._safety)

    def close(self) -> None:
        """Close the world; safe to call twice."""
        self.world.close()

    def _measured(self) -> Float:
        _ = self.world.client  # a closed world says so in words; the physics engine would not
        return self.world.arm_q() + self._offset

    def _to_true(self, command: Float) -> list[float]:
        true: list[float] = (command - self._offset).tolist()
        return true
