"""Real time for robots that have none of their own, and the rate that was really kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW = 60  # periods over which the rate is measured


class Pacer:
    """Sleeps to the end of each control period. A real arm's ``act`` has slept already; then nothing is left to do."""

    def __init__(
        self, hz: float, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.period_s = 1.0 / hz
        self.late = 0  # periods that ended more than half a period after their time
        self._clock, self._sleep = clock, sleep
        self._due = clock()
        self._ends: deque[float] = deque([self._due], _WINDOW)

    def wait(self) -> None:
        """Until this period is over."""
        self._due += self.period_s
        now = self._clock()
        if now > self._due + 0.5 * self.period_s:
            self.late += 1
            self._due = now
        elif now < self._due:
            self._sleep(self._due - now)
        self._ends.append(self._clock())

    def now(self) -> float:
        """The clock by which it paces, s."""
        return self._clock()

    @property
    def rate_hz(self) -> float:
        """Periods per second over the last second or so; 0 before there are two."""
        way = self._ends[-1] - self._ends[0]
        return (len(self._ends) - 1) / way if way > 0.0 else 0.0
