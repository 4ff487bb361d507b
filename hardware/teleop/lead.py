"""Looking ahead: a follower lags behind what it is sent, and the lag of a hand that moves on can be foretold.

A servo that gets positions follows them some 20 to 100 ms late, a soft one later than a stiff one. ``Lead`` measures that
while the arm is driven, as the time by which *sent* leads *measured* along the motion, and sends where the hand will be
then, going on as it goes. A hand that rests is sent as it is, so nothing drifts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

MOST_S = 0.12  # further ahead nobody knows what a hand will do
_SMOOTH_S = 0.03  # of the hand's speed: an encoder's steps are no motion
_MEMORY_S = 2.0  # of the measured lag
_ENOUGH = 0.02  # rad²/s² x s of motion before the lag is believed


class Lead:
    """The hand's pose a little ahead of time."""

    def __init__(self) -> None:
        self._pose: Float | None = None
        self._speed = np.zeros(6)
        self._sent: Float | None = None
        self._along = self._motion = 0.0

    @property
    def lag_s(self) -> float:
        """How late the follower is; 0 before it has moved."""
        return float(np.clip(self._along / self._motion, 0.0, MOST_S)) if self._motion > _ENOUGH else 0.0

    def restart(self) -> None:
        """Forget how the hand moved; what was learnt of the follower stays."""
        self._pose, self._sent, self._speed = None, None, np.zeros(6)

    def ahead(self, pose: Float, dt: float) -> Float:
        """The pose (6,) of the hand when the follower will get there, from its pose now, ``dt`` s after the last one."""
        speed = np.zeros(6) if self._pose is None else (pose - self._pose) / dt
        self._pose = np.array(pose)
        self._speed = self._speed + (speed - self._speed) * min(1.0, dt / _SMOOTH_S)
        lead_s = self.lag_s + dt if self.lag_s > 0.0 else 0.0  # what is sent now holds for a period
        # The gripper lags because it holds something, not because it is slow.
        return np.asarray(pose + np.where(np.arange(6) < 5, self._speed, 0.0) * lead_s)

    def learn(self, sent: Float, measured: Float, dt: float) -> None:
        """What was sent (6,) last, and where the follower was then, before the next command."""
        if self._sent is not None:
            speed = (sent - self._sent)[:5] / dt
            fade = 1.0 - dt / _MEMORY_S
            self._along = fade * self._along + float((sent - measured)[:5] @ speed) * dt
            self._motion = fade * self._motion + float(speed @ speed) * dt
        self._sent = np.array(sent)
