"""The keyboard of the terminal: jogs the arm and gives the commands of every session; works over ssh, needs no window.

A terminal tells of pressed keys only, never of released ones. A key therefore counts as held for ``HOLD_S`` after it was
heard last: a tap is a small step, a key kept down repeats and moves on, after the pause that keyboards make before they
repeat.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from hardware.errors import RobotError
from hardware.teleop.device import Key, Rate, Reading

HOLD_S = 0.12

COMMANDS: dict[str, Key] = {
    "\r": "engage", "\n": "engage", " ": "stop", "z": "rereference", "f": "reset", "s": "record", "k": "keep",
    "n": "fail", "d": "discard", "+": "faster", "=": "faster", "-": "slower", "x": "quit",
}  # fmt: skip
_JOINTS = {key: (index, way) for keys, way in (("123456", 1.0), ("qwerty", -1.0)) for index, key in enumerate(keys)}
_TOOL = {
    "up": (0, 1.0), "down": (0, -1.0), "left": (1, 1.0), "right": (1, -1.0), "u": (2, 1.0), "j": (2, -1.0)
}  # fmt: skip
_PITCH = {"o": 1.0, "l": -1.0}
_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}

HELP = """\
Enter    follow the hand, or stop following     space  hold; again: limp       x  leave
z        take the hand's pose for the arm's     f      release a fault
s        begin or end a take                    k / n / d  keep it as a success / keep it as a failure / discard it"""
JOG_HELP = """\
1..6 / q..y  joints forwards / backwards        arrows  tool away, towards, left, right      u / j  tool up / down
o / l        tilt the tool                      + / -   faster, slower"""


class Keyboard:
    """A ``Device`` over a terminal's keyboard; in a ``with`` block, which gives the terminal back as it was."""

    name = "keyboard"

    def __init__(self, fd: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``fd``: the terminal; standard input when left out. Raises ``RobotError`` when it is none."""
        self._fd = sys.stdin.fileno() if fd is None else fd
        if not os.isatty(self._fd):
            raise RobotError("the keyboard of a terminal is needed and standard input is none; run this in a terminal")
        self._clock = clock
        self._before: list[Any] | None = None
        self._held: dict[str, float] = {}
        self._rest = ""  # an escape sequence that has not come whole yet

    def __enter__(self) -> Keyboard:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)  # Ctrl-C stays what it is
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> Reading:
        """The keys held and the commands given since the last reading."""
        now = self._clock()
        keys: list[Key] = []
        for word in self._words(self._typed()):
            if word in COMMANDS:
                keys.append(COMMANDS[word])
            elif word in _JOINTS or word in _TOOL or word in _PITCH:
                self._held[word] = now
        self._held = {word: at for word, at in self._held.items() if now - at < HOLD_S}
        if "stop" in keys:
            self._held.clear()
        return Reading(rate=self._rate(), keys=tuple(keys))

    def reopen(self) -> None:
        """A terminal that is gone takes the program with it."""

    def close(self) -> None:
        """Give the terminal back as it was; safe to call twice."""
        if self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._before = None

    def _typed(self) -> str:
        data = b""
        while select.select([self._fd], [], [], 0.0)[0]:
            chunk = os.read(self._fd, 1024)
            if not chunk:
                break
            data += chunk
        return data.decode(errors="ignore")

    def _words(self, typed: str) -> list[str]:
        """Keys by name; an arrow comes as three characters, perhaps not all at once."""
        text, self._rest = self._rest + typed, ""
        words: list[str] = []
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                words.append(text[at])
                at += 1
            elif len(text) - at < 3 and text[at:] in ("\x1b", "\x1b[", "\x1bO"):
                self._rest = text[at:]
                break
            elif text[at + 1] in "[O":
                end = at + 2
                while end < len(text) - 1 and not text[end].isalpha() and text[end] != "~":
                    end += 1
                words.append(_ARROWS.get(text[end], "") if end == at + 2 else "")
                at = end + 1
            else:
                at += 1  # Alt or Esc before another key means nothing here
        return words

    def _rate(self) -> Rate:
        joints, tool, pitch = np.zeros(6), np.zeros(3), 0.0
        for word in self._held:
            if word in _JOINTS:
                index, way = _JOINTS[word]
                joints[index] += way
            elif word in _TOOL:
                axis, way = _TOOL[word]
                tool[axis] += way
            else:
                pitch += _PITCH[word]
        return Rate(joints, tool, pitch)
