"""How much play a joint has: its motor holds while a hand rocks it gently, and the encoder at the output tells how far it goes.

A sound STS3215 at this project's gains gives way by about a degree under a finger; a worn gear or a loose horn lets the
joint go several degrees before the motor is felt. Only one joint is powered at a time, where it stands, and it is made
limp again whatever happens.

What this does not protect against: a strong push moves a sound joint as far. Rock it with two fingers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hardware.rig import Rig
from hardware.servo.bus import Bus
from hardware.servo.port import BusError

SOUND_DEG = 2.5  # sag under load of sound servos is 1.8 to 2.6 degrees by users' measurements
_TURN_DEG = 360.0


@dataclass(frozen=True)
class Play:
    """How far a held joint could be rocked."""

    joint: str
    degrees: float

    @property
    def worn(self) -> bool:
        """Whether it is more than a sound servo gives way."""
        return self.degrees > SOUND_DEG


def measure_play(bus: Bus, rig: Rig, joint: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Play:
    """Hold one joint where it is for some seconds and see how far it is rocked. Raises ``BusError``; limp afterwards."""
    id_, model = rig.joints[joint].id, rig.joints[joint].model
    here = bus.read(id_, "present_position")
    bus.write(id_, "goal_position", here)
    if bus.read(id_, "goal_position") != here:
        raise BusError(f"{joint} does not take its present position as goal; its torque stays off")
    counts = [here]
    try:
        bus.write(id_, "torque_enable", 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            counts.append(bus.read(id_, "present_position"))
            sleep(0.01)
    finally:
        failed = bus.torque_off([id_])
    if failed:
        raise BusError(f"{failed[id_]}. Switch the arm's power off")
    return Play(joint, (max(counts) - min(counts)) * _TURN_DEG / model.resolution)
