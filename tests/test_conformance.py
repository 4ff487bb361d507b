"""The robot contract, held against every robot there is: simulated, an emulated SO-101, an emulated Koch.

Nothing here asks which one it is. What differs lies in the factories at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import EmbodiedError, RobotError
from hardware.rig import load_rig
from hardware.robot import Robot
from hardware.safety import Applied, Reason
from hardware.serial_arm import SerialArm
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

Float = NDArray[np.float64]
STEP: Float = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 0.02])


class _EmulatedArm(SerialArm):
    """The serial driver together with the servos at the other end of its port."""

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.servos.close()

    servos: Emulator


def _simulated() -> Robot:
    return SimRobot(World(Scene()), profile="default")


def _emulated(name: str) -> Callable[[], Robot]:
    def make() -> Robot:
        servos = Emulator(name, pace=Pace("stepped")).start()
        arm = _EmulatedArm.open(nominal(load_rig(name), servos.port), lockstep=True)
        assert isinstance(arm, _EmulatedArm)
        arm.servos = servos
        return arm

    return make


ROBOTS: dict[str, Callable[[], Robot]] = {
    "simulated": _simulated, "emulated so101": _emulated("so101"), "emulated koch": _emulated("koch"),
}  # fmt: skip


@pytest.fixture(params=ROBOTS)
def make(request: pytest.FixtureRequest) -> Callable[[], Robot]:
    return ROBOTS[request.param]


@pytest.fixture
def robot(make: Callable[[], Robot]) -> Iterator[Robot]:
    robot = make()
    yield robot
    robot.close()


def _middle(robot: Robot) -> Float:
    """A pose well inside the limits, the tool high above the table."""
    return np.asarray(robot.spec.clip(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.3])))


def _go(robot: Robot, target: Float, most: int = 400) -> Float:
    """Walk to a joint vector in ordinary steps; returns the measured vector there."""
    for _ in range(most):
        here = robot.observe().command
        way = target - here
        if float(np.abs(way).max()) < 1e-9:
            break
        robot.act(here + np.clip(way, -2 * STEP, 2 * STEP))
    for _ in range(6):
        robot.act(target)
    return robot.observe().q


def _latch(robot: Robot) -> None:
    for _ in range(4):
        robot.act(np.full(6, np.nan))


# ---- what it is


def test_it_is_a_robot_with_a_sound_specification(robot: Robot) -> None:
    assert isinstance(robot, Robot)
    spec = robot.spec
    assert spec.joints == ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    assert np.all(spec.lower < spec.upper) and np.all(spec.max_velocity > 0)
    assert np.all((spec.home >= spec.lower) & (spec.home <= spec.upper))
    assert robot.control_hz == 20.0 and not isinstance(robot.camera_names, str)


def test_an_observation_is_radians_and_an_opening(robot: Robot) -> None:
    seen = robot.observe()
    for vector in (seen.q, seen.command):
        assert vector.shape == (6,) and vector.dtype == np.float64 and np.all(np.isfinite(vector))
        assert np.all(np.abs(vector[:5]) <= np.pi) and -0.1 <= vector[5] <= 1.1
    assert dict(seen.frames) == {}


def test_what_is_handed_out_is_a_copy(robot: Robot) -> None:
    seen = robot.observe()
    before = seen.q.copy(), seen.command.copy()
    for vector in (seen.q, seen.command):
        if vector.flags.writeable:
            vector += 1.0
    again = robot.observe()
    assert np.array_equal(again.q, before[0]) and np.array_equal(again.command, before[1])


@pytest.mark.parametrize("joint", range(6))
def test_each_joint_is_where_the_order_says(robot: Robot, joint: int) -> None:
    start = _go(robot, _middle(robot))
    target = _middle(robot)
    target[joint] += 0.2
    moved = _go(robot, target) - start
    assert moved[joint] == pytest.approx(0.2, abs=0.04)
    assert np.abs(np.delete(moved, joint)).max() < 0.04


def test_it_arrives_where_it_is_sent(robot: Robot) -> None:
    target = robot.spec.clip(_middle(robot) + np.array([0.4, -0.3, 0.3, 0.2, -0.5, 0.4]))
    assert _go(robot, target) == pytest.approx(target, abs=0.05)


def test_an_unknown_camera_is_an_error_that_lists_the_known(robot: Robot) -> None:
    with pytest.raises(RobotError, match="'nowhere'"):
        robot.observe(("nowhere",))


# ---- time


def test_one_act_is_one_period_and_observing_takes_none(robot: Robot) -> None:
    robot.act(robot.observe().command)
    stamps = [robot.observe().stamp_s]
    for _ in range(8):
        robot.act(robot.observe().command)
        first, second = robot.observe().stamp_s, robot.observe().stamp_s
        assert first == second
        stamps.append(first)
    assert np.diff(stamps) == pytest.approx(np.full(8, 1.0 / robot.control_hz), abs=1e-3)


def test_the_same_commands_give_the_same_run(make: Callable[[], Robot]) -> None:
    runs = []
    for _ in range(2):
        robot, rng = make(), np.random.default_rng(3)
        log: list[Applied] = []
        target = robot.observe().command
        for _ in range(30):
            target = target + rng.uniform(-2, 2, 6) * STEP
            log.append(robot.act(target))
        runs.append((np.array([a.q for a in log]), [a.verdict for a in log], robot.observe().q))
        robot.close()
    assert np.array_equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert runs[0][2] == pytest.approx(runs[1][2], abs=0.002)  # a count of the encoder


# ---- what is refused or made smaller


def test_an_ordinary_command_is_sent_as_it_is(robot: Robot) -> None:
    robot.act(robot.observe().command)
    wanted = robot.observe().command + STEP
    applied = robot.act(wanted)
    assert (applied.verdict, applied.reasons) == ("pass", ())
    assert np.array_equal(applied.q, wanted) and np.array_equal(robot.observe().command, wanted)


def test_a_fast_command_is_made_slower_and_says_so(robot: Robot) -> None:
    robot.act(robot.observe().command)
    before = robot.observe().command
    applied = robot.act(before + 10 * STEP)
    assert applied.verdict == "clamp" and set(applied.reasons) & {Reason.VELOCITY, Reason.TIP_SPEED, Reason.FOLLOWING}
    assert np.all(np.abs(applied.q - before) <= robot.spec.max_velocity / robot.control_hz)
    assert np.array_equal(robot.observe().command, applied.q)


def test_nothing_is_sent_beyond_the_limits(robot: Robot) -> None:
    _go(robot, _middle(robot))
    reasons: set[Reason] = set()
    target = robot.observe().command
    for _ in range(150):
        target = target + np.array([0.03, 0.0, 0.0, 0.0, 0.03, 0.03])
        applied = robot.act(target)
        target = np.minimum(target, applied.q + 0.06)
        reasons |= set(applied.reasons)
        assert np.all((applied.q >= robot.spec.lower) & (applied.q <= robot.spec.upper))
    assert Reason.POSITION in reasons
    assert robot.observe().command[5] == 1.0


@pytest.mark.parametrize("bad", [np.full(6, np.nan), np.array([np.inf, 0, 0, 0, 0, 0]), np.zeros(5), np.zeros((1, 6))])
def test_what_is_no_joint_vector_is_refused_and_nothing_moves(robot: Robot, bad: Float) -> None:
    robot.act(robot.observe().command)
    before = robot.observe()
    applied = robot.act(bad)
    assert applied.verdict == "reject" and applied.reasons
    assert np.array_equal(applied.q, before.command) and np.array_equal(robot.observe().command, before.command)
    assert robot.observe().q == pytest.approx(before.q, abs=0.02)


@pytest.mark.parametrize("joint", range(5))
def test_a_jump_is_refused_and_the_stream_before_it_goes_on(robot: Robot, joint: int) -> None:
    _go(robot, _middle(robot))
    wanted = robot.observe().command
    far = wanted.copy()
    far[joint] += 0.9
    refused = robot.act(far)
    assert refused.verdict == "reject" and Reason.JUMP in refused.reasons
    assert np.array_equal(robot.observe().command, wanted)
    assert robot.act(wanted + STEP).verdict == "pass"


def test_an_old_command_is_not_obeyed_and_a_much_older_one_latches(robot: Robot) -> None:
    robot.act(robot.observe().command)
    seen = robot.observe()
    for _ in range(2):  # 0.1 s old after two periods
        assert robot.act(seen.command + STEP, made_s=robot.observe().stamp_s - 0.09).verdict == "pass"
    held = robot.observe().command
    for age_s in (0.12, 0.48, -0.02):  # the last one comes from the future
        applied = robot.act(held + STEP, made_s=robot.observe().stamp_s - age_s)
        assert (applied.verdict, applied.reasons) == ("reject", (Reason.STALE,)) and np.array_equal(applied.q, held)
    assert robot.act(held + STEP, made_s=robot.observe().stamp_s).verdict == "pass"
    assert robot.act(held, made_s=robot.observe().stamp_s - 0.52).reasons == (Reason.LATCHED, Reason.STALE)
    assert robot.act(held).verdict == "reject"
    robot.reset_fault()
    assert robot.act(robot.observe().command).verdict in ("pass", "clamp")


def test_degrees_are_refused(robot: Robot) -> None:
    robot.act(robot.observe().command)
    assert robot.act(np.degrees(_middle(robot) + 0.5)).verdict == "reject"


# ---- faults


def test_a_fault_latches_until_it_is_reset(robot: Robot) -> None:
    robot.act(robot.observe().command)
    held = robot.observe().command
    _latch(robot)
    for k in range(5):
        applied = robot.act(held + k * STEP)
        assert applied.verdict == "reject" and np.array_equal(applied.q, held)
    robot.reset_fault()
    here = robot.observe().command
    assert robot.act(here).verdict in ("pass", "clamp")
    assert robot.act(here + STEP).verdict == "pass"


def test_resetting_moves_nothing_and_is_harmless_without_a_fault(robot: Robot) -> None:
    robot.act(robot.observe().command)
    _latch(robot)
    before = robot.observe().q
    robot.reset_fault()
    robot.reset_fault()
    assert robot.observe().q == pytest.approx(before, abs=0.01)


# ---- the end


def test_closing_twice_is_fine_and_then_it_is_closed(make: Callable[[], Robot]) -> None:
    robot = make()
    robot.act(robot.observe().command)
    robot.close()
    robot.close()
    with pytest.raises(EmbodiedError):
        robot.act(robot.spec.home)


def test_it_can_be_closed_before_anything_was_done(make: Callable[[], Robot]) -> None:
    make().close()
