"""Feetech STS/SMS protocol: bytes in, packets out; no I/O. Both the host's and the servo's side.

::

    FF FF  ID  LEN  CODE  P1 .. Pn  CHK        LEN = n + 2,  CHK = ~(ID + LEN + CODE + P1 + .. + Pn) & FF
                    |
                    instruction (host to servo) or error byte (servo to host)

Multi-byte fields are little-endian, signed ones sign-magnitude. Ids are 0..253; 254 addresses all servos, and only a
ping of it is answered. The two directions look alike: on a line that echoes, the host must drop its own bytes itself.

Source: the maker's "Communication Protocol User Manual" for STS and SMS servos.

What this does not protect against: the checksum is an 8-bit sum, so swapped bytes pass it always and other damage now
and then. Values read from a bus must be judged for plausibility.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hardware.errors import RobotError
from hardware.servo.packet import Kind as Kind
from hardware.servo.packet import Packet as Packet
from hardware.servo.packet import StreamParser

HEADER = b"\xff\xff"
BROADCAST = 0xFE
MAX_ID = 0xFD
MAX_PARAMS = 0xFF - 2


class Instruction(enum.IntEnum):
    """What a host may ask of a servo. Firmwares differ in which they know."""

    PING = 0x01
    READ = 0x02  # address, size
    WRITE = 0x03  # address, data
    REG_WRITE = 0x04  # the same, done at the next ACTION
    ACTION = 0x05
    RECOVERY = 0x06  # factory values, the id stays
    REBOOT = 0x08  # no reply; back after about 0.8 s
    BACKUP = 0x09
    RESET_TURNS = 0x0A
    CALIBRATE = 0x0B  # make this the middle, or the position given; firmware 3.10 and newer
    SYNC_READ = 0x82  # address, size, ids: one reply of each, in the order asked
    SYNC_WRITE = 0x83  # address, size, (id, data)..: no reply


class Error(enum.IntFlag):
    """Bits of the error byte in every reply."""

    VOLTAGE = 1 << 0
    ENCODER = 1 << 1
    OVERHEAT = 1 << 2
    OVERCURRENT = 1 << 3
    OVERLOAD = 1 << 5


class SyncRead(NamedTuple):
    """What a sync-read asks."""

    address: int
    size: int
    ids: tuple[int, ...]


class SyncWrite(NamedTuple):
    """What a sync-write orders: ``size`` bytes at ``address`` of each servo."""

    address: int
    size: int
    data: dict[int, bytes]


def checksum(body: bytes) -> int:
    """Checksum of everything between the header and the checksum."""
    return ~sum(body) & 0xFF


def encode(packet: Packet, kind: Kind = "instruction") -> bytes:
    """The bytes of a packet. Raises ``RobotError`` for an id, a code or a length that does not fit the frame."""
    highest = BROADCAST if kind == "instruction" else MAX_ID
    if not 0 <= packet.id <= highest:
        raise RobotError(f"a Feetech {kind} packet has an id from 0 to {highest}, not {packet.id}")
    if not 0 <= packet.code <= 0xFF or len(packet.params) > MAX_PARAMS:
        raise RobotError(
            f"code {packet.code} or {len(packet.params)} parameters do not fit a packet; ask for less at once"
        )
    body = bytes((packet.id, len(packet.params) + 2, packet.code)) + packet.params
    return HEADER + body + bytes((checksum(body),))


class Parser(StreamParser):
    """Packets out of a stream of bytes that comes in any pieces, with any damage.

    Looks for the next header after every frame that fails, so garbage costs only the frames it hit. Holds less than
    one frame between calls. Never raises.
    """

    def __init__(self, kind: Kind = "status") -> None:
        super().__init__()
        self._highest = BROADCAST if kind == "instruction" else MAX_ID

    def _parse(self) -> list[Packet]:
        packets: list[Packet] = []
        buffer, start = self._buffer, 0
        while True:
            header = buffer.find(HEADER, start)
            if header < 0:  # keep a last FF: the second one may be on its way
                header = max(len(buffer) - buffer.endswith(b"\xff"), start)
            self.skipped += header - start
            start = header
            if len(buffer) - start < 4:
                break
            id_, length = buffer[start + 2], buffer[start + 3]
            end = start + 4 + length
            if id_ > self._highest or length < 2:  # FF FF FF: the header may begin one byte later
                self.bad += id_ <= self._highest
                start, self.skipped = start + 1, self.skipped + 1
                continue
            if end > len(buffer):
                break
            body = bytes(buffer[start + 2 : end - 1])
            if buffer[end - 1] != checksum(body):
                self.bad += 1
                start, self.skipped = start + 1, self.skipped + 1
                continue
            packets.append(Packet(id_, body[2], body[3:]))
            start = end
        del buffer[:start]
        return packets


def ping(id: int) -> Packet:
    """Ask for a sign of life."""
    return Packet(id, Instruction.PING)


def read(id: int, address: int, size: int) -> Packet:
    """Ask for ``size`` bytes at ``address``."""
    return Packet(id, Instruction.READ, bytes((address, size)))


def write(id: int, address: int, data: bytes) -> Packet:
    """Write ``data`` at ``address``."""
    return Packet(id, Instruction.WRITE, bytes((address,)) + data)


def reg_write(id: int, address: int, data: bytes) -> Packet:
    """Prepare a write that ``action`` carries out."""
    return Packet(id, Instruction.REG_WRITE, bytes((address,)) + data)


def action(id: int = BROADCAST) -> Packet:
    """Carry out the prepared writes."""
    return Packet(id, Instruction.ACTION)


def reboot(id: int) -> Packet:
    """Restart a servo; it does not reply."""
    return Packet(id, Instruction.REBOOT)


def sync_read(address: int, size: int, ids: Iterable[int]) -> Packet:
    """Ask several servos for the same block; each answers for itself, in this order."""
    return Packet(BROADCAST, Instruction.SYNC_READ, bytes((address, size, *ids)))


def sync_write(address: int, data: Mapping[int, bytes]) -> Packet:
    """Write blocks of one size to several servos at once. Raises ``RobotError`` when the sizes differ."""
    sizes = {len(block) for block in data.values()}
    if len(sizes) != 1:
        raise RobotError("a sync-write needs blocks of one size for at least one servo")
    blocks = b"".join(bytes((id_,)) + block for id_, block in data.items())
    return Packet(BROADCAST, Instruction.SYNC_WRITE, bytes((address, sizes.pop())) + blocks)


def parse_sync_read(params: bytes) -> SyncRead | None:
    """The servo's side of ``sync_read``; None when the parameters make no sense."""
    if len(params) < 3 or params[1] == 0:
        return None
    return SyncRead(params[0], params[1], tuple(params[2:]))


def parse_sync_write(params: bytes) -> SyncWrite | None:
    """The servo's side of ``sync_write``; None when the parameters make no sense."""
    if len(params) < 4 or params[1] == 0 or (len(params) - 2) % (params[1] + 1):
        return None
    size = params[1]
    blocks = {params[k]: params[k + 1 : k + 1 + size] for k in range(2, len(params), size + 1)}
    return SyncWrite(params[0], size, blocks)


def encode_sign_magnitude(value: int, sign_bit: int) -> int:
    """The raw field: magnitude below ``sign_bit``, which is set for negatives. Raises ``RobotError`` when too large."""
    largest = (1 << sign_bit) - 1
    if abs(value) > largest:
        raise RobotError(f"{value} does not fit a field of ±{largest}")
    return -value | 1 << sign_bit if value < 0 else value


def decode_sign_magnitude(raw: int, sign_bit: int) -> int:
    """Inverse of ``encode_sign_magnitude``; bits above the sign are ignored."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude
