"""What hangs on an emulated bus: the servos of a rig file, new from the factory but for id and baud rate.

Nominal mounting: a servo's encoder reads its middle, 2048, where the joint's angle is zero; the gripper's where its jaw's
angle is. ``nominal`` gives a rig the calibration that goes with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from hardware.arm_spec import ArmSpec
from hardware.emulator import dynamics
from hardware.emulator.dynamics import Motor
from hardware.emulator.servo import MIDDLE, TICKS_PER_RAD
from hardware.errors import RobotError
from hardware.rig import Calibration, Joint, Rig, load_rig
from hardware.servo.registers import ServoModel

_PLAY_RAD = 0.02  # mechanical ends lie this far outside the limits of an arm's specification
_MOTORS = {
    "sts3215": dynamics.STS3215,
    "xl430-w250": dynamics.XL430_W250,
    "xl330-m288": dynamics.XL330_M288,
    "xl330-m077": dynamics.XL330_M077,
}


@dataclass(frozen=True)
class ChainServo:
    """One servo on the bus."""

    joint: str
    id: int
    model: ServoModel
    motor: Motor
    stops: tuple[float, float]  # mechanical ends, rad of the shaft from the encoder's middle
    rest: float = 0.0  # where the shaft is at first, rad


@dataclass(frozen=True)
class Chain:
    """Servos on one bus, nearest to the adapter first."""

    name: str
    servos: tuple[ChainServo, ...]
    baud: int = 1_000_000

    @classmethod
    def of_rig(cls, rig: Rig) -> Chain:
        """The servos of a rig. Raises ``RobotError`` for a servo whose motor is not known."""
        lows, highs = _range_rad(rig.spec)
        servos = []
        for k, (name, joint) in enumerate(rig.joints.items()):
            low, high = lows[k] - _PLAY_RAD, highs[k] + _PLAY_RAD
            rest = min(max(0.0, low), high)
            servos.append(ChainServo(name, joint.id, joint.model, _motor(joint), (low, high), rest))
        return cls(rig.name, tuple(servos), rig.bus.baud)


def find_chain(name: str | Path) -> Chain:
    """The bus of a rig file or of a shipped rig by name. Raises ``RobotError`` listing the names."""
    return Chain.of_rig(load_rig(name))


def nominal(rig: Rig, port: str | None = None) -> Rig:
    """The rig with the calibration of the nominal mounting, and on another port if one is given."""
    lows, highs = _range_rad(rig.spec)
    found: dict[str, Calibration] = {}
    for k, name in enumerate(rig.joints):
        low, high = (min(max(MIDDLE + round(rad * TICKS_PER_RAD), 0), 4095) for rad in (lows[k], highs[k]))
        zero = None if k == len(lows) - 1 else float(MIDDLE)
        found[name] = Calibration(min=low, max=high, zero=zero, homing_offset=0)
    rig = rig.with_calibration(found)
    return rig if port is None else rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": port})})


def _range_rad(spec: ArmSpec) -> tuple[list[float], list[float]]:
    """Lowest and highest shaft angles; the gripper's is its jaw's."""
    closed, opened = spec.jaw_range_rad
    lows, highs = [float(v) for v in spec.lower[:5]], [float(v) for v in spec.upper[:5]]
    return [*lows, min(closed, opened)], [*highs, max(closed, opened)]


def _motor(joint: Joint) -> Motor:
    if joint.servo not in _MOTORS:
        raise RobotError(f"no motor data for a {joint.servo}; the emulator knows: {', '.join(_MOTORS)}")
    motor = _MOTORS[joint.servo]
    if joint.gear is None or math.isclose(joint.gear, dynamics.STS3215_GEAR):
        return motor
    ratio = joint.gear / dynamics.STS3215_GEAR
    return replace(
        motor, stall_nm=motor.stall_nm * ratio, no_load_rad_s=motor.no_load_rad_s / ratio,
        friction_nm=motor.friction_nm * ratio, inertia_kg_m2=max(motor.inertia_kg_m2 * ratio**2, 0.003),
    )  # fmt: skip
