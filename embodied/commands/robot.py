"""``embodied robot``: commands about arms and their servos, and the emulator among them.

Each command is a dataclass and a function; ``run`` knows which belong together. Heavy libraries are imported inside.
The others: ``robot_find``, ``robot_setup``, ``robot_calibrate`` and ``robot_doctor`` (info, doctor, release).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, subcommand

from embodied.commands import robot_calibrate, robot_doctor, robot_find, robot_setup
from embodied.commands.output import print_json, stoppable
from embodied.commands.robot_calibrate import Calibrate
from embodied.commands.robot_doctor import Doctor, Info, Release
from embodied.commands.robot_find import Find
from embodied.commands.robot_setup import Setup
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from hardware.emulator.emulator import Emulator

DONE = 0


@dataclass(frozen=True)
class Emulate:
    """Emulate an arm's servos: prints a serial port that any client may open, until Ctrl-C."""

    arm: Positional[Annotated[str, tyro.conf.arg(metavar="RIG")]]
    """so101, koch, so100, so101_leader, koch_leader, so100_leader, or a rig file (TOML)."""
    link: Path | None = None
    """Make this a symbolic link to the port, so that its name stays the same."""
    faults: str = ""
    """Faults, for example "drop=0.005,corrupt=0.01,unplug@3,freeze:elbow@2"; `embodied robot faults` lists the words."""
    model: Literal["simple", "pybullet"] = "simple"
    """What the shafts move: simple (motors and friction only), or pybullet (the simulated SO-101 with its scene)."""
    scene: str = "0"
    """pybullet: a scene file (JSON), or a number: the seed of a random scene."""
    gui: bool = False
    """pybullet: open PyBullet's window."""
    speed: float = 1.0
    """Seconds of the servos per second."""
    instant: bool = False
    """Bytes take no time on the wire."""
    eeprom: Path | None = None
    """A file in which the servos' EEPROM (ids, offsets, limits) is kept."""
    hands: Path | None = None
    """Hands that move the arm as the lines of this file or pipe say, such as "hold elbow_flex=0.5" (simple model)."""
    seconds: float = 0.0
    """Stop after this time; 0: never."""
    seed: int = 0
    """Seed of the faults' randomness."""
    json: bool = False
    """Print the port, and at the end what happened, as one JSON object a line."""


@dataclass(frozen=True)
class Faults:
    """List the words of the fault vocabulary."""

    json: bool = False
    """Print them as one JSON object on the last line."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Robot:
    """Arms and their servos: find, set up, calibrate, look after, and emulate."""

    action: (
        Annotated[Find, subcommand("find")]
        | Annotated[Setup, subcommand("setup")]
        | Annotated[Calibrate, subcommand("calibrate")]
        | Annotated[Info, subcommand("info")]
        | Annotated[Doctor, subcommand("doctor")]
        | Annotated[Release, subcommand("release")]
        | Annotated[Emulate, subcommand("emulate")]
        | Annotated[Faults, subcommand("faults")]
    )


def run(command: Robot) -> int:
    """Carry out one of the commands; returns the exit status."""
    return _ACTIONS[type(command.action)](command.action)


def _emulate(command: Emulate) -> int:
    from hardware.emulator.emulator import Emulator, Pace
    from hardware.emulator.faults import FaultPlan

    if command.seconds < 0.0:
        raise EmbodiedError(f"--seconds must be zero or more, not {command.seconds}")
    if command.hands is not None and command.model != "simple":
        raise EmbodiedError("--hands move the simple model's shafts only; leave --model pybullet out")
    faults = FaultPlan.parse(command.faults, command.seed)
    pace = Pace(speed=command.speed, wire=not command.instant)
    if command.model == "simple":
        emulator = Emulator(command.arm, pace=pace, faults=faults, link=command.link, eeprom=command.eeprom)
        return _serve(command, emulator)
    from embodied.agent import load_scene
    from sim.twin import Twin
    from sim.world import World

    world = World(load_scene(command.scene)[0], gui=command.gui)
    try:
        twin = Twin(world, command.arm, pace=pace, faults=faults, link=command.link, eeprom=command.eeprom)
        return _serve(command, twin.emulator)
    finally:
        world.close()


def _serve(command: Emulate, emulator: Emulator) -> int:
    """Keep the port until it is time, a signal comes or Ctrl-C is pressed."""
    with stoppable() as wait, emulator:
        if command.json:
            print_json({"port": emulator.port, "arm": command.arm, "model": command.model})
        else:
            print(f"{command.arm} on {emulator.port} at {emulator.chain.baud} baud; Ctrl-C stops it", flush=True)
        if command.hands is not None:
            threading.Thread(target=_move, args=(emulator, command.hands), name="hands", daemon=True).start()
        wait(command.seconds)
        if command.json:
            counts = {"traffic": dict(emulator.traffic), "faults": dict(emulator.injector.counts)}
            print_json({"seconds": round(emulator.time_s, 3), **counts})
    return DONE


def _move(emulator: Emulator, file: Path) -> None:
    """Hands at work, for as long as the file or pipe has orders."""
    from hardware.emulator.hands import Hands

    try:
        with file.open(encoding="utf-8") as lines:
            Hands(emulator).run(lines)
    except (OSError, EmbodiedError) as error:
        print(f"embodied: the hands stop: {error}", file=sys.stderr, flush=True)


def _faults(command: Faults) -> int:
    from hardware.emulator.faults import WORDS, vocabulary

    if command.json:
        print_json({name: {"text": word.text, "rows": list(word.rows)} for name, word in WORDS.items()})
    else:
        print(vocabulary())
    return DONE


_ACTIONS: dict[type, Callable[[Any], int]] = {
    Find: robot_find.run,
    Setup: robot_setup.run,
    Calibrate: robot_calibrate.run,
    Info: robot_doctor.info,
    Doctor: robot_doctor.doctor,
    Release: robot_doctor.release,
    Emulate: _emulate,
    Faults: _faults,
}
