"""The serial arm against the emulator: real bytes over a pseudo-terminal, with servos that move, heat and fail."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from servo_line import Line

from hardware import handshake
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.handshake import HandshakeError
from hardware.rig import Calibration, Rig, RigError, format_rig, load_rig, parse_rig, save_rig
from hardware.robot import Arm, Robot
from hardware.safety import Applied, Reason
from hardware.serial_arm import SerialArm
from hardware.servo import registers
from hardware.servo.bus import Bus
from hardware.servo.port import BusError, PortLost, PortTaken
from hardware.servo.registers import STS3215
from hardware.supervisor import Level, Thresholds

ROOT = Path(__file__).resolve().parents[1]
SMALL = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 0.02])


@pytest.fixture(params=["so101", "koch"])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(request.param, pace=Pace("stepped")) as emulator:
        yield emulator


def _rig(emulator: Emulator) -> Rig:
    return nominal(load_rig(emulator.chain.name), emulator.port)


def _open(emulator: Emulator, rig: Rig | None = None, **options: object) -> SerialArm:
    return SerialArm.open(rig or _rig(emulator), lockstep=True, **options)  # type: ignore[arg-type]


def _register(emulator: Emulator, joint: str, name: str) -> int:
    registers = emulator.servos[joint].registers
    return int(registers[name]) if hasattr(registers, "__getitem__") else int(registers.get(name))


def _torques(emulator: Emulator) -> list[int]:
    return [_register(emulator, joint, "torque_enable") for joint in emulator.servos]


@contextmanager
def _time_passes(emulator: Emulator) -> Iterator[None]:
    """Meanwhile the emulated time does not stand still between two commands."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.005):
            emulator.advance(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _goals(arm: SerialArm) -> dict[int, int]:
    return dict(arm.snapshot.goals)


# ---- opening


def test_it_is_a_robot(emulator: Emulator) -> None:
    with _open(emulator) as arm:
        assert isinstance(arm, Robot) and isinstance(arm, Arm)
        seen = arm.observe()
        assert seen.q.shape == seen.command.shape == (6,) and seen.frames == {}
        assert arm.camera_names == ()


def test_opening_moves_nothing_and_leaves_torque_off(emulator: Emulator) -> None:
    before = emulator.angles()
    with _open(emulator) as arm:
        for _ in range(5):
            arm.observe()
            arm.refresh()
        assert _torques(emulator) == [0] * 6 and not arm.engaged
    assert emulator.angles() == pytest.approx(before, abs=0.001)


def test_eeprom_is_written_once(emulator: Emulator) -> None:
    with _open(emulator) as arm:
        assert "shoulder_pan.return_delay" in arm.written and "elbow_flex.min_position" in arm.written
    saved = {joint: servo.registers.saved for joint, servo in emulator.servos.items()}
    with _open(emulator) as arm:
        assert arm.written == []
    assert {joint: servo.registers.saved for joint, servo in emulator.servos.items()} == saved


def test_torque_comes_on_where_the_arm_is_whatever_the_old_goal(emulator: Emulator) -> None:
    for joint, servo in emulator.servos.items():
        register = servo.model["goal_position"]
        emulator.inject(f"poke.{register.address}:{joint}=200x1")
    with _open(emulator) as arm:
        here, before = arm.read(), emulator.angles()
        assert arm.act(here).verdict in ("pass", "clamp")
        for _ in range(5):
            arm.act(here)
        assert _torques(emulator) == [1] * 6
        assert emulator.angles() == pytest.approx(before, abs=0.03)


def test_a_rig_without_calibration_is_refused_before_the_port_is_touched(so101: Emulator) -> None:
    with pytest.raises(RigError, match="embodied robot calibrate so101"):
        SerialArm.open(load_rig("so101"), port="/dev/ttyNOWHERE7")
    rig = _rig(so101)
    with pytest.raises(RobotError, match="names no port"):
        SerialArm.open(rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": ""})}))


def test_another_servo_is_refused_by_name(so101: Emulator) -> None:
    so101.inject("poke.3:elbow_flex=9x1")
    so101.advance(0.1)
    with pytest.raises(HandshakeError, match=r"elbow_flex: servo 3 is of unknown model 777|elbow_flex: servo 3 is of"):
        _open(so101)


def test_a_silent_servo_is_named_and_the_port_is_free_again(so101: Emulator) -> None:
    so101.inject("dead:wrist_roll")
    so101.advance(0.1)
    with pytest.raises(HandshakeError, match="wrist_roll: servo 5 does not answer"):
        _open(so101)
    so101.heal()
    so101.advance(2.0)
    _open(so101).close()


def test_an_arm_without_power_is_told_as_such(so101: Emulator) -> None:
    so101.inject("dead")
    so101.advance(0.1)
    rig = _rig(so101)
    with pytest.raises(HandshakeError, match="no servo of so101 answers .* power supply"):
        SerialArm.open(rig)


def test_a_swapped_or_reset_servo_is_refused_and_nothing_is_written(so101: Emulator) -> None:
    rig = _rig(so101)
    c = rig.joints["elbow_flex"].calibration
    assert c is not None
    rig = rig.with_calibration({"elbow_flex": c.model_copy(update={"homing_offset": 500})})
    saved = {joint: servo.registers.saved for joint, servo in so101.servos.items()}
    with pytest.raises(HandshakeError, match="elbow_flex holds offset 0, the calibration was made with 500"):
        _open(so101, rig)
    assert {joint: servo.registers.saved for joint, servo in so101.servos.items()} == saved


def test_a_second_opening_is_refused(so101: Emulator) -> None:
    with _open(so101), pytest.raises(PortTaken, match="in use by"):
        _open(so101)


def test_another_adapter_is_refused(so101: Emulator) -> None:
    rig = _rig(so101)
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"usb_serial": "58FA0831"})})
    with pytest.raises(HandshakeError, match="not the adapter 58FA0831"):
        _open(so101, rig)


# ---- moving


def test_it_goes_where_it_is_sent(emulator: Emulator) -> None:
    with _open(emulator, profile="sim") as arm:
        target = arm.read() + np.array([0.3, -0.2, 0.25, 0.2, -0.3, 0.5])
        for _ in range(40):
            arm.act(target)
        assert arm.act(target).verdict == "pass"
        assert arm.read() == pytest.approx(target, abs=0.05)
        seen = arm.observe()
        assert seen.command == pytest.approx(target)
        states = arm.joint_states()
        assert list(states) == list(arm.spec.joints)
        assert 20 < states["gripper"].temperature < 60 and 4 < states["gripper"].voltage < 14
        assert all(h.missed == 0 and h.good > 40 for h in arm.health().values())


def test_one_act_is_one_control_period_of_the_servos(so101: Emulator) -> None:
    with _open(so101) as arm:
        here = arm.read()
        arm.act(here)
        begun = so101.time_s
        for _ in range(20):
            arm.act(here)
        assert so101.time_s - begun == pytest.approx(1.0, abs=0.05)


def test_no_command_whatever_puts_a_goal_out_of_bounds(emulator: Emulator, rng: np.random.Generator) -> None:
    with _open(emulator) as arm:
        rig = arm.rig
        bounds = {j.id: (j.calibration.min, j.calibration.max) for j in rig.joints.values() if j.calibration}
        speed = arm._map.max_speed(arm.limits.velocity)
        last: dict[int, int] = {}
        for k in range(60):
            want = arm.read() + rng.normal(size=6) * rng.choice([0.01, 0.1, 1.0, 50.0])
            if k % 7 == 0:
                want[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
            applied = arm.act(want)
            assert np.isfinite(applied.q).all()
            goals = _goals(arm)
            for id_, goal in goals.items():
                assert bounds[id_][0] <= goal <= bounds[id_][1]
                assert abs(goal - last.get(id_, goal)) <= speed[id_] * 0.05 + 1
            last = goals
            if arm.fault:
                arm.reset_fault()
        assert last


@pytest.mark.slow
@pytest.mark.parametrize("name", ["so101", "koch"])
def test_a_million_commands_put_no_goal_out_of_bounds(name: str, rng: np.random.Generator) -> None:
    """Half a million for each arm: NaN, degrees for radians, spikes, and ordinary ones. Goals as the servos got them."""
    rig = nominal(load_rig(name))
    line = Line({joint.id: joint.model for joint in rig.joints.values()})
    bounds = {j.id: (j.calibration.min, j.calibration.max) for j in rig.joints.values() if j.calibration}
    goals = dict.fromkeys(bounds, 2048)
    address = line.models[1]["goal_position"].address
    write = line._write

    def spy(id_: int, at: int, data: bytes) -> None:
        if at == address:
            goal = int.from_bytes(data, "little", signed=True)
            assert bounds[id_][0] <= goal <= bounds[id_][1]
            assert abs(goal - goals[id_]) <= speed[id_] * 0.05 + 1 or not arm.engaged
            goals[id_] = goal
        write(id_, at, data)

    line._write = spy  # type: ignore[method-assign]
    with SerialArm(rig, Bus(line, line.models), lockstep=True) as arm:
        speed = arm._map.max_speed(arm.limits.velocity)
        for _ in range(500_000):
            want = arm.read()
            kind = rng.integers(6)
            if kind == 0:
                want[rng.integers(6)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
            elif kind == 1:
                want = np.degrees(want) + rng.normal(size=6)
            else:
                want = want + rng.normal(size=6) * (0.01, 0.1, 1.0, 10.0)[kind - 2]
            assert arm.spec.clip(arm.act(want).q) == pytest.approx(arm.observe().command)
            if arm.fault:
                arm.reset_fault()


@pytest.mark.parametrize("want", [np.full(6, np.nan), np.zeros(5), np.full(6, 90.0)])
def test_what_is_no_command_is_rejected_and_the_arm_holds(so101: Emulator, want: np.ndarray) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        held = _goals(arm)
        assert arm.act(want).verdict == "reject"
        assert _goals(arm) == held


@pytest.mark.parametrize(("control_hz", "oldest_s"), [(5.0, 0.4), (20.0, 0.1), (100.0, 0.1)])
def test_a_command_may_be_two_periods_or_a_tenth_of_a_second_old(
    so101: Emulator, control_hz: float, oldest_s: float
) -> None:
    with _open(so101, control_hz=control_hz) as arm:
        here = arm.read()
        assert arm.act(here, made_s=arm.observe().stamp_s - oldest_s - 0.02).reasons == (Reason.STALE,)
        assert not arm.engaged  # an old command does not even switch torque on
        for _ in range(2):
            assert arm.act(here, made_s=arm.observe().stamp_s - oldest_s + 0.01).verdict == "pass"
        held = _goals(arm)
        for age_s in (oldest_s + 0.01, oldest_s + 0.39, -0.01):  # the last one comes from the future
            assert arm.act(here + SMALL, made_s=arm.observe().stamp_s - age_s).reasons == (Reason.STALE,)
        assert _goals(arm) == held and arm.fault is None
        for _ in range(3):
            arm.act(arm.observe().command + 0.1 * SMALL)  # who tells no time has decided just now
            for _ in range(int(control_hz)):
                arm.refresh()
        assert arm.fault is None and _goals(arm) != held
        made_s = arm.observe().stamp_s - oldest_s - 0.41
        assert arm.act(here, made_s=made_s).reasons == (Reason.LATCHED, Reason.STALE)
        assert arm.fault == Reason.STALE.value and _torques(so101) == [1] * 6
        arm.reset_fault()
        assert arm.act(arm.read(), made_s=arm.observe().stamp_s).verdict == "pass"


def test_silence_of_a_servo_is_not_the_age_of_a_command(so101: Emulator) -> None:
    """Where the rig file is patient: an answer to the newest measurement is as new as can be, one to an older is not."""
    rig = _rig(so101)
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0})})
    with _open(so101, rig) as arm:
        arm.act(arm.read())
        so101.inject("dead:wrist_roll")
        for _ in range(12):
            arm.refresh()
        seen = arm.observe()
        assert arm._loop.now() - seen.stamp_s > 0.5 and arm.level is Level.HOLD  # the supervisor's work
        assert Reason.STALE not in arm.act(seen.command, made_s=seen.stamp_s).reasons and arm.fault is None
        assert Reason.STALE in arm.act(seen.command, made_s=seen.stamp_s - 0.01).reasons
        so101.heal()
        so101.advance(2.0)


def test_a_time_that_is_no_number_latches(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        assert arm.act(arm.read(), made_s=float("nan")).reasons == (Reason.LATCHED, Reason.STALE)


def test_a_command_that_had_to_wait_is_as_old_as_that() -> None:
    with Emulator("so101") as emulator:
        rig = _rig(emulator)
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0, "rate_hz": 50.0})})
        with SerialArm.open(rig) as arm:
            here = arm.read()
            arm.act(here)
            answers: list[Applied] = []
            writer = threading.Thread(target=lambda: answers.append(arm.write(here + SMALL)))
            with arm._guard:  # as while the arm is on its way to its rest pose
                writer.start()
                time.sleep(0.3)
            writer.join()
            assert answers[0].verdict == "reject" and Reason.STALE in answers[0].reasons


def test_degrees_for_radians_are_a_jump(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        assert arm.act(np.array([45.0, 10.0, -30.0, 0.0, 0.0, 50.0])).reasons == (Reason.JUMP,)


def test_a_joint_outside_its_limits_is_not_energised(so101: Emulator) -> None:
    rig = _rig(so101).with_calibration({"shoulder_pan": Calibration(min=2200, max=3200, zero=2300)})
    with _open(so101, rig) as arm:
        with pytest.raises(RobotError, match=r"shoulder_pan is 0\.\d+ rad outside its limits"):
            arm.act(np.zeros(6))
        assert _torques(so101) == [0] * 6


@pytest.mark.parametrize("profile", ["default", "sim"])
def test_park_goes_home_and_lets_go(so101: Emulator, profile: str) -> None:
    with _open(so101, profile=profile) as arm:
        arm.act(arm.read())
        assert arm.park()
        assert arm.read() == pytest.approx(arm.spec.home, abs=0.06)
        assert _torques(so101) == [0] * 6


def test_a_leader_is_read_only() -> None:
    with Emulator("so101_leader", pace=Pace("stepped")) as emulator, _open(emulator) as arm:
        emulator.hold({"elbow_flex": 0.5})
        emulator.advance(0.5)
        arm.refresh()
        arm.refresh()
        assert arm.observe().q[2] == pytest.approx(0.5, abs=0.02)
        with pytest.raises(RobotError, match="leader arm"):
            arm.act(np.zeros(6))
        assert _torques(emulator) == [0] * 6


# ---- faults


def test_a_dead_servo_latches_and_reset_goes_on_from_where_the_arm_is(so101: Emulator) -> None:
    with _open(so101) as arm:
        target = arm.read() + SMALL
        arm.act(target)
        so101.inject("mute:elbow_flex")
        verdicts = [arm.act(target + k * SMALL).verdict for k in range(5)]
        assert verdicts[-1] == "reject" and "elbow_flex" in (arm.fault or "")
        with pytest.raises(RobotError, match="elbow_flex"):
            arm.read()
        so101.heal()
        assert arm.act(target).reasons == (Reason.LATCHED,)  # answering again is no reset
        arm.reset_fault()
        arm.refresh()
        assert arm.fault is None
        assert arm.act(arm.read()).verdict in ("pass", "clamp")
        assert _torques(so101) == [1] * 6


def test_a_servo_fault_makes_that_joint_limp_and_reset_revives_it(emulator: Emulator) -> None:
    koch, rig = emulator.chain.name == "koch", _rig(emulator)
    if koch:  # soon hot, soon cool
        gripper = rig.joints["gripper"]
        gripper = gripper.model_copy(update={"settings": {**gripper.settings, "max_temperature": 40}})
        rig = rig.model_copy(update={"joints": {**rig.joints, "gripper": gripper}})
    tolerant = Thresholds(max_temperature={6: 40.0}, warm_k=0.0, hot_k=0.0, grips=frozenset({6}))
    with _open(emulator, rig, thresholds=tolerant) as arm:
        here = arm.read()
        arm.act(here)
        emulator.inject("overheat:gripper=41" if koch else "error.2:gripper")
        emulator.advance(4.0 if koch else 0.1)
        for _ in range(3):
            applied = arm.act(here)
        assert applied.reasons == (Reason.LATCHED,)
        assert "gripper reports over" in (arm.fault or "")
        assert _torques(emulator)[5] == 0 and _torques(emulator)[0] == 1
        emulator.heal()
        emulator.advance(25.0 if koch else 0.1)
        with _time_passes(emulator):  # a servo takes a while to restart
            arm.reset_fault()
        arm.refresh()
        for _ in range(3):
            applied = arm.act(arm.read())
        assert applied.verdict in ("pass", "clamp") and arm.fault is None, arm.fault
        assert _torques(emulator) == [1] * 6
        if koch:
            assert _register(emulator, "gripper", "goal_current") == 400  # the restart had lost it


def test_a_gripper_that_pushes_too_long_keeps_what_it_holds(so101: Emulator) -> None:
    with _open(so101) as arm:
        here = arm.read()
        arm.act(here)
        so101.inject("error.5:gripper")  # overload: what holding something firmly looks like to a servo
        so101.advance(0.1)
        for _ in range(5):
            applied = arm.act(here)
        assert applied.verdict == "pass" and arm.fault is None
        assert _torques(so101) == [1] * 6


def test_torque_that_does_not_stay_on_is_told(so101: Emulator) -> None:
    with _open(so101) as arm:
        here = arm.read()
        arm.act(here)
        so101.inject("stuck_off:wrist_flex")
        for _ in range(15):
            applied = arm.act(here)
        assert applied.verdict == "reject" and "wrist_flex: torque is off although nobody" in (arm.fault or "")
        arm.reset_fault()
        with suppress(BusError):  # told at once when the servo is quick to refuse
            for _ in range(15):
                applied = arm.act(here)
        assert arm.fault is not None or not arm.engaged


def test_a_goal_that_a_servo_does_not_take_keeps_torque_off(emulator: Emulator) -> None:
    emulator.inject("lose_write")
    with _open(emulator) as arm:
        with pytest.raises(BusError, match="did not take|watchdog|does not come on"):
            arm.act(arm.read())
        assert _torques(emulator) == [0] * 6 and not arm.engaged


def test_the_cable_pulled_in_motion(so101: Emulator) -> None:
    arm = _open(so101)
    arm.act(arm.read() + SMALL)
    so101.unplug()
    with pytest.raises(PortLost, match="hold their last goal"):
        for _ in range(3):
            arm.act(arm._last_known())
    with pytest.raises(PortLost):
        arm.observe()
    with pytest.raises(PortLost):
        arm.reset_fault()
    with pytest.raises(RobotError, match="hold their last goal.*switch its power off"):
        arm.close()
    arm.close()  # twice is fine


def test_close_reaches_the_others_when_one_does_not_answer(emulator: Emulator) -> None:
    arm = _open(emulator)
    arm.act(arm.read())
    emulator.inject("mute:shoulder_pan")
    arm._bus.latency_s = 0.02
    with pytest.raises(RobotError, match="servo 1"):
        arm.close()
    assert _torques(emulator) == [0] * 6  # the mute one hears well


def test_close_lets_go_and_frees_the_watchdog(emulator: Emulator) -> None:
    with _open(emulator) as arm:
        arm.act(arm.read())
        if emulator.chain.name == "koch":
            assert _register(emulator, "gripper", "bus_watchdog") == 10
    assert _torques(emulator) == [0] * 6
    if emulator.chain.name == "koch":
        assert _register(emulator, "gripper", "bus_watchdog") == 0
    with pytest.raises(PortLost, match="has been closed"):
        arm.act(np.zeros(6))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_release_frees_an_arm_that_a_program_left_holding(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        arm._loop.stop()
        arm._bus.close()  # as if the process had died
        assert _torques(so101) == [1] * 6
        handshake.release(_rig(so101))
        assert _torques(so101) == [0] * 6
        with suppress(RobotError):
            arm.close()


@pytest.mark.parametrize(
    "noise", ["echo", "corrupt~0.03", "lose_byte~0.03", "garbage~0.1", "duplicate~0.1", "drop~0.01"]
)
def test_noise_on_the_line_is_lived_with(so101: Emulator, noise: str) -> None:
    so101.inject(noise)
    with _open(so101) as arm:
        arm._bus.latency_s = 0.05
        target = arm.read()
        for _ in range(25):
            target = target + SMALL
            assert arm.act(target).verdict != "reject", arm.fault
        assert arm.read() == pytest.approx(target, abs=0.06)
        assert arm.fault is None


def test_a_lagging_arm_latches_and_reset_starts_where_it_is(so101: Emulator) -> None:
    with _open(so101) as arm:
        target = arm.read()
        arm.act(target)
        for k in range(15):  # someone pushes the arm away, faster than it is allowed to give way
            so101.hold({"shoulder_pan": -min(1.2, 0.2 * k)})
            arm.act(target)
        assert arm.fault == Reason.LAGGING.value
        arm.reset_fault()
        assert arm.fault is None
        arm.act(arm.read())
        assert arm.observe().command == pytest.approx(arm.read(), abs=0.05)


def test_cameras_are_passed_on(so101: Emulator) -> None:
    class Still:
        name = "front"

        def read(self) -> Frame:
            model = CameraModel(Intrinsics.from_fov_y(4, 3, 1.0), np.eye(4))
            return Frame(np.zeros((3, 4, 3), np.uint8), model, 0.0)

    with _open(so101, cameras={"front": Still()}) as arm:
        assert arm.observe(["front"]).frames["front"].rgb.shape == (3, 4, 3)
        with pytest.raises(RobotError, match="this robot has: front"):
            arm.observe(["wrist"])


# ---- levels


def test_stop_holds_and_a_second_press_makes_every_joint_limp(so101: Emulator) -> None:
    with _open(so101) as arm:
        target = arm.read()
        arm.act(target)
        arm.act(target + SMALL)
        arm.stop()
        held = _goals(arm)
        for _ in range(3):
            assert arm.act(target + 5 * SMALL).reasons == (Reason.LATCHED,)
        assert _goals(arm) == held and arm.level is Level.HOLD and _torques(so101) == [1] * 6
        assert "stop was pressed" in (arm.fault or "")
        arm.stop()
        assert arm.level is Level.LIMP and _torques(so101) == [0] * 6 and not arm.engaged
        assert arm.act(target).verdict == "reject"
        arm.reset_fault()
        assert arm.level is Level.RUN and arm.act(arm.read()).verdict != "reject"


def test_limp_reaches_the_others_when_one_does_not_answer(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        so101.inject("mute:elbow_flex")
        arm._bus.latency_s = 0.01
        arm.stop()
        arm.stop()
        assert _torques(so101) == [0] * 6  # the mute one hears well
        so101.heal()
        for _ in range(12):  # it is asked again until it says so
            arm.refresh()
        assert not arm.engaged


def test_a_warm_servo_slows_the_arm_and_a_hot_one_sends_it_to_rest(so101: Emulator) -> None:
    with _open(so101, profile="sim") as arm:
        q = arm.read()
        arm.act(q)
        so101.inject("overheat:elbow=61")
        so101.advance(8.0)
        arm.act(q)
        assert arm.level is Level.SLOW and arm.fault is None
        before = arm.observe().command
        arm.act(q + np.array([0.2, 0, 0, 0, 0, 0]))
        assert arm.observe().command[0] - before[0] == pytest.approx(0.5 * arm.limits.velocity[0] / arm.control_hz)
        so101.heal()
        so101.inject("overheat:elbow=66")
        so101.advance(2.0)
        for _ in range(90):
            arm.act(q)
            if not arm.engaged:
                break
        assert arm.level is Level.PARK and "elbow_flex is at 6" in (arm.fault or "")
        assert arm.read() == pytest.approx(arm.spec.home, abs=0.06) and _torques(so101) == [0] * 6
        with pytest.raises(RobotError, match="let it cool to 60 °C"):
            arm.reset_fault()


def test_a_hold_that_lasts_ends_at_rest_and_limp(so101: Emulator) -> None:
    with _open(so101, profile="sim") as arm:
        arm.act(arm.read())
        arm.stop()
        for _ in range(int(59 * arm.control_hz)):
            arm.refresh()
        assert _torques(so101) == [1] * 6 and arm.level is Level.HOLD
        for _ in range(100):
            arm.refresh()
        assert arm.read() == pytest.approx(arm.spec.home, abs=0.06) and _torques(so101) == [0] * 6


def test_an_arm_left_alone_goes_to_rest_and_takes_commands_again(so101: Emulator) -> None:
    with _open(so101, profile="sim") as arm:
        arm.act(arm.read())
        for _ in range(int(64 * arm.control_hz)):
            arm.refresh()
        assert not arm.engaged and _torques(so101) == [0] * 6 and arm.fault is None
        assert arm.act(arm.read()).verdict != "reject" and arm.engaged


def test_parking_on_the_way_meets_an_obstacle_and_holds(so101: Emulator) -> None:
    with _open(so101, profile="sim") as arm:
        arm.act(arm.read())
        so101.inject("block:shoulder_lift")
        assert not arm.park(8.0)
        assert arm.level is Level.HOLD and _torques(so101)[0] == 1
        assert "rest pose" in (arm.fault or "") or "shoulder_lift" in (arm.fault or "")


def test_a_rest_pose_that_is_not_reached_in_time(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        assert not arm.park(0.2)
        assert arm.engaged and arm.level is Level.RUN and arm.act(arm.observe().command).verdict == "pass"


def test_another_servo_after_a_restart_is_not_accepted(so101: Emulator) -> None:
    with _open(so101) as arm:
        arm.act(arm.read())
        so101.inject("torque_off:wrist_flex")
        for _ in range(15):
            arm.act(arm.observe().command)
        assert "wrist_flex: torque is off" in (arm.fault or "")
        so101.inject("poke.1:wrist_flex=77x1")  # another firmware
        so101.advance(0.1)
        with pytest.raises(RobotError, match="not the one it was"):
            arm.reset_fault()


# ---- in real time

CHILD = """
import signal, sys
import numpy as np
from hardware.emulator.chains import nominal
from hardware.rig import load_rig
from hardware.serial_arm import SerialArm

rig = nominal(load_rig("so101"), sys.argv[1])
rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0})})
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
with SerialArm.open(rig) as arm:
    target = arm.read()
    arm.act(target)
    print("moving", flush=True)
    while True:
        target = target + np.array([0.005, 0, 0, 0, 0, 0])
        arm.act(target)
"""


@contextmanager
def _child(emulator: Emulator) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, emulator.port]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "moving\n"
            time.sleep(0.3)
            assert _torques(emulator) == [1] * 6
            yield process
        finally:
            process.kill()


def test_an_ordinary_kill_makes_the_arm_limp() -> None:
    with Emulator("so101") as emulator:
        with _child(emulator) as process:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 128 + signal.SIGTERM
        assert _torques(emulator) == [0] * 6


def test_an_impatient_user_makes_the_arm_limp_too() -> None:
    with Emulator("so101") as emulator:
        with _child(emulator) as process:
            for _ in range(20):
                process.send_signal(signal.SIGINT)
                time.sleep(0.02)
                if process.poll() is not None:
                    break
            assert process.wait(10) != 0
        assert _torques(emulator) == [0] * 6


def test_kill_9_leaves_a_small_step_and_a_free_port() -> None:
    with Emulator("so101") as emulator:
        with _child(emulator) as process:
            process.kill()
        goal = _register(emulator, "shoulder_pan", "goal_position")
        angle = emulator.angles()["shoulder_pan"]
        assert abs(STS3215["goal_position"].to_si(goal - 2048) - angle) < 0.1
        handshake.release(_rig(emulator))
        assert _torques(emulator) == [0] * 6


def test_a_control_period_takes_its_time() -> None:
    with Emulator("so101") as emulator:
        rig = _rig(emulator)
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"silence_s": 2.0, "rate_hz": 50.0})})
        with SerialArm.open(rig) as arm:
            here = arm.read()
            arm.act(here)
            begun = time.monotonic()
            for _ in range(10):
                arm.act(here)
            assert time.monotonic() - begun >= 0.49
            assert arm.snapshot.cycle >= 5


# ---- the guide


def test_the_guide_says_what_is_so(so101: Emulator, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "adding-an-arm.md").read_text(encoding="utf-8")
    toml, python, text = (re.findall(rf"```{kind}\n(.*?)```", guide, re.S) for kind in ("toml", "python", "text"))
    rest = format_rig(load_rig("so101")).split("[joints.shoulder_lift]")[1]
    desk = toml[0] + "\n[joints.shoulder_lift]" + rest
    assert parse_rig(desk).joints["shoulder_pan"].calibration is not None
    with pytest.raises(RigError) as caught:
        parse_rig(desk.replace("zero = 2025", "zero = 50"), "desk.toml")
    assert str(caught.value) == text[0].strip()
    exec(python[0], vars(registers) | {"__name__": "guide"})  # noqa: S102
    save_rig(_rig(so101), tmp_path / "desk.toml")
    so101.close()
    with Emulator("so101") as emulator:
        save_rig(_rig(emulator), tmp_path / "desk.toml")
        exec(python[1].replace("desk.toml", str(tmp_path / "desk.toml")), {})  # noqa: S102
        assert _torques(emulator) == [0] * 6
