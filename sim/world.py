"""The PyBullet world: one arm at a table, and the objects of a scene.

    world = World(Scene.load("scene.json"))
    world.set_arm_target(q)
    world.step(12)                      # 12 substeps of 1/240 s
    frame = world.render("front")

What ``World`` tells about objects is *privileged*: scripted experts and success tests may use it, planners and policies
may not. They see ``Frame`` pictures and joint vectors only.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware import kinematics
from hardware.arm_spec import SO101, ArmSpec
from hardware.camera_model import CameraModel, Frame
from hardware.errors import SceneError
from sim import bodies, rendering
from sim.bullet import BulletClient, pybullet, quiet
from sim.dynamics import (
    GRIPPER_TORQUE_NM,
    PAD_FRICTION,
    PAD_SPINNING_FRICTION,
    PHYSICS_HZ,
    SOLVER_ITERATIONS,
    TABLE_FRICTION,
    Dynamics,
)
from sim.scene import CONTAINERS, CameraSpec, ObjectSpec, Scene
from sim.urdf_so101 import PAINT, shape_materials, so101_urdf

Float = NDArray[np.float64]

_TABLE_HALF_M = (0.60, 0.70, 0.02)
_TABLE_CENTRE_M = (0.15, 0.0, -0.02)
_FLOOR_Z_M = -0.70
_TOPPLED_COS = 0.7
_FAR_AWAY_M = (0.0, 0.0, 50.0)
_CROWD = 24
_SETTLE = 10  # collision passes; each forgets at least one pair of boxes that no longer touch


@dataclass(frozen=True)
class BodyState:
    """Pose, velocity and joint of one object; what PyBullet calls the base is its centre of mass."""

    position: tuple[float, ...]
    turn: tuple[float, ...]
    velocity: tuple[float, ...]
    spin: tuple[float, ...]
    joint: tuple[float, float] | None  # position and speed of a drawer's slide or a button's cap


@dataclass(frozen=True)
class WorldState:
    """A snapshot of a world: plain data that outlives it and can be sent to another process."""

    scene: Scene
    dynamics: Dynamics
    substeps: int
    pressed: frozenset[str]
    target: tuple[float, ...]
    joints: tuple[tuple[float, float], ...]  # the arm's angles and speeds as PyBullet has them
    objects: tuple[BodyState, ...]  # in the scene's order


class World:
    """A physics client with an arm, a table and the objects of one scene; ``load`` swaps scenes in milliseconds."""

    def __init__(
        self,
        scene: Scene | None = None,
        *,
        seed: int = 0,
        dynamics: Dynamics | None = None,
        renderer: rendering.RendererName = "auto",
        gui: bool = False,
        spec: ArmSpec = SO101,
    ) -> None:
        """``seed`` seeds ``rng``, the generator for whatever an episode draws; physics itself has no randomness."""
        self.spec = spec
        self.dynamics = dynamics if dynamics is not None else Dynamics()
        self.rng = np.random.default_rng(seed)
        self.scene = Scene()
        self._renderer = renderer
        self._drawing: str | None = None
        self._generation = 0
        self._cache = bodies.ShapeCache()
        self._bodies: dict[str, bodies.Body] = {}
        self._buttons: tuple[bodies.Body, ...] = ()
        self._client: BulletClient | None = None
        with quiet():
            client = BulletClient(connection_mode=pybullet.GUI if gui else pybullet.DIRECT)
        self._client = client
        client.resetSimulation(flags=pybullet.RESET_USE_SIMPLE_BROADPHASE)
        # The overlap cache in a fixed order makes restored and reloaded worlds repeat to the bit; it costs 1-2 %.
        client.setPhysicsEngineParameter(
            fixedTimeStep=1.0 / PHYSICS_HZ, numSolverIterations=SOLVER_ITERATIONS, deterministicOverlappingPairs=1
        )
        client.setGravity(0.0, 0.0, -9.81)
        if renderer == "egl":
            # The plugin draws only shapes that are made after it was loaded.
            self._choose_renderer(1 << 20)
        self._cid: int = client._client
        self._floor, self._table = self._build_room(client)
        self._arm = self._build_arm(client)
        self._gains = [self.dynamics.position_gain] * 6
        self._warm_up(client)
        self.load(scene if scene is not None else Scene())

    # Building --------------------------------------------------------------------------------------------------------

    @property
    def client(self) -> BulletClient:
        """The PyBullet client, for what this class does not offer. Raises ``SceneError`` once closed."""
        if self._client is None:
            raise SceneError("this world is closed; make a new World")
        return self._client

    def _warm_up(self, client: BulletClient) -> None:
        """Let Bullet's buffers grow now: one that grows during a step disturbs that step in the last digits.

        A world whose buffers have grown would not be disturbed, so the same scene would run differently in the two. The
        crowd touches itself and the gripper, so that every kind of constraint is there, more of each than ever again.
        """
        self.reset_arm(self.spec.home)
        place = self.tool_pose()[:3, 3]
        box = client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=(0.03, 0.03, 0.03))
        crowd = [client.createMultiBody(1.0, box, -1, place.tolist(), useMaximalCoordinates=1) for _ in range(_CROWD)]
        client.stepSimulation()
        for uid in reversed(crowd):
            client.removeBody(uid)

    def _build_room(self, client: BulletClient) -> tuple[int, int]:
        white = (1.0, 1.0, 1.0, 1.0)
        slab = client.createVisualShape(pybullet.GEOM_BOX, halfExtents=(4.0, 4.0, 0.02), rgbaColor=white)
        soft = client.createVisualShape(
            pybullet.GEOM_BOX,
            halfExtents=_TABLE_HALF_M,
            rgbaColor=white,
            specularColor=(0.0, 0.0, 0.0),
        )
        hard = client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=_TABLE_HALF_M)
        table: int = client.createMultiBody(0.0, hard, soft, _TABLE_CENTRE_M, useMaximalCoordinates=1)
        client.changeDynamics(table, -1, lateralFriction=TABLE_FRICTION, restitution=0.0)
        # After the table: TinyRenderer draws in this order, and most of the floor is behind the table.
        floor: int = client.createMultiBody(0.0, -1, slab, (0.0, 0.0, _FLOOR_Z_M))
        return floor, table

    def _build_arm(self, client: BulletClient) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "arm.urdf")
            with open(path, "w", encoding="utf-8") as file:
                file.write(so101_urdf(self.spec))
            arm: int = client.loadURDF(path, useFixedBase=True)
        self._dummy = client.createCollisionShape(pybullet.GEOM_SPHERE, radius=0.01)
        self._base_com = client.getBasePositionAndOrientation(arm)[0]
        links = {client.getJointInfo(arm, j)[12].decode(): j for j in range(client.getNumJoints(arm))}
        self._finger, self._jaw = links[self.spec.jaw_origin.parent], links[self.spec.jaw_origin.child]
        self._joints = [*(links[o.child] for o in self.spec.arm_origins), self._jaw]
        for link in (self._finger, self._jaw):
            client.changeDynamics(
                arm, link, lateralFriction=PAD_FRICTION, spinningFriction=PAD_SPINNING_FRICTION, restitution=0.0
            )
        for joint in self._joints:
            client.changeDynamics(arm, joint, linearDamping=0.0, angularDamping=0.0, jointDamping=0.0)
        materials = shape_materials(self.spec)
        index = {**links, self.spec.arm_origins[0].parent: -1}
        self._painted = [
            (index[link], k) for link, names in materials.items() for k, name in enumerate(names) if name == PAINT
        ]
        self._forces = [self.spec.max_effort_nm] * 5 + [GRIPPER_TORQUE_NM]
        self._closed, opened = self.spec.jaw_range_rad
        self._jaw_span = opened - self._closed
        return arm

    def load(self, scene: Scene, dynamics: Dynamics | None = None) -> None:
        """Replace everything by ``scene``: objects, look, cameras, the arm at home, time zero.

        ``dynamics`` replaces those in use; a ``SimRobot`` on this world must be made anew then.
        """
        if dynamics is not None:
            self.dynamics = dynamics
        if self._generation == 0 or scene.look != self.scene.look:
            self._paint(scene)
        self.scene = scene
        self._cameras = {spec.name: spec for spec in scene.cameras}
        self._gains = [self.dynamics.position_gain] * 6
        self._rebuild(scene.objects)
        self._generation += 1
        self._pressed: set[str] = set()
        self._substeps = 0

    def _rebuild(self, objects: tuple[ObjectSpec, ...]) -> None:
        """New bodies for ``objects`` and the arm at home, so that what follows does not depend on what was before."""
        client = self.client
        for body in reversed(self._bodies.values()):
            client.removeBody(body.uid)
            if body.joint is not None:
                self._unswap()
        self._bodies.clear()
        # The broad phase keeps a fat box around each link and widens it along the way the link came, which decides which
        # islands are solved together and so the last digits. A jump to far away and back gives every link an exact box.
        for base in (_FAR_AWAY_M, self._base_com):
            client.resetBasePositionAndOrientation(self._arm, base, (0.0, 0.0, 0.0, 1.0))
            self.reset_arm(self.spec.home)
            for _ in range(_SETTLE):
                client.performCollisionDetection()
        for spec in objects:
            self._bodies[spec.name] = bodies.build(client, self._cache, spec, self.dynamics)
        self._buttons = tuple(b for b in self._bodies.values() if b.spec.kind == "button")

    def _unswap(self) -> None:
        """Give back the two broad phase handles of a removed two-link body in the order in which they were taken.

        Pairs are sorted by handle, and handles are handed out last in, first out; removing from last to first would
        keep everything in order, did Bullet not free a body's base before its link.
        """
        client = self.client
        dummies = [client.createMultiBody(0.0, self._dummy, -1, _FAR_AWAY_M) for _ in range(2)]
        for uid in dummies:
            client.removeBody(uid)

    def _paint(self, scene: Scene) -> None:
        client, look = self.client, scene.look
        client.changeVisualShape(self._floor, -1, rgbaColor=(*look.floor_rgb, 1.0))
        client.changeVisualShape(self._table, -1, rgbaColor=(*look.table_rgb, 1.0))
        for link, shape in self._painted:
            client.changeVisualShape(self._arm, link, shape, rgbaColor=(*look.arm_rgb, 1.0))

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        if self._client is not None:
            client, self._client = self._client, None
            with quiet():
                client.disconnect()

    # Time ------------------------------------------------------------------------------------------------------------

    def step(self, n: int = 1) -> None:
        """Advance physics by ``n`` substeps of 1/240 s."""
        step, cid = pybullet.stepSimulation, self._cid
        for _ in range(n):
            step(physicsClientId=cid)
        self._substeps += n
        if self._buttons:
            for button in self._buttons:
                if self._cap_down(button):
                    self._pressed.add(button.spec.name)

    @property
    def time_s(self) -> float:
        """Simulated time since the scene was loaded."""
        return self._substeps / PHYSICS_HZ

    # Arm -------------------------------------------------------------------------------------------------------------

    def arm_q_list(self) -> list[float]:
        """As ``arm_q``, as plain floats; the quick way for control loops."""
        states = pybullet.getJointStates(self._arm, self._joints, physicsClientId=self._cid)
        q = [s[0] for s in states]
        q[5] = (q[5] - self._closed) / self._jaw_span
        return q

    def arm_q(self) -> Float:
        """True joint vector (6,)."""
        return np.array(self.arm_q_list())

    def set_arm_target(self, target: Float | list[float]) -> None:
        """Where the servos shall go, joint vector (6,); holds until the next call."""
        angles = target.tolist() if isinstance(target, np.ndarray) else list(target)
        self._target = tuple(angles)
        angles[5] = self._closed + angles[5] * self._jaw_span
        pybullet.setJointMotorControlArray(
            self._arm, self._joints, pybullet.POSITION_CONTROL, targetPositions=angles,
            positionGains=self._gains, forces=self._forces, physicsClientId=self._cid,
        )  # fmt: skip

    @property
    def arm_target(self) -> tuple[float, ...]:
        """The joint vector the servos are going to."""
        return self._target

    def reset_arm(self, q: Float) -> None:
        """Put the arm at a joint vector (6,) at rest, holding it; not a motion."""
        values = [float(v) for v in q]
        reset, cid = pybullet.resetJointState, self._cid
        for joint, value in zip(self._joints[:5], values, strict=False):
            reset(self._arm, joint, value, 0.0, physicsClientId=cid)
        reset(self._arm, self._jaw, self._closed + values[5] * self._jaw_span, 0.0, physicsClientId=cid)
        self.set_arm_target(values)

    def tool_pose(self) -> Float:
        """True pose (4, 4) of the tool frame in the base frame."""
        return kinematics.forward(self.spec, self.arm_q_list())

    # Objects (privileged) --------------------------------------------------------------------------------------------

    def _body(self, name: str) -> bodies.Body:
        try:
            return self._bodies[name]
        except KeyError:
            self.scene.find(name)  # raises, listing the names
            raise

    def body_id(self, name: str) -> int:
        """The id under which an object appears in ``Frame.segmentation``."""
        return self._body(name).uid

    @property
    def arm_id(self) -> int:
        """The arm's id in ``Frame.segmentation``."""
        return self._arm

    def object_pose(self, name: str) -> tuple[Float, Float]:
        """Centre of mass (3,) m and orientation (4,) as quaternion x, y, z, w."""
        position, turn = self.client.getBasePositionAndOrientation(self._body(name).uid)
        return np.array(position), np.array(turn)

    def object_position(self, name: str) -> Float:
        """Centre of mass (3,) m. Of a drawer or button: the foot."""
        return self.object_pose(name)[0]

    def object_foot(self, name: str) -> Float:
        """The point (3,) m of the surface under the object's middle; also right for one lying on its side."""
        body = self._body(name)
        position, turn = self.client.getBasePositionAndOrientation(body.uid)
        spec = body.spec
        x, y, z, w = turn
        row = (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y))  # third row of the rotation
        if spec.kind == "ball":
            drop = spec.size_m / 2
        elif spec.kind == "cube":
            drop = 0.5 * (spec.size_m * (abs(row[0]) + abs(row[1])) + spec.height_m * abs(row[2]))
        elif spec.kind == "cylinder":
            drop = 0.5 * (spec.height_m * abs(row[2]) + spec.size_m * math.sqrt(max(0.0, 1 - row[2] * row[2])))
        else:
            drop = body.com_height_m * row[2]
        return np.array((position[0], position[1], position[2] - drop))

    def object_upright(self, name: str) -> bool:
        """Whether its own vertical still points up, within 45 degrees. A ball always is."""
        body = self._body(name)
        if body.spec.kind == "ball":
            return True
        x, y, _, _ = self.client.getBasePositionAndOrientation(body.uid)[1]
        return 1 - 2 * (x * x + y * y) > _TOPPLED_COS

    def object_speed(self, name: str) -> float:
        """Speed of its centre of mass, m/s."""
        linear, _ = self.client.getBaseVelocity(self._body(name).uid)
        return math.sqrt(sum(v * v for v in linear))

    def place_object(self, name: str, position: Float, yaw_rad: float = 0.0) -> None:
        """Put an object down, at rest and upright, with its foot at ``position`` (3,) m."""
        body = self._body(name)
        x, y, z = (float(v) for v in position)
        half = 0.5 * yaw_rad
        self.client.resetBasePositionAndOrientation(
            body.uid, (x, y, z + body.com_height_m), (0.0, 0.0, math.sin(half), math.cos(half))
        )
        self.client.resetBaseVelocity(body.uid, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))

    def _kind(self, name: str, kind: str) -> bodies.Body:
        body = self._body(name)
        if body.spec.kind != kind:
            raise SceneError(f"{name!r} is a {body.spec.kind}, not a {kind}")
        return body

    def _slide(self, body: bodies.Body) -> float:
        return float(pybullet.getJointState(body.uid, body.joint, physicsClientId=self._cid)[0])

    def drawer_opening(self, name: str) -> float:
        """0 shut .. 1 open by its whole travel. Raises ``SceneError`` if it is not a drawer."""
        return self._slide(self._kind(name, "drawer")) / bodies.DRAWER_TRAVEL_M

    def set_drawer_opening(self, name: str, opening: float) -> None:
        """Move a drawer there at once."""
        body = self._kind(name, "drawer")
        self.client.resetJointState(body.uid, body.joint, opening * bodies.DRAWER_TRAVEL_M, 0.0)

    def handle_position(self, name: str) -> Float:
        """Middle (3,) m of a drawer's handle."""
        body = self._kind(name, "drawer")
        shape = bodies.DrawerShape.of(body.spec.size_m)
        position, turn = self.client.getBasePositionAndOrientation(body.uid)
        local = (shape.handle_x - self._slide(body), 0.0, shape.handle_z)
        return np.array(self.client.multiplyTransforms(position, turn, local, (0, 0, 0, 1))[0])

    def _cap_down(self, body: bodies.Body) -> bool:
        return self._slide(body) < -bodies.BUTTON_PRESSED_M

    def button_pressed(self, name: str) -> bool:
        """Whether a button is down now."""
        return self._cap_down(self._kind(name, "button"))

    def button_was_pressed(self, name: str) -> bool:
        """Whether a button has been down since the scene was loaded or ``clear_presses``."""
        return self._kind(name, "button").spec.name in self._pressed

    def clear_presses(self) -> None:
        """Forget which buttons were pressed."""
        self._pressed.clear()

    def held(self, name: str) -> bool:
        """Whether both fingers touch it and nothing else does."""
        body = self._body(name)
        fingers = set()
        for contact in self.client.getContactPoints(bodyA=body.uid):
            if contact[8] > 0.0005:  # apart: PyBullet also lists pairs that are merely near
                continue
            if contact[2] != self._arm:
                return False
            fingers.add(contact[4])
        return self._finger in fingers and self._jaw in fingers

    def scene_now(self) -> Scene:
        """The scene as it is now: poses, drawer openings and heights of the surfaces under the objects."""
        return self.scene.model_copy(update={"objects": tuple(self._now(body) for body in self._bodies.values())})

    def _now(self, body: bodies.Body) -> ObjectSpec:
        name, kind = body.spec.name, body.spec.kind
        foot, (_, turn) = self.object_foot(name), self.object_pose(name)
        yaw = math.degrees(
            math.atan2(2 * (turn[3] * turn[2] + turn[0] * turn[1]), 1 - 2 * (turn[1] ** 2 + turn[2] ** 2))
        )
        update: dict[str, Any] = {
            "position": (float(foot[0]), float(foot[1])), "z": float(foot[2]), "yaw_deg": yaw,
        }  # fmt: skip
        if kind == "drawer":
            update["opening"] = min(max(self.drawer_opening(name), 0.0), 1.0)
        return body.spec.model_copy(update=update)

    def containers(self) -> tuple[str, ...]:
        """Names of the bowls, trays and plates."""
        return tuple(n for n, b in self._bodies.items() if b.spec.kind in CONTAINERS)

    # Pictures --------------------------------------------------------------------------------------------------------

    def camera(self, name: str) -> CameraSpec:
        """The spec of a camera. Raises ``SceneError`` listing the names there are."""
        if name not in self._cameras:
            raise SceneError(f"no camera is named {name!r}; the scene has: {', '.join(self._cameras)}")
        return self._cameras[name]

    def camera_model(self, name: str, size: tuple[int, int] | None = None) -> CameraModel:
        """Where a camera is now and how it projects, for its own or another picture size (width, height)."""
        spec = self.camera(name)
        tool = self.tool_pose() if spec.mount == "wrist" else np.eye(4)
        return rendering.camera_model(spec, tool, size)

    @property
    def renderer(self) -> str:
        """The renderer in use; decided at the first picture, since it depends on the pictures' size."""
        return self._drawing or "undecided"

    def _choose_renderer(self, pixels: int) -> str:
        if self._drawing is None:
            chosen = rendering.chosen_renderer(self._renderer, pixels)
            if chosen == "egl":
                with quiet():
                    loaded = self.client.loadPlugin(rendering.egl_plugin_path(), "_eglRendererPlugin") >= 0
                if not loaded:
                    raise SceneError("the EGL renderer failed to load here; use renderer='tiny'")
                # The plugin draws only bodies that were built after it was loaded.
            self._drawing = chosen
        return self._drawing

    def render(
        self,
        camera: str = "front",
        *,
        size: tuple[int, int] | None = None,
        depth: bool = False,
        segmentation: bool = False,
        shadow: bool | None = None,
    ) -> Frame:
        """What a camera sees now; ``size`` is (width, height), ``shadow`` as the scene's look says when None."""
        model = self.camera_model(camera, size)
        drawing = self._choose_renderer(model.intrinsics.width * model.intrinsics.height)
        look = self.scene.look
        wanted = rendering.Wanted(depth, segmentation, look.shadow if shadow is None else shadow)
        return rendering.take_picture(
            self.client, "egl" if drawing == "egl" else "tiny", model, look, wanted, self.time_s
        )

    # Snapshots -------------------------------------------------------------------------------------------------------

    def save(self) -> WorldState:
        """Remember everything. What follows ``save`` and what follows a ``restore`` are equal to the bit.

        PyBullet's own snapshots are not that exact, so this one is data from which the world is built again. Saving
        builds it again too (some milliseconds), which may change the running world in the sixteenth digit.
        """
        state = WorldState(
            self.scene, self.dynamics, self._substeps, frozenset(self._pressed), self._target,
            tuple((s[0], s[1]) for s in self.client.getJointStates(self._arm, self._joints)),
            tuple(self._body_state(body) for body in self._bodies.values()),
        )  # fmt: skip
        self.restore(state)
        return state

    def _body_state(self, body: bodies.Body) -> BodyState:
        client = self.client
        position, turn = client.getBasePositionAndOrientation(body.uid)
        velocity, spin = client.getBaseVelocity(body.uid)
        joint: tuple[float, float] | None = None
        if body.joint is not None:
            angle, speed, *_ = client.getJointState(body.uid, body.joint)
            joint = (angle, speed)
        return BodyState(position, turn, velocity, spin, joint)

    def restore(self, state: WorldState) -> None:
        """Go back to a saved state, also one of another scene or another world."""
        client, cid = self.client, self._cid
        self.load(state.scene, state.dynamics)
        for body, now in zip(self._bodies.values(), state.objects, strict=True):
            if body.joint is not None and now.joint is not None:  # fixed to the table: only its joint can have moved
                client.resetJointState(body.uid, body.joint, *now.joint)
                continue
            client.resetBasePositionAndOrientation(body.uid, now.position, now.turn)
            client.resetBaseVelocity(body.uid, now.velocity, now.spin)
        for joint, (angle, speed) in zip(self._joints, state.joints, strict=True):
            pybullet.resetJointState(self._arm, joint, angle, speed, physicsClientId=cid)
        self.set_arm_target(list(state.target))
        self._substeps = state.substeps
        self._pressed = set(state.pressed)
