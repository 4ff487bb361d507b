"""``embodied robot setup``: ids, baud rate and settings for the motors of an arm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from embodied.commands.output import print_json

DONE = 0


@dataclass(frozen=True)
class Setup:
    """Give new motors their ids, baud rate and settings, one at a time from the gripper to the base."""

    rig: Positional[Annotated[str, arg(metavar="RIG")]]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    port: str = ""
    """The serial port; the rig file's when left out."""
    begin: str = ""
    """Go on with this joint, when a setup was cut off."""
    only: tuple[str, ...] = ()
    """Only these joints: after changing a motor."""
    together: bool = False
    """All motors are connected and have their ids: only check them and write the settings that differ."""
    yes: bool = False
    """Ask nothing."""
    answers: Path | None = None
    """Take the answers from this file, one a line (an empty line is Enter)."""
    json: bool = False
    """Print what was written as one JSON object on the last line."""


def run(command: Setup) -> int:
    """Exit status 0. Raises ``EmbodiedError`` naming the joint to go on with."""
    from embodied.commands.asking import answers
    from embodied.commands.robot_rig import rig_at, wide_console
    from hardware.motor_setup import apply_settings, joints_from, set_up

    rig = rig_at(command.rig, command.port)
    console = wide_console(command.json)
    if command.together:
        written = apply_settings(rig)
        for name, registers in written.items():
            console.print(f"{name}: {', '.join(registers) or 'nothing to write'}", markup=False)
    else:
        joints = joints_from(rig, command.begin, command.only)
        ask = answers(console, command.yes, command.answers)
        motors = set_up(rig, joints, ask, lambda words: console.print(words, markup=False))
        written = {motor.joint: motor.written for motor in motors}
    console.print(f"Set up: {', '.join(written)}. Next: embodied robot calibrate {command.rig}", markup=False)
    if command.json:
        print_json({"written": {name: list(registers) for name, registers in written.items()}})
    return DONE
