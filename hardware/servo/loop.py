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

Faults latch. From then on the goals stay where they are (HOLD); a servo that reports overload, heat or electrical trouble
is made limp. Nothing moves again before ``reset``.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hardware.servo.bus import Bus, Reading
from hardware.servo.port import BusError, PortLost

T = TypeVar("T")

_log = logging.getLogger(__name__)

MIN_RATE_HZ, MAX_RATE_HZ = 1.0, 200.0
_SLOW_S = 0.5  # how often torque is checked
_VOLTAGE_S = 0.2  # a shorter dip of the supply is no fault
_LIMP = frozenset({"overload", "overheat", "overcurrent", "electrical"})
_JUMP_MARGIN = 40  # counts: noise, backlash and time stamps that are a little off
_CLOSE_S = 1.0


class FaultKind(enum.Enum):
    """What went wrong on the bus or in a servo."""

    DISCONNECTED = "the port went away"
    SILENT = "a servo does not answer"
    JUMP = "a position reading jumped"
    SERVO = "a servo reports a fault"
    TORQUE_LOST = "a servo lost its torque"
    LOOP = "the bus loop failed"


@dataclass(frozen=True)
class Fault:
    """A latched fault: which kind, which servos (ids), and a sentence for the user."""

    kind: FaultKind
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Snapshot:
    """What is known after a cycle. Each reading has its own time stamp: a silent servo keeps its last one."""

    stamp_s: float = -1.0
    cycle: int = 0
    overruns: int = 0  # cycles that began later than half a period after their time
    readings: Mapping[int, Reading] = field(default_factory=dict)
    goals: Mapping[int, int] = field(default_factory=dict)  # written last, counts
    fault: Fault | None = None


class ServoLoop:
    """Owns ``bus`` from ``start`` to ``stop``."""

    def __init__(
        self,
        bus: Bus,
        *,
        rate_hz: float = 100.0,
        names: Mapping[int, str] | None = None,
        max_speed: Mapping[int, float] | None = None,
        misses: int = 3,
        silence_s: float = 0.1,
        lockstep: bool = False,
        grips: Collection[int] = (),
    ) -> None:
        """``names`` are what faults call the servos. ``max_speed`` limits goals, counts/s by id; default: what the
        servos can do. When a servo does not answer in ``misses`` cycles in a row, goals stay where they are; after
        ``silence_s`` that is a fault. ``grips`` are the ids of servos that hold things by pushing against them: that is
        overload by the book, and the servo's own weaker torque is the answer to it. Raises ``BusError`` for a bad rate.
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
        self._misses, self._silence_s = misses, silence_s
        self._grips = frozenset(grips)
        self.lockstep = lockstep
        self._counted_s = 0.0  # lockstep's clock
        self._lock = threading.Lock()  # of the fields the next block names
        self._snapshot = Snapshot()
        self._fault: Fault | None = None
        self._start: dict[int, int] = {}  # the line from here ..
        self._end: dict[int, int] = {}  # .. to here, empty: write no goals
        self._written: dict[int, int] = {}  # goals in the servos
        self._begun_s, self._duration_s = 0.0, 1.0
        self._torque = False
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._stopping = threading.Event()
        self._published = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"servo bus {bus.name}", daemon=True)
        # Only the thread uses what follows.
        self._silent = dict.fromkeys(self._ids, 0)  # cycles in a row
        self._heard_s = dict.fromkeys(self._ids, 0.0)
        self._jumps = dict.fromkeys(self._ids, 0)
        self._low_since: dict[int, float] = {}
        self._checked_s = 0.0
        self._waiting = False  # for a servo that has missed some cycles: hold meanwhile

    def now(self) -> float:
        """The loop's clock, s: the machine's monotonic one, or cycles counted."""
        return self._counted_s if self.lockstep else time.monotonic()

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
            return self._fault

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
            self._checked_s = self.now()

    def disengage(self) -> None:
        """Torque is off, or about to be: write no goals, do not watch the torque."""
        with self._lock:
            self._start, self._end, self._written, self._torque = {}, {}, {}, False

    def move(self, goals: Mapping[int, int], duration_s: float) -> bool:
        """Approach ``goals`` (counts) in a line over ``duration_s`` or longer. False while a fault is latched."""
        now = self.now()
        with self._lock:
            if self._fault is not None or not self._torque:
                return False
            here = self._goals(now)
            needed = [abs(goals[id_] - here[id_]) / self._max_speed[id_] for id_ in goals]
            self._start, self._end = here, {**here, **goals}
            self._begun_s, self._duration_s = now, max(duration_s, *needed, 1e-6)
        return True

    def reset(self) -> None:
        """Forget a latched fault. Raises ``PortLost`` when the port is gone: then only opening it again helps."""
        with self._lock:
            if self._fault is not None and self._fault.kind in (FaultKind.DISCONNECTED, FaultKind.LOOP):
                raise PortLost(self._fault.text)
            self._fault = None
            # The counters belong to the thread, but while a fault is latched they decide nothing.
            self._silent = dict.fromkeys(self._ids, 0)
            self._heard_s = dict.fromkeys(self._ids, 0.0)
            self._jumps = dict.fromkeys(self._ids, 0)
            self._low_since = {}

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
            self._latch(FaultKind.LOOP, (), f"the loop on {self._bus.name} failed: {error!r}; open the arm again")
            self._publish(overruns)
        finally:
            self._run_late_jobs()

    def _turn(self, overruns: int) -> bool:
        """One cycle; False when it was the last that can be."""
        try:
            self._cycle(overruns)
        except PortLost as error:
            self._latch(FaultKind.DISCONNECTED, (), str(error))
            self._publish(overruns)
            return False
        except BusError as error:  # a job's errors go to its caller; this one is of the cycle itself
            self._latch(FaultKind.LOOP, (), str(error))
            self._publish(overruns)
            return False
        return True

    def _run_late_jobs(self) -> None:
        """Nobody may wait for a thread that has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()()

    def _cycle(self, overruns: int) -> None:
        self._counted_s += self.period_s
        goals = self._next_goals()
        if goals:
            self._bus.write_all("goal_position", goals)
        readings = dict(self.snapshot().readings)
        fresh = self._bus.telemetry(self._ids, budget_s=self._budget_s)
        if self.lockstep:
            fresh = {id_: replace(reading, stamp_s=self._counted_s) for id_, reading in fresh.items()}
        for id_ in self._ids:
            if id_ in fresh and self._plausible(id_, readings.get(id_), fresh[id_]):
                readings[id_] = fresh[id_]
        self._judge(fresh)
        self._check_torque()
        self._publish(overruns, readings)
        with contextlib.suppress(queue.Empty):
            self._jobs.get_nowait()()

    def _publish(self, overruns: int, readings: Mapping[int, Reading] | None = None) -> None:
        with self._published, self._lock:
            last = self._snapshot
            self._snapshot = Snapshot(
                self.now(), last.cycle + 1, overruns, last.readings if readings is None else readings,
                dict(self._written), self._fault,
            )  # fmt: skip
            self._published.notify_all()

    def _goals(self, now: float) -> dict[int, int]:
        share = min(1.0, (now - self._begun_s) / self._duration_s)
        return {id_: round(self._start[id_] + share * (end - self._start[id_])) for id_, end in self._end.items()}

    def _next_goals(self) -> dict[int, int]:
        with self._lock:
            if not self._torque:
                return {}
            goals = self._goals(self.now())
            if self._fault is not None or self._waiting:  # HOLD: stay where the last goals were
                goals = dict(self._written)
                self._start, self._end = dict(goals), dict(goals)
            self._written = goals
            return dict(goals)

    def _latch(self, kind: FaultKind, ids: tuple[int, ...], text: str) -> None:
        with self._lock:
            if self._fault is None:
                self._fault = Fault(kind, ids, text)
                _log.warning("%s", text)

    def _plausible(self, id: int, last: Reading | None, now: Reading) -> bool:
        """No servo turns faster than it can; a reading that says so is damaged, or the encoder is."""
        with self._lock:
            torque = self._torque
        if last is None or not torque:  # a limp arm may be thrown about by hand
            self._jumps[id] = 0
            return True
        allowed = 1.5 * self._able[id] * (now.stamp_s - last.stamp_s) + _JUMP_MARGIN
        if abs(now.position - last.position) <= allowed:
            self._jumps[id] = 0
            return True
        self._jumps[id] += 1
        if self._jumps[id] >= 2:
            moved = now.position - last.position
            self._latch(
                FaultKind.JUMP, (id,),
                f"{self._names[id]}: its position jumped by {moved} counts, which it cannot do; check the cable and "
                f"whether the joint crosses the end of the encoder, then reset",
            )  # fmt: skip
        return False

    def _judge(self, fresh: Mapping[int, Reading]) -> None:
        now = self.now()
        for id_ in self._ids:
            self._silent[id_] = 0 if id_ in fresh else self._silent[id_] + 1
            self._heard_s[id_] = now if id_ in fresh or not self._heard_s[id_] else self._heard_s[id_]
        silent = tuple(id_ for id_ in self._ids if self._silent[id_] >= self._misses)
        lost = tuple(id_ for id_ in silent if now - self._heard_s[id_] >= self._silence_s)
        self._waiting = bool(silent)
        if lost:
            self._latch(
                FaultKind.SILENT, lost,
                f"{self._called(lost)}: no answer for {self._silence_s:g} s; the arm holds. Check cable and power, then "
                "reset",
            )  # fmt: skip
        for id_, reading in fresh.items():
            faults = set(reading.faults) - ({"overload"} if id_ in self._grips else set())
            if "voltage" in faults:
                self._low_since.setdefault(id_, now)
                if now - self._low_since[id_] < _VOLTAGE_S:
                    faults.discard("voltage")
            else:
                self._low_since.pop(id_, None)
            if faults and self.fault is None:
                self._servo_fault(id_, faults, reading)

    def _servo_fault(self, id: int, faults: set[str], reading: Reading) -> None:
        limp = faults & _LIMP
        self._latch(
            FaultKind.SERVO, (id,),
            f"{self._names[id]} reports {' and '.join(sorted(faults))} (load {reading.load:.0%}, "
            f"{reading.temperature:.0f} °C, {reading.voltage:.1f} V); the arm holds"
            f"{' and this joint is limp' if limp else ''}. Remove the cause, then reset",
        )  # fmt: skip
        with self._lock:
            torque = self._torque
        if limp and torque:
            with contextlib.suppress(BusError):
                self._bus.write_all("torque_enable", {id: 0})

    def _check_torque(self) -> None:
        now = self.now()
        with self._lock:
            due = self._torque and self._fault is None and now - self._checked_s >= _SLOW_S
            self._checked_s = now if due else self._checked_s
        if not due:
            return
        found = self._bus.read_all("torque_enable", self._ids, budget_s=self._budget_s)
        lost = tuple(id_ for id_, value in found.items() if value != 1)
        with self._lock:
            torque = self._torque
        if lost and torque:
            self._latch(
                FaultKind.TORQUE_LOST, lost,
                f"{self._called(lost)}: torque is off although nobody switched it off; did the supply fail? Support the "
                "arm, then reset",
            )  # fmt: skip

    def _called(self, ids: tuple[int, ...]) -> str:
        return ", ".join(self._names[id_] for id_ in ids)
