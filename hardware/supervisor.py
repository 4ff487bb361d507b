"""What servos report, judged: how far an arm must stop, why, and because of which servo. Pure; time comes in.

::

    RUN    obey                       SLOW   obey at half speed: a servo is warm
    HOLD   keep torque, stay where the last goals were      PARK   go slowly to the rest pose, then limp
    LIMP   torque off on every joint, each one tried

The most severe level wins. Everything from HOLD on that has a ``Fault`` is latched: nothing moves before ``reset``, which
is refused while a servo that was too hot has not cooled down. A hold ends after a minute, because servos that hold get
hot: in PARK, or in LIMP where a servo is hot already or where moving is not safe (an arm that cannot be read, or whose
joint hangs limp, must not be moved).

A servo that reports overload, heat or electrical trouble is itself made limp (``Supervision.limp``) while the others
hold. What a caller does with a level is in ``hardware.servo.loop``.

What this does not protect against: what no servo reports. It is no certified safety function; the emergency stop of an
arm is a switch in its power supply.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hardware.errors import RobotError


class Level(enum.IntEnum):
    """How far an arm must stop, least first."""

    RUN = 0
    SLOW = 1
    HOLD = 2
    PARK = 3
    LIMP = 4


class FaultKind(enum.Enum):
    """What went wrong on the bus, in a servo, or with the commands."""

    DISCONNECTED = "the port went away"
    LOOP = "the bus loop failed"
    SILENT = "a servo does not answer"
    JUMP = "a position reading jumped"
    SERVO = "a servo reports a fault"
    HOT = "a servo is nearly too hot"
    TORQUE_LOST = "a servo lost its torque"
    STALLED = "a joint does not get where it is sent"
    SWAPPED = "a servo is not the one it was"
    COMMAND = "commands could not be obeyed"
    STOPPED = "stop was pressed"


#: After these an arm may still be moved to its rest pose; after all others it is not known where it is, or what it does.
_MOVABLE = frozenset({FaultKind.HOT, FaultKind.COMMAND, FaultKind.STOPPED})
_LIMP_BITS = frozenset({"overload", "overheat", "overcurrent", "electrical"})


@dataclass(frozen=True)
class Fault:
    """A latched fault: which kind, which servos (ids), a sentence for the user, and how far the arm must stop."""

    kind: FaultKind
    ids: tuple[int, ...]
    text: str
    level: Level = Level.HOLD


@dataclass(frozen=True)
class Servo:
    """What is known of one servo in one cycle."""

    id: int
    name: str
    age_s: float = 0.0  # of the newest reading
    misses: int = 0  # cycles in a row without an answer
    faults: tuple[str, ...] = ()  # status bits, as words
    temperature: float = 25.0  # degrees Celsius
    voltage: float = 0.0  # V, for the message
    load: float = 0.0  # share of full torque
    current: float = 0.0  # A
    error_rad: float = 0.0  # goal minus present
    jumps: int = 0  # readings in a row that no servo could have turned to
    jump: int = 0  # by how many counts
    torque: bool | None = None  # the torque flag; None: not read in this cycle


@dataclass(frozen=True)
class Thresholds:
    """When a value is a fault; data."""

    misses: int = 3
    silence_s: float = 0.1
    jumps: int = 2
    jump_level: Level = Level.HOLD  # LIMP for arms where a wrong encoder is worse than a fall
    dip_s: float = 0.2  # a shorter dip of the supply is no fault
    max_temperature: Mapping[int, float] = field(default_factory=dict)  # by id, degrees Celsius; 70 where none is given
    warm_k: float = 10.0  # SLOW this far below the maximum, and cool enough for a reset again
    hot_k: float = 5.0  # PARK this far below
    stall_rad: float = 0.1
    stall_load: float = 0.8
    stall_a: float = 1.0
    stall_s: float = 1.0
    hold_s: float = 60.0
    idle_s: float = 60.0  # torque on and no command for as long: PARK
    park_s: float = 30.0  # a rest pose that is not reached in this time cannot be reached
    grips: frozenset[int] = frozenset()  # ids of servos that hold things by pushing: overload and stall are their work

    def __post_init__(self) -> None:
        times = (self.silence_s, self.dip_s, self.stall_s, self.hold_s, self.idle_s, self.park_s)
        if not all(value > 0.0 for value in (*times, self.stall_rad, self.stall_load, self.stall_a)):
            raise RobotError("times and stall values in Thresholds must be positive")
        if self.misses < 1 or self.jumps < 1 or not 0.0 <= self.hot_k <= self.warm_k:
            raise RobotError("Thresholds needs misses and jumps >= 1 and 0 <= hot_k <= warm_k")
        if self.jump_level not in (Level.HOLD, Level.LIMP):
            raise RobotError("jump_level must be HOLD or LIMP")

    def below_max(self, servo: Servo) -> float:
        """How far (K) a servo is below the temperature at which it switches itself off."""
        return self.max_temperature.get(servo.id, 70.0) - servo.temperature


@dataclass(frozen=True)
class Supervision:
    """What the supervisor remembers between two cycles, and its verdict: ``level``, ``fault`` and ``limp``."""

    level: Level = Level.RUN
    fault: Fault | None = None  # latched
    limp: frozenset[int] = frozenset()  # ids of servos that must be without torque
    waiting: bool = False  # servos missed some cycles: stay until they are heard
    still: bool = False  # it is not safe to move, not even to the rest pose
    hot: bool = False  # a servo was too hot
    presses: int = 0  # of stop
    parking: bool = False  # it was asked for
    held_since: float = math.inf  # infinity: it is not held
    parked_since: float | None = None  # since when it is on its way to the rest pose
    low_since: Mapping[int, float] = field(default_factory=dict)
    stalled_since: Mapping[int, float] = field(default_factory=dict)
    servos: tuple[Servo, ...] = ()


def supervise(
    state: Supervision, servos: Sequence[Servo], now_s: float, t: Thresholds, *, torque: bool, idle_s: float = 0.0
) -> Supervision:
    """Judge one cycle. ``torque``: is it meant to be on; ``idle_s``: since when there was no command."""
    low = {s.id: state.low_since.get(s.id, now_s) for s in servos if "voltage" in s.faults}
    stalled = {s.id: state.stalled_since.get(s.id, now_s) for s in servos if torque and _pushes(s, t)}
    lost = [s for s in servos if s.misses >= t.misses]
    state = replace(state, low_since=low, stalled_since=stalled, waiting=bool(lost), servos=tuple(servos))
    found: list[Fault | None] = [
        _of_all(
            FaultKind.SILENT, [s for s in lost if s.age_s >= t.silence_s],
            f"no answer for {t.silence_s:g} s; the arm holds. Check cable and power, then reset",
        ),
        *(_jumped(s, t) for s in servos),
        *(_reported(s, _bits(s, low, now_s, t)) for s in servos),
        _of_all(
            FaultKind.TORQUE_LOST, [s for s in servos if torque and s.torque is False],
            "torque is off although nobody switched it off; did the supply fail? Support the arm, then reset",
        ),
        *(_stalled(s) for s in servos if now_s - stalled.get(s.id, now_s) >= t.stall_s),
        *(_hot(s) for s in servos if torque and not s.faults and t.below_max(s) <= t.hot_k),
    ]  # fmt: skip
    for fault in found:
        if fault is not None:
            state = latch(state, fault, now_s)
    limp = {s.id for s in servos if _bits(s, low, now_s, t) & _LIMP_BITS}
    hot = any("overheat" in s.faults for s in servos)
    return _with_level(replace(state, limp=state.limp | limp, hot=state.hot or hot), now_s, t, torque, idle_s)


def latch(state: Supervision, fault: Fault, now_s: float) -> Supervision:
    """Remember a fault, unless one that is as severe is known already."""
    still = state.still or fault.kind not in _MOVABLE
    held = now_s if still != state.still else min(state.held_since, now_s)
    worse = state.fault is None or fault.level > state.fault.level
    if worse and not (still and fault.level is Level.PARK and state.fault is not None):
        state = replace(state, fault=fault)
    hot, level = state.hot or fault.kind is FaultKind.HOT, max(state.level, Level.HOLD)
    return replace(state, still=still, held_since=held, hot=hot, level=level)


def press_stop(state: Supervision, now_s: float) -> Supervision:
    """The operator's stop: the first press holds, the second makes the arm limp."""
    fault = Fault(FaultKind.STOPPED, (), "stop was pressed; the arm holds. Press again to make it limp, or reset")
    if state.presses:
        fault = Fault(FaultKind.STOPPED, (), "stop was pressed twice; the arm is limp. Then reset", Level.LIMP)
    return replace(latch(state, fault, now_s), presses=state.presses + 1)


def park(state: Supervision) -> Supervision:
    """Ask for the way to the rest pose. Not latched: it ends with the torque, or with ``parked``."""
    return replace(state, parking=True)


def parked(state: Supervision) -> Supervision:
    """The arm rests and is limp, or need not go there any more."""
    return replace(state, parking=False, parked_since=None, level=Level.RUN if state.fault is None else state.level)


def reset(state: Supervision, t: Thresholds) -> Supervision:
    """Forget a latched fault. Raises ``RobotError`` while a servo that was too hot has not cooled down."""
    for servo in state.servos if state.hot else ():
        if t.below_max(servo) < t.warm_k:
            cool = servo.temperature + t.below_max(servo) - t.warm_k
            raise RobotError(
                f"{servo.name} is at {servo.temperature:.0f} °C; let it cool to {cool:.0f} °C with the torque off, which "
                "may take 20 minutes, then reset"
            )
    return Supervision(servos=state.servos)


def _with_level(state: Supervision, now_s: float, t: Thresholds, torque: bool, idle_s: float) -> Supervision:
    """The level that follows from everything that is latched, and from what is so now."""
    latched = _latched_level(state, now_s, t)
    if state.fault is None:
        warm = any(t.below_max(s) <= t.warm_k for s in state.servos)
        latched = Level.SLOW if warm else Level.RUN
        if torque and (state.parking or idle_s >= t.idle_s):
            latched = Level.PARK
        if state.waiting:
            latched = Level.HOLD
    since = None
    if latched is Level.PARK and torque:
        since = now_s if state.parked_since is None else state.parked_since
        if now_s - since >= t.park_s:
            late = Fault(
                FaultKind.STALLED, (), "the rest pose is not reached; the arm holds. Clear its way, then reset"
            )
            return replace(latch(state, late, now_s), level=Level.HOLD, parked_since=None, parking=False)
    return replace(state, level=latched, parked_since=since)


def _latched_level(state: Supervision, now_s: float, t: Thresholds) -> Level:
    if state.fault is None:
        return Level.RUN
    level = max(state.fault.level, Level.LIMP if state.level is Level.LIMP else Level.HOLD)
    if level is not Level.LIMP and now_s - state.held_since >= t.hold_s:
        hot = any(t.below_max(s) <= t.hot_k for s in state.servos)
        level = Level.LIMP if state.still or hot else Level.PARK
    return Level.HOLD if level is Level.PARK and state.still else level


def _bits(servo: Servo, low_since: Mapping[int, float], now_s: float, t: Thresholds) -> set[str]:
    """The status bits that count."""
    bits = set(servo.faults) - ({"overload"} if servo.id in t.grips else set())
    if now_s - low_since.get(servo.id, now_s) < t.dip_s:
        bits.discard("voltage")
    return bits


def _pushes(servo: Servo, t: Thresholds) -> bool:
    strong = abs(servo.load) >= t.stall_load or abs(servo.current) >= t.stall_a
    return strong and abs(servo.error_rad) >= t.stall_rad and servo.id not in t.grips


def _of_all(kind: FaultKind, servos: Sequence[Servo], words: str) -> Fault | None:
    """One fault of several servos, or of none."""
    text = f"{', '.join(servo.name for servo in servos)}: {words}"
    return Fault(kind, tuple(servo.id for servo in servos), text) if servos else None


def _jumped(servo: Servo, t: Thresholds) -> Fault | None:
    if servo.jumps < t.jumps:
        return None
    text = (
        f"{servo.name}: its position jumped by {servo.jump} counts, which it cannot do; check the cable and whether the "
        "joint crosses the end of the encoder, then reset"
    )
    return Fault(FaultKind.JUMP, (servo.id,), text, t.jump_level)


def _reported(servo: Servo, bits: set[str]) -> Fault | None:
    if not bits:
        return None
    limp = " and this joint is limp" if bits & _LIMP_BITS else ""
    text = (
        f"{servo.name} reports {' and '.join(sorted(bits))} (load {servo.load:.0%}, {servo.temperature:.0f} °C, "
        f"{servo.voltage:.1f} V); the arm holds{limp}. Remove the cause, then reset"
    )
    return Fault(FaultKind.SERVO, (servo.id,), text)


def _stalled(servo: Servo) -> Fault:
    text = (
        f"{servo.name} pushes with a load of {servo.load:.0%} ({servo.current:.1f} A) and stays {abs(servo.error_rad):.2f} "
        "rad from its goal; the arm holds. Remove what is in its way, then reset"
    )
    return Fault(FaultKind.STALLED, (servo.id,), text)


def _hot(servo: Servo) -> Fault:
    text = f"{servo.name} is at {servo.temperature:.0f} °C; the arm goes to its rest pose. Let it cool, then reset"
    return Fault(FaultKind.HOT, (servo.id,), text, Level.PARK)
