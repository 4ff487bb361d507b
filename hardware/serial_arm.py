"""A real arm on a serial bus: the ``Arm`` and ``Robot`` contracts over servos, every command through the safety core.

::

    act(target) -> safety.step -> counts -> ServoLoop (own thread, 100 Hz) -> bus
    observe()   <- radians     <- newest telemetry <-'

Opening causes no motion: servos are identified, settings compared, torque stays as it is. The first command switches
torque on, after the goal of every servo has been set to where it is. ``close`` makes every joint limp, whatever fails
on the way; SIGTERM and SIGHUP end the program in the ordinary way, so that ``finally`` and ``close`` run.

A command has an age: the time since it was made, which who sends it can tell (``made_s``). One that is too old is not
obeyed, and one that is much too old latches a fault, so an arm does not follow a program that has stopped thinking. An arm
to which nothing is sent rests where it was sent last, and whoever pauses between two commands finds it as it was.

``stop`` holds the arm, pressed again it makes it limp. What servos report can do the same, or slow the arm down, or send
it to its rest pose (``hardware.supervisor``); so does a minute without a command, because servos that hold get hot.

What this does not protect against: ``kill -9`` and a pulled cable leave the servos holding their last goal, which is at
most one small step away (Dynamixels stop by their bus watchdog). ``handshake.release`` or the power switch frees them.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType

import numpy as np
from numpy.typing import NDArray

from hardware import handshake
from hardware.arm_spec import ArmSpec
from hardware.camera_model import Frame
from hardware.errors import RobotError
from hardware.joint_map import JointMap
from hardware.profile import Profile
from hardware.rig import Rig
from hardware.robot import Camera, Observation
from hardware.safety import Applied, Limits, Reason, SafetyState, reset, step
from hardware.servo.bus import Bus, Health, Identity, Reading
from hardware.servo.loop import ServoLoop, Snapshot
from hardware.servo.port import BusError, PortLost
from hardware.supervisor import Fault, FaultKind, Level, Thresholds
from hardware.unfolding import way_out

Float = NDArray[np.float64]

_log = logging.getLogger(__name__)

_STALE_S = 0.1  # older telemetry is no measurement any more, unless the rig file is more patient
_WATCHDOG = 10  # counts of 20 ms: a Dynamixel that hears nothing for 0.2 s stops
_OUTSIDE = 0.05  # rad or openings beyond the limits at which torque may still be switched on
_NETWORK_LATENCY_S = 0.1
_LOCKSTEP_LATENCY_S = 0.25  # nothing hurries: time stands still
_SLOW = 0.5  # share of the speed while a servo is warm, and on the way to the rest pose
_AT_REST = 0.05  # rad or openings from the rest pose
_FAR_REMEDY = "move it inside by hand, then try again"


@dataclass(frozen=True)
class JointState:
    """One joint at one instant, in SI units."""

    q: float  # rad; gripper opening 0..1
    velocity: float  # rad/s of the servo's output, in the joint's direction
    load: float  # share of full torque; 0 where the servo does not know
    current: float  # A; 0 where the servo does not know
    voltage: float  # V
    temperature: float  # degrees Celsius
    age_s: float
    faults: tuple[str, ...]


class SerialArm:
    """``Arm`` and ``Robot`` over a servo bus. Use ``SerialArm.open``, in a ``with`` block or with ``close`` in finally."""

    def __init__(
        self,
        rig: Rig,
        bus: Bus,
        *,
        cameras: Mapping[str, Camera] | None = None,
        control_hz: float = 20.0,
        profile: Profile = "default",
        limits: Limits | None = None,
        lockstep: bool = False,
        thresholds: Thresholds | None = None,
    ) -> None:
        """Takes ``bus`` over: shakes hands and starts the loop; closes the bus when that fails. See ``open``."""
        self._bus, self._closed = bus, False
        try:
            if not 1.0 <= control_hz <= rig.bus.rate_hz:
                raise RobotError(f"control_hz must be 1 to the bus rate of {rig.bus.rate_hz:g} Hz, not {control_hz}")
            self.rig = rig
            self._map = JointMap(rig)
            self.spec: ArmSpec = self._map.spec
            self.control_hz = control_hz
            self.limits = limits if limits is not None else Limits.profile(self.spec, profile)
            self._slow_limits = self.limits.slowed(_SLOW)
            self.identities: dict[str, Identity] = handshake.identify(bus, rig)
            self.written = handshake.configure(bus, rig, self.identities)
        except BaseException:
            bus.close()
            raise
        self.overruns = 0  # control periods that began too late
        self._cameras = dict(cameras or {})
        self._period_s = 1.0 / control_hz
        self._names = {joint.id: name for name, joint in rig.joints.items()}
        self._loop = ServoLoop(
            bus,
            rate_hz=control_hz if lockstep else rig.bus.rate_hz,
            names=self._names,
            max_speed=self._map.max_speed(self.limits.velocity),
            lockstep=lockstep,
            thresholds=thresholds if thresholds is not None else _thresholds(rig),
            park=self._towards_rest,
        )
        self._guard = threading.RLock()  # of _safety: the loop's thread uses it on the way to the rest pose
        self._safety: SafetyState | None = None  # None while torque is off
        self._written_s = self._due_s = 0.0
        self._signals = _ExitOnSignals()
        atexit.register(self.close)
        try:
            self._loop.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        rig: Rig,
        *,
        port: str | None = None,
        cameras: Mapping[str, Camera] | None = None,
        control_hz: float = 20.0,
        profile: Profile = "default",
        limits: Limits | None = None,
        lockstep: bool = False,
        thresholds: Thresholds | None = None,
    ) -> SerialArm:
        """Open the arm of a rig file; ``port`` overrides the file's. Nothing moves.

        ``lockstep`` is for emulated servos whose time stands still between two commands: one ``act`` is one bus cycle,
        as fast as it goes, and a control period of time. ``thresholds`` say when what servos report is a fault; by
        default each servo's own highest temperature counts.

        Raises ``RigError`` when it is not calibrated, ``PortTaken`` or ``PortError`` when the port cannot be had,
        ``HandshakeError`` when the servos are not those of the file.
        """
        if port is not None:
            rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": port})})
        if not rig.bus.port:
            raise RobotError(
                f"the rig file of {rig.name} names no port; add one to [bus], or give one: --port /dev/ttyACM0"
            )
        JointMap(rig)  # refuse before the port is touched
        handshake.check_adapter(rig)
        models = {joint.id: joint.model for joint in rig.joints.values()}
        latency_s = _LOCKSTEP_LATENCY_S if lockstep else _NETWORK_LATENCY_S if "://" in rig.bus.port else 0.02
        bus = Bus.open(rig.bus.port, models, baud=rig.bus.baud, latency_s=latency_s)
        return cls(
            rig, bus, cameras=cameras, control_hz=control_hz, profile=profile, limits=limits, lockstep=lockstep,
            thresholds=thresholds,
        )  # fmt: skip

    def __enter__(self) -> SerialArm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what is known

    @property
    def camera_names(self) -> Sequence[str]:
        """Names that ``observe`` accepts."""
        return tuple(self._cameras)

    @property
    def engaged(self) -> bool:
        """Is torque on?"""
        return self._safety is not None and self._loop.engaged

    @property
    def fault(self) -> str | None:
        """The latched fault in words, or None."""
        fault = self._loop.fault
        return fault.text if fault is not None else None

    @property
    def level(self) -> Level:
        """How far the arm must stop: RUN, SLOW, HOLD, PARK or LIMP."""
        return self._loop.level

    @property
    def snapshot(self) -> Snapshot:
        """Raw telemetry, goals and counters of the bus loop."""
        return self._loop.snapshot()

    def health(self) -> dict[str, Health]:
        """How well each servo answers, by joint."""
        return {name: dataclasses.replace(self._bus.health[id_]) for id_, name in self._names.items()}

    def joint_states(self) -> dict[str, JointState]:
        """Everything measured, by joint. Raises ``RobotError`` before every joint was heard once."""
        readings = self._loop.snapshot().readings
        if len(readings) < len(self._names):
            raise RobotError(self._why_stale())
        q = self._map.q({id_: reading.position for id_, reading in readings.items()})
        now = self._loop.now()
        states: dict[str, JointState] = {}
        for value, id_ in zip(q, self._map.ids, strict=True):
            r = readings[id_]
            states[self._names[id_]] = JointState(
                float(value), self._map.velocity(id_, r.velocity), r.load, r.current, r.voltage, r.temperature,
                now - r.stamp_s, r.faults,
            )  # fmt: skip
        return states

    # ---- Arm

    def read(self) -> Float:
        """Measured joint vector (6,). Raises ``RobotError`` when there is no recent measurement."""
        return self._measured()[0]

    def write(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) through the safety core; returns what was really sent and why.

        ``made_s`` as in ``Robot.act``: for a program that answers observations the stamp of the last one, which is when the
        joints were measured and a bus cycle or two before ``observe`` returned; at 100 Hz that leaves nine tenths of
        ``Limits.hold_age_s`` to think. Older commands are rejected, from ``latch_age_s`` on they latch a fault.

        The first call switches torque on (``enable``), unless the command is too old. While a fault is latched every
        command is rejected, see ``fault``. Raises ``PortLost`` when the port is gone.
        """
        made_s = self._loop.now() if made_s is None else made_s
        fault = self._usable()
        with self._guard:
            if fault is not None:
                if self._safety is None:
                    return Applied(self._last_known(), "reject", (Reason.LATCHED,))
                why = (self._safety.fault,) if self._safety.fault is not None else ()
                return Applied(self._safety.sent, "reject", (Reason.LATCHED, *why))
            if not self.engaged:
                if not 0.0 <= self._age(made_s) <= self.limits.hold_age_s:
                    return Applied(self._last_known(), "reject", (Reason.STALE,))
                self.enable()
                made_s = self._loop.now()  # no command is to blame for the time that this takes
            return self._send(target, made_s)

    def _age(self, made_s: float) -> float:
        """How old a command is, s, as the safety core counts it.

        One that answers the newest measurement there is cannot be newer: that no servo was heard since is not the
        program's fault, and the supervisor holds the arm for it.
        """
        now = self._loop.now()
        newest_s = min((reading.stamp_s for reading in self._loop.snapshot().readings.values()), default=now)
        return 0.0 if newest_s <= made_s < now else self.limits.age(now - made_s, self._period_s)

    def _send(self, target: Float, made_s: float) -> Applied:
        if self._safety is None:  # enable raises rather than leave it so
            raise RobotError("torque is off; call enable")
        dt, self._written_s = self._loop.since(self._written_s), self._loop.now()
        try:
            present = self.read()
        except RobotError:  # the core repeats what was sent, and latches when this lasts
            present = np.full(6, np.nan)
        limits = self._slow_limits if self._loop.level is Level.SLOW else self.limits
        applied, state = step(self._safety, present, target, limits, max(dt, 1e-6), self._age(made_s))
        if applied.verdict != "reject" and not self._loop.move(self._map.counts(applied.q), self._period_s):
            return Applied(self._safety.sent, "reject", (Reason.LATCHED,))  # a fault came in between; nothing was sent
        self._safety = state
        if state.fault is not None:
            kind = FaultKind.STALLED if state.fault is Reason.LAGGING else FaultKind.COMMAND
            self._loop.latch(Fault(kind, (), state.fault.value))
        return applied

    # ---- Robot

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """The state now, with a fresh frame of each camera named. Raises ``RobotError`` for an unknown camera."""
        for name in cameras:
            if name not in self._cameras:
                known = ", ".join(self._cameras) or "none; add one to the rig file"
                raise RobotError(f"there is no camera {name!r}; this robot has: {known}")
        self._usable()
        frames: dict[str, Frame] = {name: self._cameras[name].read() for name in cameras}
        q, stamp_s = self._measured()
        sent = q if self._safety is None else self._safety.sent
        return Observation(stamp_s, q, np.array(sent), frames)

    def refresh(self) -> None:
        """Let one bus cycle pass, for arms that are read and not commanded: in lockstep nothing else does.

        Raises ``PortLost`` when the port is gone, ``BusError`` when no cycle comes.
        """
        self._usable()
        self._loop.wait(1)

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """Send a joint vector (6,) and let exactly one control period pass; ``made_s`` as in ``write``."""
        applied = self.write(target, made_s=made_s)
        if self._loop.lockstep:
            self._loop.step()
            return applied
        now = time.monotonic()
        self._due_s += self._period_s
        if now > self._due_s:  # this is the first command, or the caller came late: periods begin anew
            self.overruns += self._due_s > self._period_s
            self._due_s = now + self._period_s
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        return applied

    def stop(self) -> None:
        """The operator's stop, from any thread: the arm holds within a bus cycle; called again, it goes limp.

        Latched: ``reset_fault`` releases it.
        """
        self._loop.press_stop()
        if self._loop.lockstep:
            self._loop.step()

    def reset_fault(self) -> None:
        """Release a latched fault; a deliberate act of the user. The next command starts from where the arm is.

        Raises ``PortLost`` when the port is gone, ``BusError`` when a servo keeps its fault or is another one,
        ``RobotError`` while a servo that was too hot has not cooled down.
        """
        fault = self._usable()
        if fault is None:
            return
        if self._loop.lockstep:  # judge by what is so now
            self._loop.step()
        self._loop.check_reset()
        self._loop.disengage()  # torque stays as it is; the next command sets the goals to where the arm is then
        with self._guard:
            self._safety, self._due_s = None, 0.0
        self._loop.call(lambda bus: self._revive(bus, fault), timeout_s=10.0)
        self._loop.reset()

    def close(self) -> None:
        """Make every joint limp and release port and cameras; safe to call twice.

        Every step is tried, whatever happened to the ones before. Then raises ``RobotError`` if a joint may still hold.
        """
        problems: list[str] = []
        try:
            with _no_interruption():  # an impatient second Ctrl-C must not leave the arm stiff
                if self._closed:
                    return
                self._closed = True
                atexit.unregister(self.close)
                problems = self._let_go()
        finally:
            self._signals.restore()
        if problems:
            raise RobotError(f"closing {self.rig.name}: {'; '.join(dict.fromkeys(problems))}")

    def _let_go(self) -> list[str]:
        """Stop the loop, make every joint limp, close port and cameras; returns what went wrong."""
        problems: list[str] = []
        self._safety = None
        try:
            self._loop.stop()  # from here on the bus is ours
            if self.rig.role == "follower":
                problems += self._bus.torque_off().values()
                with contextlib.suppress(BusError):
                    handshake.clear_watchdog(self._bus)
        except BusError as error:
            problems.append(str(error))
        finally:
            self._bus.close()
        if problems:
            problems.append("the arm may still hold: support it and switch its power off")
        for name, camera in self._cameras.items():
            try:
                getattr(camera, "close", lambda: None)()
            except (RobotError, OSError) as error:
                problems.append(f"camera {name}: {error}")
        return problems

    # ---- torque

    def enable(self) -> None:
        """Switch torque on where the arm is: goals are set to the present position and read back first.

        Raises ``RobotError`` for a leader arm, for a joint outside its limits, or when a servo does not obey; torque is
        off then.
        """
        if self.rig.role == "leader":
            raise RobotError(f"{self.rig.name} is a leader arm: it is moved by hand and cannot be commanded")
        if self._usable() is not None:
            raise RobotError(f"{self.fault}; reset the fault first")
        self._loop.wait(1)
        q = self.read()
        for name, value, low, high in zip(self.spec.joints, q, self.spec.lower, self.spec.upper, strict=True):
            over = max(value - high, low - value)
            if over > _OUTSIDE:
                unit = "of its opening" if name == "gripper" else "rad"
                raise RobotError(f"{name} is {over:.2f} {unit} outside its limits; {_FAR_REMEDY}")
        goals = self._map.counts(q)
        self._loop.call(lambda bus: self._engage(bus, goals))
        self._safety = SafetyState.start(self._map.q(goals), self.limits)
        self._written_s, self._due_s = self._loop.now() - self._period_s, 0.0

    def disable(self) -> None:
        """Make every joint limp; the arm may fall. Raises ``BusError`` when a joint may still hold."""
        self._loop.disengage()
        self._safety = None
        failed = self._loop.call(lambda bus: bus.torque_off())
        if failed:
            raise BusError(f"the torque may still be on: {'; '.join(failed.values())}. Switch the arm's power off")

    def park(self, seconds: float = 20.0) -> bool:
        """Go to the rest pose, slowly, from what was sent last, then limp. False when it does not arrive (then not limp)."""
        if not self.engaged:
            if np.all(np.abs(self.read() - self.spec.home) < _AT_REST):
                return True
            self.enable()
        self._loop.ask_to_park()
        end = self._loop.now() + seconds
        while self.engaged and self._loop.now() < end and self._usable() is None:
            self._loop.wait(1)
        self._loop.ask_to_park(False)
        return not self.engaged

    def _towards_rest(self, readings: Mapping[int, Reading], dt: float) -> Mapping[int, int] | None:
        """In the bus thread: the next goals on the way to the rest pose, through the safety core; None when it is there."""
        with self._guard:
            present = self._map.q({id_: reading.position for id_, reading in readings.items()})
            state = self._safety if self._safety is not None else SafetyState.start(present, self.limits)
            if np.all(np.abs(present - self.spec.home) < _AT_REST):
                self._safety = None
                return None
            limits = self._slow_limits
            # In a straight line once no links are in the way; the safety core shortens it to a step.
            way = way_out(self.spec, state.sent, self.spec.home, limits.link_margin_m) - state.sent
            way /= max(1.0, float(np.max(np.abs(way) / (0.5 * limits.reject_s * limits.velocity))))  # and is no jump
            applied, self._safety = step(reset(state), present, state.sent + way, limits, dt)
            self._written_s = self._loop.now()
            if applied.verdict == "reject":
                raise RobotError(applied.reasons[-1].value)
            return self._map.counts(applied.q)

    def _engage(self, bus: Bus, goals: Mapping[int, int]) -> None:
        """In the bus thread: goal = present, read back, torque on, read back. Torque is off when it raises."""
        try:
            handshake.clear_watchdog(bus)
            bus.write_all("goal_position", goals)
            held = bus.read_all("goal_position")
            wrong = [self._names[id_] for id_ in goals if held.get(id_) != goals[id_]]
            if wrong:
                raise BusError(
                    f"{', '.join(wrong)}: the servo did not take its present position as goal; torque stays off"
                )
            bus.write_all("torque_enable", dict.fromkeys(goals, 1))
            state = bus.read_all("torque_enable")
            off = [self._names[id_] for id_ in goals if state.get(id_) != 1]
            if off:
                raise BusError(
                    f"{', '.join(off)}: torque does not come on; does the servo report a fault? Power-cycle it"
                )
            guarded = [id_ for id_ in goals if "bus_watchdog" in bus.models[id_]]
            if guarded:
                bus.write_all("bus_watchdog", dict.fromkeys(guarded, _WATCHDOG))
        except BusError:
            bus.torque_off()
            raise
        self._loop.engage(goals)

    def _revive(self, bus: Bus, fault: Fault) -> None:
        """In the bus thread: servos that may have restarted have lost their settings, or were exchanged meanwhile.

        A Dynamixel keeps a hardware error until it is restarted.
        """
        if fault.kind not in (FaultKind.SERVO, FaultKind.TORQUE_LOST):
            return
        if bus.protocol == "dynamixel":
            for id_ in fault.ids:
                if bus.read(id_, "hardware_error"):
                    bus.write(id_, "torque_enable", 0)
                    bus.reboot(id_)
        if handshake.identify(bus, self.rig) != self.identities:
            text = (
                f"a servo of {self.rig.name} is not the one it was when the arm was opened; close it and open it again"
            )
            self._loop.latch(Fault(FaultKind.SWAPPED, fault.ids, text))
            raise BusError(text)
        handshake.configure(bus, self.rig, self.identities)

    # ---- inside

    def _usable(self) -> Fault | None:
        """The latched fault of the bus, if the arm can still be talked to. Raises ``PortLost`` otherwise."""
        if self._closed:
            raise PortLost(f"{self.rig.name} has been closed; open it again")
        fault = self._loop.fault
        if fault is not None and fault.kind in (FaultKind.DISCONNECTED, FaultKind.LOOP):
            raise PortLost(fault.text)
        return fault

    def _measured(self) -> tuple[Float, float]:
        """Joint vector (6,) and the time of its oldest part; waits half a control period for a fresh one, no longer."""
        stale_s = max(_STALE_S, self.rig.bus.silence_s)
        end = self._loop.now() + (0.0 if self._loop.lockstep else 0.5 * self._period_s)
        while True:
            readings = self._loop.snapshot().readings
            stamp_s, now = min((r.stamp_s for r in readings.values()), default=-1.0), self._loop.now()
            if len(readings) == len(self._names) and now - stamp_s <= stale_s:
                return self._map.q({id_: reading.position for id_, reading in readings.items()}), stamp_s
            if now >= end or self._loop.fault is not None:
                raise RobotError(self._why_stale())
            time.sleep(0.2 * self._loop.period_s)

    def _last_known(self) -> Float:
        readings = self._loop.snapshot().readings
        if len(readings) < len(self._names):
            raise RobotError(self._why_stale())
        return self._map.q({id_: reading.position for id_, reading in readings.items()})

    def _why_stale(self) -> str:
        return self.fault or f"{self.rig.name}: no fresh reading of all joints; check the cable and the bus rate"


def _thresholds(rig: Rig) -> Thresholds:
    """What is a fault for the servos of a rig, whose highest temperature its settings may lower."""
    limits: dict[int, float] = {}
    for joint in rig.joints.values():
        register = joint.model["max_temperature"]
        limits[joint.id] = register.to_si(joint.settings.get(register.name, register.default))
    grips = frozenset(joint.id for name, joint in rig.joints.items() if name == "gripper")
    return Thresholds(silence_s=rig.bus.silence_s, max_temperature=limits, grips=grips)


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C and the like wait until this is done; only the main thread is ever interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Blocking them would not do: another thread would take the signal, and Python would still interrupt this one.
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda n, frame: came.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A handler that was not set from Python cannot be set again from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


class _ExitOnSignals:
    """Turns SIGTERM and SIGHUP into ``SystemExit``, so that cleanup runs; leaves handlers of others alone."""

    def __init__(self) -> None:
        self._mine: list[signal.Signals] = []
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._exit)
                self._mine.append(number)

    def _exit(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def restore(self) -> None:
        """Give the signals back, where nobody else has taken them since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._mine:
            if signal.getsignal(number) == self._exit:
                signal.signal(number, signal.SIG_DFL)
        self._mine = []
