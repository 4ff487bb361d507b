"""A bare client of a servo bus for the emulator's tests: packets out, packets back, nothing clever."""

from __future__ import annotations

import time
from types import ModuleType, TracebackType

import serial

from hardware.emulator.emulator import Emulator, Pace
from hardware.servo import dynamixel, feetech
from hardware.servo.packet import Packet


class Client:
    """Talks to an emulator on its pseudo-terminal as any program would."""

    def __init__(self, port: str, codec: ModuleType, baud: int = 1_000_000) -> None:
        self.codec = codec
        self.serial = serial.Serial(port, baud, timeout=0.0)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.serial.close()

    def raw(self, data: bytes, expect: int = 1, wait_s: float = 1.0) -> bytes:
        """Send bytes; what comes back, until ``expect`` bytes are there or the time is up."""
        self.serial.reset_input_buffer()
        self.serial.write(data)
        heard, end = b"", time.monotonic() + wait_s
        while len(heard) < expect and time.monotonic() < end:
            heard += self.serial.read(4096)
            time.sleep(0.0005)
        return heard + self.serial.read(4096)

    def ask(self, packet: Packet, replies: int = 1, wait_s: float = 1.0) -> list[Packet]:
        """Send a packet; the replies, once ``replies`` are there or the time is up."""
        self.serial.reset_input_buffer()
        self.serial.write(self.codec.encode(packet))
        parser, found = self.codec.Parser("status"), []
        end = time.monotonic() + wait_s
        while len(found) < replies and time.monotonic() < end:
            found += parser.feed(self.serial.read(4096))
            time.sleep(0.0005)
        return found

    def silence(self, packet: Packet, wait_s: float = 0.06) -> bool:
        """Whether nobody answers."""
        return not self.ask(packet, 1, wait_s)

    def get(self, emulator: Emulator, id_: int, name: str) -> int:
        """A register's value, over the wire."""
        register = next(s.model for s in emulator.servos.values() if s.id == id_)[name]
        (reply,) = self.ask(self.codec.read(id_, register.address, register.size))
        return register.decode(reply.params)

    def put(self, emulator: Emulator, id_: int, name: str, value: int) -> Packet:
        """Write a register over the wire; the acknowledgement."""
        register = next(s.model for s in emulator.servos.values() if s.id == id_)[name]
        (reply,) = self.ask(self.codec.write(id_, register.address, register.encode(value)))
        return reply


def feetech_client(emulator: Emulator, baud: int = 1_000_000) -> Client:
    return Client(emulator.port, feetech, baud)


def dynamixel_client(emulator: Emulator, baud: int = 1_000_000) -> Client:
    return Client(emulator.port, dynamixel, baud)


STEPPED = Pace("stepped")
