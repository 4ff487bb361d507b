"""What the rows of the fault table share: how a row is written, and the emulated arm on which its fault happens.

A row is one experiment with a switch. With the fault off it must show that nothing reacts; with the fault on, that what
``docs/faults.md`` promises happens::

    @row(7, "the adapter echoes what is sent")
    def echo(lab: Lab, on: bool) -> None:
        with lab.bus() as (servos, bus):
            if on:
                servos.inject("echo")
            ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.rig import Rig, load_rig
from hardware.safety import Applied
from hardware.serial_arm import SerialArm
from hardware.servo.bus import Bus

Float = NDArray[np.float64]
#: One ordinary control step: slower than every profile allows.
STEP: Float = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 0.02])
#: How long a reply may be late before the driver calls it missing. Without a fault nothing is missing, and a busy
#: machine's pauses must not look like one.
LATENCY_S, CALM_S = 0.1, 0.5


@dataclass
class Lab:
    """The place of one experiment."""

    tmp: Path
    patch: pytest.MonkeyPatch
    on: bool

    @contextmanager
    def bus(self, name: str = "so101", latency_s: float = LATENCY_S) -> Iterator[tuple[Emulator, Bus]]:
        """Emulated servos whose joints stand apart, torque off, and the bus they hang on."""
        with Emulator(name, pace=Pace("stepped")) as servos:
            servos.hold({joint: 0.1 * k for k, joint in enumerate(servos.servos, 1)})
            servos.advance(0.5)
            models = {servo.id: servo.model for servo in servos.servos.values()}
            with Bus.open(servos.port, models, latency_s=latency_s if self.on else CALM_S) as bus:
                yield servos, bus

    @contextmanager
    def arm(
        self,
        name: str = "so101",
        *,
        rig: Rig | None = None,
        faults: str = "",
        latency_s: float = LATENCY_S,
        **options: Any,
    ) -> Iterator[tuple[Emulator, SerialArm]]:
        """Emulated servos and the serial driver on them; time passes only when the arm is commanded."""
        with Emulator(name, pace=Pace("stepped")) as servos:
            if faults:
                servos.inject(faults)
                servos.advance(0.05)
            rig = nominal(load_rig(name)) if rig is None else rig
            rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": servos.port})})
            models = {joint.id: joint.model for joint in rig.joints.values()}
            bus = Bus.open(servos.port, models, baud=rig.bus.baud, latency_s=latency_s if self.on else CALM_S)
            arm = SerialArm(rig, bus, lockstep=True, **options)
            try:
                yield servos, arm
            finally:
                servos.heal()
                with suppress(RobotError):  # what a row leaves behind is not its subject
                    arm.close()


@dataclass(frozen=True)
class Row:
    """One fault: its number and title in the table, and the experiment."""

    number: int
    title: str
    experiment: Callable[[Lab, bool], None]

    @property
    def id(self) -> str:
        """As it is named on pytest's command line."""
        return f"{self.number:02}-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


ROWS: dict[int, Row] = {}


def row(number: int, title: str) -> Callable[[Callable[[Lab, bool], None]], Callable[[Lab, bool], None]]:
    """Register an experiment as a row of the table."""

    def register(experiment: Callable[[Lab, bool], None]) -> Callable[[Lab, bool], None]:
        assert number not in ROWS, f"row {number} is there twice"
        ROWS[number] = Row(number, title, experiment)
        return experiment

    return register


def walk(arm: SerialArm, steps: int = 6) -> list[Applied]:
    """Command so many ordinary steps, one after the other."""
    target = arm.observe().command
    return [arm.act(target + k * STEP) for k in range(1, steps + 1)]


def refused(applied: list[Applied]) -> bool:
    """Whether the last command was not carried out."""
    return applied[-1].verdict == "reject"


def goals(servos: Emulator) -> dict[str, int]:
    """What the servos hold as their goals."""
    return registers(servos, "goal_position")


def torques(servos: Emulator) -> dict[str, int]:
    """Which servos have their torque on."""
    return registers(servos, "torque_enable")


def registers(servos: Emulator, name: str) -> dict[str, int]:
    """A register of every servo, by joint."""
    return {joint: servo.registers.get(name) for joint, servo in servos.servos.items()}


def stands_still(servos: Emulator, arm: SerialArm, wanted: Float | None = None) -> bool:
    """Whether commands change no goal any more, half a second after what happened."""
    wanted = arm.spec.home if wanted is None else wanted
    for _ in range(10):
        arm.act(wanted)
    before = goals(servos)
    for k in range(1, 5):
        arm.act(wanted + k * STEP)
    return goals(servos) == before


def positions(servos: Emulator) -> dict[int, int]:
    """Where the servos truly are, in counts by id."""
    return {servo.id: round(servo.position()) for servo in servos.servos.values()}
