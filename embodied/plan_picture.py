"""A picture with a plan drawn in, and under it the words and the steps: what `embodied plan` writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from embodied.drawing import PALETTE, with_plan
from embodied.executor import describe
from embodied.grounding import GroundedCall
from embodied.plan import Plan
from embodied.score import Picture
from embodied.speech import sentence
from hardware.camera_model import CameraModel

#: Width (pixels) of the picture that is written: marks have a fixed size, so small pictures are enlarged for them.
WIDTH = 1024
_TALLEST = 1400
_INK, _PAPER, _QUIET = (24, 28, 36), (255, 255, 255), (168, 176, 190)
_ROW, _MARGIN, _TITLE = 30, 18, 22


def annotated(
    rgb: Picture, instruction: str, plan: Plan, grounded: Sequence[GroundedCall] = (), model: CameraModel | None = None
) -> Picture:
    """The picture (H, W, 3) with the plan's points, and a panel with the instruction and one row for each call."""
    height, width = rgb.shape[:2]
    scale = min(WIDTH / width, _TALLEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    large = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    resized = None if model is None else CameraModel(model.intrinsics.resized(*size), model.T_base_camera)
    drawn = Image.fromarray(with_plan(large, plan, grounded, resized, scale=1))
    rows = [describe(call) for call in plan.calls] if plan.speech is None else _wrapped(sentence(plan.speech), 18)
    title = _wrapped(f"“{instruction}”", _TITLE)
    panel = _MARGIN * 2 + len(title) * 30 + 8 + len(rows) * _ROW
    image = Image.new("RGB", (WIDTH, drawn.height + panel), _INK)
    image.paste(drawn, ((WIDTH - drawn.width) // 2, 0))
    draw = ImageDraw.Draw(image)
    y = drawn.height + _MARGIN
    for line in title:
        draw.text((_MARGIN, y + 14), line, fill=_PAPER, font=_font(_TITLE), anchor="lm")
        y += 30
    y += 8
    for index, row in enumerate(rows):
        middle = y + _ROW // 2
        if plan.speech is None:
            color = PALETTE[index % len(PALETTE)]
            draw.ellipse((_MARGIN, middle - 12, _MARGIN + 24, middle + 12), fill=color)
            draw.text((_MARGIN + 12, middle), str(index + 1), fill=_PAPER, font=_font(15), anchor="mm")
            draw.text((_MARGIN + 36, middle), row, fill=_PAPER, font=_font(18), anchor="lm")
        else:
            draw.text((_MARGIN, middle), row, fill=_QUIET, font=_font(18), anchor="lm")
        y += _ROW
    return np.asarray(image)


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int) -> list[str]:
    """Lines that fit beside the margins; a word too long for a line is cut."""
    font, room = _font(size), WIDTH - 2 * _MARGIN
    lines = [""]
    for word in text.split():
        while font.getlength(word) > room:
            word = word[:-2] + "…"
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:8]
