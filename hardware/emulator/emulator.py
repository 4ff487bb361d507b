"""Emulated servos behind a pseudo-terminal: to a client they are an arm on a serial port.

    with Emulator("so101") as arm:
        port = serial.Serial(arm.port, 1_000_000)

Time passes in one of two ways. In *real time* (the default) bytes take as long as on a wire of the host's baud rate, and
the servos move on their own. *Stepped*, nothing waits: time is what the traffic would have taken, and a write of goals to
several servos at once, of which any has its torque on, lets the rest of a control period pass::

    host:      read all | decide | sync-write goals |            read all | ..
    emulator:  answers                               one period            answers

so that a program which reads and writes once per period runs as fast as it can and the same way every time.

What this is not: a proof about a motor. Gains, friction and heat are estimates (``dynamics``), and where the makers'
documents are silent, so is the knowledge behind this.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from hardware.emulator.chains import Chain, find_chain
from hardware.emulator.dynamics import FreeShafts, Plant, Shaft, Supply
from hardware.emulator.dynamixel_servo import DynamixelServo
from hardware.emulator.faults import Fault, FaultPlan, Injector
from hardware.emulator.feetech_servo import FeetechServo
from hardware.emulator.register_file import RegisterFile
from hardware.emulator.servo import Answer, EmulatedServo
from hardware.emulator.wire import (
    BITS_PER_BYTE,
    Burst,
    Pty,
    Strikes,
    collide,
    damaged,
    encode,
    fast_reply,
    heard_as,
    on_the_wire,
)
from hardware.errors import RobotError
from hardware.servo import dynamixel, feetech
from hardware.servo.packet import Packet, PacketParser

_log = logging.getLogger(__name__)

_STALE_S = 0.02  # a servo gives up on a frame that does not go on; later where time is not the wire's
_CATCH_UP_S = 0.02  # the longest that ticks are made up for in one go
_SPIN_S = 60e-6  # the scheduler is late by about this much; the last bit is waited for awake
_NOBODY_S = 0.005  # how often to look whether a host has opened the port
_LAG_S = 0.25  # after a longer pause of this process, the pause did not happen
_SCHEMA = 1


@dataclass(frozen=True)
class Pace:
    """How time passes."""

    mode: Literal["real", "stepped"] = "real"
    speed: float = 1.0  # real: seconds of the servos per second
    wire: bool = True  # real: bytes take their time
    period_s: float = 0.05  # stepped: the control period that a sync-write of goals completes

    def __post_init__(self) -> None:
        if not 0.0 < self.speed < math.inf or not 0.0 < self.period_s < math.inf:
            raise RobotError("speed and period of an emulator must be positive")


class Emulator:
    """An arm's servos on a bus. A context manager: the port is there from ``start`` to ``close``."""

    def __init__(
        self,
        arm: str | Path | Chain,
        *,
        plant: Plant | None = None,
        pace: Pace | None = None,
        faults: FaultPlan | None = None,
        link: Path | None = None,
        eeprom: Path | None = None,
    ) -> None:
        """``arm`` is a rig by name or file. ``plant`` is what the shafts are joined to (default: nothing).

        ``link`` names the port for good; ``eeprom`` is a file in which the servos' EEPROM outlives this process. Raises
        ``RobotError`` for an unknown arm, a fault for a joint that is not there, or a damaged EEPROM file.
        """
        self.chain = arm if isinstance(arm, Chain) else find_chain(arm)
        self.pace = pace if pace is not None else Pace()
        self.injector = Injector(faults if faults is not None else FaultPlan())
        self.injector.plan.check_targets((s.joint, s.id) for s in self.chain.servos)
        self.traffic: Counter[str] = Counter()  # packets and bytes, by direction
        motors = [servo.motor for servo in self.chain.servos]
        self.plant = plant if plant is not None else FreeShafts(motors)
        if len(self.plant.shafts) != len(motors):
            raise RobotError(f"{self.chain.name} has {len(motors)} servos, the plant {len(self.plant.shafts)} shafts")
        self._eeprom_file = eeprom
        self._link = link
        self._supplies = {motor.volts: Supply(motor.volts) for motor in motors}
        self.servos: dict[str, EmulatedServo] = self._build(plant is None)
        self._list = list(self.servos.values())
        self._saved = self._saves()
        self._lock = threading.RLock()
        self._pty: Pty | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._path: Callable[[float], Mapping[str, float]] | None = None  # of a hand, rad by joint over time in s
        self._pulled = False  # by a fault, not by ``unplug``
        self._wake_read = self._wake_write = -1  # a byte written here ends the thread's sleep
        self._parsers: dict[tuple[str, int], PacketParser] = {}
        self._heard_at = 0.0  # real time of the last byte, for giving up on frames
        self._outgoing: list[tuple[float, bytes]] = []  # (real time when whole, bytes)
        self._ready: list[tuple[Burst, float]] = []  # of the packet that is being answered
        self._line_free_s = 0.0  # when the host's last byte is through
        self._reply_end_s = 0.0  # when the servos have finished talking
        self._timed = self.pace.mode == "real" and self.pace.wire  # bytes take their time
        self._now = 0.0  # stepped time
        self._ticks = 0
        self._skipped_s = 0.0
        self._tick_cost_s = 50e-6  # of computing, on average
        self._begun = time.monotonic()

    # Life ------------------------------------------------------------------------------------------------------------

    def _build(self, free: bool) -> dict[str, EmulatedServo]:
        stored = _load_eeprom(self._eeprom_file)
        servos: dict[str, EmulatedServo] = {}
        for spec, shaft in zip(self.chain.servos, self.plant.shafts, strict=True):
            if free:
                shaft.angle, shaft.stops = spec.rest, spec.stops
            shaft.volts = spec.motor.volts
            new = {"id": spec.id, "baud_rate": spec.model.baud_code(self.chain.baud)}
            registers = RegisterFile(spec.model, {**new, **stored.get(spec.joint, {})})
            kind = FeetechServo if spec.model.protocol == "feetech" else DynamixelServo
            supply = self._supplies[spec.motor.volts]
            servos[spec.joint] = kind(spec.joint, spec.model, spec.motor, shaft, supply, registers, self.injector)
        return servos

    def start(self) -> Emulator:
        """Open the port and begin to live. Raises ``RobotError`` when the link cannot be made."""
        if self._thread is None:
            self._pty = Pty(self._link)
            self._wake_read, self._wake_write = os.pipe()
            self._begun = time.monotonic()
            self._thread = threading.Thread(target=self._live, name=f"emulated {self.chain.name}", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """The port vanishes; safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._nudge()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)
        with self._lock:
            if self._pty is not None:
                self._pty.close()
                self._pty = None
            self._store_eeprom()
        for end in (self._wake_read, self._wake_write):
            if end >= 0:
                os.close(end)

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> str:
        """The port to open: the link when there is one. Raises ``RobotError`` while it is unplugged or not started."""
        with self._lock:
            if self._failure is not None:
                raise RobotError(f"the emulated {self.chain.name} has failed: {self._failure!r}; make a new one")
            if self._pty is None:
                raise RobotError(f"the emulated {self.chain.name} has no port now; start it, or plug it in again")
            return str(self._link) if self._link is not None else self._pty.path

    # What a person in the room can do --------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """The servos' time since the start."""
        if self.pace.mode == "stepped":
            with self._lock:
                return self._now
        return (time.monotonic() - self._begun) * self.pace.speed - self._skipped_s

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises ``RobotError`` in real time, which passes by itself."""
        if self.pace.mode != "stepped":
            raise RobotError("time passes by itself here; make the emulator with Pace('stepped') to advance it")
        with self._lock:
            self._pass(seconds)

    def inject(self, faults: str | FaultPlan | Fault) -> None:
        """Add faults while it runs. Raises ``RobotError`` for words or joints that do not exist."""
        plan = FaultPlan.parse(faults) if isinstance(faults, str) else faults
        plan = plan if isinstance(plan, FaultPlan) else FaultPlan((plan,))
        plan.check_targets((s.joint, s.id) for s in self._list)
        with self._lock:
            for fault in plan.faults:
                self.injector.add(fault)
        self._nudge()

    def heal(self, kind: str | None = None) -> None:
        """Take back all faults, or those of one kind. What they did to the servos stays."""
        with self._lock:
            self.injector.clear(kind)
        self._nudge()

    def hold(self, angles: Mapping[str, float]) -> None:
        """A hand takes these shafts to these angles (rad from the encoder's middle) and holds them there."""
        with self._lock:
            self._path = None
            self._grip(angles)

    def follow(self, path: Callable[[float], Mapping[str, float]]) -> None:
        """A hand takes shafts along a path, as ``hold`` does to one place: the angles at a ``time_s``, asked every tick."""
        with self._lock:
            self._path = path

    def _grip(self, angles: Mapping[str, float]) -> None:
        for joint, angle in angles.items():
            low, high = self._shaft(joint).stops
            self._shaft(joint).hand = max(low, min(high, float(angle)))

    def let_go(self, *joints: str) -> None:
        """The hand lets go of these joints; of all when none is named."""
        with self._lock:
            self._path = None
            for joint in joints or self.servos:
                self._shaft(joint).hand = None

    def angles(self) -> dict[str, float]:
        """Where the shafts truly are now, rad from the encoder's middle."""
        with self._lock:
            self._keep_up()
            return {joint: servo.shaft.angle for joint, servo in self.servos.items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing moves and nothing is answered meanwhile."""
        with self._lock:
            yield

    def power_cycle(self) -> None:
        """Switch the servos' power off and on."""
        with self._lock:
            for servo in self._list:
                servo.restart(0.0)

    def unplug(self) -> None:
        """Pull the cable out of the computer: the port vanishes, the servos stay on and hold."""
        with self._lock:
            if self._pty is not None:
                self._pty.close()
                self._pty = None
                self._outgoing.clear()
        self._nudge()

    def replug(self) -> None:
        """Plug it in again: a new port, under the same link if there is one."""
        with self._lock:
            if self._pty is None and not self._closing.is_set():
                self._pty = Pty(self._link)
                self._parsers.clear()
        self._nudge()

    def _shaft(self, joint: str) -> Shaft:
        if joint not in self.servos:
            raise RobotError(f"there is no joint {joint!r}; there are: {', '.join(self.servos)}")
        return self.servos[joint].shaft

    def _nudge(self) -> None:
        if self._wake_write >= 0:
            with suppress(OSError):
                os.write(self._wake_write, b"x")

    # The thread ------------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._serve()
        except Exception as error:  # whatever it was: a host must not wait for servos that are no more
            _log.exception("emulated %s", self.chain.name)
            self._failure = error
            with self._lock:
                self.unplug()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                self._keep_up()
                self._plug()
                wait, listening = self._deliver(), self._pty
                fd = listening.fileno() if listening is not None else -1
            woken = self._rest(wait, fd)
            if woken:
                with self._lock:
                    data = listening.read() if listening is not None and listening is self._pty else b""
                    if data:
                        self._hear(data)
                if data is None:  # nobody has the port open, and select would never sleep
                    self._closing.wait(_NOBODY_S)

    def _rest(self, wait_s: float, fd: int) -> bool:
        """Sleep until there is something to do; True when the host has sent something."""
        if wait_s <= _SPIN_S and self._outgoing:
            return False  # a reply is due any moment: look again at once
        watched = [self._wake_read] if fd < 0 else [fd, self._wake_read]
        try:
            readable, _, _ = select.select(watched, [], [], max(0.0, wait_s - _SPIN_S if self._outgoing else wait_s))
        except (OSError, ValueError):  # unplugged meanwhile
            return False
        if self._wake_read in readable:
            with suppress(OSError):
                os.read(self._wake_read, 1024)
        return fd in readable

    def _deliver(self) -> float:
        """Hand over the replies that are whole; how long to sleep after that."""
        now = time.monotonic()
        while self._outgoing and self._outgoing[0][0] <= now:
            _, data = self._outgoing.pop(0)
            if self._pty is not None:
                self._pty.write(data)
                self.traffic["bytes out"] += len(data)
        tick = self.plant.tick_s / self.pace.speed if self.pace.mode == "real" else 0.1
        tick = max(tick, 0.002)
        return min(self._outgoing[0][0] - now, tick) if self._outgoing else tick

    def _plug(self) -> None:
        """Pull and push the cable as the plan says; an unplugging that was slept through still happens."""
        if not self.injector.busy and not self._pulled:
            return
        fault = self.injector.begun("unplug", self.time_s)
        if fault is not None and self._pty is not None:
            self.injector.counts["unplug"] += 1
            self._pulled = True
            self.unplug()
        elif fault is None and self._pulled:
            self._pulled = False
            self.replug()

    # Time ------------------------------------------------------------------------------------------------------------

    def _keep_up(self) -> None:
        """Real time: simulate the ticks that are due, unless a reply is about to be."""
        if self.pace.mode == "stepped":
            return
        late = self.time_s - self._ticks * self.plant.tick_s
        if late > _LAG_S:
            self._skipped_s += late - self.plant.tick_s
        until = time.monotonic() + _CATCH_UP_S
        while self.time_s - self._ticks * self.plant.tick_s >= self.plant.tick_s:
            begun = time.monotonic()
            if begun > until:  # ticks that cost more than they simulate would keep the lock for ever
                return
            if self._outgoing and self._outgoing[0][0] - begun < _SPIN_S + 2.0 * self._tick_cost_s:
                return
            self._tick()
            self._tick_cost_s += 0.1 * (time.monotonic() - begun - self._tick_cost_s)
        if self._saves() != self._saved:
            self._store_eeprom()

    def _pass(self, seconds: float) -> None:
        """Stepped: let time pass."""
        self._now += seconds
        ticks = math.floor(self._now / self.plant.tick_s + 1e-6)
        for _ in range(ticks - self._ticks):
            self._tick()

    def _tick(self) -> None:
        dt, now, injector = self.plant.tick_s, self._ticks * self.plant.tick_s, self.injector
        for event in injector.due(now):
            self._happen(event)
        if self._path is not None:
            self._grip(self._path(now))
        for servo in self._list:
            servo.tick(now, dt)
        self.plant.advance([servo.drive for servo in self._list])
        for servo in self._list:
            servo.feel(dt)
        for supply in self._supplies.values():
            fed = [servo for servo in self._list if servo.supply is supply]
            sag = next((f for s in fed if (f := injector.active("sag", now, s.joint, s.id)) is not None), None)
            volts = supply.load(
                sum(abs(servo.winding.amperes) for servo in fed), None if sag is None else sag.magnitude
            )
            for servo in fed:
                servo.shaft.volts = volts
        self._ticks += 1

    def _happen(self, fault: Fault) -> None:
        for servo in self._list:
            if not fault.hits(servo.joint, servo.id):
                continue
            if fault.kind == "reboot":
                servo.restart()
            elif fault.kind == "factory":
                servo.reset()
            elif fault.kind == "torque_off":
                servo.registers.poke(servo.model["torque_enable"].address, 0)
            elif fault.kind == "poke" and fault.index is not None:
                servo.registers.poke(fault.index, round(fault.magnitude))
            elif fault.kind == "baud":
                code = servo.model.baud_code(round(fault.magnitude))
                servo.registers.poke(servo.model["baud_rate"].address, code)

    # Traffic ---------------------------------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        pty = self._pty
        if pty is None:
            return
        now = time.monotonic()
        self.traffic["bytes in"] += len(data)
        timed = self._timed
        if now - self._heard_at > (_STALE_S if timed else 10.0 * _STALE_S):
            for parser in self._parsers.values():
                parser.flush()
        self._heard_at = now
        baud = pty.host_baud() or self.chain.baud
        begin = max(now, self._line_free_s)
        if timed and begin < self._reply_end_s - _SPIN_S:
            self.traffic["collisions"] += 1
            self._outgoing = [(when, self.injector.rng.bytes(len(reply))) for when, reply in self._outgoing]
            return
        self._line_free_s = begin + len(data) * BITS_PER_BYTE / baud if timed else now
        self._echo(data, baud)
        for servo_baud in dict.fromkeys(servo.baud for servo in self._list):
            if servo_baud:
                self._hear_at(servo_baud, heard_as(data, baud, servo_baud), baud)

    def _echo(self, data: bytes, baud: int) -> None:
        echo = self.injector.strike("echo", self.time_s)
        if echo is not None:
            self._send(Burst(data if echo.index is None else data[: echo.index]), self._line_free_s)
        elif self.injector.strike("contention", self.time_s) is not None:
            k = self.injector.draw(len(data))
            self._send(Burst(data[:k] + bytes((data[k] ^ 0x10,)) + data[k + 1 :]), self._line_free_s)

    def _hear_at(self, servo_baud: int, data: bytes, host_baud: int) -> None:
        """What the servos at one baud rate hear."""
        for protocol in dict.fromkeys(servo.model.protocol for servo in self._list):
            key = (protocol, servo_baud)
            if key not in self._parsers:
                codec = feetech if protocol == "feetech" else dynamixel
                self._parsers[key] = codec.Parser("instruction")
            parser = self._parsers[key]
            listeners = [s for s in self._list if s.baud == servo_baud and s.model.protocol == protocol]
            bad = parser.bad
            for packet in parser.feed(data):
                self._obey(packet, listeners, host_baud)
            if parser.bad > bad and protocol == "dynamixel":
                self._answer_bad_crc(data, listeners, host_baud)

    def _obey(self, packet: Packet, listeners: list[EmulatedServo], host_baud: int) -> None:
        self.traffic["packets in"] += 1
        stepped = self.pace.mode == "stepped"
        if stepped:
            frame = len(packet.params) + (6 if listeners and listeners[0].model.protocol == "feetech" else 10)
            self._pass(frame * BITS_PER_BYTE / host_baud)  # its own bytes: several packets may arrive in one read
        if self.injector.busy and self._lost(packet):
            return
        answers = [answer for servo in listeners if (answer := servo.heard(packet)) is not None]
        self._reply(packet, answers, host_baud)
        if stepped and _sets_going(packet, listeners):
            whole = math.floor(self._now / self.pace.period_s + 1e-6) + 1
            self._pass(whole * self.pace.period_s - self._now)
        if self._saves() != self._saved:
            self._store_eeprom()

    def _lost(self, packet: Packet) -> bool:
        """Whether a fault keeps the servos from hearing this. An instruction's number is the same in both protocols."""
        now, write = self.time_s, feetech.Instruction
        written = packet.code in (write.SYNC_WRITE, dynamixel.Instruction.BULK_WRITE) or (
            packet.id == feetech.BROADCAST and packet.code in (write.WRITE, write.ACTION)
        )
        if written and self.injector.strike("lose_write", now) is not None:
            return True
        return self.injector.strike("lose_request", now) is not None

    def _answer_bad_crc(self, data: bytes, listeners: list[EmulatedServo], host_baud: int) -> None:
        """A whole frame whose CRC does not fit: the servo it names says so."""
        if (
            not data.startswith(dynamixel.HEADER)
            or len(data) < 10
            or len(data) != 7 + int.from_bytes(data[5:7], "little")
        ):
            return
        answers = [s.bad_crc() for s in listeners if s.id == data[4] and isinstance(s, DynamixelServo)]
        self._reply(None, [answer for answer in answers if answer is not None], host_baud)

    def _reply(self, request: Packet | None, answers: list[Answer], host_baud: int) -> None:
        """Put the answers on the wire, one after the other; those of the same turn collide."""
        when = begun = self._line_free_s
        fast = [answer for answer in answers if answer.fast]
        if fast and request is not None:
            when += max(answer.delay_s for answer in fast)
            frame = fast_reply(request, fast)
            when = self._put(
                damaged(frame, Strikes(self.injector, self.time_s, fast[0].servo)), when, fast[0].baud, host_baud
            )
        ordered = sorted((answer for answer in answers if not answer.fast), key=lambda answer: answer.order)
        for _, group in itertools.groupby(ordered, key=lambda answer: answer.order):
            together = list(group)
            when += together[0].delay_s
            if len(together) > 1:
                bursts = [Burst(collide([encode(answer) for answer in together]))]
            else:
                bursts = on_the_wire(together[0], self.injector, self.time_s)
            when = self._put(bursts, when, together[0].baud, host_baud)
            self.traffic["packets out"] += 1
        self._reply_end_s = when
        if self.pace.mode == "stepped" and when > begun:
            self._pass(when - begun)  # before the host hears: afterwards all is still
        for burst, whole in self._ready:
            self._send(burst, whole)
        self._ready.clear()

    def _put(self, bursts: list[Burst], when: float, servo_baud: int, host_baud: int) -> float:
        """Send bursts from ``when`` on; returns when the last one is through."""
        if not self._timed and len(bursts) > 1 and not any(burst.extra_s for burst in bursts):
            bursts = [Burst(b"".join(burst.data for burst in bursts))]  # together, or it were chance what the host sees
        for burst in bursts:
            when += len(burst.data) * BITS_PER_BYTE / servo_baud
            self._ready.append((Burst(heard_as(burst.data, servo_baud, host_baud), burst.extra_s), when))
        return when

    def _send(self, burst: Burst, when: float) -> None:
        if not self._timed:
            when = time.monotonic()
        due = when + burst.extra_s
        if due <= time.monotonic() and not self._outgoing and self._pty is not None:
            self._pty.write(burst.data)
            self.traffic["bytes out"] += len(burst.data)
            return
        self._outgoing.append((due, burst.data))
        self._outgoing.sort(key=lambda item: item[0])

    # EEPROM file -----------------------------------------------------------------------------------------------------

    def _saves(self) -> int:
        return sum(servo.registers.saved for servo in self._list) if hasattr(self, "_list") else 0

    def _store_eeprom(self) -> None:
        self._saved = self._saves()
        if self._eeprom_file is None:
            return
        content = {"schema": _SCHEMA, "servos": {joint: s.registers.changed() for joint, s in self.servos.items()}}
        passing = self._eeprom_file.with_name(self._eeprom_file.name + ".new")
        passing.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(passing, self._eeprom_file)


def _sets_going(packet: Packet, listeners: list[EmulatedServo]) -> bool:
    """Whether this gives several servos with torque new goals: a sync-write, or the action that ends prepared writes."""
    if not any(servo.torque_on for servo in listeners):
        return False
    if packet.code in (feetech.Instruction.ACTION, dynamixel.Instruction.BULK_WRITE):
        return True
    if packet.code != feetech.Instruction.SYNC_WRITE:
        return False
    model = listeners[0].model
    codec = feetech if model.protocol == "feetech" else dynamixel
    order = codec.parse_sync_write(packet.params)
    return order is not None and order.address <= model["goal_position"].address < order.address + order.size


def _load_eeprom(file: Path | None) -> dict[str, dict[str, int]]:
    """Register values by joint. Raises ``RobotError`` for a file that is none of ours."""
    if file is None or not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        servos = content["servos"]
        known = content["schema"] == _SCHEMA
        return {str(j): {str(n): int(v) for n, v in values.items()} for j, values in servos.items()} if known else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RobotError(f"{file} is no EEPROM file of the emulator ({error}); delete it to begin as new") from error
