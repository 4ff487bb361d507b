"""Pictures for people: plan points on the camera's picture, captions under video frames."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from embodied.grounding import GroundedCall, in_picture
from embodied.plan import Plan
from hardware.camera_model import CameraModel

Picture = NDArray[np.uint8]  # (H, W, 3)

#: One colour per step, told apart also by people who do not see all colours.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 60, 50), (40, 110, 220), (240, 160, 20), (30, 150, 90), (150, 70, 200), (20, 160, 190),
    (220, 80, 150), (120, 90, 60),
)  # fmt: skip
_INK, _PAPER, _QUIET, _BAR = (24, 28, 36), (255, 255, 255), (168, 176, 190), (70, 190, 130)
_BAR_HEIGHT = 48


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def with_plan(
    rgb: Picture, plan: Plan, grounded: Sequence[GroundedCall] = (), model: CameraModel | None = None, *, scale: int = 2
) -> Picture:
    """The picture, ``scale`` times as large, with each call's point numbered; destinations of moves as arrows."""
    image = Image.fromarray(rgb).resize((rgb.shape[1] * scale, rgb.shape[0] * scale), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    size = np.array(image.size, float)
    previous: NDArray[np.float64] | None = None
    for index, call in enumerate(plan.calls):
        point = getattr(call, "point", None)
        if point is None:
            continue
        color = PALETTE[index % len(PALETTE)]
        spot = np.asarray(point) * size
        if index < len(grounded) and model is not None and "to" in grounded[index].spots:
            to = np.asarray(in_picture(model, grounded[index].spots["to"])) * size
            _arrow(draw, spot, to, color)
            _ring(draw, to, 7, color)
            end = to
        else:
            end = spot
        if call.skill == "place" and previous is not None:
            _arrow(draw, previous, end, color)
        top = getattr(call, "top", None)
        if top is not None:
            _ring(draw, np.asarray(top) * size, 5, color)
        _cross(draw, spot, color)
        _badge(draw, spot, index, color, image.size)
        previous = end if call.skill != "place" else None
    return np.asarray(image)


def _cross(draw: ImageDraw.ImageDraw, at: NDArray[np.float64], color: tuple[int, int, int]) -> None:
    x, y = at
    for width, ink in ((5, _PAPER), (2, color)):
        draw.line((x - 9, y, x + 9, y), fill=ink, width=width)
        draw.line((x, y - 9, x, y + 9), fill=ink, width=width)


def _ring(draw: ImageDraw.ImageDraw, at: NDArray[np.float64], radius: int, color: tuple[int, int, int]) -> None:
    x, y = at
    draw.ellipse((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2), outline=_PAPER, width=2)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=2)


def _arrow(
    draw: ImageDraw.ImageDraw, start: NDArray[np.float64], end: NDArray[np.float64], color: tuple[int, int, int]
) -> None:
    length = float(np.linalg.norm(end - start))
    if length < 24:
        return
    along = (end - start) / length
    start, end = start + 12 * along, end - 12 * along
    across = np.array([-along[1], along[0]])
    for width, ink in ((6, _PAPER), (3, color)):
        draw.line((*start, *end), fill=ink, width=width)
        head = [tuple(end + along * 4), tuple(end - along * 14 + across * 8), tuple(end - along * 14 - across * 8)]
        draw.polygon(head, fill=ink)


def _badge(
    draw: ImageDraw.ImageDraw, at: NDArray[np.float64], index: int, color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """The step's number, up and to the right of its point, kept inside the picture."""
    x = min(max(at[0] + 20, 16), size[0] - 16)
    y = min(max(at[1] - 22, 16), size[1] - 16)
    draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=_PAPER)
    draw.ellipse((x - 13, y - 13, x + 13, y + 13), fill=color)
    draw.text((x, y), str(index + 1), fill=_PAPER, font=_font(18), anchor="mm")


def with_caption(rgb: Picture, title: str, subtitle: str = "", progress: float | None = None) -> Picture:
    """The picture with a bar under it: title, a quieter subtitle, and optionally how far along (0..1). Even-sized."""
    height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    image = Image.new("RGB", (width, height + _BAR_HEIGHT), _INK)
    image.paste(Image.fromarray(np.ascontiguousarray(rgb[:height, :width])), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.text((12, height + 15), _fit(title, 15, width - 24), fill=_PAPER, font=_font(15), anchor="lm")
    draw.text((12, height + 34), _fit(subtitle, 12, width - 24), fill=_QUIET, font=_font(12), anchor="lm")
    if progress is not None:
        filled = round(width * min(max(progress, 0.0), 1.0))
        draw.rectangle((0, height, width, height + 2), fill=(60, 66, 78))
        draw.rectangle((0, height, filled, height + 2), fill=_BAR)
    return np.asarray(image)


def _fit(text: str, size: int, width: int) -> str:
    font = _font(size)
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip(" .…") + "…"
    return text


def with_inset(rgb: Picture, inset: Picture, *, share: float = 0.22, margin: int = 8) -> Picture:
    """The picture with a smaller one in its upper right corner, where the table is out of the arm's reach."""
    out = rgb.copy()
    side = max(16, round(rgb.shape[1] * share))
    small = Image.fromarray(inset).resize((side, math.ceil(side * inset.shape[0] / inset.shape[1])))
    tile = np.asarray(small)
    height, width = tile.shape[:2]
    y, x = margin, rgb.shape[1] - width - margin
    out[y - 2 : y + height + 2, x - 2 : x + width + 2] = 255
    out[y : y + height, x : x + width] = tile
    return out


def png(rgb: Picture) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def jpeg(rgb: Picture, quality: int = 88) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
