"""Forward kinematics against PyBullet, inverse kinematics against forward kinematics, over thousands of poses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hardware import kinematics
from hardware.arm_spec import SO101, JointOrigin
from hardware.errors import UnreachableError

PAN_X = SO101.arm_origins[0].xyz[0]


def _urdf_of_the_spec() -> str:
    """The arm as bare frames: each link a small ball of mass, no shapes. Independent of the simulator's own model."""
    inertia = '<inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" iyz="0"/>'
    inertial = f'<inertial><mass value="0.1"/><origin xyz="0 0 0"/>{inertia}</inertial>'
    parts = [f'<link name="{SO101.arm_origins[0].parent}">{inertial}</link>']

    def add(origin: JointOrigin, kind: str) -> None:
        xyz, rpy = (" ".join(repr(v) for v in values) for values in (origin.xyz, origin.rpy))
        parts.append(
            f'<link name="{origin.child}">{inertial}</link><joint name="{origin.name}" type="{kind}">'
            f'<parent link="{origin.parent}"/><child link="{origin.child}"/><origin xyz="{xyz}" rpy="{rpy}"/>'
            '<axis xyz="0 0 1"/><limit lower="-4" upper="4" effort="1" velocity="1"/></joint>'
        )

    for origin in (*SO101.arm_origins, SO101.jaw_origin):
        add(origin, "revolute")
    add(SO101.tool_origin, "fixed")
    return f'<robot name="bare">{"".join(parts)}</robot>'


class BulletArm:
    def __init__(self, folder: Path) -> None:
        import pybullet

        self.bullet, self.client = pybullet, pybullet.connect(pybullet.DIRECT)
        path = folder / "bare.urdf"
        path.write_text(_urdf_of_the_spec())
        self.body = pybullet.loadURDF(str(path), useFixedBase=True, physicsClientId=self.client)
        count = pybullet.getNumJoints(self.body, physicsClientId=self.client)
        infos = [pybullet.getJointInfo(self.body, i, physicsClientId=self.client) for i in range(count)]
        self.joint = {info[1].decode(): i for i, info in enumerate(infos)}
        self.link = {info[12].decode(): i for i, info in enumerate(infos)}

    def pose(self, q: np.ndarray, link: str) -> np.ndarray:
        for name, angle in zip(SO101.joints, [*q[:5], SO101.jaw_angle(q[5])], strict=True):
            self.bullet.resetJointState(self.body, self.joint[name], angle, physicsClientId=self.client)
        state = self.bullet.getLinkState(
            self.body, self.link[link], computeForwardKinematics=1, physicsClientId=self.client
        )
        pose = np.eye(4)
        pose[:3, 3] = state[4]
        pose[:3, :3] = np.reshape(self.bullet.getMatrixFromQuaternion(state[5]), (3, 3))
        return pose


@pytest.fixture(scope="module")
def bullet_arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BulletArm]:
    arm = BulletArm(tmp_path_factory.mktemp("urdf"))
    yield arm
    arm.bullet.disconnect(arm.client)


def _random_q(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(SO101.lower, SO101.upper)


def _random_forward_q(rng: np.random.Generator) -> np.ndarray:
    """A random pose with the tool in front of the pan axis, which is what ``inverse`` reaches."""
    while True:
        q = _random_q(rng)
        x, y, _ = kinematics.tool_position(SO101, q)
        if math.cos(q[0]) * (x - PAN_X) - math.sin(q[0]) * y > 0.002:
            return q


class TestSpec:
    def test_shapes_and_order(self) -> None:
        assert len(SO101.joints) == 6 and SO101.joints[-1] == "gripper"
        assert SO101.lower.shape == SO101.upper.shape == SO101.max_velocity.shape == SO101.home.shape == (6,)
        assert np.all(SO101.lower < SO101.upper)
        assert SO101.lower[5] == 0.0 and SO101.upper[5] == 1.0

    def test_arrays_are_read_only(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            SO101.home[0] = 1.0

    def test_total_mass_is_the_published_one(self) -> None:
        assert sum(link.mass_kg for link in SO101.masses) == pytest.approx(0.632, abs=5e-4)
        assert [link.link for link in SO101.masses] == [
            SO101.arm_origins[0].parent, *(o.child for o in SO101.arm_origins), SO101.jaw_origin.child,
        ]  # fmt: skip

    @given(st.floats(0, 1))
    def test_jaw_angle_and_opening_are_inverse(self, opening: float) -> None:
        assert SO101.jaw_opening(SO101.jaw_angle(opening)) == pytest.approx(opening, abs=1e-12)

    def test_home_is_inside_the_limits_and_clear_of_table_and_camera(self) -> None:
        home = SO101.home
        assert np.all((home > SO101.lower) & (home < SO101.upper)) and home[5] == 0.6
        x, y, z = kinematics.tool_position(SO101, home)
        assert z > 0.15 and abs(y) < 1e-3
        eye = np.array([0.60, 0.0, 0.50])
        for name, pose in kinematics.link_poses(SO101, home).items():
            point = pose[:3, 3]
            if name != "base_link":
                assert point[2] > 0.05, name
                shadow = eye + (point - eye) * eye[2] / (eye[2] - point[2])  # the table point it hides from the camera
                assert shadow[0] < PAN_X + 0.13, name
        assert x < 0.18


class TestForward:
    def test_published_zero_pose(self) -> None:
        pose = kinematics.forward(SO101, np.zeros(6))
        assert pose[:3, 3] == pytest.approx([0.3914, 0.0, 0.2265], abs=1e-4)
        assert pose[:3, 2] == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)

    def test_matches_pybullet_to_a_tenth_of_a_millimetre(self, bullet_arm: BulletArm) -> None:
        rng = np.random.default_rng(1)
        worst_m, worst_turn = 0.0, 0.0
        for _ in range(300):
            q = _random_q(rng)
            gap = kinematics.forward(SO101, q) - bullet_arm.pose(q, "gripper_frame_link")
            worst_m = max(worst_m, float(np.linalg.norm(gap[:3, 3])))
            worst_turn = max(worst_turn, float(np.abs(gap[:3, :3]).max()))
        assert worst_m < 1e-6 and worst_turn < 1e-6

    def test_every_link_matches_pybullet(self, bullet_arm: BulletArm) -> None:
        rng = np.random.default_rng(2)
        for _ in range(10):
            q = _random_q(rng)
            poses = kinematics.link_poses(SO101, q)
            assert len(poses) == 8
            for name, pose in poses.items():
                if name != "base_link":
                    assert pose == pytest.approx(bullet_arm.pose(q, name), abs=1e-6), name

    def test_link_poses_without_gripper_leave_out_the_jaw(self) -> None:
        assert SO101.jaw_origin.child not in kinematics.link_poses(SO101, np.zeros(5))

    def test_batch_and_position_agree_with_single(self) -> None:
        rng = np.random.default_rng(3)
        q = rng.uniform(SO101.lower, SO101.upper, (4, 5, 6))
        batch = kinematics.forward_batch(SO101, q)
        assert batch.shape == (4, 5, 4, 4)
        single = kinematics.forward(SO101, q[2, 3])
        assert batch[2, 3] == pytest.approx(single, abs=1e-12)
        assert kinematics.tool_position(SO101, list(q[2, 3])) == pytest.approx(single[:3, 3], abs=1e-15)

    def test_pitch_is_the_angle_from_straight_down(self) -> None:
        rng = np.random.default_rng(4)
        for _ in range(200):
            q = _random_q(rng)
            approach = kinematics.forward(SO101, q)[:3, 2]
            outwards = approach[0] * math.cos(q[0]) - approach[1] * math.sin(q[0])
            turn = kinematics.tool_pitch(SO101, q) - math.atan2(outwards, -approach[2])
            assert math.remainder(turn, math.tau) == pytest.approx(0.0, abs=5e-5)


class TestInverse:
    def test_round_trip_of_2000_random_reachable_poses(self) -> None:
        rng = np.random.default_rng(5)
        for _ in range(2000):
            q = _random_forward_q(rng)
            wanted = kinematics.forward(SO101, q)
            pitch = kinematics.tool_pitch(SO101, q)
            found = kinematics.inverse(SO101, wanted[:3, 3], pitch, q[4], near=q)
            got = kinematics.forward(SO101, found)
            assert np.linalg.norm(got[:3, 3] - wanted[:3, 3]) < 1e-5
            assert found[4] == q[4]
            assert math.remainder(kinematics.tool_pitch(SO101, found) - pitch, math.tau) == pytest.approx(0, abs=1e-9)
            assert np.all((found >= SO101.lower[:5]) & (found <= SO101.upper[:5]))

    @settings(max_examples=200, deadline=None)
    @given(
        radius=st.floats(0.02, 0.45), azimuth=st.floats(-2.5, 2.5), z=st.floats(-0.1, 0.5),
        pitch=st.floats(-3.2, 3.2), roll=st.floats(-3.2, 3.2),
    )  # fmt: skip
    def test_an_answer_is_right_or_refused(
        self, radius: float, azimuth: float, z: float, pitch: float, roll: float
    ) -> None:
        target = np.array([PAN_X + radius * math.cos(azimuth), radius * math.sin(azimuth), z])
        try:
            q = kinematics.inverse(SO101, target, pitch, roll)
        except UnreachableError:
            return
        assert np.all((q >= SO101.lower[:5]) & (q <= SO101.upper[:5])) and q[4] == roll
        assert np.linalg.norm(kinematics.forward(SO101, q)[:3, 3] - target) < 1e-4

    @settings(max_examples=100, deadline=None)
    @given(radius=st.floats(0.13, 0.26), azimuth=st.floats(-1.05, 1.05), roll=st.floats(-2.7, 2.8))
    def test_the_whole_workspace_is_reached_straight_down(self, radius: float, azimuth: float, roll: float) -> None:
        target = (PAN_X + radius * math.cos(azimuth), radius * math.sin(azimuth), 0.012)
        q = kinematics.inverse(SO101, target, 0.0, roll)
        pose = kinematics.forward(SO101, q)
        assert pose[:3, 3] == pytest.approx(target, abs=1e-5)
        assert pose[2, 2] == pytest.approx(-1.0, abs=1e-6)

    def test_elbow_up_is_preferred_and_near_overrules(self) -> None:
        rng = np.random.default_rng(6)
        both = 0
        for _ in range(500):
            q = _random_forward_q(rng)
            target, pitch = kinematics.tool_position(SO101, q), kinematics.tool_pitch(SO101, q)
            first = kinematics.inverse(SO101, target, pitch, q[4])
            near = kinematics.inverse(SO101, target, pitch, q[4], near=q)
            assert np.abs(near - q[:5]).max() <= np.abs(first - q[:5]).max() + 1e-12
            if np.abs(first - near).max() > 1e-2:
                both += 1
                elbows = [kinematics.link_poses(SO101, s)["lower_arm_link"] for s in (first, near)]
                assert elbows[0][2, 3] >= elbows[1][2, 3] or first[2] > near[2]
        assert both > 5

    @pytest.mark.parametrize(
        ("target", "pitch", "roll", "words"),
        [
            ((0.60, 0.0, 0.02), 0.0, 0.0, "beyond the arm's reach"),
            ((0.08, 0.0, -0.043), 0.0, 0.0, "too close to the shoulder"),
            ((PAN_X, 0.0, 0.02), 0.0, 1.5, "on the pan axis"),
            ((0.20, 0.0, 0.12), 0.0, 0.0, "wrist_flex would be"),
            ((0.20, 0.0, 0.02), 0.0, 3.0, "wrist_roll would be"),
            ((-0.15, 0.05, 0.02), 0.0, 0.0, "shoulder_pan would be"),
            ((math.nan, 0.0, 0.02), 0.0, 0.0, "not a finite pose"),
            ((0.2, 0.0, 0.02), math.inf, 0.0, "not a finite pose"),
        ],
    )
    def test_what_cannot_be_reached_says_why(
        self, target: tuple[float, float, float], pitch: float, roll: float, words: str
    ) -> None:
        with pytest.raises(UnreachableError, match=words) as caught:
            kinematics.inverse(SO101, target, pitch, roll)
        assert "Choose a point" in str(caught.value)

    def test_a_stretched_arm_is_still_solved(self) -> None:
        stretched = np.array([0.3, 0.4, -1.3270131 + 0.0385279 + 1e-7, 0.2, 0.5])
        target = kinematics.tool_position(SO101, stretched)
        q = kinematics.inverse(SO101, target, kinematics.tool_pitch(SO101, stretched), 0.5)
        assert kinematics.tool_position(SO101, q) == pytest.approx(target, abs=5e-5)

    @pytest.mark.slow  # a timing: for a machine that does nothing else
    def test_fast_enough_for_a_control_loop(self) -> None:
        rng = np.random.default_rng(7)
        tasks = [(q, kinematics.tool_position(SO101, q)) for q in (_random_forward_q(rng) for _ in range(300))]
        best_s = math.inf
        for _ in range(5):  # processor time, best of five: the machine may be busy
            began = time.process_time()
            for q, target in tasks:
                kinematics.inverse(SO101, target, _DOWN - q[1] - q[2] - q[3], q[4], near=q)
            best_s = min(best_s, (time.process_time() - began) / len(tasks))
        assert best_s < 100e-6


_DOWN = 0.5 * math.pi


class TestInverseAnyPitch:
    def test_straight_down_where_possible(self) -> None:
        q, pitch = kinematics.inverse_any_pitch(SO101, (0.22, 0.05, 0.02), 0.3)
        assert pitch == 0.0
        assert q == pytest.approx(kinematics.inverse(SO101, (0.22, 0.05, 0.02), 0.0, 0.3))

    @settings(max_examples=60, deadline=None)
    @given(
        radius=st.floats(0.10, 0.38), azimuth=st.floats(-1.0, 1.0), z=st.floats(0.0, 0.20), roll=st.floats(-2.7, 2.8)
    )
    def test_tilts_no_more_than_needed(self, radius: float, azimuth: float, z: float, roll: float) -> None:
        target = (PAN_X + radius * math.cos(azimuth), radius * math.sin(azimuth), z)
        try:
            q, pitch = kinematics.inverse_any_pitch(SO101, target, roll)
        except UnreachableError:
            assume(False)
        assert kinematics.tool_position(SO101, q) == pytest.approx(target, abs=5e-5)
        assert kinematics.tool_pitch(SO101, q) == pytest.approx(pitch, abs=1e-9)
        if abs(pitch) > 0.01:
            for smaller in (abs(pitch) - 0.02, 0.02 - abs(pitch)):
                with pytest.raises(UnreachableError):
                    kinematics.inverse(SO101, target, smaller, roll)

    def test_out_of_reach_at_any_tilt(self) -> None:
        with pytest.raises(UnreachableError, match="at any pitch"):
            kinematics.inverse_any_pitch(SO101, (0.7, 0.0, 0.1))

    def test_tilt_limits_are_kept(self) -> None:
        with pytest.raises(UnreachableError, match=r"from 0\.00 to 0\.10"):
            kinematics.inverse_any_pitch(SO101, (0.22, 0.0, 0.15), tilt_limits_rad=(0.0, 0.1))
        with pytest.raises(UnreachableError, match="no such pitch"):
            kinematics.inverse_any_pitch(SO101, (0.22, 0.0, 0.02), tilt_limits_rad=(1.605, 1.61))


class TestJawYaw:
    @settings(max_examples=100, deadline=None)
    @given(radius=st.floats(0.10, 0.26), azimuth=st.floats(-1.0, 1.0), yaw=st.floats(-4, 4))
    def test_the_jaw_closes_along_the_yaw_asked_for(self, radius: float, azimuth: float, yaw: float) -> None:
        target = (PAN_X + radius * math.cos(azimuth), radius * math.sin(azimuth), 0.015)
        q = kinematics.inverse_with_jaw_yaw(SO101, target, yaw)
        pose = kinematics.forward(SO101, q)
        assert pose[:3, 3] == pytest.approx(target, abs=1e-5)
        closing = math.atan2(pose[1, 0], pose[0, 0])
        assert math.remainder(closing - yaw, math.pi) == pytest.approx(0.0, abs=1e-4)
        assert math.remainder(kinematics.jaw_yaw(SO101, q[0], q[4]) - yaw, math.pi) == pytest.approx(0.0, abs=1e-8)

    def test_roll_wraps_to_the_half_turn_above_zero_or_to_the_near_one(self) -> None:
        roll = kinematics.roll_for_jaw_yaw(SO101, 0.2, 0.4)
        assert 0.0 <= roll < math.pi
        assert kinematics.roll_for_jaw_yaw(SO101, 0.2, 0.4, near_rad=roll - 3.0) == pytest.approx(roll - math.pi)
        assert kinematics.roll_for_jaw_yaw(SO101, 0.2, 0.4 + math.pi) == pytest.approx(roll)

    def test_a_roll_beyond_the_joint_takes_the_other_half_turn(self) -> None:
        for yaw in np.linspace(0.0, math.pi, 200):
            roll = kinematics.roll_for_jaw_yaw(SO101, 0.0, float(yaw))
            assert SO101.lower[4] <= roll <= SO101.upper[4]

    def test_near_decides_the_half_turn(self) -> None:
        near = np.array([0.0, 0.0, 0.0, 0.0, -2.0])
        q = kinematics.inverse_with_jaw_yaw(SO101, (0.2, 0.05, 0.02), 1.0, near=near)
        assert abs(q[4] + 2.0) <= 0.5 * math.pi

    def test_unreachable_says_so(self) -> None:
        with pytest.raises(UnreachableError, match="beyond the arm's reach"):
            kinematics.inverse_with_jaw_yaw(SO101, (0.6, 0.0, 0.02), 0.3)
