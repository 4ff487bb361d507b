"""``embodied teleop``: a hand drives a robot, through the safety core, and its takes are recorded."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from embodied.commands.output import print_json
from embodied.commands.run import RobotName, asking
from hardware.errors import EmbodiedError
from hardware.profile import Profile

if TYPE_CHECKING:
    from embodied.recording import Takes
    from embodied.teleop import Session, StatusLine
    from hardware.robot import Robot
    from hardware.serial_arm import SerialArm
    from hardware.teleop import Device, Key, Keyboard

DONE = 0


@dataclass(frozen=True)
class Teleop:
    """Drive a robot by hand: with a leader arm, a gamepad or the keyboard."""

    robot: Positional[RobotName]
    """sim; emulated: the same arm behind emulated servos; or a real arm: its rig file or the name of a shipped one."""
    by: Annotated[Literal["leader", "gamepad", "keyboard"], arg(name="with")] = "keyboard"
    """leader: a second arm moved by hand. gamepad, or keyboard: tool and joints at a speed."""
    port: str = ""
    """Real arm: another port than the rig file's."""
    leader: str = ""
    """The leader's rig file; left out: the shipped one for this arm. emulated: an emulated leader moved by itself."""
    leader_port: str = ""
    """Another port for the leader than its rig file's."""
    relative: bool = False
    """leader: only its motions count, not its pose; lift and re-place it with Enter, as one does a computer mouse."""
    hz: float = 60.0
    """Commands per second."""
    profile: Profile = "default"
    """Real arm: the speed profile of the safety core; default is slow."""
    yes: bool = False
    """Real arm: do not ask before it moves."""
    record: Path | None = None
    """Record takes into the LeRobot dataset in this folder; s begins and ends one."""
    task: str = ""
    """What is done in the takes, in words; needed with --record."""
    fps: float = 20.0
    """Rows per second of the recording; --hz must be a multiple of it."""
    scene: str = "0"
    """Simulation: a scene file (JSON), or a number: the seed of a random scene."""
    gui: bool = False
    """Simulation: open PyBullet's window."""
    seconds: float = 0.0
    """Leave after this time; 0: never."""
    engage: bool = False
    """Follow at once instead of waiting for Enter."""
    json: bool = False
    """Print what happened as one JSON object on the last line."""


def run(command: Teleop) -> int:
    """Drive until someone leaves. Raises ``EmbodiedError``."""
    from embodied.teleop import StatusLine
    from hardware.servo.port import PortLost

    _check(command)
    with ExitStack() as stack:
        robot, arm = _robot(command, stack)
        keyboard = _keyboard(command, stack)
        device = _device(command, robot, keyboard, stack)
        takes = _takes(command, robot, stack)
        line = StatusLine()
        session = _session(command, robot, device, keyboard, takes, line)
        _introduce(command, session, keyboard, arm, line)
        if arm is not None:
            from embodied.robots import confirm_motion

            confirm_motion(arm, command.profile, yes=command.yes, ask=None if keyboard is None else asking())
        if keyboard is not None:
            stack.enter_context(keyboard)
        try:
            _drive(command, session, line)
        except PortLost as error:
            raise EmbodiedError(f"{error}. Support the arm, switch its power off, and plug it in again") from error
        if keyboard is not None:
            keyboard.close()
        if arm is not None:
            from embodied.robots import finish

            finish(arm, asking())
    if command.json:
        print_json(_told(session, takes))
    return DONE


def _check(command: Teleop) -> None:
    if not 50.0 <= command.hz <= 200.0:
        raise EmbodiedError(f"--hz must be 50 to 200, not {command.hz:g}: slower is no fun to drive")
    if command.record is not None and not command.task.strip():
        raise EmbodiedError('--record needs --task "what is done", which becomes the instruction of the episodes')
    if command.seconds < 0.0:
        raise EmbodiedError(f"--seconds must be zero or more, not {command.seconds:g}")


def _robot(command: Teleop, stack: ExitStack) -> tuple[Robot, SerialArm | None]:
    """The robot, and the same once more if it is a real arm."""
    from embodied.robots import is_simulated, make_robot, open_rig

    if not is_simulated(command.robot):
        arm = stack.enter_context(
            open_rig(command.robot, port=command.port, control_hz=command.hz, profile=command.profile)
        )
        return arm, arm
    if command.port:
        raise EmbodiedError(f"--port is for a real arm, and {command.robot} is simulated; leave it out")
    from embodied.agent import load_scene
    from sim.world import World

    world = World(load_scene(command.scene)[0], gui=command.gui)
    stack.callback(world.close)
    robot = make_robot("sim" if command.robot == "sim" else "emulated", world, control_hz=command.hz)
    stack.callback(robot.close)
    return robot, None


def _keyboard(command: Teleop, stack: ExitStack) -> Keyboard | None:
    """The terminal's keyboard: commands, and the jog when it is what drives. None when there is no terminal."""
    import sys

    from hardware.teleop import Keyboard

    if command.by != "keyboard" and not sys.stdin.isatty():
        return None  # a leader or a gamepad can do without; --engage and --seconds then begin and end the session
    keyboard = Keyboard()
    stack.callback(keyboard.close)
    return keyboard


def _device(command: Teleop, robot: Robot, keyboard: Keyboard | None, stack: ExitStack) -> Device:
    from hardware import teleop
    from hardware.rig import load_rig

    device: Device
    if command.by == "keyboard" and keyboard is not None:
        return keyboard
    if command.by == "gamepad":
        device = teleop.open_gamepad()
    elif command.leader == "emulated":
        device = teleop.EmulatedLeader(f"{robot.spec.name}_leader")
    else:
        rig = load_rig(command.leader or f"{robot.spec.name}_leader")
        device = teleop.LeaderArm(rig, port=command.leader_port or None)
    stack.callback(device.close)
    return device


def _takes(command: Teleop, robot: Robot, stack: ExitStack) -> Takes | None:
    if command.record is None:
        return None
    from embodied.recording import Takes, open_dataset

    writer = stack.enter_context(open_dataset(command.record, robot, fps=command.fps))
    takes = Takes(writer, " ".join(command.task.split()), robot.control_hz)
    stack.callback(takes.close)
    return takes


def _session(
    command: Teleop, robot: Robot, device: Device, keyboard: Keyboard | None, takes: Takes | None, line: StatusLine
) -> Session:
    from embodied.teleop import Session

    def typed() -> tuple[Key, ...]:
        return () if keyboard is None or keyboard is device else keyboard.read().keys

    return Session(robot, device, keys=typed, takes=takes, relative=command.relative, say=line.say)


def _introduce(
    command: Teleop, session: Session, keyboard: Keyboard | None, arm: SerialArm | None, line: StatusLine
) -> None:
    from embodied.robots import pace_in_words
    from hardware.teleop import gamepad
    from hardware.teleop import keyboard as keys

    robot, device = session.robot, session.device
    line.say(f"{robot.spec.name} ({command.robot}) driven by the {device.name}, {robot.control_hz:g} commands a second")
    if arm is not None:
        line.say(f"speed profile: {pace_in_words(arm.limits, command.profile)}")
    if keyboard is not None:
        line.say(keys.HELP + ("\n" + keys.JOG_HELP if device is keyboard else ""))
    if command.by == "gamepad":
        line.say(gamepad.HELP)


def _drive(command: Teleop, session: Session, line: StatusLine) -> None:
    if command.engage:
        session.engage()
    try:
        session.run(seconds=command.seconds or math.inf, show=line.show)
    finally:
        line.close()


def _told(session: Session, takes: Takes | None) -> dict[str, object]:
    status = session.status()
    return {
        "state": status.state,
        "rate_hz": round(status.rate_hz, 1),
        "late": session.pacer.late,
        "verdicts": dict(session.verdicts),
        "episodes": 0 if takes is None else takes.kept,
        "discarded": 0 if takes is None else takes.discarded,
    }
