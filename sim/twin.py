"""The PyBullet arm behind an emulated bus: the emulated servos' shafts are the simulated joints.

    with Twin(World(scene), pace=Pace("stepped")) as twin:
        rig = twin.rig                        # the so101 on twin.port, with the calibration of the nominal mounting
        frame = twin.camera("front").read()

What a servo wants goes to the joint's motor in PyBullet (set point, stiffness, torque limit, or nothing while the torque is
off); where the joint is, how fast and with which torque comes back to encoder, load, current and heat. A nominal servo
(P = 16) has exactly the stiffness that ``World`` gives the arm without a bus, so the two can be compared.

Physics advances with the emulator's clock: in real time, or stepped by the host's traffic. Only one thread may use a
world: while the emulator runs, reach it through ``Twin.still``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.camera_model import Frame
from hardware.emulator.chains import find_chain, nominal
from hardware.emulator.dynamics import Drive, Motor, Shaft
from hardware.emulator.emulator import Emulator, Pace
from hardware.emulator.faults import FaultPlan
from hardware.emulator.feetech_servo import STIFFNESS
from hardware.errors import RobotError
from hardware.rig import Rig, load_rig
from hardware.robot import Observation
from hardware.safety import Applied
from hardware.serial_arm import SerialArm
from sim.bullet import pybullet
from sim.dynamics import GRIPPER_TORQUE_NM, PHYSICS_HZ
from sim.world import World

_NOMINAL_P = 16
_HAND_NM = 50.0  # a hand is stronger than a servo


class JointShafts:
    """The world's joints as the plant of six servos; a tick is a physics step."""

    tick_s = 1.0 / PHYSICS_HZ

    def __init__(self, world: World, motors: Sequence[Motor]) -> None:
        self.world = world
        self.motors = list(motors)
        self.shafts = [Shaft(volts=motor.volts) for motor in motors]
        client, spec = world.client, world.spec
        links = {client.getJointInfo(world.arm_id, j)[12].decode(): j for j in range(client.getNumJoints(world.arm_id))}
        self._joints = [links[origin.child] for origin in (*spec.arm_origins, spec.jaw_origin)]
        self._strongest = [spec.max_effort_nm] * 5 + [GRIPPER_TORQUE_NM]
        self._held = [0.0] * 6  # where a blocked joint was
        self._states: list[tuple[float, float]] = []
        self.look()

    def look(self) -> None:
        """Bring the shafts to where the world's joints are, after the world was changed by other means."""
        states = self.world.client.getJointStates(self.world.arm_id, self._joints)
        for shaft, (angle, speed, _, torque) in zip(self.shafts, states, strict=True):
            shaft.angle, shaft.speed, shaft.torque = angle, speed, torque

    def advance(self, drives: Sequence[Drive]) -> None:
        """One physics step."""
        for k, drive in enumerate(drives):
            self._set_motor(k, drive)
        self.world.step(1)
        states = self.world.client.getJointStates(self.world.arm_id, self._joints)
        for k, (motor, shaft, (angle, speed, _, torque)) in enumerate(
            zip(self.motors, self.shafts, states, strict=True)
        ):
            held = shaft.blocked or shaft.hand is not None
            shaft.angle, shaft.speed = angle, speed
            full = motor.stall_nm * shaft.volts / motor.volts
            if drives[k].mode == "free" or full <= 0.0:
                shaft.torque, shaft.duty = 0.0, 0.0
            elif held:  # PyBullet's torque is the hand's; the servo pushes against it
                shaft.duty = drives[k].push(speed)
                shaft.torque = full * shaft.duty
            else:
                shaft.torque = torque
                limit = drives[k].limit
                shaft.duty = max(-limit, min(limit, (torque + motor.damping * speed) / full))

    def _set_motor(self, k: int, drive: Drive) -> None:
        world, motor, shaft, joint = self.world, self.motors[k], self.shafts[k], self._joints[k]
        arm, cid = world.arm_id, world.client._client
        full = motor.stall_nm * shaft.volts / motor.volts
        if not shaft.blocked:
            self._held[k] = shaft.angle
        if shaft.blocked or shaft.hand is not None:
            goal = self._held[k] if shaft.blocked or shaft.hand is None else shaft.hand
            pybullet.setJointMotorControl2(
                arm, joint, pybullet.POSITION_CONTROL, targetPosition=goal, positionGain=0.3, force=_HAND_NM,
                physicsClientId=cid,
            )  # fmt: skip
        elif drive.mode == "position":
            gain = world.dynamics.position_gain * min(1.0, drive.stiffness / (_NOMINAL_P * STIFFNESS))
            fastest = motor.no_load_rad_s * shaft.volts / motor.volts / max(gain * PHYSICS_HZ, 1e-9)
            error = max(-fastest, min(fastest, drive.error_rad))
            pybullet.setJointMotorControl2(
                arm, joint, pybullet.POSITION_CONTROL, targetPosition=shaft.angle + error, positionGain=gain,
                force=min(drive.limit * full, self._strongest[k]), physicsClientId=cid,
            )  # fmt: skip
        else:
            speed, force = self._free(drive, motor, shaft)
            pybullet.setJointMotorControl2(
                arm, joint, pybullet.VELOCITY_CONTROL, targetVelocity=speed, force=force, physicsClientId=cid
            )

    @staticmethod
    def _free(drive: Drive, motor: Motor, shaft: Shaft) -> tuple[float, float]:
        """Target speed and torque limit that stand for friction, a shorted motor, or a fixed duty."""
        scale = shaft.volts / motor.volts
        if drive.mode == "duty":
            duty = drive.push(shaft.speed)
            return math.copysign(motor.no_load_rad_s * scale, duty) * min(1.0, abs(duty)), motor.stall_nm * abs(
                duty
            ) * scale
        if drive.mode == "brake":
            return 0.0, motor.friction_nm + motor.damping * abs(shaft.speed)
        return 0.0, motor.friction_nm


class Twin:
    """An emulated arm whose servos move a world's arm. A context manager: the port is there from ``start`` to ``close``.

    The world stays the caller's: it is not closed, and must not be stepped by anyone else meanwhile.
    """

    def __init__(
        self,
        world: World,
        arm: str | Path = "so101",
        *,
        pace: Pace | None = None,
        faults: FaultPlan | None = None,
        link: Path | None = None,
        eeprom: Path | None = None,
    ) -> None:
        """``arm`` is a rig of the world's arm. Raises ``RobotError`` for another arm, or a fault that hits nothing."""
        template = load_rig(arm)
        if template.arm != world.spec.name:
            raise RobotError(
                f"this world has a {world.spec.name}, not a {template.arm}; use --model simple for that one"
            )
        plan = faults if faults is not None else FaultPlan()
        self._names: list[tuple[str, int | None]] = [(joint, servo.id) for joint, servo in template.joints.items()]
        self._names += [(camera.name, None) for camera in world.scene.cameras]
        plan.check_targets(self._names)
        chain = find_chain(arm)
        self.world = world
        self.plant = JointShafts(world, [servo.motor for servo in chain.servos])
        self.emulator = Emulator(
            chain, plant=self.plant, pace=pace, faults=replace(plan, faults=()), link=link, eeprom=eeprom
        )
        self._template = template
        self.inject(plan)

    def __enter__(self) -> Twin:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Twin:
        """Open the port."""
        self.emulator.start()
        return self

    def close(self) -> None:
        """The port vanishes; safe to call twice."""
        self.emulator.close()

    @property
    def port(self) -> str:
        """The serial port to open."""
        return self.emulator.port

    @property
    def rig(self) -> Rig:
        """The rig for a driver: on this port, calibrated."""
        return nominal(self._template, self.port)

    def inject(self, faults: str | FaultPlan) -> None:
        """Add faults of joints and cameras. Raises ``RobotError`` for words, joints or cameras that do not exist."""
        plan = FaultPlan.parse(faults) if isinstance(faults, str) else faults
        plan.check_targets(self._names)
        with self.emulator.paused():
            for fault in plan.faults:
                self.emulator.injector.add(fault)

    @contextmanager
    def still(self) -> Iterator[World]:
        """The world, while no servo moves: for pictures, the referee and the scripted planner."""
        with self.emulator.paused():
            yield self.world

    def camera(self, name: str) -> TwinCamera:
        """A camera of the scene. Raises ``SceneError`` listing the names."""
        self.world.camera(name)
        return TwinCamera(self, name)


class TwinCamera:
    """A camera that sees the twin's world; its pictures bear the emulator's time."""

    def __init__(self, twin: Twin, name: str) -> None:
        self.name = name
        self._twin = twin
        self._last: Frame | None = None

    def read(self) -> Frame:
        """The newest frame. Raises ``RobotError`` while the camera is unplugged."""
        emulator = self._twin.emulator
        strike, now = emulator.injector.strike, emulator.time_s
        if strike("camera_unplug", now, self.name) is not None:
            raise RobotError(f"the camera {self.name!r} gives no pictures; is it plugged in?")
        if self._last is not None and strike("camera_stale", now, self.name) is not None:
            return self._last
        if self._last is not None and strike("camera_freeze", now, self.name) is not None:
            return replace(self._last, stamp_s=now)
        with self._twin.still() as world:
            frame = replace(world.render(self.name), stamp_s=now)
        if strike("camera_black", now, self.name) is not None:
            frame = replace(frame, rgb=frame.rgb * 0)
        self._last = frame
        return frame


class EmulatedRobot:
    """The simulated arm driven as a real one is: the serial driver, bytes, emulated servos. A ``Robot``.

    Deterministic: the servos' time stands still between two commands, so one ``act`` is one control period here too, and
    an answer to the last observation has no age. The world may be looked at between commands, as that of a ``SimRobot``.
    """

    def __init__(self, world: World, *, control_hz: float = 20.0, faults: str = "", seed: int = 0) -> None:
        """Raises ``RobotError`` for unknown faults, and what ``SerialArm.open`` raises when they prevent its opening."""
        pace = Pace("stepped", period_s=1.0 / control_hz)
        self.twin = Twin(world, pace=pace, faults=FaultPlan.parse(faults, seed)).start()
        try:
            cameras = {camera.name: self.twin.camera(camera.name) for camera in world.scene.cameras}
            self.arm = SerialArm.open(
                self.twin.rig, cameras=cameras, control_hz=control_hz, profile="sim", lockstep=True
            )
        except BaseException:
            self.twin.close()
            raise
        self.spec: ArmSpec = self.arm.spec
        self.control_hz = control_hz

    @property
    def camera_names(self) -> Sequence[str]:
        """Cameras of the scene."""
        return self.arm.camera_names

    @property
    def fault(self) -> str | None:
        """The latched fault in words, or None."""
        return self.arm.fault

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """See ``hardware.robot.Robot``."""
        return self.arm.observe(cameras)

    def act(self, target: NDArray[np.float64], *, made_s: float | None = None) -> Applied:
        """See ``hardware.robot.Robot``."""
        return self.arm.act(target, made_s=made_s)

    def reset_fault(self) -> None:
        """Release a latched fault."""
        self.arm.reset_fault()

    def disable(self) -> None:
        """Make every joint limp; see ``SerialArm.disable``."""
        self.arm.disable()

    def close(self) -> None:
        """Make the servos limp and let the port vanish; the world stays. Safe to call twice."""
        try:
            self.arm.close()
        finally:
            self.twin.close()
