"""The Koch's capsules against boxes around its parts: what the one calls free, the other must not call a collision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pybullet
import pytest

from hardware.arm_spec import SO101
from hardware.arms import ARMS, KOCH
from hardware.kinematics import link_poses
from hardware.safety import Limits, shorten
from hardware.safety.collision import LINK_PAIRS, PAIRS, capsules, gaps

MARGIN = Limits.profile(KOCH).link_margin_m
LINKS = {
    "base": "base_link", "column": "shoulder_link", "upper arm": "upper_arm_link", "forearm": "lower_arm_link",
    "wrist": "wrist_link", "hand": "gripper_link", "jaw": "moving_jaw_link",
}  # fmt: skip
#: Around each printed part and each servo (of the base only the servo), as the meshes of low_cost_robot_arm are: two
#: corners in the base frame, in mm, when all angles are zero, that of the jaw included.
PARTS = {
    "base": [((-35.2, -14.3, 3.0), (11.3, 14.3, 40.9))],
    "column": [((-38.3, -20.0, 39.0), (14.3, 20.0, 49.9)), ((-35.3, -20.0, 42.0), (11.3, 20.9, 70.6))],
    "upper arm": [((-13.0, -22.0, 43.4), (13.0, 22.0, 175.3)), ((-9.7, -14.5, 154.6), (24.3, 14.4, 174.6))],
    "forearm": [((6.4, -17.6, 156.1), (96.5, 17.5, 179.1)), ((90.8, -14.6, 157.3), (124.8, 14.4, 177.3))],
    "wrist": [((106.3, -24.3, 156.3), (134.3, 17.7, 178.3)), ((134.3, -23.2, 157.3), (160.3, 10.8, 177.3))],
    "hand": [((160.3, -19.0, 152.5), (229.1, 18.8, 182.0))],
    "jaw": [((165.2, -4.4, 149.6), (229.1, 16.6, 185.1))],
}  # fmt: skip
Distance = Callable[[np.ndarray, str], float]


@pytest.fixture(scope="module")
def distance() -> Iterator[Distance]:
    """Metres between the boxes of two links; negative when they overlap."""
    client = pybullet.connect(pybullet.DIRECT)
    zero = link_poses(KOCH, np.append(np.zeros(5), KOCH.jaw_opening(0.0)))
    boxes: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, parts in PARTS.items():
        boxes[name] = []
        for corners in parts:
            low, high = np.array(corners) / 1000.0
            shape = pybullet.createCollisionShape(
                pybullet.GEOM_BOX, halfExtents=((high - low) / 2).tolist(), physicsClientId=client
            )
            centre = np.eye(4)
            centre[:3, 3] = (low + high) / 2
            body = pybullet.createMultiBody(1.0, shape, physicsClientId=client)
            boxes[name].append((body, np.linalg.inv(zero[LINKS[name]]) @ centre))

    def measure(q: np.ndarray, pair: str) -> float:
        poses, names = link_poses(KOCH, q), pair.split(" and ")
        for name in names:
            for body, offset in boxes[name]:
                pose = poses[LINKS[name]] @ offset
                pybullet.resetBasePositionAndOrientation(
                    body, pose[:3, 3].tolist(), _quaternion(pose[:3, :3]), physicsClientId=client
                )
        return min(
            point[8]
            for one, _ in boxes[names[0]]
            for other, _ in boxes[names[1]]
            for point in pybullet.getClosestPoints(one, other, 0.8, physicsClientId=client)
        )

    yield measure
    pybullet.disconnect(client)


def _quaternion(turn: np.ndarray) -> list[float]:
    """(x, y, z, w) of a rotation: the eigenvector of its largest eigenvalue in Bar-Itzhack's matrix."""
    (a, b, c), (d, e, f), (g, h, i) = turn
    k = [[a - e - i, b + d, c + g, h - f], [0, e - a - i, f + h, c - g], [0, 0, i - a - e, d - b], [0, 0, 0, a + e + i]]
    upper = np.array(k)
    values, vectors = np.linalg.eigh(upper + np.triu(upper, 1).T)
    return vectors[:, int(values.argmax())].tolist()  # type: ignore[no-any-return]


def _gap(q: np.ndarray) -> dict[str, float]:
    return dict(zip(PAIRS[:LINK_PAIRS], gaps(capsules(KOCH, q)), strict=False))


def test_what_is_free_by_the_margin_is_free_for_boxes(distance: Distance, rng: np.random.Generator) -> None:
    near, overlapping = 0, set[str]()
    for _ in range(250):
        q = rng.uniform(KOCH.lower, KOCH.upper)
        for pair, gap in _gap(q).items():
            if gap > 0.08:
                continue
            true = distance(q, pair)
            if true <= 0.0:
                assert gap < MARGIN, (pair, q.tolist())
                overlapping.add(pair)
            else:
                assert gap - true < MARGIN, (pair, q.tolist())
                assert true - gap < 0.075, (pair, q.tolist())  # not so thick that nothing can be reached
                near += 1
    assert near > 500 and len(overlapping) > 7


def test_the_sizes_are_these() -> None:
    """Whoever changes a size changes it here too, knowingly, after a look at what the boxes say above."""
    found = capsules(KOCH, np.zeros(6))
    assert {name: capsule[2] for name, capsule in found.items()} == {
        "base": 0.050, "column": 0.026, "upper arm": 0.028, "forearm": 0.023, "wrist": 0.024, "hand": 0.035, "jaw": 0.024,
    }  # fmt: skip
    assert found["column"][0] == (0.0, 0.0, 0.026)  # its round end stands on the table
    assert ARMS["so100"].radii is SO101.radii


def test_a_koch_bends_no_more_than_is_allowed_for(rng: np.random.Generator) -> None:
    for _ in range(300):
        q, way = rng.uniform(KOCH.lower, KOCH.upper), rng.uniform(-0.3, 0.3, 6) * rng.integers(0, 2, 6)
        start, middle, end = (capsules(KOCH, q + k * way) for k in (0.0, 0.5, 1.0))
        for name in middle:
            for k in (0, 1):
                between = (np.array(start[name][k]) + np.array(end[name][k])) / 2
                assert np.linalg.norm(between - middle[name][k]) <= shorten.bend_m(way) + 1e-12
