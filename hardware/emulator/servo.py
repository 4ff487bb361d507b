"""What every emulated servo has in common: power, encoder, set point, heat and the faults that hit a single servo.

``FeetechServo`` and ``DynamixelServo`` add what their makers decided: instructions, units, gains, protections.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, replace

from hardware.emulator.dynamics import Drive, Motor, Shaft, Supply, Winding
from hardware.emulator.faults import Injector
from hardware.emulator.register_file import RegisterFile
from hardware.servo.feetech import BROADCAST
from hardware.servo.packet import Packet
from hardware.servo.registers import ServoModel

TICKS_PER_RAD = 4096 / (2.0 * math.pi)
MIDDLE = 2048


@dataclass(frozen=True)
class Answer:
    """What a servo has to say to a packet, and when its turn is."""

    servo: EmulatedServo
    id: int
    code: int  # the error byte
    params: bytes = b""
    order: int = 0  # turn among all who answer the same packet; two with the same turn talk at once
    fast: bool = False  # a share of one reply that several servos write together
    baud: int = 0  # at which it is sent, and after which delay: as they were when the packet was heard
    delay_s: float = 0.0


class EmulatedServo(abc.ABC):
    """One servo: a register file, a shaft, a motor. ``middle`` is what its encoder reads at shaft angle 0."""

    boot_s = 0.8

    def __init__(
        self, joint: str, model: ServoModel, motor: Motor, shaft: Shaft, supply: Supply, registers: RegisterFile,
        injector: Injector, middle: int = MIDDLE,
    ) -> None:  # fmt: skip
        self.joint = joint
        self.model = model
        self.motor = motor
        self.shaft = shaft
        self.supply = supply
        self.registers = registers
        self.winding = Winding(motor)
        self.drive = Drive()
        self.now_s = 0.0
        self._middle = middle
        self._injector = injector
        self._set = 0.0  # set point, in counts of the present position
        self._set_speed = 0.0  # counts per second
        self._arrived = True
        self._was_on = False
        self._deaf_until = 0.0
        self._dead = self._frozen = self._suffering = False
        self._torque = 0
        self._shadow = -1  # a second id, to which a servo listens without a word
        self._gear = shaft.angle  # the encoder's side of a worn gear
        self._jump = 0.0
        self._load: float | None = None  # what a fault makes the servo feel, share of stall torque
        self._generation = -1
        self._pending: tuple[int, bytes] | None = None  # a registered write
        self.id = registers.get("id")
        self.baud = 0
        self._start()

    # Power -----------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """What happens at power-on, and after a reboot."""
        self._was_on = False
        self._pending = None
        self._reconfigure()
        self._set = self.position()
        self._set_speed = 0.0

    def restart(self, silent_s: float | None = None) -> None:
        """Power cycle: RAM as new, torque off, and silence while it boots."""
        self.registers.power_cycle()
        self._deaf_until = self.now_s + (self.boot_s if silent_s is None else silent_s)
        self._start()

    def reset(self, keep: tuple[str, ...] = ("id",)) -> None:
        """Factory values, then a restart."""
        self.registers.factory_reset(keep)
        self.restart()

    @property
    def awake(self) -> bool:
        """Whether it has power and has booted."""
        return not self._dead and self.now_s >= self._deaf_until

    @property
    def torque_on(self) -> bool:
        """Whether its torque flag is set."""
        return self.registers.get("torque_enable") != 0

    # Position --------------------------------------------------------------------------------------------------------

    def _raw(self) -> float:
        """Counts of the encoder since power-on, turns counted, faults included."""
        return self._middle + self._gear * TICKS_PER_RAD + self._jump

    @abc.abstractmethod
    def position(self) -> float:
        """The present position in the servo's own counts, not yet rounded."""

    def place(self, count: float) -> None:
        """Put the shaft where the servo reads ``count``, at rest; how an arm is set up before the power is on."""
        self.shaft.angle += (count - self.position()) / TICKS_PER_RAD * self._direction
        self.shaft.speed = 0.0
        self._gear = self.shaft.angle
        self._set = self.position()

    # Time ------------------------------------------------------------------------------------------------------------

    def tick(self, now_s: float, dt: float) -> None:
        """Decide what the motor does in the tick that begins now."""
        self.now_s = now_s
        if self.registers.generation != self._generation:
            self._reconfigure()
        self._suffer(dt)
        on = not self._dead and self._torque != 0
        if on and not self._was_on:
            self._set, self._set_speed = self.position(), 0.0
        self._was_on = on
        if self._dead or not on:
            self.drive.mode = "free"
            self.drive.bias = self._set_speed = 0.0
            self._arrived = True
            self._rest()
            return
        self._steer(dt)

    def feel(self, dt: float) -> None:
        """What the tick has done to the electronics; protections act here."""
        shaft = self.shaft
        if self._load is not None:
            shaft.duty = math.copysign(self._load, shaft.duty)
            shaft.torque = shaft.duty * self.motor.stall_nm
        self.winding.feel(shaft.torque, self.drive.mode != "free", dt)
        if not self._dead:
            self._protect(dt)

    def _switch_off(self) -> None:
        """The servo itself clears its torque flag."""
        self.registers.put("torque_enable", 0)
        self._reconfigure()

    def _suffer(self, dt: float) -> None:
        """Faults that last a while."""
        if not self._injector.busy and not self._suffering:
            self._gear = self.shaft.angle
            return
        self._suffering = self._injector.busy  # once more after the last fault, to let go
        active, now = self._injector.active, self.now_s
        if self._torque and active("stuck_off", now, self.joint, self.id) is not None:
            self._switch_off()
        worn = active("backlash", now, self.joint, self.id)
        play = math.radians(worn.magnitude) / 2 if worn is not None else 0.0
        self._gear = max(self.shaft.angle - play, min(self.shaft.angle + play, self._gear))
        jump = active("jump", now, self.joint, self.id)
        self._jump = jump.magnitude if jump is not None else 0.0
        load = active("overload", now, self.joint, self.id)
        self._load = load.magnitude if load is not None else None
        hot = active("overheat", now, self.joint, self.id)
        if hot is not None and self.winding.degc < hot.magnitude:
            self.winding.degc = min(hot.magnitude, self.winding.degc + 5.0 * dt)
        self.shaft.blocked = active("block", now, self.joint, self.id) is not None
        frozen = active("freeze", now, self.joint, self.id) is not None
        if frozen and not self._frozen:
            self.refresh()  # the last values it will tell
        self._frozen = frozen
        dead = active("dead", now, self.joint, self.id) is not None
        if self._dead and not dead:
            self.restart()
        self._dead = dead

    def _follow(self, goal: float, speed: float, acceleration: float, dt: float) -> None:
        """Move the set point: counts, counts/s and counts/s²; 0 means no limit."""
        if self._frozen:
            self._set_speed = 0.0
            return
        way = goal - self._set
        if (not speed and not acceleration) or way == 0.0:
            self._set, self._set_speed = goal, 0.0
            self._arrived = True
            return
        top = self.motor.no_load_rad_s * TICKS_PER_RAD * self.supply.present / self.motor.volts
        want = min(speed, top) if speed else top
        if acceleration:
            want = math.copysign(min(want, math.sqrt(2.0 * acceleration * abs(way))), way)
            change = max(-acceleration * dt, min(acceleration * dt, want - self._set_speed))
            self._set_speed += change
        else:
            self._set_speed = math.copysign(want, way)
        moved = self._set_speed * dt
        if abs(way) <= abs(moved) or abs(way) < 0.5:
            self._set, self._set_speed = goal, 0.0
        else:
            self._set += moved
        self._arrived = self._set == goal

    def _run(self, speed: float, acceleration: float, dt: float) -> None:
        """Move the set point at a speed (counts/s), never far ahead of the shaft."""
        change = acceleration * dt if acceleration else math.inf
        self._set_speed += max(-change, min(change, speed - self._set_speed))
        here = self.position()
        self._set = max(here - 200.0, min(here + 200.0, self._set + self._set_speed * dt))
        self._arrived = speed == 0.0

    def _hold_set_point(self) -> None:
        """Point the motor at the set point."""
        drive = self.drive
        drive.mode = "position"
        drive.error_rad = (self._set - self.position()) / TICKS_PER_RAD * self._direction
        drive.set_speed = self._set_speed / TICKS_PER_RAD * self._direction

    @property
    def _direction(self) -> float:
        """1, or -1 when the count goes down as the shaft turns forward."""
        return 1.0

    def _count_speed(self) -> float:
        return self.shaft.speed * TICKS_PER_RAD * self._direction

    def _moving(self) -> bool:
        return self._was_on and (not self._arrived or abs(self._count_speed()) > 10.0)

    def _reconfigure(self) -> None:
        """Read the registers that decide behaviour; called when any has changed."""
        self._generation = self.registers.generation
        self.id = self.registers.get("id")
        self.baud = self.model.baud_codes.get(self.registers.get("baud_rate"), 0)
        self._return_delay_s = self.registers.get("return_delay") * 2e-6
        self._torque = self.registers.get("torque_enable")
        self._hottest = self.registers.get("max_temperature")
        self._voltages = self.registers.get("min_voltage") / 10, self.registers.get("max_voltage") / 10
        self._configure()

    @abc.abstractmethod
    def _configure(self) -> None: ...

    @abc.abstractmethod
    def _rest(self) -> None:
        """A tick without torque."""

    @abc.abstractmethod
    def _steer(self, dt: float) -> None:
        """A tick with torque: fill in ``drive``."""

    @abc.abstractmethod
    def _protect(self, dt: float) -> None:
        """Watch load, heat and voltage."""

    @abc.abstractmethod
    def refresh(self) -> None:
        """Write the telemetry registers."""

    @abc.abstractmethod
    def respond(self, packet: Packet) -> Answer | None:
        """Obey a packet that was heard, and answer if the rules say so."""

    def heard(self, packet: Packet) -> Answer | None:
        """As ``respond``, for a servo that may be off, booting, hung or mute."""
        if not self.awake or packet.id not in (self.id, BROADCAST, self._shadow):
            return None
        if self._generation != self.registers.generation:
            self._reconfigure()
        if not self._frozen:
            self.refresh()
        baud, delay_s = self.baud, self._return_delay_s
        answer = self.respond(packet)
        if (
            answer is None
            or packet.id == self._shadow
            or self._injector.active("mute", self.now_s, self.joint, self.id) is not None
        ):
            return None
        return replace(answer, baud=baud, delay_s=delay_s)
