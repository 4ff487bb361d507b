"""Hands on an emulated arm, told in words: they hold joints where they are told to, and connect motors to the line.

One order a line, from a file, a pipe or a terminal, carried out as it comes::

    hold shoulder_pan=0.5 gripper=1.2     take these shafts there (rad from the encoder's middle) and hold them
    let_go                                of all joints; or: let_go gripper
    wait 0.5                              seconds of this computer
    alone gripper                         only this motor is connected to the line
    together                              all are

Text behind ``#`` is ignored.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from hardware.emulator.emulator import Emulator
from hardware.errors import RobotError

_UNCONNECTED = "dead"


class Hands:
    """What a person does to an emulated arm."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def run(self, lines: Iterable[str]) -> None:
        """Carry out orders as they come. Raises ``RobotError`` at the first that makes no sense."""
        for line in lines:
            self.do(line)

    def do(self, line: str) -> None:
        """Carry out one order. Raises ``RobotError`` for one that makes no sense."""
        words = line.split("#", 1)[0].split()
        if not words:
            return
        order, *rest = words
        try:
            if order == "hold" and rest:
                pairs = (word.split("=") for word in rest)
                self._emulator.hold({joint: float(rad) for joint, rad in pairs})
            elif order == "let_go":
                self._emulator.let_go(*rest)
            elif order == "wait" and len(rest) == 1:
                time.sleep(max(0.0, float(rest[0])))
            elif order == "alone" and len(rest) == 1:
                self._connect(rest[0])
            elif order == "together" and not rest:
                self._emulator.heal(_UNCONNECTED)
            else:
                raise ValueError("it is none of hold, let_go, wait, alone, together")
        except ValueError as error:
            raise RobotError(f"hands do not understand {line.strip()!r}: {error}") from error

    def _connect(self, joint: str) -> None:
        if joint not in self._emulator.servos:
            raise ValueError(f"there is no joint {joint}")
        self._emulator.heal(_UNCONNECTED)
        others = [name for name in self._emulator.servos if name != joint]
        self._emulator.inject(",".join(f"{_UNCONNECTED}:{name}" for name in others))
