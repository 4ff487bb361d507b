"""From the pose of a leader to commands for a follower, without a jump.

At the moment of engaging, leader and follower may stand anywhere: their difference becomes an offset, so the first command
is exactly where the follower is. The offset then melts at a fixed speed, until both stand alike::

    leader    ____/~~~~          command = leader + offset
    offset    #####===---...     melts to zero; in relative mode it stays, and only differences count
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

#: How fast an offset melts, rad/s and openings/s: slower than the default speed profile, so that the arm can still follow.
MELT = np.array([0.4, 0.4, 0.4, 0.8, 0.8, 0.8])


class Clutch:
    """The offset between the pose of the hand and the command."""

    def __init__(self, *, relative: bool = False) -> None:
        """``relative``: the five arm joints keep their offset; the gripper's always melts, closed is closed."""
        self._melt = np.where(np.arange(6) < 5, 0.0 if relative else MELT, MELT)
        self._offset = np.zeros(6)

    def engage(self, pose: Float, command: Float) -> None:
        """From here on follow the hand: its pose (6,) now means the command (6,) that stands now."""
        self._offset = np.asarray(command, float) - np.asarray(pose, float)

    def follow(self, pose: Float, dt: float) -> Float:
        """The command (6,) for the hand's pose (6,), ``dt`` s after the last one."""
        way = self._melt * dt
        self._offset = self._offset - np.clip(self._offset, -way, way)
        return np.asarray(pose + self._offset)

    @property
    def apart_rad(self) -> float:
        """By how much hand and command still differ in the joint where they differ most."""
        return float(np.abs(self._offset[:5]).max())
