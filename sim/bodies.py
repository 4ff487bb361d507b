"""Builds each kind of object in PyBullet. One builder per kind, registered in ``BUILDERS``.

Sizes and aspect come from ``sim.scene``; what is derived from them here is the shape. Local frames have their origin in
the foot: the middle of the support area. Collision and visual shapes are cached per client, kind and size, because
making them is what building a body spends its time on.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.bullet import BulletClient, pybullet
from sim.dynamics import Dynamics
from sim.scene import ASPECT, COLOR_RGB, Kind, ObjectSpec

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Rgb = tuple[float, float, float]

DRAWER_TRAVEL_M = 0.05
DRAWER_DEPTH_OVER_WIDTH = 0.8
#: Distance (m) from the drawer's front to the middle of its handle, which leaves 26 mm for a finger behind the handle.
HANDLE_STANDOFF_M = 0.032
HANDLE_WIDTH_M = 0.011
_HANDLE_SPAN_M = (0.010, 0.046)  # heights at which the handle begins and ends
#: Friction (N) in the drawer's slides: it stays where it is left, and the gripper hardly feels it.
_DRAWER_FRICTION_N = 0.4
BUTTON_TRAVEL_M = 0.007
#: A button counts as pressed when its cap is this far down.
BUTTON_PRESSED_M = 0.004
_BUTTON_SPRING_N = 1.2
_BUTTON_PROUD_M = 0.009  # how far the cap stands out of its base
_DENSITY = 900.0  # kg/m3, with the clip below: toys of wood and plastic
_LOOSE_MASS_KG = (0.010, 0.040)
_CONTAINER_MASS_KG = 0.20
_RING = 12  # boxes in a round wall
WALL_M = 0.004
_IDENTITY: Quaternion = (0.0, 0.0, 0.0, 1.0)
_GLOSS = (0.2, 0.2, 0.2)
_HANDLE_RGB = (0.78, 0.78, 0.80)


@dataclass(frozen=True)
class Body:
    """A built object."""

    uid: int
    spec: ObjectSpec
    com_height_m: float  # of the frame PyBullet reports, over the foot
    joint: int | None = None  # the drawer's slide or the button's cap


@dataclass
class ShapeCache:
    """Shape ids by what they look like. Belongs to one physics client."""

    collisions: dict[tuple[Any, ...], int] = field(default_factory=dict)
    visuals: dict[tuple[Any, ...], int] = field(default_factory=dict)
    meshes: dict[str, Path] = field(default_factory=dict)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="embodied-shapes-"))
        # Not TemporaryDirectory: that warns when a world is dropped without being closed, which is allowed.
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Box:
    half: Vector3
    at: Vector3
    turn: Quaternion = _IDENTITY


def _array(boxes: list[_Box]) -> dict[str, Any]:
    return {
        "shapeTypes": [pybullet.GEOM_BOX] * len(boxes),
        "halfExtents": [b.half for b in boxes],
    }


def _boxes_collision(client: BulletClient, cache: ShapeCache, key: tuple[Any, ...], boxes: list[_Box]) -> int:
    if key not in cache.collisions:
        cache.collisions[key] = client.createCollisionShapeArray(
            **_array(boxes), collisionFramePositions=[b.at for b in boxes],
            collisionFrameOrientations=[b.turn for b in boxes],
        )  # fmt: skip
    return cache.collisions[key]


def _boxes_visual(client: BulletClient, cache: ShapeCache, key: tuple[Any, ...], boxes: list[_Box]) -> int:
    if key not in cache.visuals:
        cache.visuals[key] = client.createVisualShapeArray(
            **_array(boxes), visualFramePositions=[b.at for b in boxes], visualFrameOrientations=[b.turn for b in boxes],
            rgbaColors=[(1.0, 1.0, 1.0, 1.0)] * len(boxes),
        )  # fmt: skip
    return cache.visuals[key]


def _paint(client: BulletClient, uid: int, link: int, rgb: Rgb) -> None:
    client.changeVisualShape(uid, link, rgbaColor=(*rgb, 1.0))


def _yaw(yaw_deg: float) -> Quaternion:
    half = 0.5 * math.radians(yaw_deg)
    return (0.0, 0.0, math.sin(half), math.cos(half))


# Loose objects -------------------------------------------------------------------------------------------------------


def loose_mass_kg(spec: ObjectSpec) -> float:
    """Nominal mass of a cube, cylinder or ball."""
    share = {"cube": 1.0, "cylinder": math.pi / 4, "ball": math.pi / 6}[spec.kind]
    volume = share * spec.size_m**2 * spec.height_m
    return min(max(_DENSITY * volume, _LOOSE_MASS_KG[0]), _LOOSE_MASS_KG[1])


_LOOSE_SHAPE: dict[Kind, Callable[[float, float], dict[str, Any]]] = {
    "cube": lambda s, h: {"shapeType": pybullet.GEOM_BOX, "halfExtents": (s / 2, s / 2, h / 2)},
    "cylinder": lambda s, h: {"shapeType": pybullet.GEOM_CYLINDER, "radius": s / 2, "height": h},
    "ball": lambda s, h: {"shapeType": pybullet.GEOM_SPHERE, "radius": s / 2},
}


def _loose(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    size, height = spec.size_m, spec.height_m
    key = (spec.kind, size)
    if key not in cache.collisions:
        cache.collisions[key] = client.createCollisionShape(**_LOOSE_SHAPE[spec.kind](size, height))
    if spec.kind == "cylinder":
        visual = _round_visual(client, cache, key, "cylinder", (size, size, height))
    elif key not in cache.visuals:
        visual = cache.visuals[key] = client.createVisualShape(
            **_LOOSE_SHAPE[spec.kind](size, height), rgbaColor=(1.0, 1.0, 1.0, 1.0), specularColor=_GLOSS
        )
    else:
        visual = cache.visuals[key]
    uid = client.createMultiBody(
        loose_mass_kg(spec) * dynamics.mass_scale, cache.collisions[key], visual,
        (*spec.position, spec.z + height / 2), _yaw(spec.yaw_deg), useMaximalCoordinates=1,
    )  # fmt: skip
    # Rolling and spinning friction multiply the cost of a body with several contacts (6 to 45 us a step); a ball has one
    # contact and would never come to rest without it, a toppled cylinder is stopped by damping.
    round_ = spec.kind != "cube"
    client.changeDynamics(
        uid, -1, lateralFriction=dynamics.friction, restitution=0.0, linearDamping=0.04,
        angularDamping=0.5 if round_ else 0.04, rollingFriction=0.0008 if spec.kind == "ball" else 0.0,
    )  # fmt: skip
    _paint(client, uid, -1, COLOR_RGB[spec.color])
    return Body(uid, spec, height / 2)


# Containers ----------------------------------------------------------------------------------------------------------


def _round_wall(bottom_r: float, top_r: float, bottom_z: float, top_z: float) -> list[_Box]:
    """A ring of boxes, each leaning outwards, whose inner faces run from one radius to the other."""
    lean = math.atan2(top_r - bottom_r, top_z - bottom_z)
    length = math.hypot(top_r - bottom_r, top_z - bottom_z)
    radius, z = 0.5 * (bottom_r + top_r) + 0.5 * WALL_M, 0.5 * (bottom_z + top_z)
    width = (max(bottom_r, top_r) + WALL_M) * math.tan(math.pi / _RING)
    boxes = []
    for k in range(_RING):
        a = math.tau * k / _RING
        turn = pybullet.multiplyTransforms(
            (0, 0, 0),
            (0, 0, math.sin(a / 2), math.cos(a / 2)),
            (0, 0, 0),
            (0, math.sin(lean / 2), 0, math.cos(lean / 2)),
        )[1]
        boxes.append(_Box((WALL_M / 2, width, length / 2), (radius * math.cos(a), radius * math.sin(a), z), turn))
    return boxes


def _floor(radius: float) -> _Box:
    """A round bottom as one square: it fills all but slivers no object falls into, and makes only four contacts."""
    return _Box((0.8 * radius, 0.8 * radius, WALL_M / 2), (0.0, 0.0, WALL_M / 2))


def _revolved_obj(profile: list[tuple[float, float]], segments: int = 28) -> str:
    """Wavefront text of a surface of revolution; (radius, height) walked so that the outside lies to the right."""
    vertices: list[str] = []
    normals: list[str] = []
    faces: list[str] = []
    for (r0, z0), (r1, z1) in zip(profile, profile[1:], strict=False):
        length = math.hypot(r1 - r0, z1 - z0)
        nr, nz = (z1 - z0) / length, (r0 - r1) / length
        first = len(vertices) + 1
        for k in range(segments):
            c, s = math.cos(math.tau * k / segments), math.sin(math.tau * k / segments)
            vertices += [f"v {r0 * c:.6f} {r0 * s:.6f} {z0:.6f}", f"v {r1 * c:.6f} {r1 * s:.6f} {z1:.6f}"]
            normals += [f"vn {nr * c:.6f} {nr * s:.6f} {nz:.6f}"] * 2
        for k in range(segments):
            i, j = first + 2 * k, first + 2 * ((k + 1) % segments)
            if r0 > 0:
                faces.append(f"f {i}//{i} {j}//{j} {i + 1}//{i + 1}")
            if r1 > 0:
                faces.append(f"f {i + 1}//{i + 1} {j}//{j} {j + 1}//{j + 1}")
    return "\n".join(vertices + normals + faces) + "\n"


#: Round shapes of unit size. Files, because the EGL renderer knows no meshes made in memory; and meshes even for
#: cylinders, because the renderers' own have rounded normals that make them look like eggs.
_PROFILES: dict[str, list[tuple[float, float]]] = {
    "cylinder": [(0.0, -0.5), (0.5, -0.5), (0.5, 0.5), (0.0, 0.5)],
    "bowl": [(0.0, 0.0), (0.33, 0.0), (0.50, 0.36), (0.46, 0.36), (0.31, 0.04), (0.0, 0.04)],
    "plate": [(0.0, 0.0), (0.40, 0.0), (0.50, 0.09), (0.49, 0.10), (0.39, 0.04), (0.0, 0.04)],
}


def _round_visual(client: BulletClient, cache: ShapeCache, key: tuple[Any, ...], profile: str, scale: Vector3) -> int:
    if key not in cache.visuals:
        if profile not in cache.meshes:
            path = cache.folder / f"{profile}.obj"
            path.write_text(_revolved_obj(_PROFILES[profile]), encoding="utf-8")
            cache.meshes[profile] = path
        cache.visuals[key] = client.createVisualShape(
            pybullet.GEOM_MESH, fileName=str(cache.meshes[profile]), meshScale=scale,
            rgbaColor=(1.0, 1.0, 1.0, 1.0), specularColor=_GLOSS,
        )  # fmt: skip
    return cache.visuals[key]


#: Radius of the bottom over size; the walls lean outwards from there to half the size.
_BOTTOM_RADIUS = {"bowl": 0.33, "plate": 0.40}


def _round_container(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    key = (spec.kind, spec.size_m)
    bottom = _BOTTOM_RADIUS[spec.kind] * spec.size_m
    # The walls begin above the bottom: each that touched the table would cost 2 us a step for nothing.
    wall = _round_wall(bottom - WALL_M / 2, spec.size_m / 2 - WALL_M, WALL_M, spec.height_m)
    collision = _boxes_collision(client, cache, key, [_floor(bottom), *wall])
    visual = _round_visual(client, cache, key, spec.kind, (spec.size_m,) * 3)
    return _container(client, spec, dynamics, collision, visual)


def _tray(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    half, height, t = spec.size_m / 2, spec.height_m, WALL_M / 2
    boxes = [_Box((half, half, t), (0.0, 0.0, t))]
    rise = height / 2 - t  # walls stand on the bottom, not on the table
    for sign in (-1.0, 1.0):
        boxes.append(_Box((t, half, rise), (sign * (half - t), 0.0, height / 2 + t)))
        boxes.append(_Box((half, t, rise), (0.0, sign * (half - t), height / 2 + t)))
    key = ("tray", spec.size_m)
    return _container(
        client, spec, dynamics, _boxes_collision(client, cache, key, boxes), _boxes_visual(client, cache, key, boxes)
    )


def _container(client: BulletClient, spec: ObjectSpec, dynamics: Dynamics, collision: int, visual: int) -> Body:
    com = 0.3 * spec.height_m
    uid = client.createMultiBody(
        _CONTAINER_MASS_KG * dynamics.mass_scale, collision, visual, (*spec.position, spec.z), _yaw(spec.yaw_deg),
        (0.0, 0.0, com), useMaximalCoordinates=1,
    )  # fmt: skip
    client.changeDynamics(uid, -1, lateralFriction=dynamics.friction, restitution=0.0)
    _paint(client, uid, -1, COLOR_RGB[spec.color])
    return Body(uid, spec, com)


# Fixtures with one joint ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawerShape:
    """Lengths (m) of a drawer; local x runs from its front to its back, the foot in the cabinet's middle."""

    width: float
    depth: float
    height: float
    handle_x: float  # of the handle's middle while shut
    handle_z: float

    @classmethod
    def of(cls, size_m: float) -> DrawerShape:
        """The shape of a drawer of that cabinet width."""
        depth = DRAWER_DEPTH_OVER_WIDTH * size_m
        low, high = _HANDLE_SPAN_M
        return cls(size_m, depth, size_m * ASPECT["drawer"], -depth / 2 - HANDLE_STANDOFF_M, 0.5 * (low + high))


def _drawer_boxes(shape: DrawerShape) -> tuple[list[_Box], list[_Box], list[_Box]]:
    """Cabinet, sliding box and handle. The sliding box is 1 mm smaller all round than the hole."""
    w, d, h, t = shape.width / 2, shape.depth / 2, shape.height / 2, WALL_M / 2
    cabinet = [
        _Box((d, w, t), (0.0, 0.0, t)), _Box((d, w, t), (0.0, 0.0, 2 * h - t)),
        _Box((d, t, h), (0.0, w - t, h)), _Box((d, t, h), (0.0, t - w, h)), _Box((t, w, h), (d - t, 0.0, h)),
    ]  # fmt: skip
    inner_w, low, high = w - WALL_M - 0.001, WALL_M + 0.001, 2 * h - WALL_M - 0.001
    length, front = d - WALL_M, -d
    middle_x = front + length
    side_z = low + 0.35 * (high - low)
    box = [
        _Box((0.003, inner_w, (high - low) / 2), (front + 0.003, 0.0, (high + low) / 2)),
        _Box((length, inner_w, 0.0015), (middle_x, 0.0, low + 0.0015)),
        _Box((0.0015, inner_w, side_z - low), (front + 2 * length - 0.002, 0.0, side_z)),
        _Box((length, 0.0015, side_z - low), (middle_x, inner_w - 0.0015, side_z)),
        _Box((length, 0.0015, side_z - low), (middle_x, 0.0015 - inner_w, side_z)),
    ]
    span, half = (_HANDLE_SPAN_M[1] - _HANDLE_SPAN_M[0]) / 2, HANDLE_WIDTH_M / 2
    strut = (HANDLE_STANDOFF_M - half) / 2
    handle = [
        _Box((half, half, span), (shape.handle_x, 0.0, shape.handle_z)),
        _Box((strut, 0.004, 0.004), (front - strut, 0.0, shape.handle_z)),
    ]
    return cabinet, box, handle


def _drawer(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    cabinet, box, handle = _drawer_boxes(DrawerShape.of(spec.size_m))
    key = ("drawer", spec.size_m)
    moving = [*box, *handle]
    zero = (0.0, 0.0, 0.0)
    uid = client.createMultiBody(
        0.0, _boxes_collision(client, cache, key, cabinet), _boxes_visual(client, cache, key, cabinet),
        (*spec.position, spec.z), _yaw(spec.yaw_deg),
        linkMasses=(0.07,), linkCollisionShapeIndices=(_boxes_collision(client, cache, (*key, "box"), moving),),
        linkVisualShapeIndices=(_boxes_visual(client, cache, (*key, "box"), moving),), linkPositions=(zero,),
        linkOrientations=(_IDENTITY,), linkInertialFramePositions=(zero,), linkInertialFrameOrientations=(_IDENTITY,),
        linkParentIndices=(0,), linkJointTypes=(pybullet.JOINT_PRISMATIC,), linkJointAxis=((-1.0, 0.0, 0.0),),
    )  # fmt: skip
    client.changeDynamics(
        uid, 0, jointLowerLimit=0.0, jointUpperLimit=DRAWER_TRAVEL_M, lateralFriction=dynamics.friction, restitution=0.0
    )
    client.setJointMotorControl2(uid, 0, pybullet.VELOCITY_CONTROL, targetVelocity=0.0, force=_DRAWER_FRICTION_N)
    client.resetJointState(uid, 0, spec.opening * DRAWER_TRAVEL_M)
    rgb = COLOR_RGB[spec.color]
    _paint(client, uid, -1, rgb)
    _paint(client, uid, 0, _shade(rgb))
    for shape in range(len(box), len(moving)):
        client.changeVisualShape(uid, 0, shape, rgbaColor=(*_HANDLE_RGB, 1.0))
    return Body(uid, spec, 0.0, joint=0)


def _shade(rgb: Rgb) -> Rgb:
    """A little towards grey, so that a drawer's front is told from its cabinet at any colour."""
    return (0.75 * rgb[0] + 0.10, 0.75 * rgb[1] + 0.10, 0.75 * rgb[2] + 0.10)


def _button(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    half, height = spec.size_m / 2, spec.height_m
    base_height = height - _BUTTON_PROUD_M
    radius, cap_height = 0.36 * spec.size_m, _BUTTON_PROUD_M + 0.002
    key = ("button", spec.size_m)
    base = [_Box((half, half, base_height / 2), (0.0, 0.0, base_height / 2))]
    cap_key = (*key, "cap")
    if cap_key not in cache.collisions:
        cache.collisions[cap_key] = client.createCollisionShape(
            pybullet.GEOM_CYLINDER, radius=radius, height=cap_height
        )
    look = _round_visual(client, cache, cap_key, "cylinder", (2 * radius, 2 * radius, cap_height))
    uid = client.createMultiBody(
        0.0, _boxes_collision(client, cache, key, base), _boxes_visual(client, cache, key, base),
        (*spec.position, spec.z), _yaw(spec.yaw_deg),
        linkMasses=(0.02,), linkCollisionShapeIndices=(cache.collisions[cap_key],),
        linkVisualShapeIndices=(look,), linkPositions=((0.0, 0.0, height - cap_height / 2),),
        linkOrientations=(_IDENTITY,), linkInertialFramePositions=((0.0, 0.0, 0.0),),
        linkInertialFrameOrientations=(_IDENTITY,), linkParentIndices=(0,),
        linkJointTypes=(pybullet.JOINT_PRISMATIC,), linkJointAxis=((0.0, 0.0, 1.0),),
    )  # fmt: skip
    client.changeDynamics(uid, 0, jointLowerLimit=-BUTTON_TRAVEL_M, jointUpperLimit=0.0, restitution=0.0)
    # A motor with bounded force that always wants to be up: a spring without the stiffness that would ring at 240 Hz.
    client.setJointMotorControl2(
        uid,
        0,
        pybullet.POSITION_CONTROL,
        targetPosition=0.0,
        positionGain=0.2,
        velocityGain=1.0,
        force=_BUTTON_SPRING_N,
    )
    _paint(client, uid, -1, (0.42, 0.42, 0.45))
    _paint(client, uid, 0, COLOR_RGB[spec.color])
    return Body(uid, spec, 0.0, joint=0)


Builder = Callable[[BulletClient, ShapeCache, ObjectSpec, Dynamics], Body]

BUILDERS: dict[Kind, Builder] = {
    "cube": _loose, "cylinder": _loose, "ball": _loose, "bowl": _round_container, "plate": _round_container,
    "tray": _tray, "drawer": _drawer, "button": _button,
}  # fmt: skip


def build(client: BulletClient, cache: ShapeCache, spec: ObjectSpec, dynamics: Dynamics) -> Body:
    """Put one object into the world as its spec says."""
    return BUILDERS[spec.kind](client, cache, spec, dynamics)
