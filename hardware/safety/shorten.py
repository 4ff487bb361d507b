"""The stages of the safety core that make a step shorter, and the last check. Joint vectors are (6,).

Each takes what was sent last and a target, and returns a target on the way there: no joint goes beyond it, none turns
the other way. Whatever holds at both ends of a step is checked in between as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.kinematics import tool_position
from hardware.safety.collision import LINK_PAIRS, capsules, gaps, gripper_height, moved
from hardware.safety.limits import Limits, is_joint_vector

Float = NDArray[np.float64]

_JOINT = np.arange(6)
_JAW_TRAVEL_M = 0.2  # the moving jaw's tip travels less than this between closed and open
_UNSURE_M = (
    0.035  # by as much are capsules thicker than an arm where it folds up, measured against its boxes in PyBullet
)
_UNSURE_SPEED = 0.2  # share of a step that is taken there
EDGE_M = 1e-6  # an arm held at the margin is not inside it
_ROUNDING_M = 1e-4  # what the last check forgives the searches before it
_BEND_M = 0.06  # an arm's way differs from a straight line by less than this times the square of its turn in rad
_TURNS = np.array([0.33, 1.0, 1.0, 1.0, 1.0, 1.0])  # what each joint counts in it: pan turns the base, near its axis


def inside(q: Float, lower: Float, upper: Float) -> Float:
    """Clipped joint by joint."""
    return np.minimum(np.maximum(q, lower), upper)


def slowed(sent: Float, target: Float, max_step: Float) -> Float:
    """All five arm joints slowed alike, so that the arm keeps its direction; the gripper on its own."""
    way = target - sent
    way[:5] /= max(1.0, float(np.max(np.abs(way[:5]) / max_step[:5])))
    way[5] = min(max(way[5], -max_step[5]), max_step[5])
    return np.asarray(sent + way)


def above_table(sent: Float, target: Float, limits: Limits) -> Float:
    """Refuse what takes the gripper below the margin (or further below, if it is there already), and nothing else.

    Only joints that lower it are held back, so that the arm slides along the margin instead of sticking to it.
    """
    spec = limits.spec
    way = np.where(_JOINT > 0, target - sent, 0.0)  # the pan axis is vertical
    height = gripper_height(spec, sent)
    floor = min(limits.table_margin_m, height)

    def clear(share: Float | float) -> bool:
        return all(gripper_height(spec, sent + k * share * way) >= floor for k in (1.0, 0.75, 0.5, 0.25))

    travel = _travel_m(spec, way) + _JAW_TRAVEL_M * abs(way[5])
    if height - travel >= floor or clear(1.0):  # most commands are far from the table
        return target
    lowering = np.array([gripper_height(spec, sent + way * (joint == _JOINT)) < height for joint in _JOINT])
    return np.asarray(sent + _held_back(way, lowering, clear) * (target - sent))


def tip_slowed(sent: Float, target: Float, limits: Limits, dt: float) -> Float:
    """The tool's way along the segment, measured in four pieces, is at most the tip speed times dt."""
    allowed, way = limits.tip_speed_m_s * dt, np.where(_JOINT < 5, target - sent, 0.0)

    def length(share: float) -> float:
        points = [tool_position(limits.spec, sent + share * k * way) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return sum(math.dist(a, b) for a, b in itertools.pairwise(points))

    share = 1.0  # shrinks by a thousandth or more in each round, so rounds end; one or two in practice
    while _travel_m(limits.spec, share * way) > allowed and (covered := length(share)) > allowed:
        share *= 0.999 * allowed / covered
    return target if share == 1.0 else np.append((sent + share * way)[:5], target[5])


def links_apart(sent: Float, target: Float, limits: Limits, dt: float) -> Float:
    """Stop before links come nearer to each other or to the table than the margin, and slow down before that.

    An arm may begin with links nearer than that: capsules are thicker than an arm that was put away folded up. It may go
    on slowly, as long as they do not overlap by more than ``_UNSURE_M``; wrist and hand may not come nearer to the table.
    """
    spec, way = limits.spec, target - sent
    before, after = capsules(spec, sent), capsules(spec, target)
    travel = moved(before, after) + bend_m(way)
    far = limits.link_margin_m + limits.slow_zone_m
    ahead = gaps(after, far + travel)
    if min(ahead) >= far + travel:  # most steps are
        return target
    here = gaps(before, far + travel)
    floors = _floors(here, limits, max(0.0, 1.0 - dt / limits.slow_s))
    if min(here[:LINK_PAIRS]) < limits.link_margin_m - EDGE_M:
        way, target = way * _UNSURE_SPEED, sent + way * _UNSURE_SPEED
    # No gap can shrink and grow again within the step by more than the way that is left for it.
    if all(0.5 * (a + b - travel) >= floor for a, b, floor in zip(here, ahead, floors, strict=True)):
        return target

    def too_near(shares: Float | float) -> set[int]:
        found = [gaps(capsules(spec, sent + k * shares * way), far) for k in (1.0, 0.75, 0.5, 0.25)]
        return {pair for some in found for pair, floor in enumerate(floors) if some[pair] < floor}

    bad = too_near(1.0)
    if not bad:
        return target
    alone = [gaps(capsules(spec, sent + way * (joint == _JOINT)), far + travel) for joint in _JOINT]
    nearer = np.array([any(found[pair] < here[pair] for pair in bad) for found in alone])
    return np.asarray(sent + _held_back(way, nearer, lambda shares: not too_near(shares)) * way)


def _floors(here: Sequence[float], limits: Limits, stays: float) -> list[float]:
    """How small each gap may become in a step that leaves the share ``stays`` of what is free of the slow zone."""
    margin, zone = limits.link_margin_m, limits.slow_zone_m
    floors = [min(gap, margin) + stays * min(max(gap - margin, 0.0), zone) for gap in here]
    for pair in range(LINK_PAIRS):
        if here[pair] < margin - EDGE_M:
            floors[pair] = min(here[pair], margin - _UNSURE_M)
    return floors


def bend_m(way: Float) -> float:
    """At most this far (m) is the end of any capsule's axis, half way through a step, from the middle of the step's ends.

    Seen in the arm's own plane, as capsules are: there pan moves nothing but the base, whose axis is 4 to 5 cm long. The
    jaw turns by 2 rad in a whole opening, but is 8 cm long where an arm is 48: an opening counts as one rad of the arm.
    """
    return _BEND_M * float(_TURNS @ np.abs(way)) ** 2


def is_safe(sent: Float, target: Float, limits: Limits, dt: float) -> bool:
    """The last word, independent of the stages above: finite, inside the limits, slow enough, clear of all margins."""
    if not is_joint_vector(target):
        return False
    spec, margin = limits.spec, limits.link_margin_m
    free = gaps(capsules(spec, target), margin)
    floors = [margin] * len(free) if min(free) >= margin else _floors(gaps(capsules(spec, sent)), limits, 0.0)
    return bool(
        np.all(target >= np.minimum(spec.lower, sent))
        and np.all(target <= np.maximum(spec.upper, sent))
        and np.all(np.abs(target - sent) <= limits.velocity * dt + 1e-9)
        and math.dist(tool_position(spec, sent), tool_position(spec, target)) <= limits.tip_speed_m_s * dt + 1e-9
        and gripper_height(spec, target) >= min(limits.table_margin_m, gripper_height(spec, sent)) - _ROUNDING_M
        and all(gap >= floor - _ROUNDING_M for gap, floor in zip(free, floors, strict=True))
    )


def _held_back(way: Float, worse: NDArray[np.bool_], clear: Callable[[Float | float], bool]) -> Float:
    """Shares (6,) of a way that is not clear: joints that make it ``worse`` are held back, or all if that is not enough."""
    shares = np.where(worse, _largest(lambda share: clear(np.where(worse, share, 1.0))), 1.0)
    return shares if clear(shares) else np.where(way != 0.0, _largest(clear), 1.0)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share in [0, 1) that fits, to one part in 256; 0 if none does. Share 1 is known not to fit."""
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _travel_m(spec: ArmSpec, way: Float) -> float:
    """At most this far does the tool travel: it is never further from a joint than the whole arm is long."""
    reach = sum(math.hypot(*origin.xyz) for origin in (*spec.arm_origins[1:], spec.tool_origin))
    return reach * float(np.abs(way[:5]).sum())
