"""Dynamixel Protocol 2.0: bytes in, packets out; no I/O. Both the host's and the servo's side.

::

    FF FF FD 00  ID  LEN_L LEN_H  INST  P1 .. Pn  CRC_L CRC_H             LEN = bytes after LEN, CRC included
                                  55 ERR P1 .. Pn                         a status packet

From INST to Pn every ``FF FF FD`` is sent as ``FF FF FD FD`` (byte stuffing), so that a header means a header. LEN and
CRC are those of the stuffed bytes. Multi-byte fields are little-endian, signed ones two's complement. Ids are 0..252;
254 addresses all servos.

A *fast* sync or bulk read is answered by one status packet from id 254 that the servos write together, unstuffed::

    ERR ID DATA CRC | ERR ID DATA CRC | ..                                each CRC covers all since the header

Source: ROBOTIS e-manual, "DYNAMIXEL Protocol 2.0".
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from hardware.errors import RobotError
from hardware.servo.packet import Kind as Kind
from hardware.servo.packet import Packet as Packet
from hardware.servo.packet import StreamParser

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
MAX_ID = 0xFC
#: Longer frames do not occur on a bus of arm servos; a damaged length must not swallow what follows.
MAX_LENGTH = 1024
_STATUS = 0x55
_PAIR = struct.Struct(">H")


class Instruction(enum.IntEnum):
    """What a host may ask of a servo. Models and firmwares differ in which they know."""

    PING = 0x01  # answered with model number (2) and firmware (1)
    READ = 0x02  # address (2), size (2)
    WRITE = 0x03  # address (2), data
    REG_WRITE = 0x04  # the same, done at the next ACTION
    ACTION = 0x05
    FACTORY_RESET = 0x06  # FF all, 01 all but the id, 02 all but id and baud rate
    REBOOT = 0x08
    CLEAR = 0x10  # 01 44 58 4C 22: forget the turns
    CONTROL_TABLE_BACKUP = 0x20
    STATUS = _STATUS
    SYNC_READ = 0x82  # address (2), size (2), ids
    SYNC_WRITE = 0x83  # address (2), size (2), (id, data)..
    FAST_SYNC_READ = 0x8A
    BULK_READ = 0x92  # (id, address (2), size (2))..
    BULK_WRITE = 0x93  # (id, address (2), size (2), data)..
    FAST_BULK_READ = 0x9A


class Result(enum.IntEnum):
    """The low seven bits of a reply's error byte: why this instruction failed."""

    OK = 0
    RESULT_FAIL = 1
    INSTRUCTION = 2
    CRC = 3
    DATA_RANGE = 4
    DATA_LENGTH = 5
    DATA_LIMIT = 6
    ACCESS = 7


#: Set in the error byte of every reply while the servo's hardware error register is not 0.
ALERT = 0x80

FACTORY_ALL, FACTORY_KEEP_ID, FACTORY_KEEP_ID_AND_BAUD = 0xFF, 0x01, 0x02


class SyncRead(NamedTuple):
    """What a sync-read, fast or not, asks."""

    address: int
    size: int
    ids: tuple[int, ...]


class SyncWrite(NamedTuple):
    """What a sync-write orders."""

    address: int
    size: int
    data: dict[int, bytes]


class Block(NamedTuple):
    """A piece of one servo's table, in bulk reads."""

    id: int
    address: int
    size: int


class BlockWrite(NamedTuple):
    """Data for one servo, in bulk writes."""

    id: int
    address: int
    data: bytes


class Share(NamedTuple):
    """One servo's share of a fast reply."""

    id: int
    error: int
    data: bytes


@lru_cache(maxsize=1)
def _crc_table() -> array[int]:
    """What 16 bits in front become, two bytes further on: half as many steps as with a table of bytes."""
    table = array("H", [0])
    for k in range(16):  # the table of one more bit: the CRC of a sum is the sum of the CRCs
        one = 1 << k
        for _ in range(16):
            one = (one << 1 ^ 0x8005 if one & 0x8000 else one << 1) & 0xFFFF
        table.extend([one ^ other for other in table])
    return table


def crc16(data: bytes, crc: int = 0) -> int:
    """CRC-16 with polynomial 0x8005, not reflected, starting from ``crc``."""
    table = _crc_table()
    for (pair,) in _PAIR.iter_unpack(data[: len(data) & ~1]):
        crc = table[crc ^ pair]
    if len(data) & 1:
        crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ data[-1]]
    return crc


def stuff(body: bytes) -> bytes:
    """Make sure that no header occurs in ``body`` (instruction and parameters)."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuff(body: bytes) -> bytes:
    """Inverse of ``stuff``."""
    return body.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")


def encode(packet: Packet, kind: Kind = "instruction") -> bytes:
    """The bytes of a packet. Raises ``RobotError`` for an id, a code or a length that does not fit the frame.

    For a status packet from id 254 see ``encode_fast_status``.
    """
    highest = BROADCAST if kind == "instruction" else MAX_ID
    if not 0 <= packet.id <= highest or MAX_ID < packet.id < BROADCAST:
        raise RobotError(f"a Dynamixel {kind} packet has an id from 0 to {MAX_ID}, not {packet.id}")
    if not 0 <= packet.code <= 0xFF or (kind == "instruction" and packet.code == _STATUS):
        raise RobotError(f"{packet.code} is no code of a Dynamixel {kind} packet")
    start = (_STATUS, packet.code) if kind == "status" else (packet.code,)
    body = stuff(bytes(start) + packet.params)
    if len(body) + 2 > MAX_LENGTH:
        raise RobotError(f"{len(packet.params)} parameters do not fit a packet; ask for less at once")
    frame = HEADER + struct.pack("<BH", packet.id, len(body) + 2) + body
    return frame + struct.pack("<H", crc16(frame))


def encode_fast_status(shares: Sequence[Share]) -> bytes:
    """The one reply that several servos write together. Raises ``RobotError`` when it would be empty or too long."""
    length = 1 + sum(4 + len(share.data) for share in shares)
    if not shares or length > MAX_LENGTH:
        raise RobotError(f"a fast reply of {len(shares)} servos and {length} bytes does not fit a packet")
    frame = HEADER + struct.pack("<BHB", BROADCAST, length, _STATUS)
    for share in shares:
        frame += bytes((share.error, share.id)) + share.data
        frame += struct.pack("<H", crc16(frame))
    return frame


def decode_fast_status(packet: Packet, sizes: Sequence[int]) -> list[Share]:
    """The servos' shares of a fast reply, which hold ``sizes`` bytes of data each; as many as are whole, in order."""
    shares: list[Share] = []
    body = bytes((packet.code,)) + packet.params
    crc = crc16(HEADER + struct.pack("<BHB", BROADCAST, len(body) + 3, _STATUS))
    for size in sizes:
        piece = body[: size + 2]
        if len(piece) < size + 2:
            break
        crc = crc16(piece, crc)
        tail = body[size + 2 : size + 4]  # empty behind the last share: the parser has checked that one
        if tail and tail != struct.pack("<H", crc):
            break
        shares.append(Share(piece[1], piece[0], piece[2:]))
        crc, body = crc16(tail, crc), body[size + 4 :]
    return shares


class Parser(StreamParser):
    """Packets out of a stream of bytes that comes in any pieces, with any damage.

    Looks for the next header after every frame that fails, so garbage costs only the frames it hit. Holds less than
    one frame of ``max_length`` between calls. Never raises. A status parser passes over instructions and the other way
    round, so an echo on the line does no harm.
    """

    def __init__(self, kind: Kind = "status", max_length: int = MAX_LENGTH) -> None:
        super().__init__()
        self._kind: Kind = kind
        self._max_length = max_length

    def _parse(self) -> list[Packet]:
        packets: list[Packet] = []
        buffer, start = self._buffer, 0
        while True:
            header = buffer.find(HEADER, start)
            if header < 0:  # keep what may be the beginning of a header
                kept = next((n for n in (3, 2, 1) if buffer.endswith(HEADER[:n])), 0)
                header = max(len(buffer) - kept, start)
            self.skipped += header - start
            start = header
            if len(buffer) - start < 7:
                break
            id_, length = struct.unpack_from("<BH", buffer, start + 4)
            end = start + 7 + length
            if id_ in (0xFD, 0xFF) or not 3 <= length <= self._max_length:
                self.bad, start, self.skipped = self.bad + 1, start + 1, self.skipped + 1
                continue
            if end > len(buffer):
                break
            frame = bytes(buffer[start : end - 2])
            if buffer[end - 2 : end] != struct.pack("<H", crc16(frame)):
                self.bad, start, self.skipped = self.bad + 1, start + 1, self.skipped + 1
                continue
            packet = self._packet(id_, frame[7:])
            if packet is not None:
                packets.append(packet)
            start = end
        del buffer[:start]
        return packets

    def _packet(self, id_: int, body: bytes) -> Packet | None:
        if (body[0] == _STATUS) != (self._kind == "status"):
            return None
        if id_ != BROADCAST or self._kind == "instruction":  # what several servos write together is not stuffed
            body = unstuff(body)
        if self._kind == "instruction":
            return Packet(id_, body[0], body[1:])
        return Packet(id_, body[1], body[2:]) if len(body) > 1 else None


def ping(id: int) -> Packet:
    """Ask for model number and firmware; a broadcast is answered by every servo, one after the other."""
    return Packet(id, Instruction.PING)


def read(id: int, address: int, size: int) -> Packet:
    """Ask for ``size`` bytes at ``address``."""
    return Packet(id, Instruction.READ, struct.pack("<HH", address, size))


def write(id: int, address: int, data: bytes) -> Packet:
    """Write ``data`` at ``address``."""
    return Packet(id, Instruction.WRITE, struct.pack("<H", address) + data)


def reg_write(id: int, address: int, data: bytes) -> Packet:
    """Prepare a write that ``action`` carries out."""
    return Packet(id, Instruction.REG_WRITE, struct.pack("<H", address) + data)


def action(id: int = BROADCAST) -> Packet:
    """Carry out the prepared writes."""
    return Packet(id, Instruction.ACTION)


def reboot(id: int) -> Packet:
    """Restart a servo: clears a latched hardware error."""
    return Packet(id, Instruction.REBOOT)


def factory_reset(id: int, what: int = FACTORY_KEEP_ID_AND_BAUD) -> Packet:
    """Factory values; ``what`` is one of the ``FACTORY_`` constants."""
    return Packet(id, Instruction.FACTORY_RESET, bytes((what,)))


def clear_turns(id: int) -> Packet:
    """Forget the whole turns of the present position."""
    return Packet(id, Instruction.CLEAR, b"\x01DXL\x22")


def sync_read(address: int, size: int, ids: Iterable[int], fast: bool = False) -> Packet:
    """Ask several servos for the same block: one reply of each in this order, or one reply of all when ``fast``."""
    code = Instruction.FAST_SYNC_READ if fast else Instruction.SYNC_READ
    return Packet(BROADCAST, code, struct.pack("<HH", address, size) + bytes(ids))


def sync_write(address: int, data: Mapping[int, bytes]) -> Packet:
    """Write blocks of one size to several servos at once. Raises ``RobotError`` when the sizes differ."""
    sizes = {len(block) for block in data.values()}
    if len(sizes) != 1:
        raise RobotError("a sync-write needs blocks of one size for at least one servo")
    blocks = b"".join(bytes((id_,)) + block for id_, block in data.items())
    return Packet(BROADCAST, Instruction.SYNC_WRITE, struct.pack("<HH", address, sizes.pop()) + blocks)


def bulk_read(blocks: Iterable[Block], fast: bool = False) -> Packet:
    """Ask several servos for a different block each."""
    code = Instruction.FAST_BULK_READ if fast else Instruction.BULK_READ
    return Packet(BROADCAST, code, b"".join(struct.pack("<BHH", *block) for block in blocks))


def bulk_write(writes: Iterable[BlockWrite]) -> Packet:
    """Write a different block to each of several servos."""
    params = b"".join(struct.pack("<BHH", w.id, w.address, len(w.data)) + w.data for w in writes)
    return Packet(BROADCAST, Instruction.BULK_WRITE, params)


def parse_sync_read(params: bytes) -> SyncRead | None:
    """The servo's side of ``sync_read``; None when the parameters make no sense."""
    if len(params) < 5:
        return None
    address, size = struct.unpack_from("<HH", params)
    return SyncRead(address, size, tuple(params[4:])) if size else None


def parse_sync_write(params: bytes) -> SyncWrite | None:
    """The servo's side of ``sync_write``; None when the parameters make no sense."""
    if len(params) < 6:
        return None
    address, size = struct.unpack_from("<HH", params)
    if size == 0 or (len(params) - 4) % (size + 1):
        return None
    return SyncWrite(address, size, {params[k]: params[k + 1 : k + 1 + size] for k in range(4, len(params), size + 1)})


def parse_bulk_read(params: bytes) -> list[Block] | None:
    """The servo's side of ``bulk_read``; None when the parameters make no sense."""
    if not params or len(params) % 5:
        return None
    return [Block(*block) for block in struct.iter_unpack("<BHH", params)]


def parse_bulk_write(params: bytes) -> list[BlockWrite] | None:
    """The servo's side of ``bulk_write``; None when the parameters make no sense."""
    writes: list[BlockWrite] = []
    while params:
        if len(params) < 5:
            return None
        id_, address, size = struct.unpack_from("<BHH", params)
        if len(params) < 5 + size:
            return None
        writes.append(BlockWrite(id_, address, params[5 : 5 + size]))
        params = params[5 + size :]
    return writes or None
