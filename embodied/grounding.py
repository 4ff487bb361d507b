"""From a plan's points in the picture to goals in metres, and whether the arm can get there at all.

A point marks a foot on the table, so its ray is cut with the table plane. A height needs no depth camera: the foot says
where an object stands, and the ray through its ``top`` passes the vertical line over that spot at the object's height.

Points belong to the picture they were seen in. When an earlier step has moved an object, ``Ledger`` knows where to, and
a later call that names the same object at the same spot of the picture is sent there instead.

What this does not protect against: a point on the wrong object, and obstacles between the gripper and its target.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embodied.plan import Close, Direction, Home, Open, Pick, Place, Plan, Point, Press, Push, Reach, SkillCall
from hardware.arm_spec import SO101, ArmSpec
from hardware.camera_model import CameraModel
from hardware.errors import PlanError, UnreachableError
from hardware.kinematics import inverse_any_pitch
from policies.goal import Goal
from policies.skills import Skill
from sim.scene import ASPECT, CONTAINERS, KINDS, SIZES_M, Kind

Float = NDArray[np.float64]

#: How far a push slides an object; shortened near the edge of the reach, but never below the second number (m).
PUSH_M, SHORTEST_PUSH_M = 0.08, 0.05
#: Gap (m) between a reference object's edge and the centre of what is put beside it.
BESIDE_M = 0.045
#: Travel of a drawer (m); its handle moves towards the arm when it opens.
DRAWER_TRAVEL_M = 0.05
#: Height (m) of the tool over the surface at the lowest moment of a skill: what must be reachable.
TOOL_HEIGHT_M: dict[Skill, float] = {
    "reach": 0.06, "pick": 0.015, "place": 0.02, "bowl": 0.06, "stack": 0.02, "push": 0.015, "open": 0.03,
    "close": 0.03, "press": 0.03,
}  # fmt: skip
#: The tool may lean so far inwards and outwards from straight down; further out it would push rather than grasp.
TILTS_RAD = (-0.3, 0.3)
#: Two calls mean the same object when they name it alike and their points are closer than this (m on the table).
SAME_SPOT_M = 0.02
#: Heights (m) that a foot-and-top pair may give; outside, the top was misplaced and the kind's usual height is used.
HEIGHTS_M = (0.008, 0.09)
#: How far from the centre of a container the second and further objects are let go (m).
SPREAD_M = 0.02
#: The same beside what an earlier plan has let go, perhaps in the very centre (m); and in how many directions to look.
BESIDE_FORMER_M, _DIRECTIONS = 0.026, 12


@dataclass(frozen=True)
class GroundedCall:
    """A call with its goal; ``goal`` is None for ``home``. ``spots``: places on the table worth drawing, by name."""

    call: SkillCall
    goal: Goal | None
    spots: dict[str, Float] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """An object that a step has moved: where its point was in the picture (m on the table) and where it is now (3,)."""

    name: str
    seen_at: Float  # (2,)
    now: Float  # (3,) foot
    height_m: float


@dataclass(frozen=True)
class Ledger:
    """What the steps so far have changed. Immutable: planning ahead and doing use the same code."""

    moved: tuple[Moved, ...] = ()
    held: Moved | None = None
    dropped_in: tuple[tuple[float, float], ...] = ()  # centres of the containers that have received something
    former: tuple[tuple[float, float], ...] = ()  # where earlier plans have let things go over containers

    def find(self, name: str, seen_at: Float) -> Moved | None:
        """The entry for the object called ``name`` at ``seen_at`` (2,) m, if a step has moved it."""
        for entry in reversed(self.moved):
            if entry.name == name and float(np.linalg.norm(entry.seen_at - seen_at[:2])) < SAME_SPOT_M:
                return entry
        return None

    def with_moved(self, entry: Moved) -> Ledger:
        """After ``entry.name`` has come to rest at ``entry.now``."""
        kept = tuple(m for m in self.moved if m.name != entry.name or not np.array_equal(m.seen_at, entry.seen_at))
        return replace(self, moved=(*kept, entry))


def kind_of(name: str) -> Kind | None:
    """The kind that an object's name in a plan ends with (``red cube`` -> ``cube``), if it is one we know."""
    word = name.rsplit(" ", 1)[-1].lower()
    return next((kind for kind in KINDS if kind == word), None)


def usual_size(name: str) -> tuple[float, float]:
    """Width and height (m) to expect of an object of that name; of a small cube when the kind is unknown."""
    kind = kind_of(name) or "cube"
    width = SIZES_M[kind][1]
    return width, width * ASPECT[kind]


def on_table(model: CameraModel, point: Point, z: float = 0.0) -> Float:
    """The spot (3,) in metres under a normalised picture point. Raises ``PlanError`` above the horizon."""
    size = (model.intrinsics.width, model.intrinsics.height)
    spot = model.on_plane(np.asarray(point, float) * size, z)
    if not np.all(np.isfinite(spot)):
        raise PlanError(
            f"the point ({point[0]:.2f}, {point[1]:.2f}) of the plan is above the horizon, not on the table"
        )
    return spot


def in_picture(model: CameraModel, spot: Float) -> tuple[float, float]:
    """Normalised picture coordinates of a spot (3,) in metres: the inverse of ``on_table``; may lie outside 0..1."""
    u, v = model.project(spot)
    return float(u / model.intrinsics.width), float(v / model.intrinsics.height)


def height_at(model: CameraModel, foot: Float, top: Point) -> float:
    """Height (m) at which the ray through ``top`` comes closest to the vertical line over ``foot`` (3,)."""
    origin, direction = model.ray(np.asarray(top, float) * (model.intrinsics.width, model.intrinsics.height))
    # Least squares for foot + h * up = origin + t * direction.
    basis = np.stack([np.array([0.0, 0.0, 1.0]), -direction], axis=1)
    (height, _), *_ = np.linalg.lstsq(basis, origin - foot, rcond=None)
    return float(height)


def picture_direction(model: CameraModel, direction: Direction) -> Float:
    """Unit vector (2,) on the table of a direction of the picture; front is towards the viewer."""
    right = model.T_base_camera[:2, 0]
    right = right / np.linalg.norm(right)
    # Away from the viewer is the horizontal direction at a right angle to "right"; a camera never stands on its head.
    behind = np.array([-right[1], right[0]])
    return {"left": -right, "right": right, "front": -behind, "behind": behind}[direction]


def reachable(spec: ArmSpec, spot: Float, tool_height_m: float) -> bool:
    """Whether the tool can be put over ``spot`` (3,), steeply enough to work."""
    try:
        inverse_any_pitch(spec, (spot[0], spot[1], spot[2] + tool_height_m), tilt_limits_rad=TILTS_RAD)
    except UnreachableError:
        return False
    return True


class Grounder:
    """Grounds the calls of one plan against one picture's camera."""

    def __init__(self, model: CameraModel, spec: ArmSpec = SO101) -> None:
        self.model = model
        self.spec = spec

    def check(self, plan: Plan, ledger: Ledger = Ledger()) -> list[GroundedCall]:
        """Ground the whole plan before anything moves, as if every step succeeded.

        Raises ``UnreachableError`` for what the arm cannot reach and ``PlanError`` for what makes no sense, such as
        placing with an empty hand; both in one sentence for the user.
        """
        grounded = []
        loads = self.loads(plan)
        for call in plan.calls:
            step = self.ground(call, ledger, loads)
            grounded.append(step)
            ledger = self.after(step, ledger)
        return grounded

    def loads(self, plan: Plan) -> Counter[tuple[float, float]]:
        """How many objects the plan puts into each container, by the container's rounded spot."""
        count: Counter[tuple[float, float]] = Counter()
        for call in plan.calls:
            if isinstance(call, Place) and _into(call):
                count[_key(on_table(self.model, call.point))] += 1
        return count

    def ground(
        self, call: SkillCall, ledger: Ledger, loads: Counter[tuple[float, float]] | None = None
    ) -> GroundedCall:
        """The goal of one call, given what earlier steps have changed. Raises as ``check``."""
        match call:
            case Home():
                return GroundedCall(call, None)
            case Pick() | Reach() | Press() | Open() | Close():
                if isinstance(call, Pick) and ledger.held is not None:
                    raise PlanError(
                        f"the plan picks up the {call.object} while the gripper still holds the {ledger.held.name}"
                    )
                if isinstance(call, Pick) and (kind := kind_of(call.object)) not in (None, "cube", "cylinder", "ball"):
                    raise PlanError(f"a {kind} is too large to be picked up; cubes, cylinders and balls can be")
                spot = self.foot(call.object, call.point, ledger)
                return self._done(call, call.skill, spot, spot, {call.object: spot})
            case Push():
                return self._push(call, ledger)
            case Place():
                return self._place(call, ledger, loads or Counter())
            case _:
                raise PlanError(f"a plan with steps cannot contain {call.skill!r}; it can only stand alone")

    def foot(self, name: str, point: Point, ledger: Ledger) -> Float:
        """Where the foot (3,) of the object called ``name`` is now."""
        seen_at = on_table(self.model, point)
        entry = ledger.find(name, seen_at)
        return seen_at if entry is None else entry.now.copy()

    def seen_at(self, goal: Goal) -> Float:
        """Where on the table (2,) the foot of what was put there seems to be: behind it when it stands on something."""
        return on_table(self.model, in_picture(self.model, goal.to))[:2]

    def after(self, step: GroundedCall, ledger: Ledger) -> Ledger:
        """What has changed once ``step`` has been carried out."""
        call, goal = step.call, step.goal
        if goal is None or isinstance(call, Home):
            return ledger
        match call:
            case Pick():
                seen_at = on_table(self.model, call.point)
                _, height = usual_size(call.object)
                entry = ledger.find(call.object, seen_at)
                held = Moved(call.object, seen_at[:2] if entry is None else entry.seen_at, goal.point, height)
                return replace(ledger, held=held)
            case Place():
                into: tuple[tuple[float, float], ...] = ()
                if goal.skill == "bowl":
                    into = (_key(self.foot(call.object, call.point, ledger)),)
                if ledger.held is None:
                    raise PlanError("nothing was held that could have been put down")
                moved = replace(ledger.held, now=goal.to)
                return replace(ledger.with_moved(moved), held=None, dropped_in=(*ledger.dropped_in, *into))
            case Push() | Open() | Close():
                seen_at = on_table(self.model, call.point)
                _, height = usual_size(call.object)
                now = goal.to
                if not isinstance(call, Push):
                    pan = np.array(self.spec.arm_origins[0].xyz[:2])
                    outward = goal.point[:2] - pan
                    outward /= max(float(np.linalg.norm(outward)), 1e-6)
                    sign = -1.0 if isinstance(call, Open) else 1.0
                    now = goal.point + np.array([*(sign * DRAWER_TRAVEL_M * outward), 0.0])
                entry = ledger.find(call.object, seen_at)
                return ledger.with_moved(
                    Moved(call.object, seen_at[:2] if entry is None else entry.seen_at, now, height)
                )
            case _:
                return ledger

    def _push(self, call: Push, ledger: Ledger) -> GroundedCall:
        spot = self.foot(call.object, call.point, ledger)
        heading = picture_direction(self.model, call.direction)
        self._insist("push", spot, call.object)
        distance = PUSH_M
        while distance >= SHORTEST_PUSH_M:
            to = spot + np.array([*(distance * heading), 0.0])
            if reachable(self.spec, to, TOOL_HEIGHT_M["push"]):
                return self._done(call, "push", spot, to, {call.object: spot, "to": to})
            distance -= 0.005
        raise UnreachableError(
            f"the {call.object} cannot be pushed to the {call.direction}: the arm does not reach further that way"
        )

    def _place(self, call: Place, ledger: Ledger, loads: Counter[tuple[float, float]]) -> GroundedCall:
        foot = self.foot(call.object, call.point, ledger)
        if ledger.held is None:
            raise PlanError(
                f"the plan puts something {call.relation} the {call.object} while the gripper holds nothing"
            )
        held = f"the {ledger.held.name}"
        if kind_of(call.object) == "drawer" and call.relation in ("in", "on"):
            raise PlanError("putting things into a drawer is not something this arm can do yet")
        if _into(call):
            spot = foot + self._share(foot, ledger, loads)
            self._insist("bowl", spot, call.object)
            return self._done(call, "bowl", foot, spot, {call.object: spot})
        if call.relation == "in" or call.relation == "on":  # spelt out: mypy narrows Literals this way
            height = self._height(call, ledger)
            spot = foot + np.array([0.0, 0.0, height])
            self._insist("stack", spot, call.object)
            return self._done(call, "stack", spot, spot, {call.object: spot})
        beside = self._beside(call.object, call.relation, foot, ledger)
        if beside is None:
            raise UnreachableError(
                f"{held} cannot be put {call.where} the {call.object}: no free spot there is in reach"
            )
        return self._done(call, "place", beside, beside, {call.object: foot, "to": beside})

    def _beside(self, name: str, direction: Direction, foot: Float, ledger: Ledger) -> Float | None:
        """The first spot beside the reference that is in reach: straight first, then aslant, then further away."""
        width, _ = usual_size(name)
        heading = picture_direction(self.model, direction)
        across = np.array([-heading[1], heading[0]])
        taken = [entry.now for entry in ledger.moved if entry.name != name]
        for further in (0.0, 0.01, -0.008, 0.02):
            for aslant in (0.0, 0.015, -0.015, 0.03, -0.03):
                offset = (0.5 * width + BESIDE_M + further) * heading + aslant * across
                spot = np.array([*(foot[:2] + offset), 0.0])
                free = all(float(np.linalg.norm(spot[:2] - other[:2])) > 0.04 for other in taken)
                if free and reachable(self.spec, spot, TOOL_HEIGHT_M["place"]):
                    return spot
        return None

    def _share(self, foot: Float, ledger: Ledger, loads: Counter[tuple[float, float]]) -> Float:
        """Offset (3,) from a container's centre, so that several objects do not land on one another."""
        if any(math.dist(spot, foot[:2]) < 2 * BESIDE_FORMER_M for spot in ledger.former):
            return self._beside_former(foot, (*ledger.former, *(_key(entry.now) for entry in ledger.moved)))
        # A planner points at the same tray twice a few millimetres apart: what is near is the same container.
        total = sum(n for key, n in loads.items() if math.dist(key, foot[:2]) < SAME_SPOT_M)
        if total < 2:
            return np.zeros(3)
        before = sum(math.dist(key, foot[:2]) < SAME_SPOT_M for key in ledger.dropped_in)
        angle = 2.0 * math.pi * before / total + 0.5 * math.pi
        return SPREAD_M * np.array([math.cos(angle), math.sin(angle), 0.0])

    @staticmethod
    def _beside_former(foot: Float, taken: Sequence[tuple[float, float]]) -> Float:
        """Offset (3,) from a container's centre, furthest from what has been put down already."""
        angles = np.arange(_DIRECTIONS) * (2.0 * math.pi / _DIRECTIONS)
        offsets = BESIDE_FORMER_M * np.stack([np.cos(angles), np.sin(angles), np.zeros(_DIRECTIONS)], axis=1)
        room = [min(math.dist(foot[:2] + offset[:2], spot) for spot in taken) for offset in offsets]
        return np.asarray(offsets[int(np.argmax(room))])

    def _height(self, call: Place, ledger: Ledger) -> float:
        """Height (m) of the object that something is stacked on."""
        seen_at = on_table(self.model, call.point)
        _, usual = usual_size(call.object)
        if call.top is None:
            return usual
        height = height_at(self.model, seen_at, call.top)
        return height if HEIGHTS_M[0] <= height <= HEIGHTS_M[1] else usual

    def _done(self, call: SkillCall, skill: Skill, point: Float, to: Float, spots: dict[str, Float]) -> GroundedCall:
        self._insist(skill, point, getattr(call, "object", ""))
        return GroundedCall(call, Goal(skill, point, to), spots)

    def _insist(self, skill: Skill, spot: Float, name: str) -> None:
        if reachable(self.spec, spot, TOOL_HEIGHT_M[skill]):
            return
        pan = self.spec.arm_origins[0].xyz
        away = math.hypot(spot[0] - pan[0], spot[1] - pan[1])
        raise UnreachableError(
            f"the {name} is out of reach: it is {100 * away:.0f} cm from the arm's axis, and the arm works between "
            "about 7 and 30 cm; move it closer or choose another object"
        )


def _into(call: Place) -> bool:
    return call.relation in ("in", "on") and kind_of(call.object) in CONTAINERS


def _key(spot: Float | Sequence[float]) -> tuple[float, float]:
    return round(float(spot[0]), 3), round(float(spot[1]), 3)
