"""The same commands, the simulated robot and the serial driver: what the safety core answered, bit for bit (P20).

What is compared is the sequence of ``Applied``: the verdict, the reasons, and the 64 bits of every joint that was sent. What
is true without a condition is that both robots go through one safety core. Whether its answers are the same bits depends on
what it is given, and the tests construct that:

* The same limits, and a start from the same pose, which is where a command that passed has sent both.
* Periods that are counted, not measured: lockstep. In real time a period is as long as it took, and speed limits follow it.
* The same measured positions wherever these matter. The core looks at them for two things: whether they are numbers, and
  how far the arm is behind. So either the simulated robot is told what the servos measured, and any commands whatever do
  (``test_fed_the_same_positions``); or each robot measures its own arm, and only commands that both arms can follow have the
  same answers (``test_each_measuring_itself``). A third test shows that the condition is needed: a servo that is blocked
  makes the answers differ.

What the servos then get is rounded to counts; what the simulated joints get is not. That comes after the safety core.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.profile import Profile
from hardware.rig import load_rig
from hardware.safety import Applied, Limits, Reason
from hardware.serial_arm import SerialArm
from hardware.servo.bus import Bus
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

Float = NDArray[np.float64]
Line = tuple[str, tuple[Reason, ...], bytes]

#: Well inside the limits of all arms, the tool high above the table.
POSE: Float = np.array([0.1, -0.2, 0.3, 0.4, 0.0, 0.3])


@dataclass
class Log:
    """What was commanded, where the arm was measured before it, and what the safety core answered."""

    commands: list[Float] = field(default_factory=list)
    measured: list[Float] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def add(self, command: Float, measured: Float, applied: Applied) -> None:
        self.commands.append(command)
        self.measured.append(measured)
        self.lines.append((applied.verdict, applied.reasons, applied.q.tobytes()))

    @property
    def reasons(self) -> set[Reason]:
        return {reason for _, reasons, _ in self.lines for reason in reasons}


@contextmanager
def _serial(control_hz: float, profile: Profile) -> Iterator[tuple[Emulator, SerialArm]]:
    """Emulated servos and the driver on them, which has sent them to ``POSE``."""
    with Emulator("so101", pace=Pace("stepped", period_s=1.0 / control_hz)) as servos:
        rig = nominal(load_rig("so101"), servos.port)
        angles = dict(zip(servos.servos, POSE.tolist(), strict=True))
        servos.hold({**angles, "gripper": float(rig.spec.jaw_angle(POSE[5]))})
        servos.advance(0.2)
        servos.let_go()
        models = {joint.id: joint.model for joint in rig.joints.values()}
        bus = Bus.open(servos.port, models, latency_s=5.0)  # a busy machine's pauses are no missing replies
        with SerialArm(rig, bus, control_hz=control_hz, profile=profile, lockstep=True) as arm:
            assert arm.act(POSE).verdict == "pass"
            yield servos, arm


class _Told(SimRobot):
    """A simulated robot that measures what it is told, if it is told anything."""

    told: Float | None = None

    def _measured(self) -> Float:
        return super()._measured() if self.told is None else self.told


@contextmanager
def _simulated(limits: Limits, control_hz: float) -> Iterator[_Told]:
    """The simulated robot, which has been sent to ``POSE``."""
    world = World(Scene())
    try:
        world.reset_arm(POSE)
        robot = _Told(world, control_hz=control_hz, limits=limits)
        assert robot.act(POSE).verdict == "pass"
        yield robot
    finally:
        world.close()


def _wild(sent: Float, rng: np.random.Generator) -> Float:
    """Ordinary steps, far ones, jumps, numbers that are none."""
    kind = rng.integers(12)
    if kind == 0:
        sent[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
        return sent
    return np.asarray(sent + rng.normal(size=6) * (5.0 if kind == 1 else 0.3 if kind < 6 else 0.02))


@pytest.mark.parametrize(("control_hz", "profile"), [(20.0, "default"), (30.0, "sim")])
def test_fed_the_same_positions(control_hz: float, profile: Profile, rng: np.random.Generator) -> None:
    real, simulated = Log(), Log()
    with _serial(control_hz, profile) as (servos, arm):
        limits = arm.limits
        for k in range(110):
            if k == 60:  # a hand takes hold of the arm: from here on it matters where the arm is
                servos.hold(servos.angles())
            if k == 75:
                servos.let_go()
            command, measured = _wild(arm.observe().command, rng), arm.read()
            real.add(command, measured, arm.act(command))
        assert arm.fault is None
        for command in (
            *[np.full(6, np.nan)] * 4,
            POSE,
        ):  # at the end a fault is latched, and what comes then is refused
            measured = arm.read()
            real.add(command, measured, arm.act(command))
        assert arm.fault is not None
    with _simulated(limits, control_hz) as robot:
        for command, measured in zip(real.commands, real.measured, strict=True):
            robot.told = measured
            simulated.add(command, measured, robot.act(command))
    assert simulated.lines == real.lines
    assert {verdict for verdict, _, _ in real.lines} == {"pass", "clamp", "reject"}
    assert {Reason.FOLLOWING, Reason.VELOCITY, Reason.JUMP, Reason.NOT_FINITE, Reason.LATCHED} <= real.reasons


def _can_follow(rng: np.random.Generator) -> list[Float]:
    """Commands that any arm keeps up with, some of which are too fast for one step, out of limits, jumps or no numbers."""
    commands: list[Float] = []
    for k, way in enumerate(np.cumsum(rng.uniform(-0.03, 0.03, (100, 6)), axis=0)):
        command = POSE + np.clip(way, -0.4, 0.4)
        if k % 19 == 7:
            command[0] += 0.2
        elif k % 23 == 11:
            command[5] = 1.2
        elif k % 29 == 13:
            command += 5.0
        elif k % 31 == 17:
            command[2] = np.nan
        commands.append(command)
    return commands


def test_each_measuring_itself(rng: np.random.Generator) -> None:
    commands, real, simulated = _can_follow(rng), Log(), Log()
    with _serial(20.0, "sim") as (_, arm):
        limits = arm.limits
        for command in commands:
            real.add(command, arm.read(), arm.act(command))
    with _simulated(limits, 20.0) as robot:
        for command in commands:
            simulated.add(command, robot.observe().q, robot.act(command))
    assert simulated.lines == real.lines
    assert not np.array_equal(np.array(simulated.measured), np.array(real.measured))  # two arms, not one
    assert {Reason.VELOCITY, Reason.POSITION, Reason.JUMP, Reason.NOT_FINITE} <= real.reasons
    assert not {Reason.FOLLOWING, Reason.LAGGING} & (real.reasons | simulated.reasons)


def test_an_arm_that_cannot_follow_has_other_answers() -> None:
    real, simulated = Log(), Log()
    commands = [POSE + 0.05 * k * np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]) for k in range(1, 13)]
    with _serial(20.0, "sim") as (servos, arm):
        limits = arm.limits
        servos.hold({"shoulder_pan": float(POSE[0])})
        for command in commands:
            real.add(command, arm.read(), arm.act(command))
    with _simulated(limits, 20.0) as robot:
        for command in commands:
            simulated.add(command, robot.observe().q, robot.act(command))
    assert simulated.lines != real.lines
    assert Reason.FOLLOWING in real.reasons and Reason.FOLLOWING not in simulated.reasons
