"""The robot contract. A simulated and a real robot fulfil the same protocols; nothing above may ask which it is.

A joint vector is always (6,): the five arm joints in radians in the order of ``ArmSpec.joints``, then the gripper
opening from 0 (closed) to 1 (open).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.camera_model import Frame
from hardware.safety import Applied

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """What the robot knows of itself at one instant."""

    stamp_s: float  # on the robot's monotonic clock: when the joints were measured, the oldest of them if not at once
    q: Float  # (6,) measured joint vector
    command: Float  # (6,) the joint vector sent last
    frames: Mapping[str, Frame] = field(default_factory=dict)  # the cameras that were asked for


@runtime_checkable
class Camera(Protocol):
    """A named source of frames."""

    name: str

    def read(self) -> Frame:
        """The newest frame. Raises ``RobotError`` when none is fresh."""
        ...


@runtime_checkable
class Arm(Protocol):
    """Joints that can be read and told where to go. ``made_s`` is when a command was made, as in ``Robot.act``."""

    spec: ArmSpec

    def read(self) -> Float:
        """Measured joint vector (6,)."""
        ...

    def write(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) through the safety core; returns what was really sent and why."""
        ...


@runtime_checkable
class Robot(Protocol):
    """One arm, named cameras and a control rate. Time belongs to the robot.

    A command has an age, so that no arm obeys an answer to what was long ago. Whoever answers observations passes the
    ``stamp_s`` of the one that was answered as ``made_s``: no command is newer than what it was computed from. None means
    that it was decided just now. A command older than ``Limits.hold_age_s`` is rejected, one older than ``latch_age_s``
    latches a fault, and so does one whose time is no number. Where the clock stands still between two commands, as in
    simulation, thinking takes no time and the age of an answer is zero, however long it took.
    """

    spec: ArmSpec
    control_hz: float

    @property
    def camera_names(self) -> Sequence[str]:
        """Names that ``observe`` accepts."""
        ...

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """The state now, with a fresh frame of each camera named. Takes no time from the control loop's clock."""
        ...

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) and let exactly one control period pass.

        ``made_s``: when it was made, on the clock of ``Observation.stamp_s``; None: just now.
        """
        ...

    def reset_fault(self) -> None:
        """Release a latched fault; a deliberate act of the user, never done by a policy or a planner."""
        ...

    def close(self) -> None:
        """Release everything; safe to call twice."""
        ...
