"""The way out of a fold, through the safety core: for a plain stream of commands, a simulated robot, and the rest pose."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from hardware.arm_spec import SO101, ArmSpec
from hardware.arms import ARMS
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.rig import load_rig
from hardware.robot import Observation
from hardware.safety import Applied, Limits, SafetyState, step
from hardware.safety.collision import LINK_PAIRS, PAIRS, capsules, gaps
from hardware.serial_arm import SerialArm
from hardware.unfolding import is_folded, unfold, way_out
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

DT = 0.05
MARGIN = Limits.profile(SO101).link_margin_m


def pose(lift: float, elbow: float, wrist: float, *, pan: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Degrees, the gripper nearly closed."""
    return SO101.clip(np.append(np.radians([pan, lift, elbow, wrist, roll]), 0.1))


DEEP = pose(-100, 97, 90)  # how a SO-101 comes out of its box


def free(spec: ArmSpec, q: np.ndarray) -> dict[str, float]:
    return dict(zip(PAIRS[:LINK_PAIRS], gaps(capsules(spec, q)), strict=False))


def walk(spec: ArmSpec, q: np.ndarray, limits: Limits, seconds: float) -> tuple[np.ndarray, float]:
    """Home by ``way_out`` and the safety core; where it ends, and the least free space on the way."""
    state, least = SafetyState.start(q, limits), min(free(spec, q).values())
    for _ in range(round(seconds / DT)):
        way = way_out(spec, state.sent, spec.home) - state.sent
        way /= max(1.0, float(np.abs(way).max()) / 0.1)
        _, state = step(state, state.sent, state.sent + way, limits, DT)
        least = min(least, *free(spec, state.sent).values())
        if np.abs(state.sent - spec.home).max() < 0.05:
            break
    return state.sent, least


@pytest.mark.parametrize("name", ["so100", "so101"])
@pytest.mark.parametrize(
    "folded",
    [DEEP, pose(-100, 90, 50), pose(-95, 93, 80, pan=50, roll=80)], ids=["deepest", "usual", "turned"],
)  # fmt: skip
def test_a_folded_arm_comes_home_and_gets_no_deeper(name: str, folded: np.ndarray) -> None:
    spec = ARMS[name]
    start = spec.clip(folded)
    assert is_folded(spec, start)
    end, least = walk(spec, start, Limits.profile(spec), 8.0)
    assert end == pytest.approx(spec.home, abs=0.05)
    assert least >= min(free(spec, start).values()) - 1e-6


def test_straight_on_it_would_stay_folded() -> None:
    """What ``way_out`` is for: the elbow alone presses the hand against the column, and the safety core says no."""
    limits = Limits.profile(SO101)
    state = SafetyState.start(DEEP, limits)
    for _ in range(100):
        way = SO101.home - state.sent
        _, state = step(state, state.sent, state.sent + way * min(1.0, 0.2 / float(np.abs(way).max())), limits, DT)
    assert is_folded(SO101, state.sent) and state.sent[2] > np.radians(80)
    opened = DEEP.copy()
    opened[2] -= 0.2
    assert free(SO101, opened)["hand and column"] < free(SO101, DEEP)["hand and column"] < MARGIN - 0.035
    wrist = DEEP.copy()
    wrist[3] -= 0.02
    before, after = (np.array(list(free(SO101, q).values())) for q in (DEEP, wrist))
    assert (after >= before - 1e-9).all()
    applied, _ = step(SafetyState.start(DEEP, limits), DEEP, wrist, limits, DT)
    assert DEEP[3] - applied.q[3] == pytest.approx(0.2 * 0.02)  # obeyed, as slowly as everything there


def test_an_arm_that_is_clear_goes_straight_and_stays_clear() -> None:
    clear = pose(-100, 60, 40)
    assert not is_folded(SO101, clear) and way_out(SO101, clear, DEEP) is DEEP
    limits = Limits.profile(SO101)
    state = SafetyState.start(clear, limits)
    for _ in range(60):
        way = DEEP - state.sent
        _, state = step(state, state.sent, state.sent + way * min(1.0, 0.2 / float(np.abs(way).max())), limits, DT)
        assert min(free(SO101, state.sent).values()) >= MARGIN - 1e-6


def test_at_the_margin_it_is_not_folded() -> None:
    tight = min(free(SO101, pose(-100, 80, 50)).values())
    for by, folded in ((0.0, False), (5e-7, False), (2e-6, True)):
        assert is_folded(SO101, pose(-100, 80, 50), tight + by) is folded
        found = way_out(SO101, pose(-100, 80, 50), SO101.home, tight + by)
        assert found[3] == (0.0 if folded else SO101.home[3]) and np.array_equal(
            np.delete(found, 3), np.delete(SO101.home, 3)
        )


def test_an_open_wrist_is_within_its_limits() -> None:
    lower, upper = (np.array(bound) for bound in (SO101.lower, SO101.upper))
    lower[3], upper[3] = 0.3, 1.6
    assert way_out(replace(SO101, lower=lower, upper=upper), DEEP, SO101.home)[3] == 0.3
    lower[3], upper[3] = -1.6, -0.2
    assert way_out(replace(SO101, lower=lower, upper=upper), DEEP, SO101.home)[3] == -0.2


# ---- a robot


class Stubborn:
    """A robot that stays where it is."""

    spec, control_hz, camera_names = SO101, 20.0, ()

    def __init__(self, q: np.ndarray) -> None:
        self.q, self.sent = q, list[np.ndarray]()

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        return Observation(0.0, self.q.copy(), self.q.copy())

    def act(self, target: np.ndarray, *, made_s: float | None = None) -> Applied:
        self.sent.append(target)
        return Applied(self.q, "reject")

    def reset_fault(self) -> None: ...

    def close(self) -> None: ...


def test_a_simulated_robot_is_unfolded_and_then_goes_home() -> None:
    with closing(World(Scene())) as world:
        world.reset_arm(DEEP)
        robot = SimRobot(world)
        assert unfold(robot, SO101.home)
        assert not is_folded(SO101, robot.observe().command) and world.time_s < 10.0
        for _ in range(60):
            command = robot.observe().command
            robot.act(command + np.clip(SO101.home - command, -0.1, 0.1))
        assert robot.observe().command == pytest.approx(SO101.home, abs=0.02)


def test_an_arm_that_is_clear_is_not_moved() -> None:
    robot = Stubborn(SO101.home)
    assert unfold(robot, DEEP) and robot.sent == []


@pytest.mark.parametrize(("timeout_s", "commands"), [(30.0, 20), (0.5, 10)])
def test_an_arm_that_does_not_come_out_is_given_up(timeout_s: float, commands: int) -> None:
    """After a second without motion, or at the timeout."""
    robot = Stubborn(DEEP)
    assert not unfold(robot, SO101.home, timeout_s=timeout_s)
    assert len(robot.sent) == commands
    assert all(np.abs(target - DEEP).max() <= 0.1 + 1e-12 for target in robot.sent)


def test_the_last_command_in_time_counts() -> None:
    class Obedient(Stubborn):
        def act(self, target: np.ndarray, *, made_s: float | None = None) -> Applied:
            self.q = pose(-100, 60, 40)
            return Applied(self.q, "pass")

    assert unfold(Obedient(DEEP), SO101.home, timeout_s=0.05)


def test_a_folded_arm_on_the_bus_goes_to_its_rest_pose_and_lets_go() -> None:
    with Emulator("so101", pace=Pace("stepped")) as servos:
        angles = dict(zip(SO101.joints[:5], DEEP[:5].tolist(), strict=False))
        servos.hold(angles)
        servos.advance(0.5)
        with SerialArm.open(nominal(load_rig("so101"), servos.port), lockstep=True) as arm:
            assert is_folded(SO101, arm.read())
            arm.enable()
            servos.let_go()
            assert arm.park(25.0)
            assert arm.read() == pytest.approx(SO101.home, abs=0.06) and not arm.engaged
