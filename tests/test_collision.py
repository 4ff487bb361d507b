"""The capsules against PyBullet's boxes: what the one calls free, the other must not call a collision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pybullet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.arm_spec import SO101, ArmSpec
from hardware.arms import ARMS
from hardware.kinematics import link_poses, tool_position
from hardware.safety import Limits
from hardware.safety.collision import FINGER_SLACK_M, PAIRS, _apart, capsules, gaps, gripper_height, moved
from hardware.safety.shorten import links_apart
from sim.world import World

LINKS = {
    "base": "base_link", "column": "shoulder_link", "upper arm": "upper_arm_link", "forearm": "lower_arm_link",
    "wrist": "wrist_link", "hand": "gripper_link", "jaw": "moving_jaw_so101_v1_link",
}  # fmt: skip
SELF = [pair for pair in PAIRS if not pair.endswith("table")]
MARGIN = Limits.profile(SO101).link_margin_m
Distance = Callable[[np.ndarray, str], float]


@pytest.fixture(scope="module")
def distance() -> Iterator[Distance]:
    """Metres between the boxes of two links, or of a link and the table; negative when they overlap."""
    world = World()
    client, arm = world.client, world.arm_id
    numbers = {client.getJointInfo(arm, j)[12].decode(): j for j in range(client.getNumJoints(arm))} | {"base_link": -1}

    def measure(q: np.ndarray, pair: str) -> float:
        world.reset_arm(q)
        first, second = pair.split(" and ")
        other, link = (world._table, -1) if second == "table" else (arm, numbers[LINKS[second]])
        found = pybullet.getClosestPoints(
            arm, other, 0.8, linkIndexA=numbers[LINKS[first]], linkIndexB=link, physicsClientId=client._client
        )
        return min(point[8] for point in found)

    yield measure
    world.close()


def _gap(q: np.ndarray) -> dict[str, float]:
    return dict(zip(PAIRS, gaps(capsules(SO101, q)), strict=True))


def _base_frame(spec: ArmSpec, q: np.ndarray, point: tuple[float, float, float]) -> np.ndarray:
    c, s = math.cos(q[0]), math.sin(q[0])
    pan_x = spec.arm_origins[0].xyz[0]
    return np.array([pan_x + c * point[0] + s * point[1], c * point[1] - s * point[0], point[2]])


@pytest.mark.parametrize("spec", ARMS.values(), ids=ARMS)
def test_axes_end_where_the_joints_are(spec: ArmSpec, rng: np.random.Generator) -> None:
    for _ in range(50):
        q = rng.uniform(spec.lower, spec.upper)
        found, poses = capsules(spec, q), link_poses(spec, q)
        wrist, hand = poses[spec.arm_origins[3].child], poses[spec.arm_origins[4].child]
        assert _base_frame(spec, q, found["hand"][0]) == pytest.approx(hand[:3, 3], abs=1e-5)
        # Joint frames lie beside the arm's plane, so only the distance to their axis is zero.
        ahead = _base_frame(spec, q, found["wrist"][0]) - wrist[:3, 3]
        assert np.linalg.norm(np.cross(ahead, wrist[:3, 2])) < 1e-5
        for name, link in (("upper arm", 1), ("forearm", 2)):
            frame = poses[spec.arm_origins[link].child]
            off = _base_frame(spec, q, found[name][0]) - frame[:3, 3]
            assert np.linalg.norm(np.cross(off, frame[:3, 2])) < 1e-5
        assert found["upper arm"][1] == found["forearm"][0] and found["forearm"][1] == found["wrist"][0]
        assert found["column"][1] == found["upper arm"][0] and found["wrist"][1] == found["hand"][0]
        tool = np.array(tool_position(spec, q))
        assert 0.02 < np.linalg.norm(_base_frame(spec, q, found["hand"][1]) - tool) < 0.04
        if abs(q[0]) > 0.01:
            base = _base_frame(spec, q, found["base"][1])
            assert base == pytest.approx([min(0.0, spec.arm_origins[0].xyz[0] - 0.001), 0.0, 0.02], abs=1e-6)


@pytest.mark.parametrize("spec", ARMS.values(), ids=ARMS)
def test_the_jaw_closes_on_the_tool_point(spec: ArmSpec) -> None:
    q = np.append(np.zeros(5), 0.1)
    tool = tool_position(spec, q)
    assert _base_frame(spec, q, capsules(spec, q)["jaw"][1]) == pytest.approx(tool, abs=1e-5)
    away = [
        math.dist(tool, _base_frame(spec, q, capsules(spec, np.append(q[:5], o))["jaw"][1])) for o in (0.1, 0.5, 1.0)
    ]
    assert away[0] < away[1] < away[2] and away[2] > 0.05


@pytest.mark.parametrize("spec", ARMS.values(), ids=ARMS)
def test_hand_and_jaw_are_rigid(spec: ArmSpec, rng: np.random.Generator) -> None:
    """The ends of a capsule's axis stay where they are in the frame of the link that they stand for."""
    seen = []
    for _ in range(20):
        q = rng.uniform(spec.lower, spec.upper)
        found, poses = capsules(spec, q), link_poses(spec, q)
        palm, pivot, tip = (_base_frame(spec, q, point) for point in (found["hand"][1], *found["jaw"][:2]))
        assert math.dist(palm, tool_position(spec, q)) == pytest.approx(0.03, abs=2e-5)
        hand, jaw = (np.linalg.inv(poses[origin.child]) for origin in (spec.arm_origins[4], spec.jaw_origin))
        ends = ((hand, palm), (hand, pivot), (jaw, pivot), (jaw, tip))
        seen.append([frame[:3, :3] @ point + frame[:3, 3] for frame, point in ends])
    assert np.ptp(seen, axis=0).max() < 5e-5
    assert np.abs(np.mean(seen, axis=0)[2, :2]).max() < 2e-5  # the pivot lies on the jaw's axis


def test_the_fixed_finger_is_where_the_jaw_does_not_open() -> None:
    """On an arm whose jaw opens the other way, it is the other one that is lower."""
    mirrored = replace(SO101, jaw_range_rad=(0.174533, -1.74533))

    def drop(spec: ArmSpec, roll: float) -> float:
        q = np.array([0.0, 0.0, 0.0, 0.0, roll, 0.1])  # stretched out, the jaw's tip at the tool point
        return tool_position(spec, q)[2] - gripper_height(spec, q)

    assert drop(SO101, -0.8) > 0.001 > abs(drop(mirrored, -0.8)) + 0.0009


def test_the_sizes_are_these(rng: np.random.Generator) -> None:
    """Whoever changes a size changes it here too, knowingly, after a look at what PyBullet says below."""
    for _ in range(10):
        q = rng.uniform(SO101.lower, SO101.upper)
        found = capsules(SO101, q)
        assert {name: capsule[2] for name, capsule in found.items()} == {
            "base": 0.050, "column": 0.032, "upper arm": 0.024, "forearm": 0.022, "wrist": 0.024, "hand": 0.036,
            "jaw": 0.022,
        }  # fmt: skip
        assert found["column"][0] == (0.0, 0.0, 0.032)  # its round end stands on the table
        free = _gap(q)
        assert free["wrist and table"] == pytest.approx(found["wrist"][0][2] - 0.02)
        assert free["hand and table"] == pytest.approx(min(end[2] for end in found["hand"][:2]) - 0.02)
    assert FINGER_SLACK_M == 0.012


def test_what_is_free_by_the_margin_is_free_for_pybullet(distance: Distance, rng: np.random.Generator) -> None:
    near = 0
    for _ in range(300):
        q = rng.uniform(SO101.lower, SO101.upper)
        found = _gap(q)
        for pair in SELF:
            if found[pair] > 0.1:
                continue
            true = distance(q, pair)
            assert true > 0.0 or found[pair] < MARGIN, (pair, q.tolist())
            if true > 0.0:
                assert found[pair] - true < MARGIN, (pair, q.tolist())
                # Capsules are thicker than boxes in places, but not so thick that nothing can be reached. Where the
                # column stands in the base, either may be the nearer one.
                link, other = pair.split(" and ")
                others = ("base", "column") if other in ("base", "column") else (other,)
                assert min(distance(q, f"{link} and {each}") for each in others) - found[pair] < 0.075, (
                    pair,
                    q.tolist(),
                )
                near += 1
    assert near > 300


def test_what_keeps_its_distance_from_the_table_is_free_for_pybullet(
    distance: Distance, rng: np.random.Generator
) -> None:
    """The wrist entirely; corners of hand and jaw, which are rubber or rounded, may be 2 cm lower than the tool point."""
    near = 0
    for _ in range(3000):
        q = rng.uniform(SO101.lower, SO101.upper)
        found = _gap(q)
        if (
            min(found["wrist and table"], found["hand and table"]) < MARGIN
            or not 0.002 < gripper_height(SO101, q) < 0.04
        ):
            continue
        near += 1
        assert distance(q, "wrist and table") > 0.01, q.tolist()
        assert -0.02 < distance(q, "hand and table") < found["hand and table"] + 0.015, q.tolist()
        assert distance(q, "jaw and table") > -0.02, q.tolist()
    assert near > 100


#: Poses in which PyBullet's boxes overlap: random ones of two digits.
BAD = [
    ([0.8, 1.2, 0.8, 1.0, 1.8, 0.3], "hand and base"), ([-0.6, 0.9, 1.5, 0.1, -2.7, 0.1], "wrist and base"),
    ([-0.6, 0.9, 1.5, 0.1, -2.7, 0.1], "jaw and base"), ([-1.0, 1.2, 1.69, -0.9, -1.3, 0.2], "forearm and column"),
    ([-0.8, 1.3, 1.3, 1.5, -2.0, 0.1], "wrist and column"), ([-0.7, 1.5, 1.1, 0.8, -1.7, 0.7], "forearm and base"),
    ([-0.6, 0.4, 1.4, 1.3, -2.0, 0.6], "hand and column"), ([-0.8, 1.3, 1.3, 1.5, -2.0, 0.1], "jaw and column"),
    ([0.6, -1.2, 1.2, 1.6, -0.9, 0.1], "hand and upper arm"), ([0.8, 0.1, 1.2, 1.6, 2.5, 0.1], "hand and upper arm"),
]  # fmt: skip


@pytest.mark.parametrize(("q", "pair"), BAD, ids=[pair for _, pair in BAD])
def test_known_bad_poses_are_seen(distance: Distance, q: list[float], pair: str) -> None:
    pose = np.array(q)
    assert distance(pose, pair) < 0.0
    assert _gap(pose)[pair] < 0.0


def test_random_segments_that_end_in_a_collision_are_cut(distance: Distance, rng: np.random.Generator) -> None:
    """From free poses towards any others: where the safety core ends, PyBullet finds no overlap of links."""
    bounds, cut = replace(Limits.profile(SO101, "sim"), tip_speed_m_s=100.0), 0
    for _ in range(700):
        free, goal = (rng.uniform(SO101.lower, SO101.upper) for _ in range(2))
        if min(gaps(capsules(SO101, free))) < 0.03:
            continue
        goal = free + 0.3 * (goal - free)
        end = links_apart(free, goal, bounds, 0.05)
        if end is not goal:
            cut += 1
            assert all(distance(end, pair) > 0.0 for pair in SELF), (free.tolist(), goal.tolist())
    assert cut > 10


def test_good_poses_are_free() -> None:
    for spec in ARMS.values():
        assert min(gaps(capsules(spec, spec.home))) > Limits.profile(spec, "sim").link_margin_m, spec.name
        assert min(gaps(capsules(spec, spec.clip(np.zeros(6))))) > 0.03, spec.name


def test_enough_gives_bounds_that_are_enough(rng: np.random.Generator) -> None:
    exact_seen = bound_seen = 0
    for _ in range(300):
        found = capsules(SO101, rng.uniform(SO101.lower, SO101.upper))
        for exact, quick in zip(gaps(found), gaps(found, 0.03), strict=True):
            assert quick == exact or 0.03 < quick <= exact + 1e-12
            exact_seen, bound_seen = exact_seen + (quick == exact), bound_seen + (quick != exact)
    assert exact_seen > 300 and bound_seen > 300


def test_moved_is_the_largest_displacement() -> None:
    a = capsules(SO101, np.zeros(6))
    assert moved(a, a) == 0.0
    turned = capsules(SO101, np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0]))
    reach = max(math.dist(a["upper arm"][0], end) for name in ("hand", "jaw") for end in a[name][:2])
    assert moved(a, turned) == pytest.approx(2 * math.sin(0.05) * reach, rel=0.02)
    panned = capsules(SO101, np.array([0.3, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert moved(a, panned) == pytest.approx(2 * math.sin(0.15) * SO101.arm_origins[0].xyz[0], rel=1e-6)
    opened = capsules(SO101, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5]))
    assert moved(a, opened) == pytest.approx(math.dist(a["jaw"][1], opened["jaw"][1]))


def test_the_gripper_is_as_low_as_its_tool_or_its_finger_tips(rng: np.random.Generator) -> None:
    tilted = 0
    for _ in range(300):
        q = rng.uniform(SO101.lower, SO101.upper)
        height, tool = gripper_height(SO101, q), tool_position(SO101, q)[2]
        jaw = _base_frame(SO101, q, capsules(SO101, q)["jaw"][1])[2]
        assert height <= tool + 1e-5 and height <= jaw + FINGER_SLACK_M + 1e-9
        tilted += height < min(tool, jaw + FINGER_SLACK_M) - 1e-5  # the fixed finger is the lowest
        assert height > min(tool, jaw + FINGER_SLACK_M) - 0.0221
    assert 20 < tilted < 280
    down = np.array([0.0, -0.2, 0.6, 1.17, 0.0, 0.1])
    assert gripper_height(SO101, down) == pytest.approx(tool_position(SO101, down)[2], abs=1e-5)


POINT = st.tuples(*[st.floats(-0.3, 0.3)] * 3)


@given(POINT, POINT, POINT, POINT, st.floats(0.0, 0.05), st.floats(0.0, 0.05))
def test_the_distance_of_two_capsules(p: tuple, p2: tuple, q: tuple, q2: tuple, r: float, s: float) -> None:  # type: ignore[type-arg]
    """Against a dense search over both axes, which can only find more."""
    if math.dist(p, p2) < 0.02 or math.dist(q, q2) < 0.02:
        return
    shares = np.linspace(0.0, 1.0, 41)
    one = np.array(p) + shares[:, None] * (np.array(p2) - np.array(p))
    two = np.array(q) + shares[:, None] * (np.array(q2) - np.array(q))
    dense = float(np.linalg.norm(one[:, None] - two[None], axis=2).min()) - r - s
    coarse = (math.dist(p, p2) + math.dist(q, q2)) / 80
    found = _apart((p, p2, r), (q, q2, s), math.inf)
    assert dense - coarse - 1e-9 <= found <= dense + 1e-9
    assert found == pytest.approx(_apart((q, q2, s), (p, p2, r), math.inf), abs=1e-7)


@given(POINT, POINT, POINT, POINT, st.floats(0.0, 0.05), st.floats(-0.1, 0.3))
def test_a_bound_is_no_more_than_the_distance(
    p: tuple, p2: tuple, q: tuple, q2: tuple, r: float, enough: float
) -> None:  # type: ignore[type-arg]
    if math.dist(p, p2) < 0.001 or math.dist(q, q2) < 0.001:
        return
    exact, quick = (_apart((p, p2, r), (q, q2, 0.02), least) for least in (math.inf, enough))
    assert quick == exact or enough < quick <= exact + 1e-9


def test_bounds_are_as_good_as_they_can_be() -> None:
    ahead, behind = ((0.5, 0.0, 0.0), (0.4, 0.1, 0.0), 0.01), ((0.0, 0.0, 0.0), (0.1, 0.0, 0.2), 0.02)
    assert _apart(ahead, behind, 0.1) == pytest.approx(0.4 - 0.1 - 0.03)
    middles = math.dist((0.45, 0.05, 0.0), (0.05, 0.0, 0.1))
    lengths = math.dist(*ahead[:2]) + math.dist(*behind[:2])
    assert _apart(behind, ahead, 0.1) == pytest.approx(middles - 0.5 * lengths - 0.03)


def test_parallel_axes() -> None:
    a = ((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), 0.01)
    assert _apart(a, ((0.0, 0.05, 0.0), (0.1, 0.05, 0.0), 0.02), math.inf) == pytest.approx(0.02)
    assert _apart(a, ((0.3, 0.0, 0.0), (0.15, 0.0, 0.0), 0.02), math.inf) == pytest.approx(0.02)
    assert _apart(a, ((-0.3, 0.0, 0.03), (-0.2, 0.0, 0.03), 0.02), math.inf) == pytest.approx(
        math.hypot(0.2, 0.03) - 0.03
    )
