"""LeRobot's calibration files in and out: the same file again, and the same angles."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.calibration.lerobot import read_lerobot, write_lerobot
from hardware.calibration.solve import CalibrationError
from hardware.emulator.chains import nominal
from hardware.joint_map import JointMap
from hardware.rig import Calibration, Rig, load_rig

SO101 = load_rig("so101")
JOINTS = tuple(SO101.joints)
FILE = {
    name: {"id": k + 1, "drive_mode": 0, "homing_offset": offset, "range_min": low, "range_max": high}
    for k, (name, offset, low, high) in enumerate([
        ("shoulder_pan", -1234, 758, 3292), ("shoulder_lift", 990, 821, 3203), ("elbow_flex", 1500, 880, 3080),
        ("wrist_flex", -2047, 900, 3150), ("wrist_roll", 12, 0, 4095), ("gripper", -700, 2034, 3501),
    ])
}  # fmt: skip


def degrees(entry: dict[str, int], count: float) -> float:
    """LeRobot's angle of a body joint, as its ``_normalize`` has it."""
    return (count - (entry["range_min"] + entry["range_max"]) / 2) * 360 / 4095


def per_cent(entry: dict[str, int], count: float) -> float:
    """LeRobot's gripper opening, for Feetech servos."""
    low, high = entry["range_min"], entry["range_max"]
    share = (min(max(count, low), high) - low) / (high - low) * 100
    return 100 - share if entry["drive_mode"] else share


def _calibrated(file: dict[str, dict[str, int]]) -> Rig:
    return SO101.with_calibration(read_lerobot(json.dumps(file), SO101).calibrations)


def test_the_file_comes_back_as_it_was() -> None:
    text, remarks = write_lerobot(_calibrated(FILE))
    assert json.loads(text) == FILE and remarks == ()
    assert text == json.dumps(FILE, indent=4)  # as LeRobot itself formats it


@given(st.data())
def test_angles_are_those_of_lerobot(data: st.DataObject) -> None:
    file = {}
    for k, name in enumerate(JOINTS):
        low = data.draw(st.integers(0, 1700))
        high = data.draw(st.integers(2300, 4095))
        offset = data.draw(st.integers(-2047, 2047))
        drive_mode = data.draw(st.sampled_from((0, 1))) if name == "gripper" else 0
        file[name] = {
            "id": k + 1, "drive_mode": drive_mode, "homing_offset": offset, "range_min": low, "range_max": high
        }  # fmt: skip
    rig = _calibrated(file)
    counts = {
        k + 1: data.draw(st.integers(file[name]["range_min"], file[name]["range_max"])) for k, name in enumerate(JOINTS)
    }
    q = JointMap(rig).q(counts)
    for k, name in enumerate(JOINTS[:5]):
        theirs = degrees(file[name], counts[k + 1])
        assert math.degrees(q[k]) == pytest.approx(theirs * 4095 / 4096, abs=1e-9)
        assert abs(math.degrees(q[k]) - theirs) < 0.05
    assert q[5] * 100 == pytest.approx(per_cent(file["gripper"], counts[6]), abs=1e-9)
    assert json.loads(write_lerobot(rig)[0]) == file


def test_export_of_our_own_calibration_means_the_same_angles() -> None:
    rig = nominal(SO101)
    rig = rig.with_calibration({
        name: joint.calibration.model_copy(update={"zero": None})
        for name, joint in rig.joints.items() if joint.calibration is not None and name != "wrist_roll"
    })  # fmt: skip
    file = json.loads(write_lerobot(rig)[0])
    counts = dict(zip(range(1, 7), np.random.default_rng(0).integers(1400, 2600, 6).tolist(), strict=True))
    q = JointMap(rig).q(counts)
    for k, name in enumerate(JOINTS[:4]):
        assert math.degrees(q[k]) == pytest.approx(degrees(file[name], counts[k + 1]), abs=0.05)


def test_a_zero_that_is_not_the_middle_is_told() -> None:
    rig = _calibrated(FILE).with_calibration({"elbow_flex": Calibration(min=880, max=3080, zero=1866, homing_offset=1)})
    _, remarks = write_lerobot(rig)
    assert remarks == ("elbow_flex: LeRobot's 0 degrees, the middle of the range, is 10.0 degrees here",)


def test_koch_counts_from_the_middle_of_its_specification() -> None:
    koch = load_rig("koch")
    file = {name: {**entry, "homing_offset": 5} for name, entry in FILE.items()}
    converted = read_lerobot(json.dumps(file), koch)
    lift = converted.calibrations["shoulder_lift"]
    assert lift.zero == pytest.approx((821 + 3203) / 2 - 0.485 * 4096 / (2 * math.pi), abs=0.1)
    assert any("shoulder_lift: LeRobot's 0 degrees" in remark for remark in converted.remarks)
    backwards = {**file, "elbow_flex": {**file["elbow_flex"], "drive_mode": 1}}
    remarks = read_lerobot(json.dumps(backwards), koch).remarks
    assert any("put drive_mode = 1 into its settings" in remark for remark in remarks)


def _changed(joint: str = "", **fields: object) -> str:
    return json.dumps({name: {**entry, **(fields if name == joint else {})} for name, entry in FILE.items()})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "for other joints"),
        (json.dumps({"elbow": FILE["elbow_flex"]}), "for other joints (elbow)"),
        (_changed("gripper", id=4), "belongs to another arm: gripper has id 4 there, 6 in so101"),
        (_changed("gripper", id=True), "id must be a whole number"),
        (_changed("gripper", range_min=2.5), "range_min must be a whole number, not 2.5"),
        (_changed("gripper", drive_mode=2), "drive_mode must be 0 or 1"),
        (_changed("gripper", extra=2), "has the fields id, drive_mode"),
        (_changed("elbow_flex", homing_offset=2050), "elbow_flex: the homing offset would be 2050"),
        (_changed("elbow_flex", range_min=3080), "range_min 3080 is not below range_max 3080"),
        (_changed("elbow_flex", range_max=5000), "leaves the encoder's turn"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(text: str, words: str) -> None:
    with pytest.raises(CalibrationError) as refusal:
        read_lerobot(text, SO101, "old.json")
    assert words in str(refusal.value) and "old.json" in str(refusal.value)


def test_what_lerobot_cannot_say_is_not_exported() -> None:
    with pytest.raises(CalibrationError, match="embodied robot calibrate so101"):
        write_lerobot(SO101)
    rig = _calibrated(FILE)
    mirrored = rig.with_calibration({"elbow_flex": Calibration(min=880, max=3080, direction=-1, homing_offset=1)})
    with pytest.raises(CalibrationError, match="elbow_flex counts backwards"):
        write_lerobot(mirrored)


def test_a_drive_mode_that_lerobot_ignores_is_told(tmp_path: Path) -> None:
    converted = read_lerobot(_changed("elbow_flex", drive_mode=1), SO101)
    assert converted.calibrations["elbow_flex"].direction == 1
    assert converted.remarks == ("elbow_flex has drive_mode 1, which LeRobot's degrees ignore; so it is ignored here",)
