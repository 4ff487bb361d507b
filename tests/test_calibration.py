"""The numbers of a calibration: ranges from samples, offsets, zeros, directions, doubts, fingerprints, unfinished files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.arms import find_arm
from hardware.calibration import solve
from hardware.calibration.partial import Partial, load_partial
from hardware.calibration.ranges import Sweep, Track, nearest_turn
from hardware.calibration.same_arm import check_servos
from hardware.calibration.solve import POSITIVE, CalibrationError, doubt_offset, doubt_range
from hardware.emulator.chains import nominal
from hardware.kinematics import forward, tool_position
from hardware.rig import Rig, RigError, format_rig, load_rig, parse_rig
from hardware.servo.registers import STS3215, XL330_M288

SO101 = find_arm("so101")

# Ranges ------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 4095), st.integers(-100_000, 100_000))
def test_unwrapping_keeps_the_count_and_takes_the_short_way(count: int, last: int) -> None:
    value = nearest_turn(count, last)
    assert value % 4096 == count and -2048 <= value - last < 2048


@given(st.integers(0, 4095), st.lists(st.integers(-500, 500), min_size=3, max_size=60))
def test_a_way_over_the_encoders_end_is_followed(start: int, steps: list[int]) -> None:
    way = [start]
    for step in steps:
        way.append(way[-1] + step)
    track = Track()
    for position in way:
        track.add(position % 4096)
    assert track.last == way[-1]
    assert track.ends is not None and min(way) <= track.ends[0] <= track.ends[1] <= max(way)


def test_the_ends_are_where_the_joint_was() -> None:
    track = Track()
    for count in [2000] * 3 + [900] * 3 + [2000] * 3 + [3300] * 3:
        track.add(count)
    assert track.ends == (900, 3300) and track.span == 2400


@given(st.integers(0, 4095))
def test_one_damaged_sample_moves_no_end(wrong: int) -> None:
    track = Track()
    for count in (2000, 2010, 2020, wrong, 2030, 2040, 2050):
        track.add(count)
    assert track.ends is not None and track.ends[0] >= 2000 and track.ends[1] <= 2050


def test_a_sweep_goes_on_from_known_ends_and_tells_when_news_ended() -> None:
    sweep = Sweep(["a", "b"], {"a": (1000, 3000)})
    for k, count in enumerate((2000, 2001, 2000, 2001, 3500, 3500, 3500)):
        sweep.add({"a": count, "other": 5}, float(k))
    assert sweep.ends == {"a": (1000, 3500)} and sweep.news_s == 5.0


# Offsets, zeros and directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [STS3215, XL330_M288])
@given(raw=st.integers(0, 4095), old=st.integers(-2047, 2047))
def test_the_middle_pose_becomes_2047_whatever_offset_was_held_before(model, raw: int, old: int) -> None:
    present = raw + model.homing_sign * old
    if model.protocol == "feetech":
        present %= 4096
    found = solve.encoder(model, present, old)
    assert found == raw
    assert found + model.homing_sign * solve.homing_offset(model, found) == 2047


def test_offsets_beyond_what_a_servo_holds_are_doubted_before_anything_is_written() -> None:
    sts = load_rig("so101").joints["elbow_flex"]
    assert doubt_offset("elbow_flex", sts, -2047) is None and doubt_offset("elbow_flex", sts, 2047) is None
    doubt = doubt_offset("elbow_flex", sts, 2048)
    assert doubt is not None and doubt.fatal and doubt.step == "pose"
    assert "elbow_flex: the homing offset would be 2048, a sts3215 takes up to 2047" in str(doubt)
    koch = load_rig("koch").joints
    assert doubt_offset("elbow_flex", koch["elbow_flex"], 1024) is None
    assert "its horn sits 90 degrees off" in str(doubt_offset("elbow_flex", koch["elbow_flex"], 1025))
    assert doubt_offset("gripper", koch["gripper"], 5000) is None  # operating mode 5


@pytest.mark.parametrize(
    ("ends", "words", "fatal", "step"),
    [
        (None, "was not moved", True, "sweep"),
        ((2000, 2100), "was not moved", True, "sweep"),
        ((3000, 2000), "lowest count 3000 is above its highest 2000", True, "sweep"),
        ((-300, 2000), "goes over the end of the encoder", True, "pose"),
        ((1500, 4200), "goes over the end of the encoder", True, "pose"),
        ((2, 2500), "goes over the end of the encoder", True, "pose"),
        ((1000, 2500), "only 132 of about 220 degrees", False, "sweep"),
        ((300, 3600), "290 of about 220 degrees; is this the right joint", False, "sweep"),
    ],
)
def test_doubtful_ranges(ends, words: str, fatal: bool, step: str) -> None:
    doubt = doubt_range(SO101, "shoulder_pan", ends)
    assert doubt is not None and words in str(doubt)
    assert (doubt.fatal, doubt.step) == (fatal, step)


def test_a_range_as_the_arm_has_it_is_not_doubted() -> None:
    assert doubt_range(SO101, "shoulder_pan", (758, 3292)) is None
    assert doubt_range(SO101, "gripper", (1500, 2700)) is None


def test_zero_is_the_middle_of_a_centred_joint_and_of_the_specification_else() -> None:
    assert solve.solve(SO101, "elbow_flex", (900, 3100), 1, 7).zero is None
    koch = find_arm("koch")
    lift = koch.joints.index("shoulder_lift")
    low, high = (2047 + round(float(v) * 4096 / (2 * math.pi)) for v in (koch.lower[lift], koch.upper[lift]))
    assert solve.solve(koch, "shoulder_lift", (low, high), 1, 0).zero == pytest.approx(2047, abs=1)
    mirrored = solve.solve(koch, "shoulder_lift", (4094 - high, 4094 - low), -1, 0)
    assert mirrored.zero == pytest.approx(2047, abs=1) and mirrored.direction == -1


def test_a_joint_without_ends_has_its_zero_where_it_was_held() -> None:
    roll = solve.solve(SO101, "wrist_roll", None, 1, 3)
    assert roll.zero is None and (roll.min + roll.max) / 2 == 2047.5


def test_directions_from_one_pose() -> None:
    assert solve.direction_of(SO101, "elbow_flex", (900, 3100), 2600) == 1
    assert solve.direction_of(SO101, "elbow_flex", (900, 3100), 1300) == -1
    assert solve.direction_of(SO101, "elbow_flex", (900, 3100), 2050) is None
    assert solve.direction_of(SO101, "wrist_roll", None, 1200) == -1


@pytest.mark.parametrize("arm", ["so101", "so100", "koch"])
def test_the_words_for_the_third_pose_are_those_of_the_kinematics(arm: str) -> None:
    spec = find_arm(arm)

    def moved(joint: str) -> tuple[np.ndarray, np.ndarray]:
        q = np.zeros(6)
        q[spec.joints.index(joint)] = 0.1
        way = np.subtract(tool_position(spec, q), tool_position(spec, np.zeros(6)))
        return way, forward(spec, q)[:3, 0]

    assert "to its right" in POSITIVE["shoulder_pan"] and moved("shoulder_pan")[0][1] < -0.02  # y is to the left
    assert "forward" in POSITIVE["shoulder_lift"] and moved("shoulder_lift")[0][0] > 0.005
    for joint in ("elbow_flex", "wrist_flex"):
        assert "down" in POSITIVE[joint] and moved(joint)[0][2] < -0.005
    jaw, before = moved("wrist_roll")[1], forward(spec, np.zeros(6))[:3, 0]
    turn = np.cross(before, jaw)[0]  # about x, which points away from who stands behind the arm
    assert "counterclockwise, seen from behind" in POSITIVE["wrist_roll"] and turn < -0.08


# Fingerprint ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stamped() -> Rig:
    rig = nominal(load_rig("so101"), "/dev/ttyACM0")
    rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"usb_serial": "58FA"})})
    return rig.stamped("58FA")


def test_a_stamped_rig_survives_its_file(stamped: Rig) -> None:
    assert parse_rig(format_rig(stamped)) == stamped
    assert stamped.with_calibration({}).calibrated is None  # a change makes the fingerprint void


def test_no_truncated_file_is_taken_for_a_calibrated_arm(stamped: Rig) -> None:
    text = format_rig(stamped)
    whole = text.rstrip()
    for end in range(0, len(whole), 3):
        with pytest.raises(RigError):
            parse_rig(text[:end])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("calibration = { min = ", "calibration = { min = 1", "not whole, or was changed"),
        (
            'usb_serial = "58FA"\n\n[calibrated]',
            'usb_serial = "77"\n\n[calibrated]',
            "for the arm on adapter 58FA, not 77",
        ),
        ("shoulder_pan = [1, 777]", "shoulder_pan = [9, 777]", "for another arm"),
        ("[calibrated]\nschema = 1", "[calibrated]\nschema = 2", "schema"),
    ],
)
def test_a_changed_calibration_is_noticed(stamped: Rig, old: str, new: str, words: str) -> None:
    text = format_rig(stamped)
    assert old in text
    with pytest.raises(RigError, match=words):
        parse_rig(text.replace(old, new, 1))


def test_an_id_that_was_swapped_is_noticed(stamped: Rig) -> None:
    text = format_rig(stamped).replace("id = 5\n", "id = 7\n")
    with pytest.raises(RigError, match="with other servos or ids"):
        parse_rig(text)


def test_servos_of_another_arm() -> None:
    rig = load_rig("so101")
    mine = {name: (joint.id, joint.model.number) for name, joint in rig.joints.items()}
    check_servos(rig, mine, "this")
    with pytest.raises(CalibrationError, match=r"this belongs to another arm than so101.*elbow_flex"):
        check_servos(rig, mine | {"elbow_flex": (3, 1200)}, "this")


# Unfinished calibrations --------------------------------------------------------------------------------------------------


def _partial() -> Partial:
    return Partial(
        "so101", "58FA", {"a": (1, 777), "b": (2, 777)}, {"a": -5, "b": 9}, {"a": (900, 3000)}, ["a"], {"a": -1}
    )


def test_an_unfinished_calibration_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    assert load_partial(path) is None
    _partial().save(path)
    assert load_partial(path) == _partial()


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    _partial().save(path)
    text = path.read_text()
    for end in range(0, len(text), 7):
        path.write_text(text[:end])
        with pytest.raises(CalibrationError, match="--restart"):
            load_partial(path)
    path.write_text(text.replace("900", "901"))
    with pytest.raises(CalibrationError, match="checksum does not fit"):
        load_partial(path)
    path.write_text(json.dumps({**json.loads(text), "schema": 9}))
    with pytest.raises(CalibrationError, match="schema is 9"):
        load_partial(path)


def test_forgetting_a_step_forgets_those_after_it() -> None:
    state = _partial()
    state.forget("a", "sweep")
    assert state.offsets == {"a": -5, "b": 9} and state.ends == {} and state.swept == [] and state.directions == {}
    state.forget("b", "pose")
    assert state.offsets == {"a": -5}
