"""Is this the arm that a calibration was made for: by the ids and models of its servos, and by what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from hardware.calibration.solve import CalibrationError
from hardware.rig import Calibration, Rig
from hardware.servo.bus import Bus


def check_servos(rig: Rig, found: Mapping[str, tuple[int, int]], whose: str) -> None:
    """Raises ``CalibrationError`` unless ``found``, id and model number by joint, are the rig's servos."""
    wanted = {name: (joint.id, joint.model.number) for name, joint in rig.joints.items()}
    wrong = [name for name in wanted if found.get(name) != wanted[name]]
    if wrong or set(found) != set(wanted):
        names = ", ".join(wrong or sorted(set(found) - set(wanted)))
        raise CalibrationError(
            f"{whose} belongs to another arm than {rig.name}: ids or models differ at {names}; nothing was changed"
        )


def verify_offsets(bus: Bus, rig: Rig, calibrations: Mapping[str, Calibration]) -> None:
    """Is this the arm that was calibrated: do its servos hold these homing offsets? Raises ``CalibrationError``."""
    other = []
    for name, c in calibrations.items():
        held = bus.read(rig.joints[name].id, "homing_offset")
        if c.homing_offset is not None and held != c.homing_offset:
            other.append(f"{name} holds {held}, not {c.homing_offset}")
    if other:
        raise CalibrationError(
            f"this calibration belongs to another arm, or the servos were reset since: {'; '.join(other)}; nothing was "
            "changed. Calibrate this arm: embodied robot calibrate"
        )
