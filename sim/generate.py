"""Random scenes: nothing overlaps, everything is in view, and what must be grasped can be.

One scene is drawn from one ``numpy`` generator. Objects are placed by rejection; one that finds no room is left out,
unless its kind was required.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hardware.arm_spec import SO101
from hardware.errors import SceneError
from sim.bodies import WALL_M, DrawerShape
from sim.randomize import random_camera, random_look
from sim.scene import COLORS, CONTAINERS, GRASPABLE, SIZES_M, CameraSpec, Color, Kind, ObjectSpec, Scene

PAN_AXIS = tuple(SO101.pan_axis_xy) if hasattr(SO101, "pan_axis_xy") else (0.0388353, 0.0)
#: Radius from the pan axis (m) and azimuth (rad) in which feet are placed, by kind.
RADIUS_M: dict[Kind, tuple[float, float]] = {
    "cube": (0.130, 0.265),
    "cylinder": (0.130, 0.265),
    "ball": (0.130, 0.265),
    "bowl": (0.150, 0.235),
    "tray": (0.150, 0.235),
    "plate": (0.150, 0.235),
    "drawer": (0.270, 0.300),
    "button": (0.130, 0.240),
}
AZIMUTH_RAD = math.radians(50.0)
DRAWER_AZIMUTH_RAD = math.radians(35.0)  # the cabinet stands behind its handle and would leave the picture
#: Free space (m) between edges: a finger and its tolerance.
GAP_M = 0.025
#: How often a kind is drawn; drawers and buttons at most once a scene.
KIND_WEIGHTS: dict[Kind, float] = {
    "cube": 0.28, "cylinder": 0.13, "ball": 0.15, "bowl": 0.13, "tray": 0.08, "plate": 0.08, "drawer": 0.08, "button": 0.07,
}  # fmt: skip
#: Share of scenes made of two or three colours and kinds, where sorting and comparing make sense.
UNIFORM_SHARE = 0.25
#: Where work may leave things: as far as the arm reaches, up to beside its base (m from the pan axis, rad); they may stand
#: as near to one another (m) as they are put down.
MOVED_RADIUS_M = (0.065, 0.295)
MOVED_AZIMUTH_RAD = math.radians(100.0)
MOVED_GAP_M = 0.006
_TRIES = 60
_ONCE: tuple[Kind, ...] = ("drawer", "button")


def random_scene(
    rng: np.random.Generator,
    *,
    kinds_required: Sequence[Kind] = (),
    n_objects: tuple[int, int] = (2, 7),
    kinds: Sequence[Kind] | None = None,
    colors: Sequence[Color] | None = None,
    vary_look: bool = True,
    vary_camera: bool = False,
    allow_duplicates: bool = True,
) -> Scene:
    """Draw a scene with ``n_objects`` (least, most) objects, the required kinds among them.

    ``kinds`` and ``colors`` restrict what else is drawn; without ``allow_duplicates`` no two objects share a label.
    Raises ``SceneError`` when the required kinds find no room in many attempts.
    """
    for _ in range(50):
        wanted = _wanted(rng, kinds_required, n_objects, kinds)
        palette = list(colors if colors is not None else COLORS)
        if colors is None and kinds is None and rng.random() < UNIFORM_SHARE:
            palette = [palette[i] for i in rng.choice(len(palette), int(rng.integers(2, 4)), replace=False)]
        placed = _place_all(rng, wanted, palette, len(kinds_required), allow_duplicates)
        if placed is not None and len(placed) >= n_objects[0]:
            front = random_camera(rng) if vary_camera else CameraSpec()
            cameras = (front, *(c for c in Scene().cameras if c.mount == "wrist"))
            look = random_look(rng) if vary_look else Scene().look
            order = rng.permutation(len(placed))
            return Scene(cameras=cameras, look=look, objects=tuple(placed[i] for i in order))
    raise SceneError(f"found no room for {', '.join(kinds_required)} on the table; ask for fewer objects")


def arranged(
    scene: Scene, rng: np.random.Generator, *, share: float = 0.5, keep: frozenset[str] = frozenset()
) -> Scene:
    """A scene as it may be after some work: things in containers and on one another, drawers open or shut.

    ``share`` of the graspable objects are moved. They are placed where they would rest; nothing is simulated.
    Objects named in ``keep`` stay as they are and get nothing on top; a container among them may be filled.
    """
    specs = {spec.name: spec for spec in scene.objects}
    moved: set[str] = set()
    taken: set[str] = set()  # supports that something stands on
    for name in rng.permutation([n for n, s in specs.items() if s.kind in GRASPABLE]):
        spec = specs[name]
        if rng.random() > share or name in taken or name in keep:
            continue
        holders = [s for s in specs.values() if s.kind in CONTAINERS]
        supports = [
            s for n, s in specs.items()
            if s.kind in ("cube", "cylinder") and n not in moved | taken | keep | {name} and spec.kind != "ball"
        ]  # fmt: skip
        if supports and (not holders or rng.random() < 0.3):
            holder = supports[int(rng.integers(len(supports)))]
            taken.add(holder.name)
            room, z = 0.15 * holder.size_m, holder.z + holder.height_m
        elif holders:
            holder = holders[int(rng.integers(len(holders)))]
            room, z = (
                max(0.5 * holder.size_m * (0.62 if holder.kind == "bowl" else 0.8) - 0.6 * spec.size_m, 0.0),
                WALL_M,
            )
        else:
            continue
        angle, distance = rng.uniform(0.0, 2.0 * math.pi), room * math.sqrt(rng.random())
        x, y = holder.position[0] + distance * math.cos(angle), holder.position[1] + distance * math.sin(angle)
        inside = [
            specs[n]
            for n in moved
            if math.dist(specs[n].position, (x, y)) < 0.5 * (spec.size_m + specs[n].size_m) + 0.004
        ]
        if inside:
            continue
        specs[name] = spec.model_copy(update={"position": (round(x, 4), round(y, 4)), "z": round(z, 4)})
        moved.add(name)
    for name, spec in specs.items():
        if spec.kind == "drawer" and name not in keep:
            specs[name] = spec.model_copy(update={"opening": float(rng.choice([0.0, 1.0]))})
    return scene.model_copy(update={"objects": tuple(specs[o.name] for o in scene.objects)})


def displaced(scene: Scene, rng: np.random.Generator, *, share: float = 0.5) -> Scene:
    """A scene as it may be after pushing and putting beside: each graspable object moved with probability ``share``.

    They stand on the table anywhere in reach, out of view too, and nearer to one another than ``random_scene`` puts them.
    What finds no room stays where it was.
    """
    specs = list(scene.objects)
    for index, spec in enumerate(specs):
        if spec.kind not in GRASPABLE or rng.random() >= share:
            continue
        others = specs[:index] + specs[index + 1 :]
        for _ in range(_TRIES):
            position, _ = _spot(rng, MOVED_RADIUS_M, MOVED_AZIMUTH_RAD)
            there = spec.model_copy(update={"position": position})
            if all(_apart(there, other, MOVED_GAP_M) for other in others):
                specs[index] = there
                break
    return scene.model_copy(update={"objects": tuple(specs)})


def _wanted(
    rng: np.random.Generator, required: Sequence[Kind], count: tuple[int, int], kinds: Sequence[Kind] | None
) -> list[Kind]:
    pool = list(kinds if kinds is not None else KIND_WEIGHTS)
    if kinds is None and rng.random() < UNIFORM_SHARE:
        pool = [
            *rng.choice(GRASPABLE, int(rng.integers(1, 3)), replace=False),
            *rng.choice(CONTAINERS, 2, replace=False),
        ]
    weights = np.array([KIND_WEIGHTS[k] for k in pool])
    wanted = list(required)
    total = max(int(rng.integers(count[0], count[1] + 1)), len(wanted))
    while len(wanted) < total:
        kind = pool[int(rng.choice(len(pool), p=weights / weights.sum()))]
        if kind in _ONCE and kind in wanted:
            if all(k in _ONCE for k in pool):
                break
            continue
        if kind in CONTAINERS and sum(k in CONTAINERS for k in wanted) >= 3:
            if all(k in CONTAINERS for k in pool):
                break
            kind = GRASPABLE[int(rng.integers(3))] if kinds is None else kind
        wanted.append(kind)
    return wanted


def _place_all(
    rng: np.random.Generator, wanted: list[Kind], palette: list[Color], required: int, allow_duplicates: bool
) -> list[ObjectSpec] | None:
    placed: list[ObjectSpec] = []
    # Large things first: they find no room later. Whether an object was required travels with it.
    order = sorted(range(len(wanted)), key=lambda i: -_reach_of_footprint(wanted[i], SIZES_M[wanted[i]][1]))
    for index in order:
        spec = _place(rng, wanted[index], palette, placed, allow_duplicates)
        if spec is not None:
            placed.append(spec)
        elif index < required:
            return None
    return placed


def _place(
    rng: np.random.Generator, kind: Kind, palette: list[Color], placed: list[ObjectSpec], allow_duplicates: bool
) -> ObjectSpec | None:
    low, _, high = SIZES_M[kind]
    size = round(float(rng.uniform(low, high)), 4)
    for _ in range(_TRIES):
        color = palette[int(rng.integers(len(palette)))]
        if not allow_duplicates and any(o.kind == kind and o.color == color for o in placed):
            continue
        widest = DRAWER_AZIMUTH_RAD if kind == "drawer" else AZIMUTH_RAD
        position, azimuth = _spot(rng, RADIUS_M[kind], widest)
        yaw = (
            math.degrees(azimuth)
            if kind == "drawer"
            else float(rng.uniform(-45, 45))
            if kind in ("cube", "tray")
            else 0.0
        )
        opening = float(rng.choice([0.0, 1.0], p=[0.65, 0.35])) if kind == "drawer" else 0.0
        spec = ObjectSpec(
            kind=kind,
            color=color,
            position=position,
            yaw_deg=round(yaw, 1),
            size_m=size,
            opening=opening,
        )
        if all(_apart(spec, other) for other in placed):
            return spec
    return None


def _spot(
    rng: np.random.Generator, radius_m: tuple[float, float], widest_rad: float
) -> tuple[tuple[float, float], float]:
    """A position (m) in a ring about the pan axis, uniform over its area, and its azimuth (rad)."""
    radius = math.sqrt(rng.uniform(radius_m[0] ** 2, radius_m[1] ** 2))
    azimuth = float(rng.uniform(-widest_rad, widest_rad))
    x, y = PAN_AXIS[0] + radius * math.cos(azimuth), PAN_AXIS[1] + radius * math.sin(azimuth)
    return (round(x, 4), round(y, 4)), azimuth


def _reach_of_footprint(kind: Kind, size: float) -> float:
    """Radius (m) of the circle around a kind's footprint."""
    return size / 2 * (math.sqrt(2) if kind in ("cube", "tray", "button") else 1.0)


def _circles(spec: ObjectSpec) -> list[tuple[float, float, float]]:
    """Circles (x, y, radius) that cover an object and the room it needs: a drawer also where its handle travels."""
    x, y = spec.position
    if spec.kind != "drawer":
        return [(x, y, _reach_of_footprint(spec.kind, spec.size_m))]
    shape = DrawerShape.of(spec.size_m)
    yaw = math.radians(spec.yaw_deg)
    out = [(x, y, 0.62 * spec.size_m)]
    for along, radius in ((shape.handle_x, 0.020), (shape.handle_x - 0.03, 0.024), (shape.handle_x - 0.06, 0.024)):
        out.append((x + along * math.cos(yaw), y + along * math.sin(yaw), radius))
    return out


def _apart(a: ObjectSpec, b: ObjectSpec, gap_m: float = GAP_M) -> bool:
    return all(
        math.hypot(ax - bx, ay - by) > ar + br + gap_m for ax, ay, ar in _circles(a) for bx, by, br in _circles(b)
    )
