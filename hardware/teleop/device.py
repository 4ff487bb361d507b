"""The seam between a person's hand and a robot: what any input device says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hardware.errors import RobotError

Float = NDArray[np.float64]

#: What a person may ask for besides motion, whichever key or button it is on.
#:
#: engage: follow the hand from here on, or stop following. stop: hold; a second time: limp. rereference: take the hand's
#: pose for the arm's, again. reset: release a latched fault. record: begin or end a take. keep, fail, discard: what becomes
#: of the take that has ended. faster, slower: of the jog. quit: leave.
Key = Literal[
    "engage", "stop", "rereference", "reset", "record", "keep", "fail", "discard", "faster", "slower", "quit"
]  # fmt: skip


class DeviceLost(RobotError):
    """An input device does not answer any more; the arm must hold."""


@dataclass(frozen=True)
class Rate:
    """How fast a hand wants the arm to move, each number -1..1 of the jog's speed."""

    joints: Float = field(default_factory=lambda: np.zeros(6))  # (6,) in the order of ``ArmSpec.joints``
    tool: Float = field(default_factory=lambda: np.zeros(3))  # (3,) along x, y, z of the base frame
    pitch: float = 0.0

    @property
    def still(self) -> bool:
        """Nothing is asked for."""
        return not (np.any(self.joints) or np.any(self.tool) or self.pitch)


@dataclass(frozen=True)
class Reading:
    """What a device says now: a pose or a rate, and the keys pressed since the last reading."""

    pose: Float | None = None  # (6,) joint vector, for devices that are arms themselves
    rate: Rate | None = None
    keys: tuple[Key, ...] = ()
    age_s: float = 0.0  # since pose or rate were measured


@runtime_checkable
class Device(Protocol):
    """Something that a hand moves."""

    name: str

    def read(self) -> Reading:
        """The newest reading; never waits. Raises ``DeviceLost`` when the device does not answer any more."""
        ...

    def reopen(self) -> None:
        """Look for the device again after it was lost; does nothing when it is there. Raises ``RobotError``."""
        ...

    def close(self) -> None:
        """Release it; safe to call twice."""
        ...
