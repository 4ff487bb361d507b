"""Objects that no training scene contains: a bar, a cone and a ring, to see whether a policy picks what it has never met.

    bar     5 x 2 x 2 cm, lying at any angle          cone    34 mm wide, 40 mm high
    ring    34 mm across, a hole of 16 mm, 16 mm high

They are put into a loaded world through its physics client and taken out again before the next scene is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sim.bullet import pybullet

if TYPE_CHECKING:
    from policies.worn_robot import WornStage
    from sim.world import World

Float = NDArray[np.float64]
Shape = Literal["bar", "cone", "ring"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
#: Picked: so much (m) higher than where it lay.
LIFTED_M = 0.04
BAR_M = (0.05, 0.02, 0.02)
CONE_M = (0.034, 0.040)  # width, height
RING_M = (0.034, 0.016, 0.016)  # across, hole, height
_SIDES = 16
_MASS_KG = 0.020


def _bar(client: Any) -> tuple[dict[str, Any], float]:
    half = [0.5 * side for side in BAR_M]
    return {
        "baseCollisionShapeIndex": client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half),
        "baseVisualShapeIndex": client.createVisualShape(pybullet.GEOM_BOX, halfExtents=half),
    }, half[2]


def _cone(client: Any) -> tuple[dict[str, Any], float]:
    # Its centre of mass lies a quarter up; Bullet takes the origin for it.
    radius, low, top = 0.5 * CONE_M[0], -0.25 * CONE_M[1], 0.75 * CONE_M[1]
    turns = [2.0 * math.pi * k / _SIDES for k in range(_SIDES)]
    points = [[radius * math.cos(t), radius * math.sin(t), low] for t in turns] + [[0.0, 0.0, top], [0.0, 0.0, low]]
    faces = [
        index
        for k in range(_SIDES)
        for index in (k, (k + 1) % _SIDES, _SIDES, (k + 1) % _SIDES, k, _SIDES + 1)
    ]  # fmt: skip
    normals = [[math.cos(t), math.sin(t), 0.4] for t in turns] + [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    return {
        "baseCollisionShapeIndex": client.createCollisionShape(pybullet.GEOM_MESH, vertices=points),
        "baseVisualShapeIndex": client.createVisualShape(
            pybullet.GEOM_MESH, vertices=points, indices=faces, normals=normals
        ),
    }, -low


def _ring(client: Any) -> tuple[dict[str, Any], float]:
    across, hole, height = RING_M
    wall, middle = 0.5 * (across - hole), 0.25 * (across + hole)
    half = [0.5 * wall, math.pi * across / _SIDES / 2 * 1.05, 0.5 * height]
    turns = [2.0 * math.pi * k / _SIDES for k in range(_SIDES)]
    at = [[middle * math.cos(t), middle * math.sin(t), 0.0] for t in turns]
    turned = [[0.0, 0.0, math.sin(0.5 * t), math.cos(0.5 * t)] for t in turns]
    kinds, halves = [pybullet.GEOM_BOX] * _SIDES, [half] * _SIDES
    return {
        "baseCollisionShapeIndex": client.createCollisionShapeArray(
            shapeTypes=kinds, halfExtents=halves, collisionFramePositions=at, collisionFrameOrientations=turned
        ),
        "baseVisualShapeIndex": client.createVisualShapeArray(
            shapeTypes=kinds, halfExtents=halves, visualFramePositions=at, visualFrameOrientations=turned
        ),
    }, half[2]


#: Makes the shapes of one; returns what ``createMultiBody`` wants and how high (m) the middle lies over the foot.
_MAKERS: dict[Shape, Callable[[Any], tuple[dict[str, Any], float]]] = {"bar": _bar, "cone": _cone, "ring": _ring}


class Thing:
    """One such object in a world."""

    def __init__(self, world: World, shape: Shape, xy: Float, yaw_rad: float, rgb: Float) -> None:
        client = world.client
        made, self._middle = _MAKERS[shape](client)
        turn = (0.0, 0.0, math.sin(0.5 * yaw_rad), math.cos(0.5 * yaw_rad))
        self._client = client
        self.uid: int = client.createMultiBody(
            baseMass=_MASS_KG, basePosition=(*xy.tolist(), self._middle), baseOrientation=turn, **made
        )
        client.changeVisualShape(self.uid, -1, rgbaColor=(*rgb.tolist(), 1.0))
        client.changeDynamics(
            self.uid, -1, lateralFriction=world.dynamics.friction, spinningFriction=0.003, restitution=0.0
        )

    @property
    def foot(self) -> Float:
        """The point (3,) m under its middle (privileged)."""
        x, y, z = self._client.getBasePositionAndOrientation(self.uid)[0]
        return np.array([x, y, z - self._middle])

    def remove(self) -> None:
        """Take it out of the world."""
        self._client.removeBody(self.uid)


@contextmanager
def shape_on_table(stage: WornStage, shape: Shape, rng: np.random.Generator) -> Iterator[Thing]:
    """A random scene with the shape among other things; on leaving, the shape is taken out again."""
    from hardware.arm_spec import SO101
    from sim.scene import COLOR_RGB, COLORS, Scene
    from sim.tasks.layout import Layout

    layout = Layout(rng)
    spot = layout.spot(0.03)
    layout.keep_free(spot, 0.03)
    for _ in range(int(rng.integers(0, 3))):
        layout.put("cube" if rng.random() < 0.5 else "ball")
    start = SO101.clip(SO101.home + np.append(rng.normal(0.0, 0.05, 5), 0.0))
    stage.load(Scene(objects=tuple(layout.specs)), start)
    colour = np.array(COLOR_RGB[COLORS[int(rng.integers(len(COLORS)))]])
    thing = Thing(stage.world, shape, np.array(spot), float(rng.uniform(-math.pi, math.pi)), colour)
    try:
        yield thing
    finally:
        thing.remove()
