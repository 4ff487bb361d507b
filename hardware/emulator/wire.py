"""The wire: a pseudo-terminal, bytes that take their time, and what becomes of a reply on its way.

Eight data bits, no parity, one stop bit: ten bits a byte. One pair of wires carries both directions, so a host that
talks while servos are answering destroys both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
import tty
from dataclasses import dataclass, replace
from pathlib import Path

from hardware.emulator.faults import Fault, Injector
from hardware.emulator.servo import Answer, EmulatedServo
from hardware.errors import RobotError
from hardware.servo import dynamixel, feetech
from hardware.servo.packet import Packet

BITS_PER_BYTE = 10
_TCGETS2 = 0x802C542A  # Linux: termios with the baud rate as a number, also one that has no constant
_TERMIOS2 = struct.Struct("4IB19s2I")


class Pty:
    """A pseudo-terminal: this end is the servos' side, ``path`` is what the host opens like a serial port."""

    def __init__(self, link: Path | None = None) -> None:
        """``link`` becomes a symbolic link to the port. Raises ``RobotError`` when something else is there."""
        self._fd, slave = pty.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        os.close(slave)  # as with a real port, its state is gone when the last user closes it
        os.set_blocking(self._fd, False)
        self._link = link
        if link is not None:
            self._point(link)

    def _point(self, link: Path) -> None:
        if link.exists() and not link.is_symlink():
            os.close(self._fd)
            raise RobotError(f"{link} is there already and is no link; choose another path for the port's link")
        link.parent.mkdir(parents=True, exist_ok=True)
        passing = link.with_name(f".{link.name}.{os.getpid()}")
        passing.unlink(missing_ok=True)
        passing.symlink_to(self.path)
        os.replace(passing, link)

    def fileno(self) -> int:
        """For ``select``; -1 once closed."""
        return self._fd

    def host_baud(self) -> int:
        """The rate at which the host has set its end, bits per second; 0 if it cannot be known."""
        try:
            raw = fcntl.ioctl(self._fd, _TCGETS2, bytes(_TERMIOS2.size))
        except OSError:
            return 0
        return int(_TERMIOS2.unpack(raw)[7])

    def read(self) -> bytes | None:
        """What the host has sent; None while no host has the port open."""
        try:
            return os.read(self._fd, 4096)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: nobody has the other end open
            return None

    def write(self, data: bytes) -> None:
        """Send to the host. What a host that never reads leaves in the buffer is lost, as in a UART."""
        with contextlib.suppress(OSError):
            os.write(self._fd, data)

    def close(self) -> None:
        """The port vanishes: the host's next read or write fails. Safe to call twice."""
        if self._fd < 0:
            return
        # Before the port: a host that has just lost it must not find its link still there.
        if self._link is not None and self._link.is_symlink() and os.readlink(self._link) == self.path:
            self._link.unlink(missing_ok=True)
        with contextlib.suppress(OSError, termios.error):
            termios.tcflush(self._fd, termios.TCIOFLUSH)
        os.close(self._fd)
        self._fd = -1


def heard_as(data: bytes, sent_baud: int, heard_baud: int) -> bytes:
    """What a receiver at another rate makes of bytes: it samples the line in the middle of its own bits.

    Bytes without a stop bit are dropped, as receivers do.
    """
    if sent_baud == heard_baud:
        return data
    line = [level for byte in data for level in (0, *((byte >> k) & 1 for k in range(8)), 1)]

    def level(t_s: float) -> int:
        place = int(t_s * sent_baud)
        return line[place] if place < len(line) else 1

    end, bit, t = len(line) / sent_baud, 1.0 / heard_baud, 0.0
    heard = bytearray()
    while t < end:
        if level(t) == 1:
            t += 1.0 / sent_baud / 8
            continue
        bits = [level(t + (k + 0.5) * bit) for k in range(1, 10)]
        if bits[8]:
            heard.append(sum(b << k for k, b in enumerate(bits[:8])))
        t += 9.5 * bit
    return bytes(heard)


@dataclass(frozen=True)
class Burst:
    """Bytes on their way to the host."""

    data: bytes
    extra_s: float = 0.0  # late by this much


def encode(answer: Answer) -> bytes:
    """A reply as bytes, in its servo's protocol."""
    packet = Packet(answer.id, answer.code, answer.params)
    if answer.servo.model.protocol == "feetech":
        return feetech.encode(packet, "status")
    return dynamixel.encode(packet, "status")


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


class Strikes:
    """The faults that may hit one reply of one servo."""

    def __init__(self, injector: Injector, now_s: float, servo: EmulatedServo) -> None:
        self.injector = injector
        self._now_s, self._servo = now_s, servo

    def fault(self, kind: str) -> Fault | None:
        """The fault of this kind that strikes now."""
        return self.injector.strike(kind, self._now_s, self._servo.joint, self._servo.id)

    def choice(self, kind: str, choices: int) -> int | None:
        """None if no fault of this kind strikes, else its index, or a drawn one when it gives none."""
        fault = self.fault(kind)
        if fault is None:
            return None
        return self.injector.draw(choices) if fault.index is None else fault.index % max(choices, 1)


def on_the_wire(answer: Answer, injector: Injector, now_s: float) -> list[Burst]:
    """What reaches the host of a servo's reply: one burst when nothing is wrong."""
    if not injector.busy:
        return [Burst(encode(answer))]
    strikes = Strikes(injector, now_s, answer.servo)
    if (bit := strikes.choice("error", 8)) is not None:
        answer = replace(answer, code=answer.code | 1 << bit)
    if (other := strikes.fault("wrong_id")) is not None:
        answer = replace(answer, id=answer.id % 6 + 1 if other.index is None else other.index % feetech.MAX_ID)
    if answer.params and (bit := strikes.choice("forge", 8 * len(answer.params))) is not None:
        answer = replace(answer, params=_flip(answer.params, bit))
    data = encode(answer)
    start = len(data) - len(answer.params) - (1 if answer.servo.model.protocol == "feetech" else 2)
    if len(answer.params) > 1 and (place := strikes.choice("swap", len(answer.params) - 1)) is not None:
        k = start + place
        data = data[:k] + data[k + 1 : k + 2] + data[k : k + 1] + data[k + 2 :]
    if strikes.fault("duplicate_id") is not None:
        data = collide([data, encode(replace(answer, params=bytes(byte ^ 0x55 for byte in answer.params)))])
    return damaged(data, strikes)


def damaged(data: bytes, strikes: Strikes) -> list[Burst]:
    """What becomes of a reply's bytes."""
    if (k := strikes.choice("lose_byte", len(data))) is not None:
        data = data[:k] + data[k + 1 :]
    if (bit := strikes.choice("corrupt", 8 * len(data))) is not None:
        data = _flip(data, bit)
    if (k := strikes.choice("truncate", len(data))) is not None:
        data = data[:k]
    if (noise := strikes.fault("garbage")) is not None:
        random = strikes.injector.rng.bytes(1 + strikes.injector.draw(16) if noise.index is None else noise.index)
        data = random + (b"\xff\xff" if strikes.injector.draw(2) else b"") + data  # half of them with a false header
    if strikes.fault("drop") is not None or not data:
        return []
    late = strikes.fault("delay")
    burst = Burst(data, 0.0 if late is None else late.magnitude)
    return [burst, Burst(data)] if strikes.fault("duplicate") is not None else [burst]


def fast_reply(request: Packet, answers: list[Answer]) -> bytes:
    """The one reply that several Dynamixels write together: it breaks off where one of them is silent."""
    asked = dynamixel.parse_sync_read(request.params)
    blocks = dynamixel.parse_bulk_read(request.params) or []
    together = asked is not None and request.code == dynamixel.Instruction.FAST_SYNC_READ
    sizes = [asked.size] * len(asked.ids) if together and asked is not None else [block.size for block in blocks]
    told = {answer.order: answer for answer in answers}
    shares = [
        dynamixel.Share(told[k].id, told[k].code, told[k].params) if k in told else dynamixel.Share(0, 0, bytes(size))
        for k, size in enumerate(sizes)
    ]
    frame = dynamixel.encode_fast_status(shares)
    silent = next((k for k in range(len(sizes)) if k not in told), None)
    if silent is None:
        return frame
    return frame[: 8 + sum(4 + len(share.data) for share in shares[:silent])] if silent else b""


def collide(frames: list[bytes]) -> bytes:
    """Several servos that talk at once: the line is low where any of them pulls it low."""
    longest = max(map(len, frames))
    padded = [frame.ljust(longest, b"\xff") for frame in frames]
    line = bytearray(padded[0])
    for frame in padded[1:]:
        for k, byte in enumerate(frame):
            line[k] &= byte
    return bytes(line)
