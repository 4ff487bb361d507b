"""Motors, gears and heat: what turns the shafts when no simulator does, and what every servo's electronics feel.

A *plant* is whatever the shafts are joined to. ``FreeShafts`` is the simple one: six shafts that know inertia, friction
and a hand or an obstacle that holds them, but not each other. ``sim.twin`` joins them to the PyBullet arm instead.

Each tick, every servo says what its motor shall do (``Drive``), the plant turns the shafts (``Shaft``), and ``Winding``
follows current and heat.

Figures: stall torque, speed and current from the makers' data sheets. Gains in duty per radian are estimates chosen so
that an STS3215 with P = 16 has the stiffness of the SO-ARM100 MuJoCo model (kp = 17.8 N m/rad) and the sag of 1.8 to
2.6 degrees under load that users report. Heat: capacity 0.6 J/(g K) times the servo's mass, 10 K/W to the air.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

AMBIENT_DEGC = 25.0
HAND_RAD_S = 10.0  # as fast as a hand turns a joint


@dataclass(frozen=True)
class Motor:
    """A geared motor as seen at its output shaft, at its nominal voltage."""

    volts: float
    stall_nm: float
    no_load_rad_s: float
    stall_a: float
    mass_g: float
    friction_nm: float  # dry friction, with the motor off
    inertia_kg_m2: float = 0.03  # reflected rotor and what usually hangs on it
    idle_a: float = 0.05
    air_k_w: float = 10.0  # thermal resistance to the air

    @property
    def damping(self) -> float:
        """N m per rad/s of the motor's own back EMF."""
        return self.stall_nm / self.no_load_rad_s


#: STS3215, 7.4 V; friction and rotor inertia as in SO-ARM100's MuJoCo model (0.052 N m, 0.028 kg m²).
STS3215_GEAR = 345.0
STS3215 = Motor(7.4, 1.91, math.radians(276.0), 2.5, 55.0, 0.052)
XL430_W250 = Motor(12.0, 1.5, 61.0 * math.pi / 30, 1.4, 57.2, 0.04, 0.02)
XL330_M288 = Motor(5.0, 0.52, 103.0 * math.pi / 30, 1.47, 18.0, 0.015, 0.004, air_k_w=20.0)
XL330_M077 = Motor(5.0, 0.215, 383.0 * math.pi / 30, 1.47, 18.0, 0.005, 0.001, air_k_w=20.0)


@dataclass
class Drive:
    """What a servo asks of its motor for the next tick."""

    mode: Literal["free", "position", "duty", "brake"] = "free"
    error_rad: float = 0.0  # position: how far the set point is from the shaft
    set_speed: float = 0.0  # position: how fast the set point moves, rad/s
    stiffness: float = 0.0  # duty per rad
    damping: float = 0.0  # duty per rad/s
    dead_rad: float = 0.0  # no push for errors smaller than this
    start_duty: float = 0.0  # the least push for larger ones
    bias: float = 0.0  # duty added: integral and feed-forward
    duty: float = 0.0  # duty mode
    limit: float = 1.0  # largest share of full duty

    def push(self, speed: float) -> float:
        """Duty, -1 to 1, for a shaft that turns at ``speed`` rad/s."""
        if self.mode == "position":
            duty = self.bias + self.damping * (self.set_speed - speed)
            if abs(self.error_rad) > self.dead_rad:
                push = self.stiffness * self.error_rad
                duty += push if abs(push) > self.start_duty else math.copysign(self.start_duty, push)
        elif self.mode == "duty":
            duty = self.duty
        else:
            duty = 0.0
        return max(-self.limit, min(self.limit, duty))


@dataclass
class Shaft:
    """The state of an output shaft, and what acts on it from outside."""

    angle: float = 0.0  # rad, turns counted; 0 where the encoder reads its middle
    speed: float = 0.0  # rad/s
    duty: float = 0.0  # what the motor does, share of full duty
    torque: float = 0.0  # N m of the motor on the gear
    volts: float = 0.0  # of the supply
    hand: float | None = None  # a hand holds the shaft at this angle
    blocked: bool = False  # something hard holds it where it is
    outside_nm: float = 0.0  # weight or a push; positive turns it forward
    stops: tuple[float, float] = (-math.inf, math.inf)  # mechanical ends, rad


class Plant(Protocol):
    """What the shafts are joined to."""

    tick_s: float
    shafts: list[Shaft]

    def advance(self, drives: Sequence[Drive]) -> None:
        """Let one tick pass and bring the shafts up to date."""
        ...


@dataclass
class FreeShafts:
    """Shafts that move each for itself: motor, back EMF, dry friction, inertia, ends; 500 ticks a second."""

    motors: Sequence[Motor]
    shafts: list[Shaft] = field(default_factory=list)
    tick_s: float = 0.002

    def __post_init__(self) -> None:
        if not self.shafts:
            self.shafts = [Shaft(volts=motor.volts) for motor in self.motors]

    def advance(self, drives: Sequence[Drive]) -> None:
        """One tick of every shaft."""
        for motor, shaft, drive in zip(self.motors, self.shafts, drives, strict=True):
            _turn(motor, shaft, drive, self.tick_s)


def _turn(motor: Motor, shaft: Shaft, drive: Drive, dt: float) -> None:
    duty = shaft.duty = drive.push(shaft.speed)
    stall = motor.stall_nm * shaft.volts / motor.volts
    # An open circuit brakes nothing; a driven or shorted motor feels its own back EMF.
    back = 0.0 if drive.mode == "free" else motor.damping
    if shaft.hand is not None or shaft.blocked:
        _held(shaft, dt)
    elif drive.mode != "free" or shaft.speed or shaft.outside_nm:
        speed = (shaft.speed + dt / motor.inertia_kg_m2 * (stall * duty + shaft.outside_nm)) / (
            1.0 + dt * back / motor.inertia_kg_m2
        )
        rubbed = dt * motor.friction_nm / motor.inertia_kg_m2
        shaft.speed = 0.0 if abs(speed) <= rubbed else speed - math.copysign(rubbed, speed)
        shaft.angle += shaft.speed * dt
        low, high = shaft.stops
        if not low <= shaft.angle <= high:
            shaft.angle, shaft.speed = max(low, min(high, shaft.angle)), 0.0
    shaft.torque = stall * duty - back * shaft.speed


def _held(shaft: Shaft, dt: float) -> None:
    """A hand is stronger than the motor, and takes the shaft along as fast as a hand can."""
    way = 0.0 if shaft.hand is None or shaft.blocked else shaft.hand - shaft.angle
    shaft.speed = max(-HAND_RAD_S, min(HAND_RAD_S, way / dt))
    shaft.angle += shaft.speed * dt


@dataclass
class Winding:
    """Current and temperature of one motor."""

    motor: Motor
    degc: float = AMBIENT_DEGC
    amperes: float = 0.0  # signed as the torque

    def feel(self, torque_nm: float, powered: bool, dt: float) -> None:
        """One tick with this torque."""
        motor = self.motor
        share = torque_nm / motor.stall_nm
        self.amperes = share * (motor.stall_a - motor.idle_a)
        if powered:
            self.amperes += math.copysign(motor.idle_a, share)
        loss_w = self.amperes * self.amperes * motor.volts / motor.stall_a
        capacity = 0.6 * motor.mass_g
        self.degc += dt / capacity * (loss_w - (self.degc - AMBIENT_DEGC) / motor.air_k_w)


@dataclass
class Supply:
    """The power supply and the wires to the servos: the voltage sags with the current of all of them."""

    volts: float
    ohms: float = 0.08
    present: float = 0.0

    def __post_init__(self) -> None:
        self.present = self.volts

    def load(self, amperes: float, source_v: float | None = None) -> float:
        """The voltage that is left at this current; ``source_v`` replaces the supply's own, as when it fails."""
        source = self.volts if source_v is None else source_v
        self.present = max(0.0, source - self.ohms * amperes)
        return self.present
