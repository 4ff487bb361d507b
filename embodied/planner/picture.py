"""The size of picture the shipped model sees, and scaling to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, PATCH = 256, 192, 16
COLS, ROWS = WIDTH // PATCH, HEIGHT // PATCH
VISUAL_TOKENS = COLS * ROWS


def shrink(rgb: NDArray[np.uint8], *, smooth: bool = True) -> NDArray[np.uint8]:
    """Any RGB picture (H, W, 3) at 256 x 192: averaged over areas, or with cubic interpolation when not ``smooth``."""
    import cv2

    if rgb.shape[:2] == (HEIGHT, WIDTH):
        return np.ascontiguousarray(rgb)
    if not smooth:
        from PIL import Image

        return np.asarray(Image.fromarray(rgb).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.uint8)
    return np.asarray(cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
