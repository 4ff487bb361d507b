"""What a session shows: one line that is written over, and a line of its own for what must not be missed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

_SHOWS_PER_S = 8.0


@dataclass(frozen=True)
class Status:
    """A session at one instant."""

    state: str
    rate_hz: float = 0.0
    age_s: float = 0.0  # of what the device said last
    lag_rad: float = 0.0  # arm joints: sent minus measured, the largest
    verdicts: tuple[int, int, int] = (0, 0, 0)  # commands passed, clamped, rejected
    reason: str = ""  # why the last command was clamped or rejected
    take: str = ""  # what the recording does

    def line(self) -> str:
        """In one line."""
        passed, clamped, rejected = self.verdicts
        parts = [
            f"{self.state:<8}", f"{self.rate_hz:5.1f} Hz", f"age {1000.0 * self.age_s:3.0f} ms",
            f"lag {math.degrees(self.lag_rad):4.1f} deg", f"pass {passed} clamp {clamped} reject {rejected}",
        ]  # fmt: skip
        return " | ".join([*parts, *(text for text in (self.take, self.reason) if text)])


class StatusLine:
    """Shows statuses and messages on a terminal; elsewhere the messages only."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._clock = clock
        self._shown = -math.inf

    def show(self, status: Status) -> None:
        """Write the line anew, a few times a second."""
        now = self._clock()
        if self._live and now - self._shown >= 1.0 / _SHOWS_PER_S:
            self._shown = now
            self._stream.write("\r\x1b[2K" + status.line()[:160])
            self._stream.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._stream.write(("\r\x1b[2K" if self._live else "") + text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the last status standing."""
        if self._live:
            self._stream.write("\n")
            self._stream.flush()
