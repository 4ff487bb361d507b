"""Training rows with pictures: points that are wrong on purpose, and pictures as other cameras would have taken them.

One stored picture serves for any error of the point: it is kept with a margin, and a patch around another point is a part
of it. So every row gets a fresh error each time it is drawn, and the same scene teaches many corrections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from policies.features import GOAL_SLICE, PAST_SLICE
from policies.images import MARGIN_PX, PIXEL_M, View
from policies.point import CHUNK, DONE, RAW
from policies.randomization import PICTURE_NOISE, VISIBLE, PictureNoise, Randomization, error_shape
from policies.skills import SKILLS

if TYPE_CHECKING:
    from policies.data import DemoSet

# Keys of a training batch, besides RAW (its goal as told), CHUNK and DONE of policies/point.py.
SHIFT = "shift"  # (B, 3) m, true goal point minus told
GIVEN = "given"  # (B, 3) m, the shift to plan with; NaN: the network's own
PICTURE = "picture_"  # + camera: (B, 3, P, P), -1..1

#: Share of training rows whose motion is planned for nearly the true point, as the average over time will be.
GIVEN_SHARE = 0.5
_GIVEN_NOISE_M = 0.0015
#: Lower cameras than this over the goal point are taken to be this high.
_LOWEST_EYE_M = 0.02


def seeing_batch(
    data: DemoSet,
    rng: np.random.Generator,
    size: int,
    views: Sequence[View],
    randomization: Randomization,
    *,
    noise: PictureNoise = PICTURE_NOISE,
    joint_noise_rad: float = 0.002,
) -> dict[str, Tensor]:
    """A random batch whose told points are off by a planner's error, with the patches moved accordingly."""
    rows = data.draw(rng, size)
    raw = data.raw[rows].copy()
    seen, aim = data.seen(rows)
    shape = np.stack([error_shape(skill) * (skill in VISIBLE) for skill in SKILLS])[data.skill[rows]]  # (B, 3)
    deviation = rng.uniform(randomization.point_noise_m.low, randomization.point_noise_m.high, (size, 1))
    told = seen + (rng.normal(0.0, 1.0, (size, 3)) * deviation * shape).astype(np.float32)
    shift = (aim - told) * (shape.any(axis=1, keepdims=True))
    raw[:, GOAL_SLICE] += np.tile(told, 2) - np.tile(raw[:, GOAL_SLICE][:, :3], 2)
    raw[:, PAST_SLICE] += rng.normal(0.0, joint_noise_rad, raw[:, PAST_SLICE].shape)
    given = shift + rng.normal(0.0, _GIVEN_NOISE_M, shift.shape) * shape
    given[rng.random(size) >= GIVEN_SHARE] = np.nan
    batch = {
        RAW: torch.from_numpy(raw),
        CHUNK: torch.from_numpy(data.chunk[rows]),
        DONE: torch.from_numpy(data.done[rows]),
        SHIFT: torch.from_numpy(shift.astype(np.float32)),
        GIVEN: torch.from_numpy(given.astype(np.float32)),
    }
    for view in views:
        # A patch around the told point, in the stored one around where the picture has it: along the camera's ray if the
        # told point is too high or too low.
        eye = data.eyes(rows, view.camera)
        below = np.minimum(told[:, 2:] - eye[:, 2:], -_LOWEST_EYE_M)
        onto = eye + (told - eye) * (np.minimum(seen[:, 2:] - eye[:, 2:], -_LOWEST_EYE_M) / below)
        off = ((onto - seen)[:, :2] / PIXEL_M).astype(np.float32)  # (B, 2) pixels, down and right
        cut = torch.from_numpy(_moved(data.images(rows, view.camera), off, view.pixels))
        picture = cut.permute(0, 3, 1, 2).float() / 255.0
        batch[PICTURE + view.camera] = 2.0 * disturbed(picture, rng, noise) - 1.0
    return batch


def _moved(stored: NDArray[np.uint8], off: NDArray[np.float32], pixels: int) -> NDArray[np.uint8]:
    """Cut (B, P, P, 3) out of stored patches with margin, ``off`` (B, 2) pixels down and right of their middle."""
    side = stored.shape[1]
    if side != pixels + 2 * MARGIN_PX:
        raise ValueError(f"stored patches must be {pixels + 2 * MARGIN_PX} pixels wide, not {side}; collect them anew")
    middle = 0.5 * (side - 1) + off[:, ::-1]  # OpenCV names x first and counts from the middle of a pixel
    size = (pixels, pixels)
    return np.stack([cv2.getRectSubPix(one, size, at) for one, at in zip(stored, middle.tolist(), strict=True)])


def disturbed(picture: Tensor, rng: np.random.Generator, noise: PictureNoise) -> Tensor:
    """Pictures (B, 3, P, P), 0..1, as another camera in another room would have taken them."""
    batch, _, height, width = picture.shape

    def per_picture(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).reshape(batch, -1, 1, 1)

    gain = per_picture(rng.uniform(noise.exposure.low, noise.exposure.high, batch))
    gain = gain * per_picture(rng.normal(1.0, noise.tint.deviation, (batch, 3)))
    coarse = torch.from_numpy(rng.normal(0.0, 1.0, (batch, 1, 9, 9)).astype(np.float32))
    weave = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    gain = gain * (1.0 + weave * per_picture(rng.uniform(noise.texture.low, noise.texture.high, batch)))
    picture = picture * gain + per_picture(rng.normal(0.0, noise.offset.deviation, batch))
    blurred = torch.from_numpy(rng.random(batch) < noise.blur.share)
    if bool(blurred.any()):
        picture = picture.clone()
        picture[blurred] = functional.avg_pool2d(picture[blurred], 3, 1, 1, count_include_pad=False)
    # One sheet of grain for the whole batch, rolled for each picture: a normal number per pixel would cost more than the rest.
    grain = torch.from_numpy(rng.standard_normal((3, 2 * height, 2 * width), dtype=np.float32))
    corners = rng.integers(0, [height, width], (batch, 2))
    sheets = torch.stack([grain[:, y : y + height, x : x + width] for y, x in corners.tolist()])
    picture = picture + sheets * per_picture(rng.uniform(noise.grain.low, noise.grain.high, batch))
    for index in np.flatnonzero(rng.random(batch) < noise.covered.share).tolist():
        tall, wide = rng.integers(height // 8, height // 2, 2).tolist()
        y, x = int(rng.integers(0, height - tall)), int(rng.integers(0, width - wide))
        picture[index, :, y : y + tall, x : x + wide] = float(rng.uniform(0.0, 1.0))
    picture[torch.from_numpy(rng.random(batch) < noise.blind.share)] = 0.0
    return picture.clamp(0.0, 1.0)
