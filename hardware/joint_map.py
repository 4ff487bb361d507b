"""Between a servo's counts and joint vectors: the calibration of a rig, as two functions and the limits that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.rig import Calibration, Rig, RigError

Float = NDArray[np.float64]


class JointMap:
    """Counts by servo id <-> joint vectors (6,)."""

    def __init__(self, rig: Rig) -> None:
        """Raises ``RigError`` for joints without a calibration, or one that leaves a joint no way to go."""
        spec = rig.spec
        if rig.uncalibrated:
            raise RigError(
                f"{rig.name} is not calibrated ({', '.join(rig.uncalibrated)}); run: embodied robot calibrate {rig.name}"
            )
        joints = [rig.joints[name] for name in spec.joints]
        found = [joint.calibration for joint in joints if joint.calibration is not None]
        self.ids = tuple(joint.id for joint in joints)
        self._low = np.array([c.min for c in found], dtype=np.int64)
        self._high = np.array([c.max for c in found], dtype=np.int64)
        per_count = [
            c.direction * 2.0 * math.pi / joint.model.resolution for c, joint in zip(found, joints, strict=True)
        ]
        zero = [_zero(c) for c in found]
        closed, opened = (found[5].min, found[5].max)[:: found[5].direction]
        zero[5], per_count[5] = float(closed), 1.0 / (opened - closed)
        self._zero, self._per_count = np.array(zero), np.array(per_count)
        self.spec = self._narrowed(spec, rig.name)

    def q(self, counts: Mapping[int, int]) -> Float:
        """Joint vector (6,) for counts by id."""
        values: Float = (np.array([counts[id_] for id_ in self.ids], dtype=np.float64) - self._zero) * self._per_count
        return values

    def counts(self, q: Float) -> dict[int, int]:
        """Nearest counts by id for a joint vector (6,), never outside what was calibrated. ``q`` must be finite."""
        wanted = np.clip(np.rint(self._zero + np.asarray(q, float) / self._per_count), self._low, self._high)
        return {id_: int(count) for id_, count in zip(self.ids, wanted, strict=True)}

    def velocity(self, id: int, rad_s: float) -> float:
        """A servo's speed as the joint's: the sign of its direction, the gripper still in rad/s."""
        return rad_s if self._per_count[self.ids.index(id)] > 0 else -rad_s

    def max_speed(self, velocity: Float) -> dict[int, float]:
        """Counts per second by id for joint speeds (6,) in rad/s and openings/s."""
        speeds = np.abs(np.asarray(velocity, float) / self._per_count)
        return {id_: float(speed) for id_, speed in zip(self.ids, speeds, strict=True)}

    def _narrowed(self, spec: ArmSpec, name: str) -> ArmSpec:
        """The arm with the limits that its calibration leaves: the safety core must know what cannot be sent."""
        ends = np.sort(np.array([self._low - self._zero, self._high - self._zero]) * self._per_count, axis=0)
        lower, upper = np.maximum(spec.lower, ends[0]), np.minimum(spec.upper, ends[1])
        for joint, low, high in zip(spec.joints, lower, upper, strict=True):
            if not low < high:
                raise RigError(
                    f"the calibration of {joint} in {name} lies outside what the joint can do; calibrate again"
                )
        return replace(spec, lower=lower, upper=upper, home=np.clip(spec.home, lower, upper))


def _zero(calibration: Calibration) -> float:
    return 0.5 * (calibration.min + calibration.max) if calibration.zero is None else calibration.zero
