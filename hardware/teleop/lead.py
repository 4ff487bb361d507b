"""Looking ahead: a follower lags behind what it is sent, and the lag of a hand that moves on can be foretold.

A servo that gets positions follows them some 50 to 100 ms late, a soft one later than a stiff one. ``Lead`` measures that
while the arm is driven, and sends what makes the follower be where the hand is::

    sent = q + L q' + L²/4 q''          q, q', q'' of the hand, now; L the follower's lag

which is the inverse of a servo that answers as two equal lags of L/2 in a row, as a position loop does that is damped
enough not to swing. The period of control by which a command comes late is no lag of the servo and is left out of L: it
could only be made up for by guessing where the hand goes, and a hand that stops would be overrun.

What this does not protect against: a hand that stops at once, at a table for instance, is overrun by what the safety core's
speed limit needs to take the lead back: an emulated SO-101 by 0.8 degrees from 0.5 rad/s and by 2.2 from 1.3 rad/s.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

MOST_S = 0.12  # a longer lag is not made up for: what is sent would be noise
MOST_RAD = 0.3  # nor is anything sent further from the hand, whatever its last readings say
_WINDOW_S = 0.085  # of the hand's path, from which its speed is taken: an encoder's steps are no motion
_SHORT_S = 0.012  # readings that lie closer together tell no speed
_STILL_RAD = 0.0025  # a hand whose joint has moved by less in that time rests: a step and a half of an encoder
_SAME_S = 0.001  # readings nearer in time are one
_FORESEEN_S = 0.03  # an older reading is not taken for more: nobody knows where the hand has gone since
_GAP_S = 0.15  # readings further apart do not belong to one motion
_MOVING = 0.05  # rad/s: a slower follower tells nothing about its lag
_MEMORY_S = 2.0  # of motion, over which the lag is averaged
_ENOUGH = 0.02  # rad²/s² x s of changing speed before the lag is believed


class Lead:
    """What to send so that the follower is where the hand is."""

    def __init__(self, period_s: float) -> None:
        """``period_s``: of control."""
        self._period_s = period_s
        self._hand: deque[tuple[float, Float]] = deque()  # (time s, pose)
        self._seen: deque[tuple[float, Float]] = deque(maxlen=3)  # (time s, the follower's arm joints)
        self._sent: Float | None = None  # the arm joints that were sent first after the last of these
        # Faded sums over the time of motion: 1, e, v, e v, v v of every joint; e is sent minus measured, v the speed.
        self._sums = np.zeros((5, 5))

    @property
    def lag_s(self) -> float:
        """How late the follower is; 0 before it has moved.

        The slope of *sent minus measured* over the speed. What does not change with the speed, such as the sag under a
        load, is no lag.
        """
        weight, e, v, ev, vv = self._sums
        changing = float(np.sum(vv - v * v / np.maximum(weight, 1e-9)))
        if changing <= _ENOUGH:
            return 0.0
        return float(np.clip(np.sum(ev - e * v / np.maximum(weight, 1e-9)) / changing, 0.0, MOST_S))

    def restart(self) -> None:
        """Forget how hand and follower moved; what was learnt of the follower stays."""
        self._hand.clear()
        self._seen.clear()
        self._sent = None

    def ahead(self, pose: Float, now_s: float, age_s: float = 0.0) -> Float:
        """What to send (6,) at ``now_s``, for the hand's pose (6,) that was measured ``age_s`` before."""
        measured_s = now_s - age_s
        if self._hand and measured_s <= self._hand[-1][0] + _SAME_S:
            self._hand.pop()
        self._hand.append((measured_s, np.array(pose)))
        while self._hand[0][0] < measured_s - _WINDOW_S:
            self._hand.popleft()
        q, speed, acceleration = self._motion(min(now_s, measured_s + _FORESEEN_S))
        lag_s = max(0.0, self.lag_s - self._period_s)
        sent = q + lag_s * speed + 0.25 * lag_s**2 * acceleration
        sent = pose + np.clip(sent - pose, -MOST_RAD, MOST_RAD)
        sent[5] = pose[5]  # the gripper lags because it holds something, not because it is slow
        return np.asarray(sent)

    def _motion(self, when_s: float) -> tuple[Float, Float, Float]:
        """Position, speed and acceleration (6,) of the hand at ``when_s``: a parabola through its last poses."""
        times = np.array([at_s for at_s, _ in self._hand]) - when_s
        poses = np.array([pose for _, pose in self._hand])
        span_s = times[-1] - times[0]
        order = 0 if span_s < _SHORT_S else 1 if len(times) < 5 else 2
        found = np.zeros((3, 6))
        found[: order + 1] = np.linalg.lstsq(np.vander(times, order + 1, increasing=True), poses, rcond=None)[0]
        still = np.ptp(poses, axis=0) < _STILL_RAD
        q = np.where(still | (order == 0), poses[-1], found[0])
        return q, np.where(still, 0.0, found[1]), np.where(still, 0.0, 2.0 * found[2])

    def learn(self, sent: Float, measured: Float, measured_s: float) -> None:
        """Before the next command: what was sent (6,) last, and where the follower is now, as measured at ``measured_s``."""
        if self._sent is None:
            self._sent = np.array(sent[:5])
        if self._seen and measured_s <= self._seen[-1][0] + _SAME_S:
            return
        if self._seen and measured_s > self._seen[-1][0] + _GAP_S:
            self._seen.clear()
        self._seen.append((measured_s, np.array(measured[:5])))
        followed, self._sent = self._sent, None
        if len(self._seen) < 3:
            return
        (first_s, first), (_, middle), (last_s, last) = self._seen
        speed = (last - first) / (last_s - first_s)
        moving = np.abs(speed) > _MOVING
        error, dt = followed - middle, 0.5 * (last_s - first_s)
        news = np.array([np.ones(5), error, speed, error * speed, speed * speed]) * dt
        self._sums = np.where(moving, self._sums * math.exp(-dt / _MEMORY_S) + news, self._sums)
