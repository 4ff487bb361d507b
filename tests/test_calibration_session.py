"""Calibrating emulated arms by hand: what users get wrong, power cuts, and arms that are not the one that was begun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arm_in_hand import Person, bus_of

from hardware.calibration.partial import load_partial
from hardware.calibration.same_arm import verify_offsets
from hardware.calibration.solve import CalibrationError
from hardware.emulator.emulator import Emulator, Pace
from hardware.handshake import HandshakeError
from hardware.joint_map import JointMap
from hardware.rig import load_rig, save_rig
from hardware.serial_arm import SerialArm
from hardware.servo.port import BusError, PortLost

REST = {
    "shoulder_pan": 0.3,
    "shoulder_lift": 0.5,
    "elbow_flex": -0.4,
    "wrist_flex": 0.6,
    "wrist_roll": -0.7,
    "gripper": 0.5,
}


def _mount(arm: Emulator, joint: str, middle: int, reverse: bool = False) -> None:
    """Put a servo's horn on so that its encoder reads ``middle`` at the joint's zero, or the other way around."""
    arm.servos[joint]._middle = middle
    if reverse:
        servo = arm.servos[joint]
        servo._raw = lambda: middle - servo._gear * 4096 / (2 * np.pi)  # type: ignore[method-assign]


def _true_q(arm: Emulator) -> np.ndarray:
    spec, angles = load_rig(arm.chain.name).spec, arm.angles()
    return np.array([angles[name] for name in spec.joints[:5]] + [spec.jaw_opening(angles["gripper"])])


@pytest.mark.parametrize("name", ["so101", "koch", "so101_leader"])
def test_a_calibrated_arm_tells_its_true_angles(name: str, tmp_path: Path) -> None:
    with Emulator(name, pace=Pace("stepped")) as arm:
        _mount(arm, "shoulder_pan", 1500)
        _mount(arm, "elbow_flex", 2900)
        rig = Person(arm).calibrate(tmp_path)
        assert not rig.uncalibrated and rig.calibrated is not None
        save_rig(rig, tmp_path / "mine.toml")
        again = load_rig(tmp_path / "mine.toml")
        arm.hold(REST)
        arm.advance(1.0)
        with bus_of(arm) as bus:
            verify_offsets(bus, again, {n: j.calibration for n, j in again.joints.items() if j.calibration})
            q = JointMap(again).q(bus.read_all("present_position"))
        assert q == pytest.approx(_true_q(arm), abs=0.02)
        assert not (tmp_path / "unfinished.json").exists()


def test_the_calibrated_arm_can_be_driven_and_nothing_is_written_twice(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    rig = person.calibrate(tmp_path)
    assert "elbow_flex.min_position" in person.written
    so101.let_go()
    before = so101.angles()
    with SerialArm.open(rig, lockstep=True) as arm:
        assert not any(word.endswith(("min_position", "max_position", "homing_offset")) for word in arm.written)
        here = arm.read()
        for _ in range(5):
            arm.act(here)
    assert so101.angles() == pytest.approx(before, abs=0.03)
    again = Person(so101)
    again.calibrate(tmp_path)
    assert again.written == []  # held in the same pose, moved to the same ends


def test_offsets_and_limits_outlive_a_power_cut(so101: Emulator, tmp_path: Path) -> None:
    _mount(so101, "wrist_flex", 700)
    rig = Person(so101).calibrate(tmp_path)
    so101.power_cycle()
    so101.advance(1.0)
    with bus_of(so101) as bus:
        for joint in rig.joints.values():
            assert joint.calibration is not None
            assert bus.read(joint.id, "homing_offset") == joint.calibration.homing_offset
            assert bus.read(joint.id, "min_position") == joint.calibration.min
            assert bus.read(joint.id, "torque_enable") == 0
            assert bus.read(joint.id, "lock") == 1
    wrist = rig.joints["wrist_flex"].calibration
    assert wrist is not None and wrist.homing_offset == 700 - 2047


def test_torque_that_is_on_goes_off_first(so101: Emulator, tmp_path: Path) -> None:
    with bus_of(so101) as bus:
        bus.write_all("torque_enable", dict.fromkeys(bus.models, 1))
    person = Person(so101)
    person.calibrate(tmp_path)
    assert person.questions[0].startswith("Support the arm")
    assert all(servo.registers.get("torque_enable") == 0 for servo in so101.servos.values())


# What users get wrong -----------------------------------------------------------------------------------------------------


def test_a_pose_at_the_end_makes_the_range_cross_the_seam(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.middle["elbow_flex"] = -1.69
    with pytest.raises(
        CalibrationError, match=r"elbow_flex: its range, counts \d+ to 4\d\d\d, goes over the end"
    ) as refusal:
        person.calibrate(tmp_path)
    assert "run the same command again" in str(refusal.value)
    person.middle["elbow_flex"] = 0.1
    person.questions.clear()
    rig = person.calibrate(tmp_path)
    assert not rig.uncalibrated
    assert "(elbow_flex)" in next(q for q in person.questions if "middle of its range" in q)  # only this one again


def test_a_joint_that_was_not_moved_is_named_and_the_others_are_kept(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.ends["wrist_flex"] = (0.0, 0.02)
    with pytest.raises(CalibrationError, match=r"wrist_flex: it was not moved \(1 of about 190 degrees\)"):
        person.calibrate(tmp_path)
    moved: list[str] = []
    person.during = moved.append
    person.ends["wrist_flex"] = (-4.0, 4.0)
    person.calibrate(tmp_path)
    assert moved == ["wrist_flex"]


def test_half_a_range_is_kept_only_when_confirmed(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.ends["shoulder_pan"] = (-0.5, 1.9)
    with pytest.raises(CalibrationError, match="shoulder_pan: it moved only"):
        person.calibrate(tmp_path)
    person.answers = {"Keep_it": "yes"}
    person.risen["shoulder_pan"] = 1.6
    rig = person.calibrate(tmp_path)
    c = rig.joints["shoulder_pan"].calibration
    assert c is not None and c.max - c.min == pytest.approx(2.4 * 652, abs=10)


def test_a_mirrored_joint_is_refused_or_confirmed(so101: Emulator, tmp_path: Path) -> None:
    _mount(so101, "elbow_flex", 2048, reverse=True)
    person = Person(so101)
    with pytest.raises(
        CalibrationError, match=r"elbow_flex: its count falls where it should rise.*--mirrored elbow_flex"
    ):
        person.calibrate(tmp_path)
    rig = person.calibrate(tmp_path, mirrored=("elbow_flex",))
    c = rig.joints["elbow_flex"].calibration
    assert c is not None and c.direction == -1
    so101.hold(REST)
    so101.advance(1.0)
    with bus_of(so101) as bus:
        assert JointMap(rig).q(bus.read_all("present_position")) == pytest.approx(_true_q(so101), abs=0.02)


def test_a_gripper_may_be_mounted_either_way(so101: Emulator, tmp_path: Path) -> None:
    _mount(so101, "gripper", 2048, reverse=True)
    rig = Person(so101).calibrate(tmp_path)
    c = rig.joints["gripper"].calibration
    assert c is not None and c.direction == -1
    so101.hold({"gripper": 1.5})
    so101.advance(1.0)
    with bus_of(so101) as bus:
        assert JointMap(rig).q(bus.read_all("present_position"))[5] == pytest.approx(_true_q(so101)[5], abs=0.02)


def test_the_third_pose_must_differ_from_the_middle(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.risen["wrist_roll"] = 0.05
    with pytest.raises(CalibrationError, match="wrist_roll: not moved in the third step"):
        person.calibrate(tmp_path)
    person.risen["wrist_roll"] = 0.8
    person.questions.clear()
    person.calibrate(tmp_path)
    assert [question.split()[0] for question in person.questions] == ["Support", "Hold"]  # nothing else again


def test_a_dynamixel_whose_horn_is_far_off_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with Emulator("koch", pace=Pace("stepped")) as arm:
        _mount(arm, "wrist_flex", 3500)
        saved = arm.servos["wrist_flex"].registers.saved
        with pytest.raises(CalibrationError, match="wrist_flex: the homing offset would be -1453.*remount it"):
            Person(arm).calibrate(tmp_path)
        assert arm.servos["wrist_flex"].registers.get("homing_offset") == 0
        assert arm.servos["wrist_flex"].registers.saved == saved


# Cut off, and gone on with -------------------------------------------------------------------------------------------------


def test_a_power_cut_in_the_sweep_costs_only_what_was_not_swept(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)

    def cut(joint: str) -> None:
        if joint == "elbow_flex":
            so101.inject("dead")

    person.during = cut
    with pytest.raises(BusError, match=r"no answer any more.*What was done is kept in .*run the same command again"):
        person.calibrate(tmp_path)
    state = load_partial(tmp_path / "unfinished.json")
    assert state is not None and len(state.offsets) == 6 and "shoulder_lift" in state.ends
    so101.heal("dead")
    so101.advance(2.0)
    person.questions.clear()
    moved: list[str] = []
    person.during = moved.append
    so101.hold(person.middle)
    rig = person.calibrate(tmp_path)
    assert not rig.uncalibrated
    assert not any("middle of its range" in question for question in person.questions)


def test_a_pulled_cable_is_survived_too(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.during = lambda joint: so101.unplug() if joint == "wrist_flex" else None
    with pytest.raises(PortLost, match="run the same command again"):
        person.calibrate(tmp_path)
    so101.replug()
    person.during = lambda joint: None
    assert not person.calibrate(tmp_path).uncalibrated


def test_a_servo_that_was_reset_meanwhile_is_posed_again(so101: Emulator, tmp_path: Path) -> None:
    _mount(so101, "wrist_flex", 1700)
    person = Person(so101)
    person.ends["gripper"] = (0.0, 0.0)
    with pytest.raises(CalibrationError, match="gripper"):
        person.calibrate(tmp_path)
    so101.inject("factory:wrist_flex")
    so101.advance(2.0)
    person.ends["gripper"] = (-4.0, 4.0)
    person.questions.clear()
    person.calibrate(tmp_path)
    assert "(wrist_flex)" in next(question for question in person.questions if "middle of its range" in question)
    assert so101.servos["wrist_flex"].registers.get("homing_offset") == 1700 - 2047


def test_restart_forgets_what_was_begun(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.ends["gripper"] = (0.0, 0.0)
    with pytest.raises(CalibrationError):
        person.calibrate(tmp_path)
    person.ends["gripper"] = (-4.0, 4.0)
    moved: list[str] = []
    person.during = moved.append
    person.calibrate(tmp_path, restart=True)
    assert len(moved) == 5


def test_an_unfinished_calibration_of_another_arm_is_refused(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    person.ends["gripper"] = (0.0, 0.0)
    with pytest.raises(CalibrationError):
        person.calibrate(tmp_path, usb_serial="58FA")
    with pytest.raises(CalibrationError, match="begun with the arm on adapter 58FA, this is 77AB"):
        person.calibrate(tmp_path, usb_serial="77AB")


def test_a_calibration_of_another_arm_is_refused(so101: Emulator, tmp_path: Path) -> None:
    rig = Person(so101).calibrate(tmp_path)
    with Emulator("so101", pace=Pace("stepped")) as other, bus_of(other) as bus:
        found = {name: joint.calibration for name, joint in rig.joints.items() if joint.calibration}
        with pytest.raises(CalibrationError, match="belongs to another arm, or the servos were reset"):
            verify_offsets(bus, rig, found)


def test_a_missing_servo_and_a_wrong_one_stop_it_before_anything_is_asked(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    so101.inject("dead:elbow")
    so101.advance(0.1)
    with pytest.raises(HandshakeError, match="elbow_flex: servo 3 does not answer"):
        person.calibrate(tmp_path)
    so101.heal("dead")
    so101.inject("poke.3:elbow=1060")
    so101.advance(2.0)
    with pytest.raises(HandshakeError, match="elbow_flex: servo 3 is an xl430-w250, not a sts3215"):
        person.calibrate(tmp_path)
    assert person.questions == []


def test_bad_lines_are_lived_with(tmp_path: Path) -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        arm.inject("corrupt=0.01,drop=0.01")
        rig = Person(arm).calibrate(tmp_path)
        pan = rig.joints["shoulder_pan"].calibration
        assert pan is not None and pan.max - pan.min == pytest.approx((2 * 1.91986 + 0.04) * 652, abs=20)


def test_the_middle_pose_must_be_held_still(so101: Emulator, tmp_path: Path) -> None:
    person = Person(so101)
    asked = person.ask

    def wobbly(question: str, default: str = "") -> str:
        answer = asked(question, default)
        if "middle of its range" in question and len(person.questions) < 3:
            so101.hold({"shoulder_pan": 1.5})  # still on its way while the samples are taken
        return answer

    person.ask = wobbly  # type: ignore[method-assign]
    rig = person.calibrate(tmp_path)
    assert any("Still moving: shoulder_pan" in words for words in person.said)
    pan = rig.joints["shoulder_pan"].calibration
    assert pan is not None and abs(pan.homing_offset or 0) < 5  # of the pose that was held in the end
