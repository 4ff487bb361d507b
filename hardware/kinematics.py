"""Forward and inverse kinematics of a pan / three parallel axes / roll arm, exact and in closed form.

Frames and angles::

    tool frame   origin between the finger tips (URDF ``gripper_frame_link``); z points out of the gripper (approach),
                 x is the direction in which the jaw opens and closes
    pitch        angle of the approach direction away from straight down, measured outwards in the arm's vertical plane:
                 0 = pointing down, pi/2 = horizontal and away from the arm, negative = pointing back under the arm
    roll         the wrist_roll joint angle itself, so ``inverse(..., roll_rad=r)[4] == r``
    jaw yaw      heading of the line along which the jaw closes, about the base z axis; a line, so modulo pi

A five-joint arm cannot choose a heading of its own: position, pitch and roll are all that can be asked for. ``inverse``
reaches forwards only (the tool in front of the pan axis, never over the shoulder), although joint limits allow a little
more.

What this does not protect against: collisions of the arm with itself, its base, the table or objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec, JointOrigin
from hardware.errors import UnreachableError

Float = NDArray[np.float64]
# A rigid transform as 12 numbers, three rows of four: plain floats are several times faster than 4x4 arrays here.
Rows = tuple[float, float, float, float, float, float, float, float, float, float, float, float]

#: How far a joint may lie outside its limit because of rounding before a solution is thrown away.
_LIMIT_SLACK_RAD = 1e-9
#: A stretched arm counts as reaching this much further: the published table rounds pi to six digits, so its axes are
#: parallel, and the closed form exact, only to a few micrometres.
_STRETCH_SLACK_M = 1e-5
_DOWN = 0.5 * math.pi  # lift + elbow + wrist flex when the tool points straight down (zero pose points outwards)


def _origin_rows(origin: JointOrigin) -> Rows:
    r, p, y = origin.rpy
    cr, sr, cp, sp, cy, sy = math.cos(r), math.sin(r), math.cos(p), math.sin(p), math.cos(y), math.sin(y)
    ox, oy, oz = origin.xyz
    return (
        cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, ox,
        sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, oy,
        -sp, cp * sr, cp * cr, oz,
    )  # fmt: skip


def _times(a: Rows, b: Rows) -> Rows:
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = b
    return (
        a0 * b0 + a1 * b4 + a2 * b8, a0 * b1 + a1 * b5 + a2 * b9,
        a0 * b2 + a1 * b6 + a2 * b10, a0 * b3 + a1 * b7 + a2 * b11 + a3,
        a4 * b0 + a5 * b4 + a6 * b8, a4 * b1 + a5 * b5 + a6 * b9,
        a4 * b2 + a5 * b6 + a6 * b10, a4 * b3 + a5 * b7 + a6 * b11 + a7,
        a8 * b0 + a9 * b4 + a10 * b8, a8 * b1 + a9 * b5 + a10 * b9,
        a8 * b2 + a9 * b6 + a10 * b10, a8 * b3 + a9 * b7 + a10 * b11 + a11,
    )  # fmt: skip


def _turned(m: Rows, angle: float) -> Rows:
    """``m`` followed by a turn about its own z axis."""
    m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11 = m
    c, s = math.cos(angle), math.sin(angle)
    return (
        m0 * c + m1 * s, m1 * c - m0 * s, m2, m3,
        m4 * c + m5 * s, m5 * c - m4 * s, m6, m7,
        m8 * c + m9 * s, m9 * c - m8 * s, m10, m11,
    )  # fmt: skip


def _matrix(m: Rows) -> Float:
    pose = np.empty((4, 4))
    pose[:3] = np.reshape(m, (3, 4))
    pose[3] = (0.0, 0.0, 0.0, 1.0)
    return pose


@dataclass(frozen=True)
class _Chain:
    """Numbers derived once per spec: the link transforms, and the planar geometry behind the closed-form inverse.

    In the arm's vertical plane, rho is the distance from the pan axis and z the height. Seen from the wrist-flex axis
    in the zero pose, the tool lies at ``mid + cos(roll) * even + sin(roll) * odd``, each (rho, lateral, z).
    """

    arm: tuple[Rows, ...]
    jaw: Rows
    tool: Rows
    pan_x: float
    pan_y: float
    shoulder: tuple[float, float]  # rho, z of the lift axis
    upper: float  # link lengths, m
    fore: float
    upper_zero: float  # their elevation angles in the zero pose, rad
    fore_zero: float
    mid: tuple[float, float, float]
    even: tuple[float, float, float]
    odd: tuple[float, float, float]
    jaw_yaw_zero: float  # jaw yaw at pan 0, roll 0, pointing straight down
    lower: tuple[float, ...]
    limit: tuple[float, ...]
    joints: tuple[str, ...]


def _walk(arm: Sequence[Rows], q: Sequence[float]) -> list[Rows]:
    poses: list[Rows] = []
    for origin, angle in zip(arm, q, strict=False):
        poses.append(_turned(_times(poses[-1], origin) if poses else origin, angle))
    return poses


@lru_cache(maxsize=8)
def _chain(spec: ArmSpec) -> _Chain:
    arm = tuple(_origin_rows(o) for o in spec.arm_origins)
    tool = _origin_rows(spec.tool_origin)
    zero = _walk(arm, (0.0,) * 5)
    pan, lift, elbow, wrist = (np.array([m[3], m[7], m[11]]) for m in zero[:4])

    def from_wrist(roll: float) -> Float:
        m = _times(_turned(_times(zero[3], arm[4]), roll), tool)
        return np.array([m[3] - wrist[0], m[7] - pan[1], m[11] - wrist[2]])

    # The tool goes round a circle as the wrist rolls; three points of it give centre and axes.
    at_zero, at_half, at_quarter = from_wrist(0.0), from_wrist(math.pi), from_wrist(_DOWN)
    mid, even = 0.5 * (at_zero + at_half), 0.5 * (at_zero - at_half)
    odd = at_quarter - mid
    down = _times(_walk(arm, (0.0, 0.0, 0.0, _DOWN, 0.0))[4], tool)
    upper, fore = elbow - lift, wrist - elbow
    return _Chain(
        arm=arm, jaw=_origin_rows(spec.jaw_origin), tool=tool,
        pan_x=float(pan[0]), pan_y=float(pan[1]), shoulder=(float(lift[0] - pan[0]), float(lift[2])),
        upper=math.hypot(upper[0], upper[2]), fore=math.hypot(fore[0], fore[2]),
        upper_zero=math.atan2(upper[2], upper[0]), fore_zero=math.atan2(fore[2], fore[0]),
        mid=(float(mid[0]), float(mid[1]), float(mid[2])), even=(float(even[0]), float(even[1]), float(even[2])),
        odd=(float(odd[0]), float(odd[1]), float(odd[2])), jaw_yaw_zero=math.atan2(down[4], down[0]),
        lower=tuple(float(v) for v in spec.lower[:5]), limit=tuple(float(v) for v in spec.upper[:5]),
        joints=spec.joints,
    )  # fmt: skip


def _floats(q: Float | Sequence[float]) -> list[float]:
    return q.tolist() if isinstance(q, np.ndarray) else [float(v) for v in q]


def _tool_rows(chain: _Chain, q: Sequence[float]) -> Rows:
    a = chain.arm
    m = _turned(a[0], q[0])
    m = _turned(_times(m, a[1]), q[1])
    m = _turned(_times(m, a[2]), q[2])
    m = _turned(_times(m, a[3]), q[3])
    return _times(_turned(_times(m, a[4]), q[4]), chain.tool)


def forward(spec: ArmSpec, q: Float | Sequence[float]) -> Float:
    """Pose (4, 4) of the tool frame in the base frame for joint angles (5,) or a joint vector (6,)."""
    return _matrix(_tool_rows(_chain(spec), _floats(q)))


def tool_position(spec: ArmSpec, q: Float | Sequence[float]) -> tuple[float, float, float]:
    """Only the tool's position (m), as plain floats; the quick way for control loops."""
    m = _tool_rows(_chain(spec), _floats(q))
    return m[3], m[7], m[11]


def tool_pitch(spec: ArmSpec, q: Float | Sequence[float]) -> float:
    """Pitch (rad) as defined at the top of this module."""
    q = _floats(q)
    return _DOWN - (q[1] + q[2] + q[3])


def forward_batch(spec: ArmSpec, q: Float) -> Float:
    """Tool poses (..., 4, 4) for joint vectors (..., 5) or (..., 6)."""
    chain, q = _chain(spec), np.asarray(q, float)
    pose = np.broadcast_to(np.eye(4), (*q.shape[:-1], 4, 4))
    for i, origin in enumerate(chain.arm):
        turn = np.zeros((*q.shape[:-1], 4, 4))
        c, s = np.cos(q[..., i]), np.sin(q[..., i])
        turn[..., 0, 0], turn[..., 0, 1], turn[..., 1, 0], turn[..., 1, 1] = c, -s, s, c
        turn[..., 2, 2] = turn[..., 3, 3] = 1.0
        pose = pose @ _matrix(origin) @ turn
    return pose @ _matrix(chain.tool)


def link_poses(spec: ArmSpec, q: Float | Sequence[float]) -> dict[str, Float]:
    """Poses (4, 4) of every link frame in the base frame, by URDF link name; the jaw's only for a (6,) joint vector."""
    chain, values = _chain(spec), _floats(q)
    rows = _walk(chain.arm, values)
    poses = {spec.arm_origins[0].parent: np.eye(4)}
    poses |= {origin.child: _matrix(m) for origin, m in zip(spec.arm_origins, rows, strict=True)}
    poses[spec.tool_origin.child] = _matrix(_times(rows[4], chain.tool))
    if len(values) > 5:
        jaw = _turned(_times(rows[4], chain.jaw), spec.jaw_angle(values[5]))
        poses[spec.jaw_origin.child] = _matrix(jaw)
    return poses


def _wrapped(angle: float) -> float:
    return math.remainder(angle, math.tau)


def _solve(chain: _Chain, x: float, y: float, z: float, pitch: float, roll: float) -> list[tuple[float, ...]] | str:
    """Elbow-up and elbow-down solutions without regard to limits, or why there are none."""
    if not math.isfinite(x + y + z + pitch + roll):
        return "that is not a finite pose"
    c, s = math.cos(roll), math.sin(roll)
    mid, even, odd = chain.mid, chain.even, chain.odd
    along, lateral, high = (mid[i] + c * even[i] + s * odd[i] for i in range(3))
    dx, dy = x - chain.pan_x, y - chain.pan_y
    square = dx * dx + dy * dy - lateral * lateral
    if square <= 0.0:
        return "it lies on the pan axis"
    rho = math.sqrt(square)
    # In the shoulder's frame the pan axis points down: a positive pan turns the arm clockwise seen from above.
    pan = _wrapped(math.atan2(lateral, rho) - math.atan2(dy, dx))
    phi = _DOWN - pitch  # = lift + elbow + wrist flex; positive turns the tool downwards
    cp, sp = math.cos(phi), math.sin(phi)
    u = rho - (cp * along + sp * high) - chain.shoulder[0]
    v = z - (cp * high - sp * along) - chain.shoulder[1]
    upper, fore = chain.upper, chain.fore
    distance2 = u * u + v * v
    cosine = (distance2 - upper * upper - fore * fore) / (2.0 * upper * fore)
    if abs(cosine) > 1.0:
        wrist_m = math.sqrt(distance2)
        if abs(wrist_m - upper - fore) > _STRETCH_SLACK_M:
            side = "beyond the arm's reach" if cosine > 1.0 else "too close to the shoulder"
            return f"it is {side} (shoulder to wrist {wrist_m:.3f} m, links {upper:.3f} + {fore:.3f} m)"
        cosine = 1.0
    bend = math.acos(cosine)
    heading = math.atan2(v, u)
    inner = math.atan2(fore * math.sin(bend), upper + fore * cosine)
    solutions: list[tuple[float, ...]] = []
    for sign in (1.0, -1.0):  # elbow up first
        elevation = heading + sign * inner
        lift = _wrapped(chain.upper_zero - elevation)
        elbow = _wrapped(sign * bend - (chain.upper_zero - chain.fore_zero))
        solutions.append((pan, lift, elbow, _wrapped(phi - lift - elbow), roll))
    return solutions


def _excess(chain: _Chain, q: tuple[float, ...]) -> tuple[float, int]:
    """By how much the worst joint is outside its limits (rad; <= 0 is inside), and which joint that is."""
    worst, which = -math.inf, 0
    for i in range(5):
        over = max(q[i] - chain.limit[i], chain.lower[i] - q[i])
        if over > worst:
            worst, which = over, i
    return worst, which


def _inverse(
    chain: _Chain, x: float, y: float, z: float, pitch: float, roll: float, near: Sequence[float] | None
) -> tuple[float, ...] | str:
    found = _solve(chain, x, y, z, pitch, roll)
    if isinstance(found, str):
        return found
    allowed, blame = [], (math.inf, 0)
    for q in found:
        over, which = _excess(chain, q)
        if over <= _LIMIT_SLACK_RAD:
            allowed.append(q)
        else:
            blame = min(blame, (over, which))
    if not allowed:
        return f"{chain.joints[blame[1]]} would be {blame[0]:.2f} rad past its limit"
    best = allowed[0]
    if near is not None and len(allowed) > 1:
        best = min(allowed, key=lambda q: max(abs(a - b) for a, b in zip(q, near, strict=False)))
    return tuple(min(max(v, low), high) for v, low, high in zip(best, chain.lower, chain.limit, strict=True))


def inverse(
    spec: ArmSpec,
    position: Float | Sequence[float],
    pitch_rad: float = 0.0,
    roll_rad: float = 0.0,
    *,
    near: Float | Sequence[float] | None = None,
) -> Float:
    """Joint angles (5,) that put the tool at ``position`` (3,) m with the pitch and roll asked for.

    Of two solutions the elbow-up one is taken, or with ``near`` (5,) or (6,) the one closest to that pose. Raises
    ``UnreachableError``, saying what stands in the way, if there is none inside the joint limits.
    """
    x, y, z = _floats(position)
    found = _inverse(_chain(spec), x, y, z, float(pitch_rad), float(roll_rad), None if near is None else _floats(near))
    if isinstance(found, str):
        raise UnreachableError(
            f"the {spec.name} arm cannot put its tool at ({x:.3f}, {y:.3f}, {z:.3f}) m with pitch {pitch_rad:.2f} and "
            f"roll {roll_rad:.2f} rad: {found}. Choose a point nearer to the middle of the workspace, or let the pitch "
            "be chosen with inverse_any_pitch."
        )
    return np.array(found)


def inverse_any_pitch(
    spec: ArmSpec,
    position: Float | Sequence[float],
    roll_rad: float = 0.0,
    *,
    near: Float | Sequence[float] | None = None,
    tilt_limits_rad: tuple[float, float] = (-0.6, 1.6),
    tilt_step_rad: float = 0.02,
) -> tuple[Float, float]:
    """As ``inverse``, straight down if possible, else tilted as little as needed; returns angles (5,) and the pitch.

    Tilts are tried in steps of ``tilt_step_rad``, outwards before inwards: with coarse steps neighbouring targets get
    visibly different pitches and the arm jerks. Raises ``UnreachableError`` if no tilt within the limits helps.
    """
    x, y, z = _floats(position)
    chain, hint, roll = _chain(spec), None if near is None else _floats(near), float(roll_rad)
    inwards, outwards = tilt_limits_rad
    first = ""
    for k in range(math.floor(max(outwards, -inwards) / tilt_step_rad + 1e-9) + 1):
        for pitch in (k * tilt_step_rad, -k * tilt_step_rad)[: 2 if k else 1]:
            if inwards - 1e-9 <= pitch <= outwards + 1e-9:
                found = _inverse(chain, x, y, z, pitch, roll, hint)
                if not isinstance(found, str):
                    return np.array(found), pitch
                first = first or found
    raise UnreachableError(
        f"the {spec.name} arm cannot reach ({x:.3f}, {y:.3f}, {z:.3f}) m with roll {roll:.2f} rad at any pitch from "
        f"{inwards:.2f} to {outwards:.2f} rad; pointing straight down, {first or 'the range holds no such pitch'}. "
        "Choose a point nearer to the middle of the workspace."
    )


def jaw_yaw(spec: ArmSpec, pan_rad: float, roll_rad: float) -> float:
    """Heading (rad, in [0, pi)) of the line along which the jaw closes while the tool points straight down."""
    return (_chain(spec).jaw_yaw_zero - pan_rad + roll_rad) % math.pi


def roll_for_jaw_yaw(spec: ArmSpec, pan_rad: float, yaw_rad: float, *, near_rad: float | None = None) -> float:
    """The wrist roll (rad, within limits) that closes the jaw along ``yaw_rad`` at a given pan, pointing straight down.

    The jaw's line repeats every half turn. Without ``near_rad`` the choice is the roll in [0, pi) if the joint reaches
    it, so that common grasps never sit on the seam where two neighbouring yaws get rolls half a turn apart; with it,
    the roll closest to that angle.
    """
    chain = _chain(spec)
    base = (yaw_rad - chain.jaw_yaw_zero + pan_rad) % math.pi
    options = [r for r in (base, base - math.pi) if chain.lower[4] <= r <= chain.limit[4]]
    return options[0] if near_rad is None else min(options, key=lambda r: abs(r - near_rad))


def inverse_with_jaw_yaw(
    spec: ArmSpec, position: Float | Sequence[float], yaw_rad: float, *, near: Float | Sequence[float] | None = None
) -> Float:
    """Joint angles (5,) for a straight-down grasp at ``position`` (3,) whose jaw closes along ``yaw_rad``.

    Pan and roll depend on each other through the tool's 8 mm offset from the roll axis; a few rounds settle it below
    1e-9 rad. ``near`` also decides between the two rolls half a turn apart. Raises ``UnreachableError``.
    """
    chain = _chain(spec)
    x, y, z = _floats(position)
    hint = None if near is None else _floats(near)[4]
    pan = -math.atan2(y - chain.pan_y, x - chain.pan_x)
    roll = hint = roll_for_jaw_yaw(spec, pan, yaw_rad, near_rad=hint)
    for _ in range(8):
        found = _solve(chain, x, y, z, 0.0, roll)
        if isinstance(found, str):
            break
        pan, before = found[0][0], roll
        roll = roll_for_jaw_yaw(spec, pan, yaw_rad, near_rad=hint)
        if abs(roll - before) < 1e-10:
            break
    return inverse(spec, (x, y, z), 0.0, roll, near=near)
