"""LeRobot's calibration files: JSON with homing offset and range of each motor. Text in, calibrations out; no I/O.

::

    {"shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": -1234, "range_min": 758, "range_max": 3292}, ..}

LeRobot's degrees are ``(count - middle) * 360 / 4095``, ours turn by ``360 / 4096`` per count: angles agree to 0.025 %.
Its gripper is ``100 * (count - min) / (max - min)``, or 100 minus that for Feetech servos with ``drive_mode`` 1; it
ignores ``drive_mode`` in degrees, and for Dynamixel servos altogether (there the servo itself turns its counts).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hardware.calibration.solve import CalibrationError, Doubt, doubt_offset, solve, told, turns_around
from hardware.rig import Calibration, Rig

_FIELDS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")
_MEANT_RAD = math.radians(0.5)  # a smaller difference of zeros is not worth a word


@dataclass(frozen=True)
class Converted:
    """What came out, and what a user should know about it."""

    calibrations: dict[str, Calibration]
    remarks: tuple[str, ...] = ()


def read_lerobot(text: str, rig: Rig, name: str = "the file") -> Converted:
    """LeRobot's JSON as calibrations of a rig's joints.

    Raises ``CalibrationError`` when it is damaged, belongs to another arm, or holds what the rig's servos cannot.
    """
    entries = _entries(text, rig, name)
    doubts: list[Doubt] = []
    remarks: list[str] = []
    found: dict[str, Calibration] = {}
    for joint, entry in entries.items():
        low, high, offset, drive_mode = (
            entry[field] for field in ("range_min", "range_max", "homing_offset", "drive_mode")
        )
        doubt = doubt_offset(joint, rig.joints[joint], offset) or _doubt_ends(joint, low, high)
        if doubt is not None:
            doubts.append(doubt)
            continue
        feetech = rig.joints[joint].model.protocol == "feetech"
        direction: Literal[1, -1] = -1 if drive_mode and feetech and joint == "gripper" else 1
        if drive_mode and feetech and joint != "gripper":
            remarks.append(f"{joint} has drive_mode 1, which LeRobot's degrees ignore; so it is ignored here")
        if drive_mode and not feetech and rig.joints[joint].settings.get("drive_mode") != drive_mode:
            remarks.append(f"{joint} counts backwards in the servo: put drive_mode = 1 into its settings")
        if turns_around(rig.spec, joint):  # its own range is kept, so that it can be given back as it came
            found[joint] = Calibration(min=low, max=high, direction=direction, homing_offset=offset)
        else:
            found[joint] = solve(rig.spec, joint, (low, high), direction, offset)
        remarks += _zero_remark(joint, found[joint])
    if doubts:
        raise CalibrationError(f"{name} cannot be used for {rig.name}: {told(doubts)}")
    return Converted(found, tuple(remarks))


def write_lerobot(rig: Rig) -> tuple[str, tuple[str, ...]]:
    """A calibrated rig as LeRobot's JSON, and remarks.

    Raises ``CalibrationError`` for what LeRobot cannot express: a joint that counts backwards, or an unknown offset.
    """
    entries: dict[str, dict[str, int]] = {}
    remarks: list[str] = []
    for name, joint in rig.joints.items():
        c = joint.calibration
        if c is None or c.homing_offset is None:
            raise CalibrationError(
                f"{name} of {rig.name} has no calibration with a homing offset; run: embodied robot calibrate {rig.name}"
            )
        feetech = joint.model.protocol == "feetech"
        reverse = joint.settings.get("drive_mode", 0) & 1 if not feetech else 0
        if c.direction < 0:
            if not feetech or name != "gripper":
                raise CalibrationError(
                    f"{name} counts backwards, which LeRobot's units cannot say; its angles would be mirrored there"
                )
            reverse = 1
        entries[name] = dict(zip(_FIELDS, (joint.id, reverse, c.homing_offset, c.min, c.max), strict=True))
        remarks += _zero_remark(name, c)
    return json.dumps(entries, indent=4), tuple(remarks)


def _zero_remark(joint: str, c: Calibration) -> list[str]:
    if c.zero is None:
        return []
    shift = c.direction * (0.5 * (c.min + c.max) - c.zero) * 2.0 * math.pi / 4096
    if abs(shift) < _MEANT_RAD:
        return []
    return [f"{joint}: LeRobot's 0 degrees, the middle of the range, is {math.degrees(shift):.1f} degrees here"]


def _doubt_ends(joint: str, low: int, high: int) -> Doubt | None:
    if not 0 <= low <= 4095 or not 0 <= high <= 4095:
        return Doubt(joint, f"its range {low} to {high} leaves the encoder's turn, 0 to 4095; calibrate it again")
    if high - low < 16:
        return Doubt(joint, f"range_min {low} is not below range_max {high}; it was not moved, or the file is damaged")
    return None


def _entries(text: str, rig: Rig, name: str) -> dict[str, dict[str, int]]:
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{name} is no JSON: {error}; give the file that LeRobot wrote") from error
    if not isinstance(data, dict) or set(data) != set(rig.joints):
        has = ", ".join(map(str, data)) if isinstance(data, dict) else "something else"
        raise CalibrationError(f"{name} is for other joints ({has}); {rig.name} has: {', '.join(rig.joints)}")
    for joint, entry in data.items():
        if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
            raise CalibrationError(f"{name}, {joint}: a motor has the fields {', '.join(_FIELDS)}, no others")
        wrong = next((f for f, v in entry.items() if not isinstance(v, int) or isinstance(v, bool)), None)
        if wrong is not None:
            raise CalibrationError(f"{name}, {joint}: {wrong} must be a whole number, not {entry[wrong]!r}")
        if entry["drive_mode"] not in (0, 1):
            raise CalibrationError(f"{name}, {joint}: drive_mode must be 0 or 1, not {entry['drive_mode']}")
        if entry["id"] != rig.joints[joint].id:
            raise CalibrationError(
                f"{name} belongs to another arm: {joint} has id {entry['id']} there, {rig.joints[joint].id} in {rig.name}"
            )
    ordered: Mapping[str, dict[str, int]] = data
    return {joint: dict(ordered[joint]) for joint in rig.joints}
