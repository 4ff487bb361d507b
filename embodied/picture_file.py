"""A user's picture file as a frame: any size, shape, rotation, grey, transparent, or broken.

What this does not know: the camera. A frame needs one, so the default front camera of the simulation is assumed unless
another is given; points in the picture do not depend on it, metres do.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import EmbodiedError
from sim.scene import CameraSpec

#: Larger pictures are scaled down to this (pixels of the longer side): no planner looks at more.
LONGEST_SIDE = 2048
#: Smaller ones show nothing.
SHORTEST_SIDE = 16


def read_picture(path: Path, camera: CameraSpec | None = None) -> Frame:
    """A picture file as a frame of ``camera``, by default the front camera of the simulation.

    Pictures are turned as their EXIF data say, laid on white where they are transparent, and scaled down when their
    longer side exceeds ``LONGEST_SIDE``. Raises ``EmbodiedError`` for what is no picture, damaged, tiny or gigantic.
    """
    if path.is_dir():
        raise EmbodiedError(f"{path} is a folder, not a picture; name a PNG or JPEG file in it")
    try:
        with warnings.catch_warnings():
            # Pillow warns of pictures beyond 90 million pixels, which are merely large, and refuses twice as many.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # JPEG only: decodes a large file at half size or less
                rgb = _rgb(image)
    except FileNotFoundError as error:
        raise EmbodiedError(f"there is no picture {path}; make one with `embodied scene 7 --show {path}`") from error
    except PermissionError as error:
        raise EmbodiedError(f"cannot read the picture {path}: permission denied") from error
    except Image.DecompressionBombError as error:
        raise EmbodiedError(f"the picture {path} is gigantic ({error}); scale it down first") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:  # damaged files raise any of these
        raise EmbodiedError(f"cannot read the picture {path}: it is not a PNG or JPEG file, or damaged") from error
    if min(rgb.shape[:2]) < SHORTEST_SIDE:
        raise EmbodiedError(
            f"the picture {path} is only {rgb.shape[1]} x {rgb.shape[0]} pixels; take one of 256 x 192 or more"
        )
    return Frame(rgb, assumed_camera(rgb.shape[1], rgb.shape[0], camera or CameraSpec()), 0.0)


def assumed_camera(width: int, height: int, spec: CameraSpec) -> CameraModel:
    """A fixed camera's model for a picture of that size (pixels)."""
    lens = Intrinsics.from_fov_y(width, height, float(np.radians(spec.fov_y_deg)))
    return CameraModel.look_at(lens, np.array(spec.position), np.array(spec.target))


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3), upright, at most ``LONGEST_SIDE`` long."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of more than eight bits a pixel, its whole range kept; Pillow would clip it at 255."""
    grey = np.asarray(image, np.float64)
    most = (
        65535.0
        if image.mode.startswith("I") and grey.max(initial=0.0) > 255
        else max(float(grey.max(initial=0.0)), 1.0)
    )
    return Image.fromarray(np.clip(255.0 * grey / most, 0, 255).astype(np.uint8))
