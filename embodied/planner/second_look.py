"""Looking again before refusing: the same words about the same picture, shifted a little.

A small model sees a picture in patches; a thing across the corner of four of them is sometimes overlooked. Whether something is
really absent does not depend on where the patches' edges fall: right refusals stay when the picture is shifted, wrong ones
mostly do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embodied.plan import Plan, Point

#: Shifts to the right and down, as shares of the picture: half a patch and less, in different directions.
SHIFTS: tuple[tuple[float, float], ...] = ((20 / 640, 12 / 480), (-14 / 640, -22 / 480))


def shifted(rgb: NDArray[np.uint8], by: tuple[float, float]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) moved by shares of its size; what comes in at the edge repeats the edge."""
    import cv2

    height, width = rgb.shape[:2]
    matrix = np.array([[1.0, 0.0, by[0] * width], [0.0, 1.0, by[1] * height]])
    return np.asarray(cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def moved_back(plan: Plan, by: tuple[float, float]) -> Plan:
    """A plan for the shifted picture as one for the picture itself."""

    def back(point: Point) -> Point:
        return min(max(point[0] - by[0], 0.0), 1.0), min(max(point[1] - by[1], 0.0), 1.0)

    calls = []
    for call in plan.calls:
        points = {name: back(p) for name in ("point", "top") if (p := getattr(call, name, None)) is not None}
        calls.append(call.model_copy(update=points))
    return plan.model_copy(update={"calls": tuple(calls)})


def say_the_same(one: Plan, other: Plan) -> bool:
    """Whether two plans call for the same, wherever they point."""
    ours, theirs = (plan.model_dump(exclude={"calls": {"__all__": {"point", "top"}}}) for plan in (one, other))
    return ours == theirs
