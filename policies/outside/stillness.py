"""A *done* output for policies that have none: the arm has moved, and now neither moves nor is told to.

What this does not protect against: a policy that waits in the middle of its job looks as if it had finished, and one that
trembles never does.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

#: For so long (s) nothing may move by more than this (rad; gripper: opening) ...
STILL_S = 1.0
STILL_RAD = 0.02
#: ... after something has moved by this much since the skill began.
MOVED_RAD = 0.1


class Stillness:
    """Watches measured joints and targets, one pair per control step."""

    def __init__(self, control_hz: float) -> None:
        self._kept: deque[Float] = deque(maxlen=max(2, round(STILL_S * control_hz)))
        self.reset()

    def reset(self) -> None:
        """A new skill begins."""
        self._kept.clear()
        self._first: Float | None = None
        self._moved = False

    def done(self, q: Float, target: Float) -> float:
        """1.0 if the arm has come to rest after having moved, else 0.0."""
        self._first = q if self._first is None else self._first
        self._moved = self._moved or bool(np.abs(q - self._first).max() > MOVED_RAD)
        self._kept.append(np.concatenate([q, target]))
        if not self._moved or len(self._kept) < (self._kept.maxlen or 0):
            return 0.0
        return 1.0 if float(np.ptp(np.stack(self._kept), axis=0).max()) < STILL_RAD else 0.0
