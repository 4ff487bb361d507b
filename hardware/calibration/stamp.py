"""A fingerprint of a calibration: what it was made for, so that a damaged file or another arm's is noticed. No I/O.

It guards against accidents, not against intent: whoever edits a rig file can take the fingerprint out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

STAMP_SCHEMA = 1


def checksum(
    usb_serial: str, servos: Mapping[str, tuple[int, int]], calibrations: Mapping[str, Mapping[str, object] | None]
) -> str:
    """16 hexadecimal digits over the arm (USB serial number, id and model number by joint) and its calibration.

    Keys may come in any order; a whole float is the same as its integer.
    """
    plain = {
        joint: None if values is None else {name: _plain(value) for name, value in values.items() if value is not None}
        for joint, values in calibrations.items()
    }
    content = {"schema": STAMP_SCHEMA, "usb": usb_serial, "servos": servos, "calibrations": plain}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
