"""The one thread that owns a servo bus while an arm runs: reads all telemetry and writes all goals at a fixed rate.

::

    |<---------- one cycle (10 ms at 100 Hz) --------->|
    | goals | telemetry of all servos | one job, if any | sleep to the next deadline

Other threads never touch the bus. They look at the newest ``Snapshot``, leave goals behind, or hand in a job that runs
between two cycles (``call``).

A new goal is approached in a straight line over a given time and never faster than each servo's speed limit, so goals on
the bus change by small steps only. A position servo stops at its last goal: when this process dies, so does the motion.

In *lockstep* there is no thread: a cycle runs when the owner calls ``step``, and time is counted in cycles. That is for
emulated servos whose time stands still in between, so that a run goes as fast as it can and the same way every time.

What the telemetry says is judged in every cycle by ``hardware.supervisor``; its level is carried out here: HOLD, the goals
stay where they are; PARK, they come from ``park``, then the torque goes off; LIMP, torque off on every servo, each one
tried until it is. A servo that reports overload, heat or electrical trouble is made limp by itself. Nothing moves again
before ``reset``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hardware import supervisor
from hardware.errors import RobotError
from hardware.servo.bus import Bus, Reading
from hardware.servo.port import BusError, PortLost
from hardware.supervisor import Fault, FaultKind, Level, Servo, Supervision, Thresholds

T = TypeVar("T")

_log = logging.getLogger(__name__)

MIN_RATE_HZ, MAX_RATE_HZ = 1.0, 200.0
_SLOW_S = 0.5  # how often torque is checked, and a servo that will not go limp tried again
_JUMP_MARGIN = 40  # counts: noise, backlash and time stamps that are a little off
_CLOSE_S = 1.0


#: Next goals (counts) on the way to the rest pose, from the readings and the period in s; None once it is there. Raises
#: ``RobotError`` when it cannot be reached.
Park = Callable[[Mapping[int, Reading], float], "Mapping[int, int] | None"]


@dataclass(frozen=True)
class Snapshot:
    """What is known after a cycle. Each reading has its own time stamp: a silent servo keeps its last one."""

    stamp_s: float = -1.0
    cycle: int = 0
    overruns: int = 0  # cycles that began later than half a period after their time
    readings: Mapping[int, Reading] = field(default_factory=dict)
    goals: Mapping[int, int] = field(default_factory=dict)  # written last, counts
    fault: Fault | None = None
    level: Level = Level.RUN


class ServoLoop:
    """Owns ``bus`` from ``start`` to ``stop``."""

    def __init__(
        self,
        bus: Bus,
        *,
        rate_hz: float = 100.0,
        names: Mapping[int, str] | None = None,
        max_speed: Mapping[int, float] | None = None,
        silence_s: float = 0.1,
        lockstep: bool = False,
        thresholds: Thresholds | None = None,
        park: Park | None = None,
    ) -> None:
        """``names`` are what faults call the servos. ``max_speed`` limits goals, counts/s by id; default: what the
        servos can do. ``thresholds`` say what is a fault, ``silence_s`` if they are not given. ``park`` leads to the
        rest pose; without one, PARK is LIMP where the arm is. Raises ``BusError`` for a bad rate.
        """
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise BusError(f"the bus rate must be {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz, not {rate_hz}")
        self.period_s = 1.0 / rate_hz
        # A reply that is late costs less than one that is missing: rather a long cycle than a blind one.
        self._budget_s = max(0.7 * self.period_s, 1.25 * bus.latency_s)
        self._bus = bus
        self._ids = tuple(bus.models)
        self._names = {id_: (names or {}).get(id_, f"servo {id_}") for id_ in self._ids}
        able = {id_: model.max_velocity * model.resolution / (2 * math.pi) for id_, model in bus.models.items()}
        self._able = able  # counts/s
        self._max_speed = {**able, **(max_speed or {})}
        self._thresholds = thresholds if thresholds is not None else Thresholds(silence_s=silence_s)
        self._park = park
        self.lockstep = lockstep
        self._counted = 0  # lockstep's clock: cycles
        self._lock = threading.Lock()  # of the fields the next block names
        self._snapshot = Snapshot()
        self._state = Supervision()
        self._start: dict[int, int] = {}  # the line from here ..
        self._end: dict[int, int] = {}  # .. to here, empty: write no goals
        self._written: dict[int, int] = {}  # goals in the servos
        self._begun_s, self._duration_s = 0.0, 1.0
        self._torque = False
        self._commanded_s = 0.0
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._stopping = threading.Event()
        self._published = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"servo bus {bus.name}", daemon=True)
        # Only the thread uses what follows.
        self._silent = dict.fromkeys(self._ids, 0)  # cycles in a row
        self._heard_s = dict.fromkeys(self._ids, 0.0)
        self._jumps = dict.fromkeys(self._ids, (0, 0))  # how many in a row, and by how many counts the last
        self._checked_s = 0.0
        self._strayed: set[int] = set()  # servos that held another goal than the one written last, when last asked
        self._limp: set[int] = set()  # servos that were made limp by themselves
        self._limp_tried_s = -math.inf

    def now(self) -> float:
        """The loop's clock, s: the machine's monotonic one, or cycles counted."""
        return self._counted * self.period_s if self.lockstep else time.monotonic()

    def since(self, begun_s: float) -> float:
        """Seconds since ``now`` was ``begun_s``; in lockstep whole periods, free of the rounding of a difference."""
        elapsed_s = self.now() - begun_s
        return round(elapsed_s / self.period_s) * self.period_s if self.lockstep else elapsed_s

    def start(self) -> None:
        """Begin to cycle; returns when every servo was heard or a fault is latched. Raises ``BusError`` if neither comes."""
        if not self.lockstep:
            self._thread.start()
        while len(self.wait(1, timeout_s=2.0).readings) < len(self._ids) and self.fault is None:
            pass

    def step(self) -> Snapshot:
        """Lockstep: one cycle, now. Raises ``BusError`` when there is a thread that does this."""
        if not self.lockstep:
            raise BusError("the bus loop cycles by itself; make it with lockstep to call step")
        if not self._stopping.is_set() and not self._turn(0):
            self._stopping.set()
        return self.snapshot()

    def stop(self) -> None:
        """Give the bus back: when this returns, the thread has ended. Raises ``BusError`` if it hangs in the driver."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                raise BusError(f"{self._bus.name} hangs in its driver; switch the arm's power off and pull the cable")

    @property
    def fault(self) -> Fault | None:
        """The latched fault."""
        with self._lock:
            return self._state.fault

    @property
    def level(self) -> Level:
        """How far the arm must stop."""
        with self._lock:
            return self._state.level

    @property
    def engaged(self) -> bool:
        """Is torque meant to be on?"""
        with self._lock:
            return self._torque

    def snapshot(self) -> Snapshot:
        """What is known now; never waits for the bus."""
        with self._lock:
            return self._snapshot

    def wait(self, cycles: int = 1, timeout_s: float = 1.0) -> Snapshot:
        """The snapshot after ``cycles`` more cycles. Raises ``BusError`` when they do not come in time."""
        if self.lockstep:
            for _ in range(cycles):
                self.step()
            return self.snapshot()
        with self._published:
            goal = self.snapshot().cycle + cycles
            done = self._published.wait_for(lambda: self.snapshot().cycle >= goal, timeout_s)
        if not done:
            fault = self.fault
            raise BusError(fault.text if fault else f"{self._bus.name}: no bus cycle within {timeout_s:g} s")
        return self.snapshot()

    def call(self, job: Callable[[Bus], T], timeout_s: float = 2.0) -> T:
        """Run a job on the bus between two cycles and return its result, or raise what it raised.

        Raises ``BusError`` when the loop has ended or does not come to it in time.
        """
        if self.lockstep:
            return job(self._bus)
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job(self._bus))
            except Exception as error:  # it belongs to the caller
                future.set_exception(error)

        if not self._thread.is_alive():
            raise BusError(f"the loop on {self._bus.name} is not running; open the arm again")
        self._jobs.put(work)
        try:
            return future.result(timeout_s)
        except FutureTimeout as error:
            future.cancel()
            raise BusError(f"{self._bus.name} did not come to a job within {timeout_s:g} s") from error

    def engage(self, goals: Mapping[int, int]) -> None:
        """Torque is on now and ``goals`` (counts) are in the servos: keep writing them, and watch the torque."""
        with self._lock:
            self._start, self._end, self._written, self._torque = dict(goals), dict(goals), dict(goals), True
            self._checked_s = self._commanded_s = self.now()
            self._strayed = set()

    def disengage(self) -> None:
        """Torque is off, or about to be: write no goals, do not watch the torque."""
        with self._lock:
            self._start, self._end, self._written, self._torque = {}, {}, {}, False

    def move(self, goals: Mapping[int, int], duration_s: float) -> bool:
        """Approach ``goals`` (counts) in a line over ``duration_s`` or longer. False while a fault is latched."""
        now = self.now()
        with self._lock:
            if self._state.fault is not None or not self._torque:
                return False
            self._commanded_s = now
            here = self._goals(now)
            needed = [abs(goals[id_] - here[id_]) / self._max_speed[id_] for id_ in goals]
            self._start, self._end = here, {**here, **goals}
            self._begun_s, self._duration_s = now, max(duration_s, *needed, 1e-6)
        return True

    def latch(self, fault: Fault) -> None:
        """Latch a fault that was found elsewhere. Nothing moves from the next cycle on."""
        with self._lock:
            before, self._state = self._state.fault, supervisor.latch(self._state, fault, self.now())
            if self._state.fault is not before:
                _log.warning("%s", fault.text)

    def press_stop(self) -> None:
        """The operator's stop; from any thread. The first press holds in the next cycle, the second makes limp."""
        with self._lock:
            self._state = supervisor.press_stop(self._state, self.now())

    def ask_to_park(self, wanted: bool = True) -> None:
        """Go to the rest pose and go limp there, or stop doing so. A command in between does not end it."""
        with self._lock:
            self._state = (supervisor.park if wanted else supervisor.parked)(self._state)

    def check_reset(self) -> None:
        """Raises what ``reset`` would."""
        with self._lock:
            fault = self._state.fault
            if fault is not None and fault.kind in (FaultKind.DISCONNECTED, FaultKind.LOOP):
                raise PortLost(fault.text)
            supervisor.reset(self._state, self._thresholds)

    def reset(self) -> None:
        """Forget a latched fault. Raises ``PortLost`` when the port is gone: then only opening it again helps;
        ``RobotError`` while a servo is too hot.
        """
        self.check_reset()
        with self._lock:
            self._state = supervisor.reset(self._state, self._thresholds)
            # The counters belong to the thread, but while a fault is latched they decide nothing.
            self._silent = dict.fromkeys(self._ids, 0)
            self._heard_s = dict.fromkeys(self._ids, 0.0)
            self._jumps = dict.fromkeys(self._ids, (0, 0))
            self._limp = set()

    # ---- in the thread

    def _run(self) -> None:
        due = time.monotonic()
        overruns = 0
        try:
            while not self._stopping.is_set() and self._turn(overruns):
                due += self.period_s
                now = time.monotonic()
                if now > due + 0.5 * self.period_s:
                    overruns += 1
                    due = now
                self._stopping.wait(max(0.0, due - now))
        except Exception as error:
            _log.exception("bus loop")
            self.latch(Fault(FaultKind.LOOP, (), f"the loop on {self._bus.name} failed: {error!r}; open the arm again"))
            self._publish(overruns)
        finally:
            self._run_late_jobs()

    def _turn(self, overruns: int) -> bool:
        """One cycle; False when it was the last that can be."""
        try:
            self._cycle(overruns)
        except PortLost as error:
            self.latch(Fault(FaultKind.DISCONNECTED, (), str(error)))
            self._publish(overruns)
            return False
        except BusError as error:  # a job's errors go to its caller; this one is of the cycle itself
            self.latch(Fault(FaultKind.LOOP, (), str(error)))
            self._publish(overruns)
            return False
        return True

    def _run_late_jobs(self) -> None:
        """Nobody may wait for a thread that has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()()

    def _cycle(self, overruns: int) -> None:
        self._counted += 1
        readings = dict(self.snapshot().readings)
        fresh = self._bus.telemetry(self._ids, budget_s=self._budget_s, goals=self._next_goals(readings))
        if self.lockstep:
            fresh = {id_: reading._replace(stamp_s=self.now()) for id_, reading in fresh.items()}
        for id_ in self._ids:
            if id_ in fresh and self._plausible(id_, readings.get(id_), fresh[id_]):
                readings[id_] = fresh[id_]
        self._judge(fresh, readings)
        self._let_go()
        self._publish(overruns, readings)
        with contextlib.suppress(queue.Empty):
            self._jobs.get_nowait()()

    def _publish(self, overruns: int, readings: Mapping[int, Reading] | None = None) -> None:
        with self._published, self._lock:
            last = self._snapshot
            self._snapshot = Snapshot(
                self.now(), last.cycle + 1, overruns, last.readings if readings is None else readings,
                dict(self._written), self._state.fault, self._state.level,
            )  # fmt: skip
            self._published.notify_all()

    def _goals(self, now: float) -> dict[int, int]:
        share = min(1.0, (now - self._begun_s) / self._duration_s)
        return {id_: round(self._start[id_] + share * (end - self._start[id_])) for id_, end in self._end.items()}

    def _next_goals(self, readings: Mapping[int, Reading]) -> dict[int, int]:
        with self._lock:
            if not self._torque:
                return {}
            level = self._state.level
            goals = self._goals(self.now()) if level < Level.HOLD else dict(self._written)
        if level is Level.PARK:
            goals = self._parking(readings, goals)
        with self._lock:
            if not self._torque:
                return {}
            if level >= Level.HOLD:  # what was on its way is forgotten
                self._start, self._end = dict(goals), dict(goals)
            self._written = goals
            return {id_: goal for id_, goal in goals.items() if id_ not in self._state.limp}

    def _parking(self, readings: Mapping[int, Reading], here: dict[int, int]) -> dict[int, int]:
        """The next goals on the way to the rest pose; torque goes off where it ends."""
        try:
            goals = self._park(readings, self.period_s) if self._park is not None else None
        except RobotError as error:
            self.latch(Fault(FaultKind.STALLED, (), f"the rest pose cannot be reached ({error}); the arm holds. Reset"))
            return here
        if goals is None:
            self._all_limp()
            with self._lock:
                self._state = supervisor.parked(self._state)
            return here
        return {**here, **goals}

    def _all_limp(self) -> None:
        """Torque off on every servo, each one tried; those that keep it are tried again later."""
        self._limp_tried_s = self.now()
        failed = self._bus.torque_off()
        if not failed:
            self.disengage()
        elif self.level is not Level.LIMP:
            text = f"the torque may still be on: {'; '.join(failed.values())}. Support the arm and switch its power off"
            self.latch(Fault(FaultKind.SERVO, tuple(failed), text, Level.LIMP))

    def _let_go(self) -> None:
        """Carry out what the level and the supervisor's list say about torque."""
        with self._lock:
            level, torque, limp = self._state.level, self._torque, self._state.limp - self._limp
        if not torque:
            return
        if level is Level.LIMP:
            if self.now() - self._limp_tried_s >= _SLOW_S:
                self._all_limp()
        elif limp:
            self._limp |= limp
            with contextlib.suppress(BusError):
                self._bus.write_all("torque_enable", dict.fromkeys(limp, 0))

    def _plausible(self, id: int, last: Reading | None, now: Reading) -> bool:
        """No servo turns faster than it can; a reading that says so is damaged, or the encoder is."""
        if last is None or not self.engaged:  # a limp arm may be thrown about by hand
            self._jumps[id] = (0, 0)
            return True
        jump = now.position - last.position
        if abs(jump) <= 1.5 * self._able[id] * (now.stamp_s - last.stamp_s) + _JUMP_MARGIN:
            self._jumps[id] = (0, 0)
            return True
        self._jumps[id] = (self._jumps[id][0] + 1, jump)
        return False

    def _judge(self, fresh: Mapping[int, Reading], readings: Mapping[int, Reading]) -> None:
        now = self.now()
        for id_ in self._ids:
            self._silent[id_] = 0 if id_ in fresh else self._silent[id_] + 1
            self._heard_s[id_] = now if id_ in fresh or not self._heard_s[id_] else self._heard_s[id_]
        flags = self._torque_flags(now)
        with self._lock:
            servos = [self._servo(id_, now, fresh.get(id_), readings.get(id_), flags.get(id_)) for id_ in self._ids]
            before = self._state.fault
            self._state = supervisor.supervise(
                self._state, servos, now, self._thresholds, torque=self._torque, idle_s=now - self._commanded_s
            )
            fault = self._state.fault
        if fault is not None and fault is not before:
            _log.warning("%s", fault.text)

    def _servo(self, id: int, now: float, fresh: Reading | None, last: Reading | None, flag: int | None) -> Servo:
        """What the supervisor is told of a servo; status bits only of what was heard in this cycle."""
        jumps, jump = self._jumps[id]
        servo = Servo(
            id, self._names[id], now - self._heard_s[id], self._silent[id], jumps=jumps, jump=jump,
            torque=None if flag is None else flag == 1,
        )  # fmt: skip
        reading = fresh if fresh is not None else last
        if reading is None:
            return servo
        error = (self._written.get(id, reading.position) - reading.position) / self._bus.models[id].resolution
        return replace(
            servo, faults=reading.faults if fresh is not None else (), temperature=reading.temperature,
            voltage=reading.voltage, load=reading.load, current=reading.current, error_rad=2 * math.pi * error,
        )  # fmt: skip

    def _torque_flags(self, now: float) -> dict[int, int]:
        """The torque flag of every servo that answers, twice a second while it matters; the goals are compared as well."""
        with self._lock:
            due = self._torque and self._state.fault is None and now - self._checked_s >= _SLOW_S
            self._checked_s = now if due else self._checked_s
        if not due:
            return {}
        self._compare_goals()
        return self._bus.read_all("torque_enable", self._ids, budget_s=self._budget_s)

    def _compare_goals(self) -> None:
        """Do the servos hold what was written last? A write that is lost once is made up for by the next one."""
        held = self._bus.read_all("goal_position", self._ids, budget_s=self._budget_s)
        with self._lock:  # only this thread writes goals, so nothing was written since
            strayed = {id_ for id_, goal in held.items() if self._written.get(id_, goal) != goal} - self._state.limp
            lost, self._strayed = strayed & self._strayed, strayed
        if lost:
            names = ", ".join(self._names[id_] for id_ in self._ids if id_ in lost)
            text = f"{names}: goals do not arrive, although readings do; the arm holds. Check cable and adapter, then reset"
            self.latch(Fault(FaultKind.STALLED, tuple(sorted(lost)), text))
