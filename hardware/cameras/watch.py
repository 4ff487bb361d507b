"""The newest good picture of a camera, and whether it may be used. No threads and no clock: times are given.

A bad picture (black, torn, ...) does not replace a good one, so a single one goes unnoticed but for a count; when bad ones
last, the good one gets too old. Freshness is by content as well as by time: a camera that repeats one picture is refused
although its time stamps advance, because the noise of a sensor never repeats.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from hardware.cameras.errors import BadPictureError, FrozenCameraError, StaleFrameError
from hardware.cameras.picture_checks import Defect, Picture, defect_of

#: So many identical pictures in a row are chance (a driver that repeats one); one more is a frozen camera.
MAX_IDENTICAL = 5
#: So many bad pictures in a row may be a glitch of light or cable; one more is a fault.
MAX_BAD = 5


@dataclass(frozen=True)
class Shot:
    """One picture as the camera gave it."""

    picture: Picture  # (H, W, 3) BGR, as OpenCV has it
    stamp_s: float  # monotonic time at which it was taken
    number: int  # counts the pictures of this camera


@dataclass(frozen=True)
class CameraHealth:
    """What was seen of a camera so far."""

    pictures: int
    bad: dict[Defect, int]  # pictures that showed nothing, by what they were instead
    identical: int  # length of the present run of equal pictures, the first included
    age_s: float | None  # of the newest good picture
    fps: float | None  # measured over the last pictures
    reconnects: int = 0
    fault: str | None = None  # why ``read`` would raise now

    @property
    def warnings(self) -> list[str]:
        """Sentences for people about what went wrong without being a fault."""
        found = [f"{count} pictures were {defect}" for defect, count in self.bad.items()]
        if self.identical > 1:
            found.append(f"the last {self.identical} pictures are identical")
        if self.reconnects:
            found.append(f"the connection was lost {self.reconnects} times")
        return found


class Watch:
    """Judges the pictures of one camera as they come."""

    def __init__(self, name: str, *, max_identical: int = MAX_IDENTICAL, max_bad: int = MAX_BAD) -> None:
        self._name, self._max_identical, self._max_bad = name, max_identical, max_bad
        self._pictures = self._bad_run = self._identical = 0
        self._bad: Counter[Defect] = Counter()
        self._defect: Defect | None = None
        self._last: Picture | None = None
        self._good: Shot | None = None
        self._stamps: deque[float] = deque(maxlen=30)

    def feed(self, picture: Picture, stamp_s: float) -> None:
        """The next picture (H, W, 3)."""
        self._pictures += 1
        self._stamps.append(stamp_s)
        repeated = self._last is not None and np.array_equal(self._last, picture)
        self._identical = self._identical + 1 if repeated else 1
        self._last = picture
        defect = defect_of(picture)
        if defect is not None:
            self._bad[defect] += 1
            self._bad_run += 1
            self._defect = defect
            return
        self._bad_run = 0
        self._good = Shot(picture, stamp_s, self._pictures)

    def forget(self) -> None:
        """The connection was lost: what was seen before says nothing about now."""
        self._good = self._last = None
        self._bad_run = self._identical = 0
        self._stamps.clear()

    def newest(self, now_s: float, max_age_s: float) -> Shot:
        """The newest good picture.

        Raises ``BadPictureError``, ``FrozenCameraError`` or ``StaleFrameError`` (too old, or none yet).
        """
        if self._bad_run > self._max_bad:
            raise BadPictureError(f"the camera {self._name!r} gives pictures that are {self._defect}; {_ADVICE}")
        if self._identical > self._max_identical:
            raise FrozenCameraError(
                f"the camera {self._name!r} is frozen: its last {self._identical} pictures are identical; unplug it and "
                "plug it in again"
            )
        if self._good is None:
            raise StaleFrameError(f"the camera {self._name!r} has given no good picture yet")
        age = now_s - self._good.stamp_s
        if age > max_age_s:
            raise StaleFrameError(
                f"the newest picture of the camera {self._name!r} is {age:.2f} s old, {max_age_s:.2f} s are allowed; check "
                "its cable and whether other devices share its USB hub"
            )
        return self._good

    def health(self, now_s: float) -> CameraHealth:
        """What was seen so far."""
        span = self._stamps[-1] - self._stamps[0] if len(self._stamps) > 1 else 0.0
        return CameraHealth(
            self._pictures,
            dict(self._bad),
            self._identical,
            None if self._good is None else now_s - self._good.stamp_s,
            (len(self._stamps) - 1) / span if span > 0.0 else None,
        )


_ADVICE = "look at its lens, the light and its cable"
