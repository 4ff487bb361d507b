"""``embodied run``: does what an instruction says, in simulation or on a real arm; the same program for both."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from embodied.commands.output import people_console, print_json
from hardware.errors import EmbodiedError
from hardware.profile import Profile

if TYPE_CHECKING:
    from rich.console import Console

    from embodied.agent import Agent
    from embodied.executor import ExecutorOptions
    from hardware.serial_arm import SerialArm

DONE, FAILED = 0, 1
Words = Annotated[str, arg(metavar="WORDS")]
RobotName = Annotated[str, arg(metavar="sim|emulated|RIG")]

#: The executor's own motions stay this much below what the speed profile of a real arm allows.
_MARGIN = 0.8


@dataclass(frozen=True)
class Run:
    """Do what an instruction says, in simulation or on a real arm."""

    instruction: Positional[Words]
    """What to do, in plain English: "put the red cube in the blue bowl"."""
    scene: str = "0"
    """A scene file (JSON), or a number: the seed of a random scene. A real arm has its table instead."""
    planner: str = "local"
    """local (the shipped model), scripted (reads the true scene; for demonstrations), a trained one's folder, remote,
    remote:PRESET/MODEL or https://host/v1#model, or a chain such as remote+local. A local model takes options, such as
    FOLDER?device=cuda&dtype=bfloat16."""
    policy: str = ""
    """point (shipped, needs no camera; the default), refiner (shipped, looks and corrects wrong points), scripted (the
    experts), the folder of one you trained, lerobot:FOLDER or ws://HOST:PORT."""
    robot: RobotName = "sim"
    """sim; emulated: the same arm through the real serial driver, bytes and emulated servos; or a real arm: its rig file
    (TOML) or the name of a shipped one."""
    port: str = ""
    """Real arm: another port than the rig file's, such as /dev/ttyACM0 or socket://host:port."""
    camera: str = ""
    """The camera that the planner looks through: sim (the simulated one), or the name of one in the rig file."""
    profile: Profile = "default"
    """Real arm: the speed profile of the safety core; default is slow."""
    yes: bool = False
    """Real arm: do not ask before it moves."""
    record: Path | None = None
    """Add the episode to the LeRobot dataset in this folder."""
    video: Path | None = None
    """Write the video here instead of into the episode's folder."""
    no_video: bool = False
    """Film nothing: about three times as fast."""
    out: Path = Path("runs")
    """Folder in which the episode's folder is made."""
    seed: int = 0
    """Seed of the episode's randomness."""
    gui: bool = False
    """Open PyBullet's window."""
    retries: int = 2
    """How often a failed step is tried again."""
    repoint: bool = False
    """Take a new picture before each step and let the planner point again."""
    verify: bool = False
    """Look at the picture after each place, and pick up again what the planner does not see where it should be."""
    looks: int = 2
    """After work on several things ("all the cubes"), look again and ask so many times what is left; 0: never."""
    json: bool = False
    """Print the result as one JSON object on the last line."""


def run(command: Run) -> int:
    """Exit status: 0 the task succeeded, 1 it did not. Raises ``EmbodiedError`` for what cannot begin."""
    quiet_libraries()
    options = _options(command)
    if not command.instruction.strip():
        raise EmbodiedError("the instruction is empty; say what to do, for example: put the red cube in the blue bowl")
    console = people_console(command.json)
    from embodied.robots import is_simulated

    begin = _simulated if is_simulated(command.robot) else _real
    return begin(command, options, console)


def _simulated(command: Run, options: ExecutorOptions, console: Console) -> int:
    from embodied.agent import Agent

    if command.port:
        raise EmbodiedError(
            f"--port is for a real arm, and --robot {command.robot} is simulated; leave one of them out"
        )
    with console.status("starting the simulation"):
        agent = Agent.simulated(
            command.scene, planner=command.planner, policy=command.policy or None, seed=command.seed, gui=command.gui,
            options=options,
            robot="sim" if command.robot == "sim" else "emulated",
        )  # fmt: skip
    with agent:
        if command.camera not in ("", "sim"):
            from embodied.robots import camera_to_plan_with

            agent.camera = camera_to_plan_with(agent.robot, command.camera)
        return _episode(command, agent, console)


def _real(command: Run, options: ExecutorOptions, console: Console) -> int:
    from embodied.agent import Agent
    from embodied.robots import confirm_motion, finish, open_rig

    if command.camera == "sim":
        raise EmbodiedError(
            "--camera sim is the simulated camera, which goes with --robot emulated; a rig has the cameras of its file"
        )
    if command.planner == "scripted":
        raise EmbodiedError(
            "the scripted planner reads the true scene of a simulation; use --planner local on a real arm"
        )
    with console.status("opening the arm"):
        arm = open_rig(command.robot, port=command.port, profile=command.profile, camera=command.camera)
    with arm:
        with console.status("loading planner and policy"):
            agent = Agent.on_robot(
                arm, planner=command.planner, policy=command.policy or None, camera=command.camera,
                options=_at_the_pace_of(arm, options),
            )  # fmt: skip
        with agent:
            confirm_motion(arm, command.profile, yes=command.yes, ask=asking())
            status = _episode(command, agent, console)
            finish(arm, asking())
    return status


def _episode(command: Run, agent: Agent, console: Console) -> int:
    from embodied.recording import AgentRecording
    from embodied.show import Narrator

    if command.record is not None:
        agent.recording = AgentRecording(command.record)
        agent.recording.open(agent.robot)
    narrator = Narrator(console)
    with narrator:
        episode = agent.run(
            command.instruction,
            out=command.out,
            video=command.video or not command.no_video,
            on_event=narrator.tell,
        )
    narrator.close(episode)
    if agent.recording is not None:
        count = agent.recording.saved
        console.print(
            f"recorded: {agent.recording.root}" if count else "recorded: nothing, for nothing was carried out"
        )
    if command.json:
        print_json(episode.to_json())
    return DONE if episode.success else FAILED


def _options(command: Run) -> ExecutorOptions:
    from embodied.executor import ExecutorOptions

    return ExecutorOptions(retries=command.retries, repoint=command.repoint, verify=command.verify, looks=command.looks)


def _at_the_pace_of(arm: SerialArm, usual: ExecutorOptions) -> ExecutorOptions:
    """Way points that the arm can keep up with: what runs ahead of it would be cut short at the end."""
    limits = arm.limits
    reach_m = 0.4  # from the pan axis to the tool of an arm stretched out
    slowest = min(float(limits.velocity[:5].min()), limits.tip_speed_m_s / reach_m)
    return replace(usual, max_joint_speed=min(usual.max_joint_speed, _MARGIN * slowest))


def asking() -> Callable[[str], str] | None:
    """A question to whoever sits at the terminal; None when nobody does."""
    if not sys.stdin.isatty():
        return None

    def ask(text: str) -> str:
        print(text, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()

    return ask


def quiet_libraries() -> None:
    """Their progress bars and advice are not for users of this command."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
