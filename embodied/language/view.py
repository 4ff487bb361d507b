"""What the words can be about: the objects of a scene as they stand in one camera's picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hardware.camera_model import CameraModel
from sim.scene import CONTAINERS, GRASPABLE, Color, Kind, ObjectSpec, Scene, distance_from_pan_axis

#: Kinds that something can be stacked on.
SUPPORTS: tuple[Kind, ...] = ("cube", "cylinder")
#: Distances (m) from the pan axis between which the gripper reaches the table pointing down.
REACH_M = (0.065, 0.295)
#: How far (m) a push slides an object, and the gap beside a reference object that a relation asks for.
PUSH_M = 0.08
BESIDE_M = 0.045
#: The drawer's proportions in ``sim.bodies``, repeated so that the grammar needs no physics engine; a test compares.
_DRAWER_DEPTH_OVER_WIDTH = 0.8
_HANDLE_STANDOFF_M = 0.032
_DRAWER_TRAVEL_M = 0.05
#: Directions of the picture in the base frame: the front camera faces the arm.
DIRECTION_XY: dict[str, tuple[float, float]] = {
    "left": (0.0, -1.0),
    "right": (0.0, 1.0),
    "front": (1.0, 0.0),
    "behind": (-1.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One visible object. ``foot`` and ``top`` are picture coordinates in 0..1, ``xy`` and ``size_m`` metres."""

    name: str
    kind: Kind
    color: Color
    foot: tuple[float, float]
    top: tuple[float, float]
    xy: tuple[float, float]
    size_m: float
    inside: bool  # a graspable that already lies in a container
    covered: bool  # something stands on it

    @property
    def label(self) -> str:
        """Its name in plans: ``red cube``."""
        return f"{self.color} {self.kind}"

    @property
    def movable(self) -> bool:
        """Whether the gripper can take it now."""
        return self.kind in GRASPABLE and not self.covered


@dataclass(frozen=True)
class View:
    """The visible objects, with the groups that referring expressions need."""

    items: tuple[Item, ...]
    _groups: dict[str, tuple[Item, ...]] = field(default_factory=dict, repr=False)

    def matching(self, color: str | None, kind: str | None) -> tuple[Item, ...]:
        """Items of that colour and kind; None matches all."""
        key = f"{color} {kind}"
        if key not in self._groups:
            self._groups[key] = tuple(
                i for i in self.items if (color is None or i.color == color) and (kind is None or i.kind == kind)
            )
        return self._groups[key]

    @cached_property
    def movable(self) -> tuple[Item, ...]:
        """Items that can be picked up, left to right."""
        return tuple(sorted((i for i in self.items if i.movable), key=lambda i: i.foot[0]))

    @cached_property
    def loose(self) -> tuple[Item, ...]:
        """Items that can be picked up and lie in no container yet, left to right."""
        return tuple(i for i in self.movable if not i.inside)

    @cached_property
    def containers(self) -> tuple[Item, ...]:
        """Bowls, trays and plates."""
        return tuple(i for i in self.items if i.kind in CONTAINERS)

    @cached_property
    def supports(self) -> tuple[Item, ...]:
        """Cubes and cylinders with nothing on them that stand on the table."""
        return tuple(i for i in self.items if i.kind in SUPPORTS and not i.covered and not i.inside)

    def is_free(self, xy: tuple[float, float], radius_m: float, ignore: tuple[Item, ...] = ()) -> bool:
        """Whether a spot (m) is in reach and no item but the ignored ones comes closer than ``radius_m``."""
        if not REACH_M[0] <= distance_from_pan_axis(xy) <= REACH_M[1]:
            return False
        return all(item in ignore or math.dist(item.xy, xy) > 0.5 * item.size_m + radius_m for item in self.items)


def beside(reference: Item, direction: str) -> tuple[float, float]:
    """The spot (m) beside an item in a direction of the picture."""
    dx, dy = DIRECTION_XY[direction]
    distance = 0.5 * reference.size_m + BESIDE_M
    return reference.xy[0] + dx * distance, reference.xy[1] + dy * distance


def look(scene: Scene, camera: CameraModel) -> View:
    """Project every object through the camera; objects whose foot is outside the picture are left out."""
    if not scene.objects:
        return View(())
    points = np.array([_marks(spec) for spec in scene.objects])  # (N, 2, 3)
    scale = (camera.intrinsics.width, camera.intrinsics.height)
    uv = (camera.project(points) / scale).round(5).tolist()
    items = []
    for spec, (foot, top) in zip(scene.objects, uv, strict=True):
        if not (0.0 <= foot[0] <= 1.0 and 0.0 <= foot[1] <= 1.0):  # also false for NaN, a point behind the camera
            continue
        top = (min(max(top[0], 0.0), 1.0), min(max(top[1], 0.0), 1.0))
        on_it = [o for o in scene.objects if o.z > spec.z and math.dist(o.position, spec.position) < 0.5 * spec.size_m]
        inside = any(
            o.kind in CONTAINERS and math.dist(o.position, spec.position) < 0.5 * o.size_m
            for o in scene.objects
            if o is not spec
        )
        items.append(
            Item(spec.name, spec.kind, spec.color, (foot[0], foot[1]), top, spec.position, spec.size_m,
                 inside and spec.kind in GRASPABLE, bool(on_it) and spec.kind in GRASPABLE)
        )  # fmt: skip
    return View(tuple(items))


def _marks(spec: ObjectSpec) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Foot and centre of the upper face (m). A drawer's are those of its handle, which is what the gripper goes to."""
    if spec.kind == "drawer":
        x, y = handle_foot(spec)
        return (x, y, spec.z), (x, y, spec.z + 0.6 * spec.height_m)
    x, y = spec.position
    return (x, y, spec.z), (x, y, spec.z + spec.height_m)


def handle_foot(spec: ObjectSpec) -> tuple[float, float]:
    """Where a drawer's handle stands over the table (m): before the cabinet's front, which faces the pan axis."""
    yaw = math.radians(spec.yaw_deg)
    reach = 0.5 * _DRAWER_DEPTH_OVER_WIDTH * spec.size_m + _HANDLE_STANDOFF_M + _DRAWER_TRAVEL_M * spec.opening
    return spec.position[0] - reach * math.cos(yaw), spec.position[1] - reach * math.sin(yaw)
