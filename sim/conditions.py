"""What it means that something has been done, as data, and how the world is asked whether it holds.

    start = Start.of(world)                      # before the arm moves
    ...
    holds(world, In("red_cube", "blue_bowl"), start)

Conditions are *privileged*: they look at true poses. They judge a task from outside, for success rates and rewards; no
planner, policy or executor may see them.

Adding a condition: a frozen dataclass and one line in ``CONDITIONS``. Every test goes through ``tolerance``, which also
shapes the rewards of ``sim.envs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardware.errors import SceneError
from sim.scene import CONTAINERS, ObjectSpec
from sim.world import World

Float = NDArray[np.float64]
Direction = Literal["left", "right", "front", "behind"]

#: Directions of the front camera's picture in the base frame (unit vectors x, y): the camera faces the arm.
DIRECTION_XY: dict[Direction, tuple[float, float]] = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "front": (1.0, 0.0),
    "behind": (-1.0, 0.0),
}


def tolerance(value: float, low: float, high: float, margin: float = 0.0) -> float:
    """1 while ``low <= value <= high``; outside it falls linearly to 0 over ``margin`` (at once if 0). NaN gives 0."""
    if low <= value <= high:
        return 1.0
    if margin <= 0.0:
        return 0.0
    gap = low - value if value < low else value - high
    return max(0.0, 1.0 - gap / margin) if gap == gap else 0.0


@dataclass(frozen=True)
class Reached:
    """The tool point stands over an object."""

    object: str


@dataclass(frozen=True)
class Held:
    """The gripper holds an object clear of the table."""

    object: str


@dataclass(frozen=True)
class At:
    """An object rests on the table within ``within_m`` of a spot (x, y)."""

    object: str
    xy: tuple[float, float]
    within_m: float = 0.025


@dataclass(frozen=True)
class In:
    """An object rests in a bowl, tray or plate."""

    object: str
    container: str


@dataclass(frozen=True)
class On:
    """An object rests on another; a container counts as the surface it is."""

    object: str
    support: str


@dataclass(frozen=True)
class Beside:
    """An object rests on the table on one side of another, near it; sides are those of the front picture."""

    object: str
    reference: str
    relation: Direction


@dataclass(frozen=True)
class Pushed:
    """An object has been slid some way in a direction of the front picture and rests on the table."""

    object: str
    direction: Direction
    distance_m: float = 0.08


@dataclass(frozen=True)
class Opened:
    """A drawer is open."""

    drawer: str


@dataclass(frozen=True)
class Closed:
    """A drawer is shut."""

    drawer: str


@dataclass(frozen=True)
class Pressed:
    """A button has been pressed since the start."""

    button: str


@dataclass(frozen=True)
class All:
    """All of several conditions."""

    parts: tuple[Condition, ...]


Condition = Reached | Held | At | In | On | Beside | Pushed | Opened | Closed | Pressed | All


@dataclass(frozen=True)
class Start:
    """Where everything was before the arm moved."""

    foot: dict[str, tuple[float, float, float]]

    @classmethod
    def of(cls, world: World) -> Start:
        """A snapshot of the world now."""
        feet = {spec.name: world.object_foot(spec.name) for spec in world.scene.objects}
        return cls({name: (float(p[0]), float(p[1]), float(p[2])) for name, p in feet.items()})


def _spec(world: World, name: str) -> ObjectSpec:
    return world.scene.find(name)


def _resting(world: World, name: str) -> float:
    return 0.0 if world.held(name) else tolerance(world.object_speed(name), 0.0, 0.05)


def _on_table(world: World, name: str) -> float:
    return min(tolerance(float(world.object_foot(name)[2]), -0.004, 0.006, 0.05), _resting(world, name))


def _reached(world: World, c: Reached, start: Start) -> float:
    drawer = _spec(world, c.object).kind == "drawer"  # whose handle is meant
    foot, tool = world.object_foot(c.object), world.tool_pose()[:3, 3]
    foot = np.array([*world.handle_position(c.object)[:2], foot[2]]) if drawer else foot
    apart = math.hypot(tool[0] - foot[0], tool[1] - foot[1])
    return min(tolerance(apart, 0.0, 0.02, 0.3), tolerance(tool[2] - foot[2], 0.03, 0.09, 0.2))


def _held(world: World, c: Held, start: Start) -> float:
    lifted = tolerance(float(world.object_foot(c.object)[2]) - start.foot[c.object][2], 0.04, math.inf, 0.04)
    return lifted if world.held(c.object) else 0.0


def _at(world: World, c: At, start: Start) -> float:
    foot = world.object_foot(c.object)
    return min(tolerance(math.dist(foot[:2], c.xy), 0.0, c.within_m, 0.3), _on_table(world, c.object))


def _in(world: World, c: In, start: Start) -> float:
    container = _spec(world, c.container)
    if container.kind not in CONTAINERS:
        raise SceneError(f"{c.container!r} is a {container.kind}; things can be put in: {', '.join(CONTAINERS)}")
    foot, rim = world.object_foot(c.object), world.object_foot(c.container)
    radius = 0.5 * container.size_m
    # A tray is square: what lies in its corner is further from the middle than its side.
    apart = math.dist(foot[:2], rim[:2]) / (math.sqrt(2.0) if container.kind == "tray" else 1.0)
    low = tolerance(float(foot[2] - rim[2]), -0.002, max(container.height_m, 0.012), 0.05)
    upright = 1.0 if world.object_upright(c.container) else 0.0
    return min(tolerance(apart, 0.0, radius - 0.004, 0.3), low, upright, _resting(world, c.object))


def _on(world: World, c: On, start: Start) -> float:
    support = _spec(world, c.support)
    if support.kind in CONTAINERS:
        return _in(world, In(c.object, c.support), start)
    if support.kind not in ("cube", "cylinder"):
        raise SceneError(
            f"nothing can be put on {c.support!r}, a {support.kind}; choose a cube, a cylinder or a container"
        )
    foot, under = world.object_foot(c.object), world.object_position(c.support)
    top = float(under[2]) + 0.5 * support.height_m
    return min(
        tolerance(math.dist(foot[:2], under[:2]), 0.0, 0.6 * support.size_m, 0.3),
        tolerance(float(foot[2]) - top, -0.004, 0.006, 0.05),
        _resting(world, c.object),
    )


def _beside(world: World, c: Beside, start: Start) -> float:
    dx, dy = DIRECTION_XY[c.relation]
    foot, other = world.object_foot(c.object), world.object_foot(c.reference)
    x, y = float(foot[0] - other[0]), float(foot[1] - other[1])
    along, across = x * dx + y * dy, abs(x * dy - y * dx)
    edge = 0.5 * _spec(world, c.reference).size_m
    return min(
        tolerance(along, edge, edge + 0.10, 0.3),
        tolerance(across, 0.0, max(0.9 * along, 0.02), 0.3),  # a little inside the 45 degree line to the next side
        _on_table(world, c.object),
    )


def _pushed(world: World, c: Pushed, start: Start) -> float:
    dx, dy = DIRECTION_XY[c.direction]
    foot, before = world.object_foot(c.object), start.foot[c.object]
    x, y = float(foot[0]) - before[0], float(foot[1]) - before[1]
    along, across = x * dx + y * dy, abs(x * dy - y * dx)
    return min(
        tolerance(along, 0.5 * c.distance_m, 1.75 * c.distance_m, c.distance_m),
        tolerance(across, 0.0, 0.5 * c.distance_m, c.distance_m),
        _on_table(world, c.object),
    )


def _opened(world: World, c: Opened, start: Start) -> float:
    return tolerance(world.drawer_opening(c.drawer), 0.75, math.inf, 0.75)


def _closed(world: World, c: Closed, start: Start) -> float:
    return tolerance(world.drawer_opening(c.drawer), -math.inf, 0.12, 0.88)


def _was_pressed(world: World, c: Pressed, start: Start) -> float:
    return 1.0 if world.button_was_pressed(c.button) else 0.0


def _all(world: World, c: All, start: Start) -> float:
    return min((score(world, part, start) for part in c.parts), default=1.0)


#: Each condition and the function that scores it 0..1 on a world.
CONDITIONS: dict[type, Callable[[World, Any, Start], float]] = {
    Reached: _reached,
    Held: _held,
    At: _at,
    In: _in,
    On: _on,
    Beside: _beside,
    Pushed: _pushed,
    Opened: _opened,
    Closed: _closed,
    Pressed: _was_pressed,
    All: _all,
}


def score(world: World, condition: Condition, start: Start) -> float:
    """How far a condition is fulfilled, 0..1; 1 exactly when it holds. Raises ``SceneError`` on unknown names."""
    return CONDITIONS[type(condition)](world, condition, start)


def holds(world: World, condition: Condition, start: Start) -> bool:
    """Whether a condition holds in the world now."""
    return score(world, condition, start) >= 1.0
