"""What the servo protocols have in common: a packet, and the functions of a codec that the bus needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["instruction", "status"]


@dataclass(frozen=True)
class Packet:
    """One frame; ``code`` is the instruction or, in a status packet, the error byte. ``params`` are free of stuffing."""

    id: int
    code: int
    params: bytes = b""


class PacketParser(Protocol):
    """Packets out of a stream of bytes that comes in any pieces, with any damage. Never raises, bounded in memory."""

    bad: int  # frames refused since the start
    skipped: int  # bytes that belonged to no frame

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes, oldest first."""
        ...

    def flush(self) -> list[Packet]:
        """Give up on an unfinished frame: packets behind a false header in what is pending."""
        ...


class StreamParser(ABC):
    """What the parsers of all protocols do with their buffer; finding the frames in it is each protocol's own."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.bad = 0  # frames refused since the start: impossible length or id, or a check sum that does not fit
        self.skipped = 0  # bytes that belonged to no frame

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes, oldest first."""
        self._buffer += data
        return self._parse()

    def flush(self) -> list[Packet]:
        """Give up on an unfinished frame: packets behind a false header in what is pending; nothing is pending then."""
        packets: list[Packet] = []
        while self._buffer:
            self._drop(1)
            packets += self._parse()
        return packets

    def clear(self) -> None:
        """Forget what is pending."""
        self._drop(len(self._buffer))

    def _drop(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]

    @abstractmethod
    def _parse(self) -> list[Packet]:
        """Take the complete frames off the buffer's front; what may begin another stays."""


class Codec(Protocol):
    """The modules ``feetech`` and ``dynamixel``, as the bus sees them."""

    BROADCAST: int

    def encode(self, packet: Packet, kind: Kind = "instruction") -> bytes:
        """The bytes of a packet."""
        ...

    def ping(self, id: int) -> Packet:
        """Ask for a sign of life."""
        ...

    def read(self, id: int, address: int, size: int) -> Packet:
        """Ask for ``size`` bytes at ``address``."""
        ...

    def write(self, id: int, address: int, data: bytes) -> Packet:
        """Write ``data`` at ``address``."""
        ...

    def reboot(self, id: int) -> Packet:
        """Restart a servo."""
        ...

    def sync_read(self, address: int, size: int, ids: Iterable[int]) -> Packet:
        """Ask several servos for the same block."""
        ...

    def sync_write(self, address: int, data: Mapping[int, bytes]) -> Packet:
        """Write blocks of one size to several servos at once."""
        ...
