"""The robots there are by name: the simulated arm, the same behind emulated servos, and any rig file.

    sim         the arm of a simulated world
    emulated    that arm behind the real serial driver, bytes and emulated servos
    RIG         a rig file (TOML), or the name of a shipped one: a real arm on its port, with the cameras of the file

All fulfil ``hardware.robot.Robot``; whoever drives one need not know which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hardware.errors import EmbodiedError, RobotError
from hardware.kinematics import forward
from hardware.profile import Profile
from hardware.robot import Camera, Robot
from hardware.safety import Limits

if TYPE_CHECKING:
    from hardware.rig import Rig
    from hardware.serial_arm import SerialArm
    from sim.world import World

Float = NDArray[np.float64]
RobotKind = Literal["sim", "emulated"]
#: The robots that live in a simulated world.
SIMULATED: tuple[RobotKind, ...] = ("sim", "emulated")


def is_simulated(robot: str) -> bool:
    """Whether this robot lives in a simulated world; every other name is a rig."""
    return robot in SIMULATED


def make_robot(kind: RobotKind, world: World, *, control_hz: float = 20.0) -> Robot:
    """The simulated arm of a world: as it is, or behind the serial driver and emulated servos."""
    if kind == "sim":
        from sim.robot import SimRobot

        return SimRobot(world, control_hz=control_hz)
    from sim.twin import EmulatedRobot

    return EmulatedRobot(world, control_hz=control_hz)


def follower_rig(source: str | Path) -> Rig:
    """The rig file of an arm that can be commanded. Raises ``RobotError``."""
    from hardware.rig import load_rig, rig_names

    if str(source) in ("real", "arm") or not str(source):
        raise RobotError(f"name a rig file (TOML), or one of: {', '.join((*SIMULATED, *rig_names()))}")
    rig = load_rig(source)
    if rig.role == "leader":
        raise RobotError(
            f"{rig.name} is a leader arm: it is moved by hand and cannot be commanded. Name its follower's rig file here"
        )
    return rig


def open_rig(
    source: str | Path,
    *,
    port: str = "",
    control_hz: float = 20.0,
    profile: Profile = "default",
    camera: str = "",
) -> SerialArm:
    """The arm of a rig file with its cameras, ready and without torque: nothing moves.

    ``port`` overrides the file's; ``camera`` is one that must be there. Raises ``RobotError`` with a sentence that says what
    to do when the arm is not calibrated, is another one, does not answer, is in use, or has no such camera.
    """
    from hardware.serial_arm import SerialArm

    rig = follower_rig(source)
    if camera and camera not in rig.cameras:
        have = f"it has: {', '.join(rig.cameras)}" if rig.cameras else "it has none"
        raise RobotError(
            f"the rig file of {rig.name} has no camera {camera!r}; {have}. Add a section [cameras.{camera}]"
        )
    from hardware.joint_map import JointMap

    JointMap(rig)  # refuse an arm without calibration before its cameras start
    opened: list[SerialArm] = []
    with ExitStack() as stack:
        cameras = _cameras(rig, lambda: forward(rig.spec, opened[0].read()), stack)
        opened.append(SerialArm.open(rig, port=port or None, cameras=cameras, control_hz=control_hz, profile=profile))
        stack.pop_all()
    return opened[0]


def _cameras(rig: Rig, tool_pose: Callable[[], Float], stack: ExitStack) -> dict[str, Camera]:
    """The cameras of a rig file, seeing; ``stack`` closes them."""
    if not rig.cameras:
        return {}  # and no need of OpenCV
    from hardware.cameras import camera

    opened = camera.open_cameras(rig.cameras, tool_pose=tool_pose)
    for one in opened.values():
        stack.callback(one.close)
    return dict(opened)


def camera_to_plan_with(robot: Robot, wanted: str = "") -> str:
    """The camera that the planner looks through: the one named, else ``front``, else the only one.

    Raises ``RobotError`` when there is none, or several and none is called ``front``.
    """
    names = tuple(robot.camera_names)
    if wanted:
        if wanted not in names:
            raise RobotError(f"this robot has no camera {wanted!r}; it has: {', '.join(names) or 'none'}")
        return wanted
    if "front" in names or len(names) == 1:
        return "front" if "front" in names else names[0]
    if not names:
        raise RobotError(
            "this robot has no camera, and a plan needs a picture; add a section [cameras.front] to its rig file, or drive "
            "it by hand: embodied teleop"
        )
    raise RobotError(f"this robot has the cameras {', '.join(names)}; choose one: --camera {names[0]}")


def pace_in_words(limits: Limits, profile: str) -> str:
    """The speed profile for people: ``default (joints up to 0.7 rad/s, tool up to 0.25 m/s)``."""
    return (
        f"{profile} (joints up to {float(limits.velocity[:5].max()):g} rad/s, tool up to {limits.tip_speed_m_s:g} m/s)"
    )


def confirm_motion(arm: SerialArm, profile: str, *, yes: bool, ask: Callable[[str], str] | None) -> None:
    """Before the first motion of a real arm: a person says yes. ``ask`` is None where nobody can be asked.

    Raises ``EmbodiedError`` when the answer is no, or nobody is there and ``yes`` was not given.
    """
    where = f"{arm.rig.name} on {arm.rig.bus.port}"
    if yes:
        return
    if ask is None:
        raise EmbodiedError(f"{where} is a real arm, which moves only after you have said so; give --yes to say it now")
    answer = ask(
        f"{where} will move. Speed profile: {pace_in_words(arm.limits, profile)}. Keep people out of its reach and a hand on "
        "the switch of its power supply. Go? [y/N] "
    )
    if answer.strip().lower() not in ("y", "yes"):
        raise EmbodiedError(f"{where} was not moved, as you wished")


def limp(robot: Robot) -> bool:
    """Switch the torque of a robot's arm off; the arm may fall. False where there is no torque to switch."""
    disable = getattr(robot, "disable", None)
    if disable is None:
        return False
    disable()
    return True


def finish(arm: SerialArm, ask: Callable[[str], str] | None) -> None:
    """At the end of a program: an arm that holds is not dropped. It parks (home, slowly, then limp) where it can.

    With a fault latched it cannot: then a person is asked to support it, if one is there.
    """
    if not arm.engaged:
        return
    if arm.fault is None and arm.park():
        return
    if ask is not None:
        why = f" ({arm.fault})" if arm.fault else ""
        ask(f"{arm.rig.name} holds{why}. Support it, then press Enter: its joints go limp. ")
