"""SO-101 joint vectors in LeRobot's units, and in ours.

LeRobot's SO-101 (``use_degrees``) counts the five arm joints in degrees from the middle of each joint's calibrated range,
which is also the zero of the URDF this project uses, and the gripper from 0 (closed) to 100 (open). Here they are radians
and 0..1. So only the scale differs, as far as the arm was calibrated over its full range.

What this does not protect against: an arm calibrated over a part of its range has its zero elsewhere, and no file says so.
LeRobot's other mode counts -100..100 of each joint's range, which cannot be turned into angles without the calibration file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import SO101
from policies.dataset.layout import DatasetError, Feature
from policies.dataset.statistics import Stats
from policies.dataset.tables import Columns

#: Names of a joint vector's entries, as LeRobot writes them.
JOINT_NAMES = [f"{joint}.pos" for joint in SO101.joints]

#: Features that are joint vectors.
_JOINT_KEYS = {"observation.state", "action", "requested_action"}


@dataclass(frozen=True)
class Units:
    """Joint vectors in other units: ours are ``scale`` (6,) times theirs."""

    name: str
    scale: tuple[float, ...]

    def check(self, features: Mapping[str, Feature]) -> None:
        """Raises ``DatasetError`` unless state and action are joint vectors of an SO-101."""
        for key in ("observation.state", "action"):
            feature = features.get(key)
            if feature is None or feature.names != JOINT_NAMES:
                raise DatasetError(
                    f"{key} is no joint vector of an SO-101: its entries are {feature and feature.names}"
                )

    def to_si(self, columns: Columns) -> Columns:
        """Rows whose joint vectors are in these units, into radians and 0..1.

        Raises ``DatasetError`` when that gives angles that no joint has.
        """
        found = {key: self._scaled(key, values, 1.0) for key, values in columns.items()}
        for key in columns.keys() & _JOINT_KEYS:
            turn = float(np.abs(found[key][:, :5]).max(initial=0.0))
            if turn > 2.0 * math.pi:
                raise DatasetError(
                    f"{key} in {self.name} would be {turn:.1f} rad, more than a turn; these are other units"
                )
        return found

    def from_si(self, columns: Columns) -> Columns:
        """Inverse of ``to_si``."""
        return {key: self._scaled(key, values, -1.0) for key, values in columns.items()}

    def stats_to_si(self, stats: Mapping[str, Stats]) -> dict[str, Stats]:
        """Statistics of joint vectors; the scale is positive, so each scales as its vector does."""
        scale = np.array(self.scale)
        return {
            key: {name: value if name == "count" else value * scale for name, value in part.items()}
            if key in _JOINT_KEYS
            else part
            for key, part in stats.items()
        }

    def _scaled(self, key: str, values: NDArray[Any], power: float) -> NDArray[Any]:
        if key not in _JOINT_KEYS:
            return values
        scaled: NDArray[Any] = (values * np.array(self.scale) ** power).astype(values.dtype)
        return scaled


SO101_DEGREES = Units("so101_degrees", (math.pi / 180.0,) * 5 + (0.01,))
UNITS = {SO101_DEGREES.name: SO101_DEGREES}
