"""A gamepad: two sticks move the tool, the rest turns wrist and gripper; buttons give the commands.

Linux shows gamepads as ``/dev/input/js0`` and so on; their events are read from there without a library::

    | time u32 ms | value s16 | kind u8: 1 button, 2 axis, +128 at the start | number u8 |

Elsewhere, and for pads that show up as no such device, pygame reads them (extra ``teleop``). Numbers of axes and buttons are
those of Xbox pads in both, which most others imitate.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardware.errors import RobotError
from hardware.teleop.device import DeviceLost, Key, Rate, Reading

_EVENT = struct.Struct("<IhBB")
_BUTTON, _AXIS, _INITIAL = 1, 2, 0x80
_DEAD = 0.15  # sticks that are let go do not come to rest exactly in the middle

BUTTONS: dict[int, Key] = {
    0: "engage", 1: "stop", 2: "record", 3: "keep", 6: "discard", 7: "rereference", 8: "reset"
}  # fmt: skip
_LEFT_X, _LEFT_Y, _LEFT_TRIGGER, _RIGHT_X, _RIGHT_Y, _RIGHT_TRIGGER = range(6)
_LEFT_SHOULDER, _RIGHT_SHOULDER = 4, 5

HELP = """\
left stick   tool away, towards, left, right    right stick  tool up and down, wrist roll
LB / RB      tilt the tool                      LT / RT      open, close the gripper
A  follow, or stop following    B  hold; again: limp    X  begin or end a take    Y  keep it    Back  discard it
Start  re-reference             Xbox  release a fault"""


class Pad(Protocol):
    """The state of axes (-1..1) and buttons."""

    name: str

    def poll(self) -> tuple[Sequence[float], Sequence[bool]]:
        """Axes and buttons now. Raises ``DeviceLost``."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class JoystickFile:
    """A pad as Linux's joystick device."""

    def __init__(self, path: Path | str) -> None:
        """Raises ``RobotError`` when it cannot be opened."""
        self.name = str(path)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise RobotError(
                f"cannot open the gamepad {path}: {error.strerror}; is it plugged in, and may you read it (group input)?"
            ) from error
        self._axes, self._buttons = [0.0] * 8, [False] * 16
        for trigger in (_LEFT_TRIGGER, _RIGHT_TRIGGER):  # at rest they stand at one end
            self._axes[trigger] = -1.0
        self._rest = b""

    def poll(self) -> tuple[Sequence[float], Sequence[bool]]:
        """See ``Pad``."""
        try:
            while data := os.read(self._fd, 64 * _EVENT.size):
                self._rest += data
        except BlockingIOError:
            data = b"more"  # all that there is for now
        except OSError as error:
            raise DeviceLost(f"the gamepad {self.name} is gone: {error.strerror}; plug it in again") from error
        if not data:
            raise DeviceLost(f"the gamepad {self.name} is gone; plug it in again")
        whole = len(self._rest) - len(self._rest) % _EVENT.size
        for _, value, kind, number in _EVENT.iter_unpack(self._rest[:whole]):
            if kind & ~_INITIAL == _AXIS and number < len(self._axes):
                self._axes[number] = max(-1.0, value / 32767.0)
            elif kind & ~_INITIAL == _BUTTON and number < len(self._buttons):
                self._buttons[number] = bool(value)
        self._rest = self._rest[whole:]
        return self._axes, self._buttons

    def close(self) -> None:
        """See ``Pad``."""
        with contextlib.suppress(OSError):
            os.close(self._fd)


class PygamePad:
    """The first pad that pygame finds."""

    def __init__(self) -> None:
        """Raises ``RobotError`` when pygame is missing or finds no pad."""
        try:
            self._pygame: Any = importlib.import_module("pygame")
        except ImportError as error:
            raise RobotError(
                "there is no gamepad at /dev/input/js*, and pygame, which might find one, is missing; plug a gamepad in, "
                "or: pip install 'embodied[teleop]'"
            ) from error
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pads come with a window system, or with none
        self._pygame.init()
        if self._pygame.joystick.get_count() == 0:
            self._pygame.quit()
            raise RobotError("no gamepad is plugged in; plug one in, or use --with keyboard")
        self._pad = self._pygame.joystick.Joystick(0)
        self.name = str(self._pad.get_name())

    def poll(self) -> tuple[Sequence[float], Sequence[bool]]:
        """See ``Pad``."""
        for event in self._pygame.event.get():
            if event.type == self._pygame.JOYDEVICEREMOVED:
                raise DeviceLost(f"the gamepad {self.name} is gone; plug it in again")
        axes = [float(self._pad.get_axis(k)) for k in range(self._pad.get_numaxes())]
        return axes, [bool(self._pad.get_button(k)) for k in range(self._pad.get_numbuttons())]

    def close(self) -> None:
        """See ``Pad``."""
        self._pygame.quit()


class Gamepad:
    """A ``Device`` over a pad."""

    def __init__(self, pad: Pad | None = None) -> None:
        """``pad``: the first there is when left out."""
        self._given = pad is not None
        self._pad = pad if pad is not None else _first_pad()
        self.name = f"gamepad {self._pad.name}"
        self._before: Sequence[bool] = ()

    def read(self) -> Reading:
        """The sticks now and the buttons that went down since the last reading."""
        axes, buttons = self._pad.poll()
        before, self._before = self._before, tuple(buttons)
        pressed = (k for k, down in enumerate(buttons) if down and not (k < len(before) and before[k]))
        return Reading(rate=_rate(axes, buttons), keys=tuple(BUTTONS[k] for k in pressed if k in BUTTONS))

    def reopen(self) -> None:
        """Look for a pad again, if the one there was is gone."""
        if self._given:
            return
        try:
            self._pad.poll()
        except DeviceLost:
            self._pad.close()
            self._pad, self._before = _first_pad(), ()

    def close(self) -> None:
        """Release the pad."""
        self._pad.close()


def open_gamepad() -> Gamepad:
    """The first gamepad there is. Raises ``RobotError`` when there is none."""
    return Gamepad()


def _first_pad() -> Pad:
    files = sorted(Path("/dev/input").glob("js*"))
    return JoystickFile(files[0]) if files else PygamePad()


def _rate(axes: Sequence[float], buttons: Sequence[bool]) -> Rate:
    def axis(number: int, rest: float = 0.0) -> float:
        value = axes[number] if number < len(axes) else rest
        return 0.0 if abs(value) < _DEAD else (value - np.copysign(_DEAD, value)) / (1.0 - _DEAD)

    def trigger(number: int) -> float:
        return 0.5 * ((axes[number] if number < len(axes) else -1.0) + 1.0)

    def button(number: int) -> float:
        return float(number < len(buttons) and buttons[number])

    joints = np.zeros(6)
    joints[4] = axis(_RIGHT_X)
    joints[5] = trigger(_LEFT_TRIGGER) - trigger(_RIGHT_TRIGGER)
    if abs(joints[5]) < _DEAD:
        joints[5] = 0.0
    tool = np.array([-axis(_LEFT_Y), -axis(_LEFT_X), -axis(_RIGHT_Y)])
    return Rate(joints, tool, button(_RIGHT_SHOULDER) - button(_LEFT_SHOULDER))
