"""How outside policies are named on the command line.

    lerobot:FOLDER                                             a LeRobot checkpoint on this disk
    lerobot:FOLDER?units=radians&hz=20&observation.images.top=front
    ws://HOST:PORT                                             a policy server, see policies/serving
    ws://HOST:PORT?observation/image=front&observation/wrist_image=wrist

Behind the question mark: ``units`` (so101_degrees or radians), ``hz`` (how fast the policy's actions follow one another),
``timeout`` (seconds that a server has for an answer), and, for every picture that the policy calls by another name, that
name and the camera of this robot. A ``+`` or ``&`` in a name is written as in any web address (%2B, %26).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from hardware.errors import CheckpointError
from policies.dataset.lerobot_units import SO101_DEGREES

if TYPE_CHECKING:
    from policies.policy import Policy

Float = NDArray[np.float64]
UnitName = Literal["so101_degrees", "radians"]
UNIT_NAMES: tuple[UnitName, ...] = get_args(UnitName)
#: Ours are so many times theirs, (6,).
SCALES: dict[UnitName, Float] = {"so101_degrees": np.array(SO101_DEGREES.scale), "radians": np.ones(6)}
PREFIXES = ("lerobot:", "ws://", "wss://")


@dataclass(frozen=True)
class Address:
    """An outside policy by name, taken apart."""

    place: str  # the folder, or the URL without its query
    units: UnitName | None = None
    hz: float | None = None
    timeout_s: float | None = None
    cameras: Mapping[str, str] = field(default_factory=dict)  # the policy's name of a picture: our camera

    @property
    def scale(self) -> Float:
        """Our joint vectors are so many times the policy's, (6,)."""
        return SCALES[self.units or "so101_degrees"]


def is_outside(name: str) -> bool:
    """Whether a policy of this name is one of those in this package."""
    return name.startswith(PREFIXES)


def parse(name: str) -> Address:
    """Take an outside policy's name apart. Raises ``CheckpointError`` saying what is wrong with it."""
    place, _, query = name.removeprefix("lerobot:").partition("?")
    if not place:
        raise CheckpointError(
            "lerobot: needs a folder, for example --policy lerobot:outputs/train/act/pretrained_model"
        )
    settings = dict(parse_qsl(query, keep_blank_values=True))
    units, hz, timeout = (settings.pop(key, None) for key in ("units", "hz", "timeout"))
    if units is not None and units not in UNIT_NAMES:
        raise CheckpointError(f"there are no units {units!r}; choose one of: {', '.join(UNIT_NAMES)}")
    empty = [key for key, camera in settings.items() if not camera]
    if empty:
        raise CheckpointError(f"{empty[0]!r} names no camera; write {empty[0]}=front, with a camera of the robot")
    return Address(
        place,
        units,
        None if hz is None else _number("hz", hz, 1.0, 1000.0),
        None if timeout is None else _number("timeout", timeout, 0.01, 60.0),
        settings,
    )


def load_outside(name: str) -> Policy:
    """The policy of a name for which ``is_outside`` is true. Raises ``CheckpointError``."""
    address = parse(name)
    if name.startswith("lerobot:"):
        from policies.outside.lerobot_policy import load_lerobot

        return load_lerobot(address)
    from policies.outside.websocket_policy import WebsocketPolicy

    return WebsocketPolicy(address)


def _number(key: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise CheckpointError(f"{key} must be a number from {low:g} to {high:g}, not {text!r}")
    return value


def resampled(actions: Float, theirs_hz: float, ours_hz: float) -> Float:
    """Actions (n, 6) that follow one another at one rate, at another: the first stays, those between are interpolated."""
    if theirs_hz == ours_hz or len(actions) == 1:
        return actions
    times = np.arange(int((len(actions) - 1) / theirs_hz * ours_hz + 1e-9) + 1) / ours_hz
    columns = [np.interp(times, np.arange(len(actions)) / theirs_hz, column) for column in actions.T]
    return np.stack(columns, axis=1)
