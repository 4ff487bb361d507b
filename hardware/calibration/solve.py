"""From counts to a calibration: homing offsets, ranges, zero, direction, and what is wrong with them. No I/O.

Conventions, shared with LeRobot, so that its calibration files and these mean the same:

- The pose that the user holds at first, every joint about in its middle, becomes count 2047 of each servo.
- The joints of SO arms count from the middle of their range: there is angle zero, as in their URDF and in LeRobot's
  degrees. On other arms the middle of the range is the middle of the specification's limits (Koch's lift: 0.49 rad).
- A joint that turns (nearly) all the way around has no ends: zero is count 2047.5, the pose the user held.
- The gripper is closed at one end and open at the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hardware.arm_spec import ArmSpec
from hardware.calibration.ranges import TURN
from hardware.errors import RobotError
from hardware.rig import Calibration, Joint, Rig
from hardware.servo.registers import ServoModel

HALF_TURN = 2047
SEAM_COUNTS = 8  # an end this near to the encoder's seam may be on the other side of it next time
FULL_TURN_RAD = 5.2  # a joint whose limits are wider apart than this is not swept
ZERO_IN_THE_MIDDLE = frozenset({"so100", "so101"})  # arms whose data sets count degrees from the middle of the range

_COUNTS_PER_RAD = TURN / (2.0 * math.pi)
_STILL_SHARE = 0.1  # of the range that must be: less is "not moved"
_SMALL_SHARE, _LARGE_SHARE = 0.75, 1.2
_DXL_POSITION_MODE, _DXL_POSITION_MODE_OFFSET = 3, 1024  # e-manual: in mode 3 only this much of the offset is used

#: How a joint moves when its angle rises, for the arms of ``hardware/arms.py``.
POSITIVE = {
    "shoulder_pan": "the whole arm turned to its right (clockwise seen from above)",
    "shoulder_lift": "the upper arm leaning forward",
    "elbow_flex": "the forearm bent down",
    "wrist_flex": "the gripper bent down",
    "wrist_roll": "the gripper rolled counterclockwise, seen from behind the arm",
    "gripper": "the gripper open",
}


class CalibrationError(RobotError):
    """The arm cannot be calibrated so; the message names the joints and what to do."""


@dataclass(frozen=True)
class Doubt:
    """Something about a joint that is wrong (``fatal``) or may be meant so and is then to be confirmed."""

    joint: str
    text: str
    fatal: bool = True
    step: Literal["pose", "sweep", "direction"] = "sweep"  # which step must be done again

    def __str__(self) -> str:
        return f"{self.joint}: {self.text}"


def encoder(model: ServoModel, present: int, offset: int) -> int:
    """What the encoder itself reads when a servo with this homing offset tells ``present``."""
    raw = present - model.homing_sign * offset
    return raw % TURN if model.protocol == "feetech" else raw


def homing_offset(model: ServoModel, raw: int) -> int:
    """The offset with which the encoder's ``raw`` becomes count 2047."""
    return (HALF_TURN - raw) * model.homing_sign


def doubt_offset(name: str, joint: Joint, offset: int) -> Doubt | None:
    """Whether a servo can hold and use a homing offset."""
    model = joint.model
    mode = joint.settings.get("operating_mode", model["operating_mode"].default)
    if model.protocol == "feetech":
        largest = (1 << model["homing_offset"].sign_bit) - 1
        turn = "turn it by some degrees"
    elif mode == _DXL_POSITION_MODE:
        largest = _DXL_POSITION_MODE_OFFSET
        turn = (
            f"its horn sits {abs(offset) / _COUNTS_PER_RAD * 180 / math.pi:.0f} degrees off: remount it so that the "
            "servo is near 180 degrees when the joint is in its middle (or use operating_mode 4, which ignores limits)"
        )
    else:
        largest = 1_044_479
        turn = "restart the servo"
    if abs(offset) <= largest:
        return None
    return Doubt(
        name, f"the homing offset would be {offset}, a {joint.servo} takes up to {largest}; {turn}", step="pose"
    )


def span_rad(spec: ArmSpec, joint: str) -> float:
    """The angle between a joint's limits; the gripper's is its jaw's."""
    k = spec.joints.index(joint)
    low, high = spec.jaw_range_rad if joint == "gripper" else (spec.lower[k], spec.upper[k])
    return abs(float(high) - float(low))


def turns_around(spec: ArmSpec, joint: str) -> bool:
    """Whether a joint has no ends to be found by moving it."""
    return span_rad(spec, joint) > FULL_TURN_RAD


def swept_joints(rig: Rig) -> tuple[str, ...]:
    """The joints whose ends are found by moving them."""
    return tuple(joint for joint in rig.joints if not turns_around(rig.spec, joint))


def doubt_range(spec: ArmSpec, joint: str, ends: tuple[int, int] | None) -> Doubt | None:
    """Whether the ends that were found can be those of this joint."""
    wanted = span_rad(spec, joint) * _COUNTS_PER_RAD
    low, high = ends if ends is not None else (0, 0)
    told = f"{(high - low) * 360 / TURN:.0f} of about {wanted * 360 / TURN:.0f} degrees"
    if high - low < 0:
        return Doubt(joint, f"its lowest count {low} is above its highest {high}; the file is damaged")
    if high - low < _STILL_SHARE * wanted:
        return Doubt(joint, f"it was not moved ({told}); move it to both of its ends")
    if low < SEAM_COUNTS or high > TURN - 1 - SEAM_COUNTS:
        return Doubt(
            joint,
            f"its range, counts {low} to {high}, goes over the end of the encoder; hold it in its middle in the first "
            "step, then sweep it again",
            step="pose",
        )
    if high - low < _SMALL_SHARE * wanted:
        return Doubt(joint, f"it moved only {told}; was it moved to both ends?", fatal=False)
    if high - low > _LARGE_SHARE * wanted:
        return Doubt(joint, f"it moved {told}; is this the right joint, and is its horn tight?", fatal=False)
    return None


def solve(
    spec: ArmSpec, joint: str, ends: tuple[int, int] | None, direction: Literal[1, -1], offset: int
) -> Calibration:
    """The calibration of a joint. ``ends`` are ignored for a joint that turns around. Raises ``CalibrationError``."""
    if turns_around(spec, joint):
        low, high = SEAM_COUNTS, TURN - 1 - SEAM_COUNTS
        return Calibration(min=low, max=high, direction=direction, homing_offset=offset)
    if ends is None:
        raise CalibrationError(f"{joint}: its ends are not known; sweep it")
    low, high = ends
    return Calibration(min=low, max=high, zero=zero_of(spec, joint, low, high, direction), direction=direction,
                       homing_offset=offset)  # fmt: skip


def zero_of(spec: ArmSpec, joint: str, low: int, high: int, direction: int) -> float | None:
    """The count at angle zero, or None for the middle of the range; the gripper has none."""
    if joint == "gripper" or turns_around(spec, joint) or spec.name in ZERO_IN_THE_MIDDLE:
        return None
    k = spec.joints.index(joint)
    middle_rad = 0.5 * float(spec.lower[k] + spec.upper[k])
    zero = 0.5 * (low + high) - direction * middle_rad * _COUNTS_PER_RAD
    return round(min(max(zero, float(low)), float(high)), 1)


def direction_of(spec: ArmSpec, joint: str, ends: tuple[int, int] | None, count: int) -> Literal[1, -1] | None:
    """1 when the pose in which the joint's angle has risen has the higher count; None when it hardly moved."""
    if turns_around(spec, joint):
        middle, span = HALF_TURN + 0.5, span_rad(spec, joint) * _COUNTS_PER_RAD
    else:
        if ends is None:
            raise CalibrationError(f"{joint}: its ends are not known; sweep it")
        middle, span = 0.5 * (ends[0] + ends[1]), float(ends[1] - ends[0])
    if abs(count - middle) < 0.08 * span:
        return None
    return 1 if count > middle else -1


def told(doubts: Sequence[Doubt]) -> str:
    """Several doubts as one sentence."""
    return "; ".join(map(str, doubts))
