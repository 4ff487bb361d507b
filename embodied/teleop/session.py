"""A session of teleoperation: hand -> clutch or jog -> safety core -> arm, once per control period.

::

    ready ---engage---> driving ---engage, stop, device lost, silent, fault, full disk--------> holding
                           ^------------------------engage-------------------------------------'  |
                           '---engage--- limp <-------------------------stop----------------------'

Nothing moves before the first *engage*: torque is not even on. Holding means that the last command sent is sent again, so
the arm stays and whatever watches for silence is content. Each *engage* takes a new reference, so there is never a jump.

A device whose reading is a little old, as after a pause of this computer, makes the arm stand until the next one comes, and
that one is a new reference too. Only a device that stays silent ends the driving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embodied.recording import Takes
from embodied.robots import limp
from embodied.teleop.pace import Pacer
from embodied.teleop.status import Status
from hardware.errors import RobotError
from hardware.robot import Observation, Robot
from hardware.safety import Applied, Reason
from hardware.servo.port import PortLost
from hardware.teleop.clutch import Clutch
from hardware.teleop.device import Device, DeviceLost, Key, Reading
from hardware.teleop.jog import JogSpeeds, jog
from hardware.teleop.lead import Lead
from policies.dataset.layout import DatasetError

Float = NDArray[np.float64]
State = Literal["ready", "driving", "holding", "limp"]

#: An older reading of the hand is none: the arm stands still.
STALE_S = 0.1
#: Who comes back later than this must engage anew.
SILENT_S = 0.5
_FASTER = 1.25


class Session:
    """Drives one robot from one device. ``step`` is one control period; ``run`` repeats it until someone leaves."""

    def __init__(
        self,
        robot: Robot,
        device: Device,
        *,
        keys: Callable[[], tuple[Key, ...]] = lambda: (),
        takes: Takes | None = None,
        relative: bool = False,
        pacer: Pacer | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``keys``: commands from elsewhere than the device, such as a terminal. ``takes``: where to record."""
        self.robot = robot
        self.device = device
        self.state: State = "ready"
        self.verdicts: Counter[str] = Counter()
        self.takes = takes
        self.pacer = pacer if pacer is not None else Pacer(robot.control_hz)
        self._keys = keys
        self._say = say
        self._dt = 1.0 / robot.control_hz
        self._clutch = Clutch(relative=relative)
        self.lead = Lead(self._dt)
        self._speed = 1.0
        self._sent: Float | None = None  # None while nothing has been sent, or torque is off
        self._reading = Reading()
        self._read_s = 0.0  # when that was read
        self._missed = False  # the reading before it was too old
        self._lost = ""  # why the device gives nothing
        self._edge = ""  # why a jog is going nowhere
        self._applied: Applied | None = None
        self._row: tuple[Observation, int] | None = None  # the row that is being made, and commands since
        self._lag = 0.0
        self._leaving = False

    # ---- one period

    def step(self) -> bool:
        """One control period; False when someone has asked to leave. Raises ``PortLost`` when the arm's port is gone."""
        reading = self._read()
        for key in (*self._keys(), *reading.keys):
            self._obey(key)
        if self.state == "driving":
            self._drive(reading)
        elif self.state == "holding" and self._sent is not None:
            self._send(self._sent)
        self.pacer.wait()
        return not self._leaving

    def run(self, *, seconds: float = float("inf"), show: Callable[[Status], None] = lambda status: None) -> None:
        """Until someone leaves or ``seconds`` are over. Raises ``PortLost``."""
        for _ in range(int(min(seconds * self.robot.control_hz, 1e15))):
            going = self.step()
            show(self.status())
            if not going:
                return

    def status(self) -> Status:
        """How things stand."""
        applied = self._applied
        reason = applied.reasons[-1].value if applied is not None and applied.reasons else ""
        take = ""
        if self.takes is not None and self.takes.recorder.recording:
            take = f"{'REC' if self.takes.running else 'keep?'} {self.takes.recorder.rows}"
        counts = (self.verdicts["pass"], self.verdicts["clamp"], self.verdicts["reject"])
        return Status(
            self.state,
            self.pacer.rate_hz,
            self._reading.age_s,
            self._lag,
            counts,
            self._lost or self._edge or reason,
            take,
        )

    @property
    def fault(self) -> str | None:
        """The arm's latched fault in words, or None."""
        fault: str | None = getattr(self.robot, "fault", None)
        return fault

    # ---- inside

    def _read(self) -> Reading:
        try:
            self._reading, self._lost = self.device.read(), ""
            self._read_s = self.pacer.now()
        except DeviceLost as error:
            self._reading = Reading(age_s=float("inf"))
            if not self._lost:
                self._hold(f"{error}. The arm holds; Enter goes on once it is back")
            self._lost = f"no {self.device.name}"
        return self._reading

    def _drive(self, reading: Reading) -> None:
        if reading.age_s > STALE_S:
            self._missed = True
            if reading.age_s > SILENT_S:
                self._hold(
                    f"the {self.device.name} has said nothing for {reading.age_s:.2f} s; the arm holds. Enter goes on"
                )
            if self._sent is not None:
                self._send(self._sent)
            return
        command = self._reference() if self._sent is None else self._sent
        if self._missed:
            self._refer(reading, command)
        if reading.pose is not None:
            now_s = self.pacer.now()
            ahead = self.lead.ahead(reading.pose, now_s, reading.age_s + now_s - self._read_s)
            self._send(self._clutch.follow(ahead, self._dt))
        elif reading.rate is not None:
            speeds = JogSpeeds()
            wanted, self._edge = jog(self.robot.spec, command, reading.rate, speeds, self._speed * self._dt)
            self._send(wanted)

    def _send(self, wanted: Float) -> None:
        """One command to the arm, and a row if a take is running."""
        seen = self._look()
        try:
            applied = self.robot.act(wanted)
        except PortLost:
            raise
        except RobotError as error:  # torque does not come on, for example
            self._sent, self.state = None, "ready"
            self._say(f"{error}")
            return
        self._applied, self._sent = applied, np.array(applied.q)
        self.verdicts[applied.verdict] += 1
        self._record(seen, wanted, applied)
        fault = self.fault
        if self.state == "driving" and (fault is not None or Reason.LATCHED in applied.reasons):
            self._hold(f"{fault or 'a fault is latched'}. The arm holds; f releases the fault, then Enter goes on")

    def _look(self) -> Observation | None:
        """The arm before the command; with pictures where a new row begins."""
        recording = self.takes is not None and self.takes.running
        cameras = tuple(self.takes.cameras) if recording and self.takes is not None and self._row is None else ()
        try:
            seen = self.robot.observe(cameras)
        except PortLost:
            raise
        except RobotError as error:  # no fresh measurement, or no picture: the safety core and the dataset cope with it
            if not cameras:
                return None
            self._say(str(error))
            return self._without_pictures()
        if self._sent is not None:
            self._lag = float(np.abs(seen.command - seen.q)[:5].max())
            self.lead.learn(self._sent, seen.q, seen.stamp_s)
        return seen

    def _without_pictures(self) -> Observation | None:
        try:
            return self.robot.observe()
        except RobotError:
            return None

    def _record(self, seen: Observation | None, wanted: Float, applied: Applied) -> None:
        if self.takes is None or not self.takes.running:
            self._row = None
            return
        if self._row is None:
            if seen is None:
                return
            self._row = (seen, 0)
        first, commands = self._row
        self._row = (first, commands + 1)
        if commands + 1 >= self.takes.every:
            self._row = None
            try:
                self.takes.add(first, wanted, applied)
            except DatasetError as error:
                self._hold(f"recording stopped: {error}. The arm holds")

    def _obey(self, key: Key) -> None:
        match key:
            case "engage" if self.state == "driving":
                self._hold("stopped following; the arm holds. Enter goes on")
            case "engage" | "rereference":
                self.engage()
            case "stop":
                self._stop()
            case "reset":
                self._reset()
            case "faster" | "slower":
                self._speed = float(np.clip(self._speed * (_FASTER if key == "faster" else 1.0 / _FASTER), 0.1, 2.0))
                self._say(f"jog speed {self._speed:.0%}")
            case "record" | "keep" | "fail" | "discard":
                self._take(key)
            case "quit":
                self._leaving = True

    def engage(self) -> None:
        """Take the hand's pose and the arm's for each other, and follow from here on; says why it cannot."""
        try:
            self.device.reopen()
            reading = self.device.read()
        except RobotError as error:
            self._say(f"not following: {error}")
            return
        if reading.age_s > STALE_S:
            self._say(f"not following: the {self.device.name} has said nothing for {reading.age_s:.2f} s")
            return
        fault = self.fault
        if fault is not None:
            self._say(f"not following: {fault}. f releases the fault")
            return
        try:
            command = self._reference()
        except PortLost:
            raise
        except RobotError as error:
            self._say(f"not following: {error}")
            return
        self._reading, self._lost = reading, ""
        self._refer(reading, command)
        self.state = "driving"
        self._say(f"following the {self.device.name}")

    def _refer(self, reading: Reading, command: Float) -> None:
        """Take the hand's pose and the arm's for each other from here on."""
        if reading.pose is not None:
            self._clutch.engage(reading.pose, command)
            self.lead.restart()
        self._missed = False

    def _reference(self) -> Float:
        """Where the arm was sent last; while it is limp, where it is."""
        return np.array(self.robot.observe().command) if self._sent is None else self._sent

    def _hold(self, why: str) -> None:
        if self.state == "driving":
            self.state = "holding"
        self._edge = ""
        self._say(why)

    def _stop(self) -> None:
        if self.state == "driving":
            self._hold("HOLD. Space again: limp; Enter goes on")
        elif self.state == "holding":
            try:
                done = limp(self.robot)
            except RobotError as error:
                self._say(str(error))
                return
            if done:
                self._sent, self.state = None, "limp"
            self._say(
                "LIMP: the arm can be moved by hand" if done else "this arm has no torque to switch off; it holds"
            )

    def _reset(self) -> None:
        try:
            self.robot.reset_fault()
        except PortLost:
            raise
        except RobotError as error:
            self._say(str(error))
            return
        self._sent = None  # the arm may have moved meanwhile
        self.state = "ready" if self.state != "limp" else "limp"
        self._say("fault released; Enter goes on")

    def _take(self, key: Key) -> None:
        if self.takes is None:
            self._say("nothing is recorded; begin with --record DIR to record")
            return
        self._row = None
        try:
            if key == "record":
                self._say(self.takes.toggle())
            else:
                self._say(self.takes.decide(key != "discard", {"keep": True, "fail": False}.get(key)))
        except (DatasetError, RobotError) as error:
            self.takes.running = False
            self._hold(f"recording stopped: {error}. The arm holds")
