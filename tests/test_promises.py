"""What the safety core, the supervisor and the serial arm promise together, one test per promise.

The others are tested where what they are about is:

P10  a picture is at most 0.2 s old and no more than 5 are identical: test_cameras.py
     (test_the_newest_picture_is_given_while_it_is_fresh, test_a_frozen_camera_is_refused_although_its_stamps_advance)
P11  a planner answers within its time or is left, and nothing moves: test_fallback.py
     (test_waiting_is_bounded_and_carries_values_and_errors_over, test_when_all_fail_nothing_moves), test_remote_planner.py
     (test_misbehaviour_ends_in_one_sentence_within_the_budget, test_attempts_are_bounded_pauses_grow_and_differ)
P12  kill -9 costs the open episode at most: test_dataset_crash.py
P13  a full disk costs the open episode at most: test_dataset_writer.py (test_a_full_disk_costs_the_open_episode_only),
     and the arm holds: test_record_run.py (test_a_full_disk_is_told_and_the_arm_holds)
P17  half an hour without growth: benchmarks/soak.py
P18  every line and branch, and mutants: mutation/mutate_safety.py
P19  no unsafe plan reaches the arm: faults/planner_rows.py
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from servo_line import Line

from hardware import kinematics
from hardware.arm_spec import SO101
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.rig import load_rig
from hardware.safety import Limits, Reason, SafetyState, reset, step
from hardware.serial_arm import SerialArm
from hardware.servo.bus import Bus
from hardware.servo.loop import ServoLoop
from hardware.supervisor import FaultKind, Level, Thresholds

ROOT = Path(__file__).resolve().parents[1]
DEFAULT, SIM = Limits.profile(SO101), Limits.profile(SO101, "sim")
READY = np.array([0.0, -0.4, 0.3, 1.4, 0.2, 0.6])
DT = 0.05
RIG = nominal(load_rig("so101"))


def wild(limits: Limits, count: int, seed: int) -> set[Reason]:
    """Random streams with jumps, NaN, infinities, wild present values, ages and time steps; returns what happened."""
    rng = np.random.default_rng(seed)
    state, seen = SafetyState.start(READY, limits), set[Reason]()
    kinds = rng.choice([0.01, 0.1, 1.0, 100.0], p=[0.4, 0.3, 0.25, 0.05], size=count)
    noise, drift, luck = rng.normal(size=(count, 6)), rng.normal(0, 0.1, (count, 6)), rng.random((count, 3))
    ages = rng.choice([0.0, 0.05, 0.2, 0.6, -1.0], p=[0.8, 0.16, 0.02, 0.01, 0.01], size=count)
    times = rng.choice([0.005, 0.05, 1.0, -1.0], p=[0.2, 0.7, 0.09, 0.01], size=count)
    for k in range(count):
        wanted, present = state.sent + kinds[k] * noise[k], np.clip(state.sent + drift[k], -3, 3)
        if luck[k, 0] < 0.04:
            (wanted if luck[k, 1] < 0.5 else present)[k % 6] = (np.nan, np.inf, -np.inf)[k % 3]
        before, dt = state, float(times[k])
        applied, state = step(state, present, wanted, limits, dt, ages[k])
        seen.update(applied.reasons)
        q = applied.q
        assert np.isfinite(q).all() and (q >= SO101.lower).all() and (q <= SO101.upper).all()
        assert (applied.verdict == "pass") == (not applied.reasons)
        if applied.verdict == "reject":
            assert np.array_equal(q, before.sent)
        else:
            assert (np.abs(q - before.sent) <= limits.velocity * min(dt, limits.max_dt_s) + 1e-9).all()
        if state.fault is not None and luck[k, 2] < 0.3:
            state = reset(state)
    return seen


#: What random commands cannot bring about: wrong shapes, a lag that lasts, a stage that fails.
RARE = {Reason.SHAPE, Reason.FINAL, Reason.LAGGING}


@pytest.mark.parametrize("limits", [DEFAULT, SIM], ids=["default", "sim"])
def test_p01_no_goal_is_ever_not_finite_or_outside_the_limits(limits: Limits) -> None:
    """Twelve thousand random commands in each of two profiles; a million each in the slow test."""
    assert set(Reason) - RARE <= wild(limits, 12_000, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [DEFAULT, SIM], ids=["default", "sim"])
def test_p01_in_a_million_commands(limits: Limits) -> None:
    assert set(Reason) - RARE <= wild(limits, 1_000_000, seed=12)


def test_p02_the_tool_is_no_faster_than_a_quarter_metre_a_second_by_default() -> None:
    rng = np.random.default_rng(21)
    state, fastest = SafetyState.start(READY, DEFAULT), 0.0
    for _ in range(500):
        goal = SO101.clip(state.sent + rng.uniform(-0.25, 0.25, 6))
        before = kinematics.tool_position(SO101, state.sent)
        applied, state = step(state, state.sent, goal, DEFAULT, DT)
        fastest = max(fastest, math.dist(before, kinematics.tool_position(SO101, applied.q)) / DT)
    assert 0.2 < fastest <= 0.25 + 1e-6


def test_p03_the_goal_stays_within_a_step_and_the_following_bound_of_the_arm() -> None:
    rng = np.random.default_rng(31)
    state, present = SafetyState.start(READY, DEFAULT), READY.copy()
    bound = DEFAULT.following + DEFAULT.velocity * DT
    for _ in range(400):
        wanted = SO101.clip(present + rng.normal(0, 0.2, 6))
        applied, state = step(state, present, wanted, DEFAULT, DT)
        assert (np.abs(applied.q - present) <= bound + 1e-9).all()
        present = present + np.clip(applied.q - present, -0.01, 0.01)


@pytest.mark.parametrize(("age", "moves", "latches"), [(0.1, True, False), (0.11, False, False), (0.51, False, True)])
def test_p04_old_commands_are_not_obeyed(age: float, moves: bool, latches: bool) -> None:
    applied, state = step(SafetyState.start(READY, SIM), READY, READY + 0.01, SIM, DT, age)
    assert (applied.verdict == "pass") is moves and (state.fault is Reason.STALE) is latches


# ---- over the wire


def _line() -> Line:
    return Line({joint.id: joint.model for joint in RIG.joints.values()})


def _arm(line: Line, **options: object) -> SerialArm:
    return SerialArm(RIG, Bus(line, line.models, latency_s=0.01), lockstep=True, **options)  # type: ignore[arg-type]


def _loop(line: Line, rate_hz: float = 50.0) -> ServoLoop:
    loop = ServoLoop(Bus(line, line.models, latency_s=0.01), rate_hz=rate_hz, lockstep=True)
    loop.start()
    for id_ in line.models:
        line.poke(id_, "goal_position", 2048)
        line.poke(id_, "torque_enable", 1)
    loop.engage(dict.fromkeys(line.models, 2048))
    return loop


def test_p05_three_failed_reads_in_a_row_hold_and_latch() -> None:
    line = _line()
    loop = _loop(line)
    silent = {3}
    line.tamper = lambda request, replies: [r for r in replies if r[2] not in silent]
    loop.move({1: 2300}, 0.4)
    goals = [loop.step().goals[1] for _ in range(2)]
    assert loop.fault is None and goals[1] > goals[0]  # two: the last reading is used on, and its age grows
    assert loop.now() - loop.snapshot().readings[3].stamp_s == pytest.approx(0.04)
    for _ in range(3):
        loop.step()
    held = loop.snapshot().goals
    assert loop.snapshot().level is Level.HOLD
    for _ in range(5):
        loop.step()
    assert loop.snapshot().goals == held
    assert loop.fault is not None and loop.fault.kind is FaultKind.SILENT and loop.fault.ids == (3,)


def test_p06_a_bus_cycle_without_answers_takes_no_longer_than_a_control_period() -> None:
    line = _line()
    bus = Bus(line, line.models, latency_s=0.01)
    line.tamper = lambda request, replies: []
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert bus.telemetry(budget_s=0.035) == {}
        took.append(time.monotonic() - began)
    assert min(took) < 0.05  # the shortest: a busy machine's pauses are not the code's


def test_p06_read_and_write_return_within_a_control_period_when_nothing_is_heard() -> None:
    line = _line()
    deaf = Thresholds(misses=10**9, silence_s=1e9)  # no fault ends the waiting early
    with SerialArm(RIG, Bus(line, line.models, latency_s=0.01), thresholds=deaf) as arm:
        here = arm.read()
        arm.write(here)
        line.tamper = lambda request, replies: []
        time.sleep(0.15)  # now every reading is too old
        took: dict[str, list[float]] = {"read": [], "write": []}
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(RobotError, match="no fresh reading"):
                arm.read()
            took["read"].append(time.monotonic() - began)
        for _ in range(2):  # a third would latch
            began = time.monotonic()
            assert arm.write(here).reasons == (Reason.PRESENT_INVALID,)
            took["write"].append(time.monotonic() - began)
        assert min(took["read"]) < 1.0 / arm.control_hz and min(took["write"]) < 1.0 / arm.control_hz
        line.tamper = None


def test_p07_after_stop_no_write_moves_anything() -> None:
    line = _line()
    loop = _loop(line)
    loop.move({1: 2300}, 0.4)
    for _ in range(4):
        loop.step()
    before = line.peek(1, "goal_position")
    assert 2048 < before < 2300
    loop.press_stop()
    for _ in range(10):
        loop.step()
        assert line.peek(1, "goal_position") == before
    assert not loop.move({1: 2300}, 0.1)


@pytest.mark.parametrize("fault", list(Reason))
def test_p08_after_a_fault_nothing_moves_without_reset(fault: Reason) -> None:
    state = SafetyState(READY, READY, fault=fault)
    for by in (0.0, 0.01, -0.3, np.nan):
        applied, state = step(state, READY, READY + by, SIM, DT)
        assert applied.verdict == "reject" and np.array_equal(applied.q, READY) and state.fault is fault
    assert step(reset(state), READY, READY + 0.01, SIM, DT)[0].verdict == "pass"


def test_p09_opening_an_arm_moves_nothing_and_leaves_torque_off() -> None:
    line = _line()
    for id_ in line.models:
        line.poke(id_, "goal_position", 3000)
    with _arm(line) as arm:
        for _ in range(5):
            arm.observe()
            arm.refresh()
        assert all(line.peek(id_, "goal_position") == 3000 for id_ in line.models)
        assert all(line.peek(id_, "torque_enable") == 0 for id_ in line.models)
        arm.act(arm.read())
        assert all(abs(line.peek(id_, "present_position") - 2048) <= 1 for id_ in line.models)


@pytest.mark.parametrize("broken", [False, True], ids=["silent", "port gone"])
def test_p14_closing_releases_everything_in_two_seconds_whatever_fails(broken: bool) -> None:
    class Camera:
        name = "front"
        closed = False

        def read(self) -> None:
            raise RobotError("no picture")

        def close(self) -> None:
            self.closed = True
            raise RobotError("it does not close")

    line, camera = _line(), Camera()
    arm = _arm(line, cameras={"front": camera})
    arm.act(arm.read())
    if broken:
        line.broken = OSError(5, "input/output error")
    else:
        line.tamper = lambda request, replies: []
    began = time.monotonic()
    with pytest.raises(RobotError, match=r"servo|port|cable.*camera front: it does not close"):
        arm.close()
    assert time.monotonic() - began < 2.0 and camera.closed
    if not broken:
        assert all(line.peek(id_, "torque_enable") == 0 for id_ in line.models)


@pytest.mark.parametrize("profile", ["default", "sim"])
def test_p15_a_hold_is_not_for_ever(profile: str) -> None:
    with _arm(_line(), profile=profile) as arm:
        arm.act(arm.read())
        arm.stop()
        for _ in range(int(59.0 * arm.control_hz)):
            arm.refresh()
        assert arm.level is Level.HOLD and arm._loop.engaged
        for _ in range(int(10.0 * arm.control_hz)):
            arm.refresh()
        assert arm.level is Level.PARK and not arm._loop.engaged
        assert arm.read() == pytest.approx(arm.spec.home, abs=0.06)


def test_p16_a_second_process_is_refused_and_told_who_has_the_port() -> None:
    code = (
        "import sys, time\n"
        "from hardware.servo.port import open_port, PortTaken\n"
        "began = time.monotonic()\n"
        "try:\n    open_port(sys.argv[1], 1_000_000)\n"
        "except PortTaken as error:\n    print(error)\n    sys.exit(7 if time.monotonic() - began < 1.0 else 8)\n"
    )
    with Emulator("so101", pace=Pace("stepped")) as emulator:
        rig = nominal(load_rig("so101"), emulator.port)
        with SerialArm.open(rig, lockstep=True):
            child = subprocess.run(
                [sys.executable, "-c", code, emulator.port], cwd=ROOT, capture_output=True, text=True, timeout=60
            )
    assert child.returncode == 7 and "in use by" in child.stdout, child.stdout + child.stderr


# ---- all of it at once

BOUNDS = {j.id: (j.calibration.min, j.calibration.max) for j in RIG.joints.values() if j.calibration}


class AnArmInUse(RuleBasedStateMachine):
    """Connect, command, disturb, stop, reset in any order; the servos are watched as they see it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = _line()
        self.silent: set[int] = set()
        self.line.tamper = lambda request, replies: [r for r in replies if r[2] not in self.silent]
        self.arm: SerialArm | None = None
        self.goals: list[tuple[int, int, int, bool]] = []  # id, goal, present, held
        self.may_move = False
        write = self.line._write
        at = self.line.models[1]["goal_position"].address

        def spy(id_: int, address: int, data: bytes) -> None:
            if address == at:
                goal = int.from_bytes(data, "little", signed=True)
                held = self.arm is not None and self.arm.level in (Level.HOLD, Level.LIMP)
                self.goals.append((id_, goal, self.line.peek(id_, "present_position"), held))
            write(id_, address, data)

        self.line._write = spy  # type: ignore[method-assign]

    @precondition(lambda self: self.arm is None)
    @rule()
    def connect(self) -> None:
        self.silent.clear()
        for id_ in self.line.models:
            self.line.alert[id_] = 0
            self.line.poke(id_, "torque_enable", 0)
        before = len(self.goals)
        self.arm = _arm(self.line)
        assert len(self.goals) == before

    @precondition(lambda self: self.arm is not None)
    @rule(by=st.lists(st.sampled_from([0.0, 0.02, -0.02, 0.3, -0.3, 5.0, math.nan, math.inf]), min_size=6, max_size=6))
    def command(self, by: list[float]) -> None:
        assert self.arm is not None
        with suppress(RobotError):
            applied = self.arm.act(self.arm._last_known() + np.array(by))
            assert np.isfinite(applied.q).all()

    @precondition(lambda self: self.arm is not None)
    @rule(cycles=st.integers(1, 5))
    def wait(self, cycles: int) -> None:
        assert self.arm is not None
        for _ in range(cycles):
            self.arm.refresh()

    @precondition(lambda self: self.arm is not None)
    @rule(id_=st.integers(1, 6), what=st.sampled_from(["silent", "overload", "heard"]))
    def disturb(self, id_: int, what: str) -> None:
        if what == "silent":
            self.silent.add(id_)
        elif what == "overload":
            self.line.alert[id_] = 1 << 5
        else:
            self.silent.clear()
            self.line.alert = dict.fromkeys(self.line.models, 0)

    @precondition(lambda self: self.arm is not None)
    @rule()
    def stop(self) -> None:
        assert self.arm is not None
        self.arm.stop()

    @precondition(lambda self: self.arm is not None)
    @rule()
    def reset(self) -> None:
        assert self.arm is not None
        with suppress(RobotError):
            self.arm.reset_fault()

    @precondition(lambda self: self.arm is not None)
    @rule()
    def disconnect(self) -> None:
        assert self.arm is not None
        self.silent.clear()
        self.arm.close()
        self.arm = None
        assert all(self.line.peek(id_, "torque_enable") == 0 for id_ in self.line.models)

    @invariant()
    def every_goal_is_inside_the_limits_and_near_the_arm(self) -> None:
        speed = self.arm._map.max_speed(self.arm.limits.velocity) if self.arm is not None else {}
        bound = {id_: v * DT + (0.1 / (2 * math.pi) * 4096 if id_ < 6 else 4096) + 2 for id_, v in speed.items()}
        for id_, goal, present, held in self.goals:
            assert BOUNDS[id_][0] <= goal <= BOUNDS[id_][1]
            assert not bound or abs(goal - present) <= bound[id_]
            assert not held or goal == self.last.get(id_, goal)
            self.last[id_] = goal
        self.goals.clear()

    @property
    def last(self) -> dict[int, int]:
        return self.__dict__.setdefault("_last", {})

    def teardown(self) -> None:
        self.silent.clear()
        if self.arm is not None:
            self.arm.close()


TestAnArmInUse = AnArmInUse.TestCase
TestAnArmInUse.settings = settings(max_examples=12, stateful_step_count=20, deadline=None, derandomize=True)
