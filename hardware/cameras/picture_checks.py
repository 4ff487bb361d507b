"""Does a picture show anything? Gates on brightness and contrast, computed on every fourth pixel (0.1 ms at 640 x 480).

What this does not protect against: a camera that is dirty, out of focus, moved, or looks at something else.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Defect = Literal["black", "overexposed", "of one colour", "torn"]
Picture = NDArray[np.uint8]  # (H, W, 3)

_STEP = 4
_DARK = 16  # a covered lens gives noise up to about 10 of 255
_BRIGHT = 250
_TORN_SHARE = 0.1  # of the rows


def defect_of(picture: Picture) -> Defect | None:
    """What is wrong with a picture (H, W, 3), or None. The order of the colours does not matter."""
    sample = picture[::_STEP, ::_STEP]
    if np.mean(sample.max(axis=2) < _DARK) > 0.99:
        return "black"
    if np.mean(sample.min(axis=2) >= _BRIGHT) > 0.9:
        return "overexposed"
    if np.all(np.ptp(sample.reshape(-1, 3), axis=0) <= 2):
        return "of one colour"
    # Where a JPEG ends early, decoders fill the rest with neutral grey; OpenCV 5 gives no picture at all.
    rows = sample[-max(1, round(_TORN_SHARE * len(sample))) :].reshape(-1, 3)
    if np.all(np.ptp(rows, axis=0) <= 1) and np.all(np.abs(rows[0].astype(int) - 128) <= 2):
        return "torn"
    return None
