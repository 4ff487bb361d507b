from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import rig as rig_module
from hardware.arms import ARMS, KOCH, SO100, find_arm
from hardware.errors import RobotError, UnreachableError
from hardware.kinematics import forward, inverse, tool_pitch, tool_position
from hardware.rig import Calibration, CameraConfig, Rig, RigError, format_rig, load_rig, parse_rig, rig_names, save_rig

TEXT = format_rig(load_rig("so101"))


# ---- the shipped ones


@pytest.mark.parametrize("name", rig_names())
def test_shipped_rigs_are_templates(name: str) -> None:
    rig = load_rig(name)
    assert rig.name == name and rig.arm in ARMS
    assert rig.uncalibrated == rig.spec.joints
    assert rig.role == ("leader" if name.endswith("leader") else "follower")
    assert parse_rig(format_rig(rig)) == rig


def test_all_the_arms_are_there() -> None:
    assert rig_names() == ["koch", "koch_leader", "so100", "so100_leader", "so101", "so101_leader"]
    assert [j.gear for j in load_rig("so101").joints.values()] == [345.0] * 6
    assert [j.gear for j in load_rig("so101_leader").joints.values()] == [191.0, 345.0, 191.0, 147.0, 147.0, 147.0]
    assert [j.servo for j in load_rig("koch").joints.values()] == ["xl430-w250"] * 2 + ["xl330-m288"] * 4
    assert {j.servo for j in load_rig("koch_leader").joints.values()} == {"xl330-m077"}
    fast, slow = load_rig("so101_leader").joints["gripper"], load_rig("so101").joints["gripper"]
    assert fast.max_velocity == pytest.approx(slow.max_velocity * 345 / 147)


# ---- reading


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "has schema 2; this program reads schema 1"),
        ("schema = 1", "", "has no schema number"),
        ('arm = "so101"', 'arm = "so102"', "choose one of: so100, so101, koch"),
        ('role = "follower"', 'role = "boss"', "line 4, role: "),
        ("[bus]", "[buss]", "line 6, buss: "),
        ("baud = 1000000", "baud = 12", "line 8, bus.baud: "),
        ("rate_hz = 100.0", "rate_hz = 1000.0", "bus.rate_hz: "),
        ("id = 3", 'id = "3"', "joints.elbow_flex.id: "),
        ("id = 3", "id = 2", "id 2 is used by two joints"),
        ("id = 3", "id = 3\nidd = 4", "joints.elbow_flex.idd: "),
        ("[joints.elbow_flex]", "[joints.elbow]", "missing or unknown: ['elbow', 'elbow_flex']"),
        ('servo = "sts3215"', 'servo = "sts3216"', "joints.shoulder_pan: no servo is named 'sts3216'"),
        ('servo = "sts3215"', 'servo = "xl430-w250"', "operating_mode takes 1 to 16, not 0"),
        ("operating_mode = 0", "operating_mod = 0", "has no register 'operating_mod'"),
        ("operating_mode = 0", "operating_mode = 9", "operating_mode takes 0 to 3, not 9"),
        ("operating_mode = 0", "torque_enable = 1", "torque_enable cannot be a setting"),
        ("operating_mode = 0", "present_position = 1", "present_position cannot be a setting"),
        ("gear = 345.0", "calibration = { min = 4000, max = 100 }", "a range across the end of the encoder"),
        ("gear = 345.0", "calibration = { min = 100, max = 4000, zero = 50 }", "zero 50 must lie between"),
        ("gear = 345.0", "calibration = { min = 100, max = 5000 }", "calibration.max: "),
        ("gear = 345.0", "calibration = { min = 100, max = 4000, homing_offset = 3000 }", "±2047"),
        ("gear = 345.0", "gear = -1.0", "gear: "),
        ('name = "so101"', 'name = "../x"', "name: "),
        ("schema = 1", "schema = [", "no valid TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(RigError) as caught:
        parse_rig(TEXT.replace(old, new, 1), "my.toml")
    assert message in str(caught.value) and "my.toml" in str(caught.value)


def test_every_mistake_is_told_with_its_line() -> None:
    text = TEXT.replace("baud = 1000000", "baud = true").replace("id = 5", "id = 500")
    with pytest.raises(RigError) as caught:
        parse_rig(text)
    lines = text.splitlines()
    assert f"line {lines.index('baud = true') + 1}, bus.baud" in str(caught.value)
    assert f"line {lines.index('id = 500') + 1}, joints.wrist_roll.id" in str(caught.value)


def test_the_order_of_joints_in_the_file_does_not_matter() -> None:
    head, *joints = TEXT.split("[joints.")
    shuffled = "[joints.".join([head, *(j.rstrip() + "\n\n" for j in reversed(joints))])
    assert list(parse_rig(shuffled).joints) == list(load_rig("so101").joints)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="one of: koch"):
        load_rig("so909")
    with pytest.raises(RigError, match="cannot read"):
        load_rig(tmp_path / "no.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RigError, match="cannot read"):
        load_rig(tmp_path / "b.toml")
    with pytest.raises(RigError, match="cannot read"):
        load_rig(tmp_path)


@given(st.text(max_size=80))
def test_any_text_is_a_rig_or_refused(text: str) -> None:
    for candidate in (text, TEXT.replace("[bus]", text, 1), "schema = 1\n" + text):
        with contextlib.suppress(RigError):
            assert isinstance(parse_rig(candidate), Rig)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RigError):
        parse_rig("schema = 1\na = " + "[" * 20_000)


# ---- writing

NAMES = st.text(min_size=1, max_size=12)
CALIBRATIONS = st.builds(
    lambda low, width, share, direction, offset: Calibration(
        min=low,
        max=low + width,
        zero=None if share is None else low + share * width,
        direction=direction,
        homing_offset=offset,
    ),
    st.integers(0, 2000),
    st.integers(16, 2095),
    st.none() | st.floats(0, 1),
    st.sampled_from([1, -1]),
    st.none() | st.integers(-1024, 1024),
)
CAMERAS = st.builds(
    CameraConfig,
    source=st.text(max_size=20),
    fps=st.floats(1, 240),
    intrinsics=st.none() | st.lists(st.floats(allow_nan=False), min_size=4, max_size=4),
    distortion=st.lists(st.floats(-1, 1), max_size=5),
    pose=st.none() | st.just(np.eye(4).tolist()),
)


@settings(max_examples=50)
@given(
    st.sampled_from(rig_names()),
    st.lists(CALIBRATIONS, min_size=6, max_size=6),
    st.dictionaries(NAMES, CAMERAS, max_size=3),
    st.text(max_size=20),
)
def test_every_rig_survives_its_text(
    name: str, calibrations: list[Calibration], cameras: dict[str, CameraConfig], port: str
) -> None:
    rig = load_rig(name)
    rig = rig.with_calibration(dict(zip(rig.joints, calibrations, strict=True)))
    rig = rig.model_copy(update={"cameras": cameras, "bus": rig.bus.model_copy(update={"port": port})})
    assert parse_rig(format_rig(rig)) == rig


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.toml"
    rig = load_rig("koch")
    save_rig(rig, path)
    assert load_rig(path) == rig
    path.chmod(0o600)

    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    other = rig.with_calibration({"gripper": Calibration(min=1, max=3000)})
    with monkeypatch.context() as patch:
        patch.setattr(rig_module.os, "replace", fail)
        with pytest.raises(RigError, match="No space left"):
            save_rig(other, path)
    assert load_rig(path) == rig and os.listdir(tmp_path) == ["my.toml"]
    save_rig(other, path)
    assert load_rig(path) == other and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RigError, match="cannot write"):
        save_rig(rig, tmp_path / "no" / "where.toml")


def test_calibrating_an_unknown_joint_is_refused() -> None:
    with pytest.raises(RigError, match="no joint 'elbow'"):
        load_rig("so101").with_calibration({"elbow": Calibration(min=0, max=100)})


def test_a_calibrated_camera_has_a_model() -> None:
    camera = CameraConfig(source="0")
    assert camera.model() is None
    model = CameraConfig(source="0", intrinsics=[600.0, 600.0, 320.0, 240.0], pose=np.eye(4).tolist()).model()
    assert model is not None and model.intrinsics.fx == 600.0 and model.T_base_camera.shape == (4, 4)


# ---- the arms


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(RobotError, match="so100, so101, koch"):
        find_arm("ur5")


@pytest.mark.parametrize("name", list(ARMS))
def test_kinematics_of_every_arm(name: str, rng: np.random.Generator) -> None:
    spec = ARMS[name]
    zero = forward(spec, np.zeros(6))
    assert zero[:3, 2] == pytest.approx([1, 0, 0], abs=1e-5)  # the tool points forwards
    assert tool_position(spec, spec.home)[2] > 0.08
    assert np.all((spec.home >= spec.lower) & (spec.home <= spec.upper))
    lowered = tool_position(spec, [0, 0.2, 0, 0, 0, 0])[2], tool_position(spec, [0, 0, 0.2, 0, 0, 0])[2]
    assert max(lowered) < zero[2, 3]
    assert tool_position(spec, [0.3, 0, 0, 0, 0, 0])[1] < -0.03  # clockwise seen from above
    solved = 0
    for q in rng.uniform(spec.lower, spec.upper, (100, 6)):
        wanted = tool_position(spec, q)
        try:
            found = inverse(spec, wanted, tool_pitch(spec, q), q[4], near=q)
        except UnreachableError:  # over the shoulder
            continue
        solved += 1
        assert tool_position(spec, found) == pytest.approx(wanted, abs=1e-5)
    assert solved > 50


def test_sizes_are_the_published_ones(rng: np.random.Generator) -> None:
    q = rng.uniform(KOCH.lower, KOCH.upper, (3000, 6))
    reach = max(np.hypot(*tool_position(KOCH, row)[:2]) for row in q)
    assert reach == pytest.approx(0.32, abs=0.01)
    lift = forward(SO100, np.zeros(6))
    assert lift[0, 3] == pytest.approx(0.397, abs=0.002)
    assert sum(mass.mass_kg for mass in KOCH.masses) == pytest.approx(0.31, abs=0.03)
