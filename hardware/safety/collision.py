"""How near an arm's links are to each other and to the table: capsules from the arm's joint table, plain floats, no physics.

Everything is computed in the arm's own vertical plane, which turns with the pan joint::

    rho   distance in front of the pan axis        lateral   to the side of the plane        z   height over the table

    base o--o   column |   upper arm o----o elbow ----o wrist --o hand ====o fingers      (o--o: a capsule's axis)

Radii are the arm's (``ArmSpec.radii``). Neighbours on the chain are left out: they touch at their joint, and joint limits
keep them apart elsewhere. The other sizes are those of servos and printed parts of hobby arms of this size, a little more
rather than less.

What this does not protect against: what hangs on the arm or in its gripper, cables, other arms, objects on the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.kinematics import link_poses

Float = NDArray[np.float64]
Point = tuple[float, float, float]  # rho, lateral, z in metres
Capsule = tuple[Point, Point, float]  # the ends of its axis, its radius

#: What each number of ``gaps`` is about.
PAIRS: tuple[str, ...] = (
    "forearm and base", "forearm and column", "wrist and base", "wrist and column", "wrist and upper arm",
    "hand and base", "hand and column", "hand and upper arm", "jaw and base", "jaw and column", "jaw and upper arm",
    "wrist and table", "hand and table",
)  # fmt: skip
#: Those of them that are pairs of links.
_LINKS = tuple((first, second) for first, second in (pair.split(" and ") for pair in PAIRS) if second != "table")
#: So many come first in ``PAIRS``; the rest is about the table.
LINK_PAIRS = len(_LINKS)
_BASE_HEIGHT_M = 0.020  # of the base's axis over the table
_THICK_M = 0.020  # half of what wrist and hand measure from top to bottom
_FINGERS_M = 0.030  # the hand's capsule ends this far before the tool point: its round end covers the finger tips
_FIXED_FINGER_M = 0.022  # from the tool point to the fixed finger
_JAW_AT_TOOL = 0.1  # the opening at which the moving jaw's tip passes through the tool point
_PARALLEL = 1e-12  # m4
#: Finger tips may be this much lower than the tool point may: soft tips beside it, on a gripper that is tilted a little.
FINGER_SLACK_M = 0.012


@dataclass(frozen=True)
class _Geometry:
    """Numbers derived once per arm. Vectors of the hand are seen from the wrist axis in the zero pose, before the roll:
    ``along`` is (rho, lateral, z) of the roll axis' origin, ``frame`` the gripper frame's axes as three such vectors.
    """

    pan_x: float
    shoulder: Point
    upper: tuple[float, float]  # length m, elevation in the zero pose rad
    fore: tuple[float, float]
    along: Point
    frame: tuple[Point, Point, Point]
    tool: Point  # in the gripper frame, as all that follow
    palm: Point  # where the hand's capsule ends
    fixed_finger: Point
    pivot: Point  # of the jaw
    jaw: Point  # pivot to tip when the tip is at the tool point
    jaw_side: Point  # the same a quarter turn further
    jaw_zero: float  # the jaw angle at which the tip is at the tool point, rad


@lru_cache(maxsize=8)
def _geometry(spec: ArmSpec) -> _Geometry:
    poses = link_poses(spec, np.zeros(6))
    pan, lift, elbow, wrist, roll = (poses[origin.child] for origin in spec.arm_origins)
    upper, fore = elbow[:3, 3] - lift[:3, 3], wrist[:3, 3] - elbow[:3, 3]
    tool = roll[:3, :3].T @ (poses[spec.tool_origin.child][:3, 3] - roll[:3, 3])
    jaw = np.linalg.inv(roll) @ poses[spec.jaw_origin.child]
    axis = jaw[:3, 2]
    pivot = jaw[:3, 3] + axis * float(axis @ (tool - jaw[:3, 3]))
    side = np.cross(axis, tool - pivot)
    opens = math.copysign(1.0, spec.jaw_range_rad[1] - spec.jaw_range_rad[0]) * side / np.linalg.norm(side)
    plane_y = pan[1, 3]
    return _Geometry(
        pan_x=float(pan[0, 3]), shoulder=(float(lift[0, 3] - pan[0, 3]), 0.0, float(lift[2, 3])),
        upper=(math.hypot(upper[0], upper[2]), math.atan2(upper[2], upper[0])),
        fore=(math.hypot(fore[0], fore[2]), math.atan2(fore[2], fore[0])),
        along=_point(roll[:3, 3] - (wrist[0, 3], plane_y, wrist[2, 3])),
        frame=(_point(roll[:3, 0]), _point(roll[:3, 1]), _point(roll[:3, 2])), tool=_point(tool),
        palm=_point(tool * (1.0 - _FINGERS_M / np.linalg.norm(tool))),
        fixed_finger=_point(tool - _FIXED_FINGER_M * opens),
        pivot=_point(pivot), jaw=_point(tool - pivot), jaw_side=_point(side), jaw_zero=spec.jaw_angle(_JAW_AT_TOOL),
    )  # fmt: skip


def _point(values: Float) -> Point:
    return float(values[0]), float(values[1]), float(values[2])


class _Hand:
    """Where the wrist is and how the gripper is turned: takes points of the gripper frame into the arm's plane."""

    def __init__(self, spec: ArmSpec, q: list[float]) -> None:
        g = self.geometry = _geometry(spec)
        _, lift, elbow, wrist, roll, opening = q
        first = g.upper[1] - lift
        second = g.fore[1] - lift - elbow
        self.elbow = (g.shoulder[0] + g.upper[0] * math.cos(first), 0.0, g.shoulder[2] + g.upper[0] * math.sin(first))
        self.wrist = (
            self.elbow[0] + g.fore[0] * math.cos(second),
            0.0,
            self.elbow[2] + g.fore[0] * math.sin(second),
        )
        down = lift + elbow + wrist
        self._cp, self._sp = math.cos(down), math.sin(down)
        self._cr, self._sr = math.cos(roll), math.sin(roll)
        turn = spec.jaw_angle(opening) - g.jaw_zero
        c, s = math.cos(turn), math.sin(turn)
        (px, py, pz), (jx, jy, jz), (sx, sy, sz) = g.pivot, g.jaw, g.jaw_side
        self.jaw_tip: Point = (px + c * jx + s * sx, py + c * jy + s * sy, pz + c * jz + s * sz)

    def at(self, point: Point) -> Point:
        """A point of the gripper frame, in the arm's plane."""
        cp, sp, cr, sr = self._cp, self._sp, self._cr, self._sr
        x, y, z = cr * point[0] - sr * point[1], sr * point[0] + cr * point[1], point[2]
        (ax, ay, az), (bx, by, bz), (dx, dy, dz) = self.geometry.frame
        along = self.geometry.along
        rho = along[0] + ax * x + bx * y + dx * z
        high = along[2] + az * x + bz * y + dz * z
        lateral = along[1] + ay * x + by * y + dy * z
        return self.wrist[0] + cp * rho + sp * high, lateral, self.wrist[2] + cp * high - sp * rho

    def height(self, point: Point) -> float:
        """Only the height of such a point."""
        return self.at(point)[2]


def capsules(spec: ArmSpec, q: Float) -> dict[str, Capsule]:
    """The arm's capsules in its plane for a joint vector (6,), by name."""
    values = q.tolist()
    hand = _Hand(spec, values)
    g, r = hand.geometry, spec.radii
    length = max(g.pan_x, 0.001)  # an axis, however short
    base_end = (-length * math.cos(values[0]), -length * math.sin(values[0]), _BASE_HEIGHT_M)
    root = hand.at((0.0, 0.0, 0.0))
    return {
        "base": ((0.0, 0.0, _BASE_HEIGHT_M), base_end, r.base),
        "column": ((0.0, 0.0, r.column), g.shoulder, r.column),
        "upper arm": (g.shoulder, hand.elbow, r.upper_arm),
        "forearm": (hand.elbow, hand.wrist, r.forearm),
        "wrist": (hand.wrist, root, r.wrist),
        "hand": (root, hand.at(g.palm), r.hand),
        "jaw": (hand.at(g.pivot), hand.at(hand.jaw_tip), r.jaw),
    }


def gaps(found: Mapping[str, Capsule], enough: float = math.inf) -> list[float]:
    """Free space (m, negative when they overlap) of each of ``PAIRS`` among what ``capsules`` returned.

    Where there is more than ``enough``, a lower bound of it that is itself more than ``enough`` may stand instead.
    """
    root, palm, _ = found["hand"]
    return [
        *(_apart(found[first], found[second], enough) for first, second in _LINKS),
        found["wrist"][0][2] - _THICK_M,
        min(root[2], palm[2]) - _THICK_M,
    ]


def moved(before: Mapping[str, Capsule], after: Mapping[str, Capsule]) -> float:
    """How far (m) the end of a capsule's axis has come, of the one that has come farthest."""
    return max(
        max(math.dist(before[name][0], capsule[0]), math.dist(before[name][1], capsule[1]))
        for name, capsule in after.items()
    )


def gripper_height(spec: ArmSpec, q: Float) -> float:
    """Height (m) of the tool point for a joint vector (6,), or less: of finger tips more than the slack below it."""
    hand = _Hand(spec, q.tolist())
    g = hand.geometry
    fingers = min(hand.height(g.fixed_finger), hand.height(hand.jaw_tip))
    return min(hand.height(g.tool), fingers + FINGER_SLACK_M)


def _apart(a: Capsule, b: Capsule, enough: float) -> float:
    """Distance between the surfaces of two capsules, negative when they overlap."""
    ((p0, p1, p2), (u0, u1, u2), r), ((q0, q1, q2), (v0, v1, v2), s) = a, b
    reach = r + s
    before = (p0 if p0 < u0 else u0) - (q0 if q0 > v0 else v0) - reach
    if before > enough:  # all of one is in front of all of the other
        return before
    u0, u1, u2, v0, v1, v2 = u0 - p0, u1 - p1, u2 - p2, v0 - q0, v1 - q1, v2 - q2
    w0, w1, w2 = p0 - q0, p1 - q1, p2 - q2
    uu, vv = u0 * u0 + u1 * u1 + u2 * u2, v0 * v0 + v1 * v1 + v2 * v2
    middles = math.hypot(w0 + 0.5 * (u0 - v0), w1 + 0.5 * (u1 - v1), w2 + 0.5 * (u2 - v2))
    balls = middles - 0.5 * (math.sqrt(uu) + math.sqrt(vv)) - reach
    if balls > enough:
        return balls
    uv, uw, vw = u0 * v0 + u1 * v1 + u2 * v2, u0 * w0 + u1 * w1 + u2 * w2, v0 * w0 + v1 * w1 + v2 * w2
    # Nearest points at shares t of one axis and k of the other; parallel axes begin anywhere.
    area = uu * vv - uv * uv
    t = _share((uv * vw - vv * uw) / area) if area > _PARALLEL else 0.0
    k = (uv * t + vw) / vv
    if not 0.0 <= k <= 1.0:
        k = _share(k)
        t = _share((uv * k - uw) / uu)
    return math.hypot(w0 + t * u0 - k * v0, w1 + t * u1 - k * v1, w2 + t * u2 - k * v2) - reach


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
