from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import RobotError
from hardware.servo import dynamixel
from hardware.servo.dynamixel import Block, BlockWrite, Instruction, Kind, Packet, Parser, Share

#: From the makers' manuals, checksums verified; > request, < reply.
VECTORS = """
> FF FF FD 00 01 03 00 01 19 4E                          # PING id1
< FF FF FD 00 01 07 00 55 00 06 04 26 65 5D              # model 1030 fw 38
> FF FF FD 00 FE 03 00 01 31 42                          # broadcast PING
> FF FF FD 00 01 07 00 02 84 00 04 00 1D 15              # READ 4 at 132
< FF FF FD 00 01 08 00 55 00 A6 00 00 00 8C C0           # 166
> FF FF FD 00 01 09 00 03 74 00 00 02 00 00 CA 89        # WRITE 512 at 116
< FF FF FD 00 01 04 00 55 00 A1 0C                       # ok
> FF FF FD 00 01 09 00 04 68 00 C8 00 00 00 AE 8E        # REG_WRITE 200 at 104
> FF FF FD 00 01 03 00 05 02 CE                          # ACTION
> FF FF FD 00 01 04 00 06 01 A1 E6                       # factory reset, keep ID
> FF FF FD 00 01 03 00 08 2F 4E                          # REBOOT
> FF FF FD 00 01 08 00 10 01 44 58 4C 22 B1 DC           # CLEAR multi-turn
> FF FF FD 00 FE 09 00 82 84 00 04 00 01 02 CE FA        # SYNC_READ ids 1,2
< FF FF FD 00 02 08 00 55 00 1F 08 00 00 BA BE           # id2 = 2079
> FF FF FD 00 FE 11 00 83 74 00 04 00 01 96 00 00 00 02 AA 00 00 00 82 87   # SYNC_WRITE 150,170
> FF FF FD 00 FE 0D 00 92 01 90 00 02 00 02 92 00 01 00 1A 05               # BULK_READ
> FF FF FD 00 FE 10 00 93 01 20 00 02 00 A0 00 02 1F 00 01 00 50 B7 68      # BULK_WRITE
> FF FF FD 00 FE 0A 00 8A 84 00 04 00 03 07 04 20 F2     # FAST_SYNC_READ 3,7,4
< FF FF FD 00 FE 19 00 55 00 03 A6 00 00 00 84 08 00 07 1F 08 00 00 16 CA 00 04 FF 03 00 00 D1 9E  # 166, 2079, 1023
> FF FF FD 00 FE 0D 00 82 84 00 04 00 01 02 03 04 05 06 B2 9B               # position x6
> FF FF FD 00 FE 0D 00 8A 84 00 04 00 01 02 03 04 05 06 B1 B1               # same, fast
> FF FF FD 00 FE 0D 00 82 7E 00 0A 00 01 02 03 04 05 06 18 B7               # current+velocity+position x6
> FFFFFD00 FE 2500 83 7400 0400 01 00080000 02 00080000 03 00080000 04 00080000 05 00080000 06 00080000 81BB  # goal x6
> FF FF FD 00 01 06 00 03 40 00 01 DB 66                 # torque on
> FF FF FD 00 01 06 00 03 62 00 05 68 E4                 # bus watchdog 100 ms
> FF FF FD 00 01 0A 00 03 74 00 FF FF FD FD 00 21 E7     # STUFFED write of bytes FF FF FD 00
< FF FF FD 00 01 0F 00 55 00 FF FF FD FD FF FF FF 00 08 00 00 49 F0         # STUFFED reply: cur -1 vel -3 pos 2048
< FF FF FD 00 01 08 00 55 80 00 08 00 00 1F 84           # ALERT bit, pos 2048
< FF FF FD 00 01 04 00 55 04 BA 8C                       # data-range error (watchdog tripped)
"""


def _vectors() -> list[tuple[str, bytes]]:
    rows = []
    for line in VECTORS.strip().splitlines():
        data = bytes.fromhex(line[1:].split("#")[0])
        rows.append((line, data))
    return rows


CODES = st.integers(0, 255).filter(lambda code: code != Instruction.STATUS)
#: Parameters rich in what byte stuffing is about.
PARAMS = st.lists(
    st.sampled_from([b"\xff", b"\xff\xff", b"\xff\xff\xfd", b"\xfd", b"\x00"]) | st.binary(max_size=8), max_size=20
).map(b"".join)
STATUSES = st.builds(Packet, st.integers(0, dynamixel.MAX_ID), st.integers(0, 255), PARAMS)


def _kind(data: bytes) -> Kind:
    return "status" if data[7] == Instruction.STATUS else "instruction"


@pytest.mark.parametrize(("line", "data"), _vectors())
def test_vectors_both_ways(line: str, data: bytes) -> None:
    (packet,) = Parser(_kind(data)).feed(data)
    if packet.id == dynamixel.BROADCAST and _kind(data) == "status":
        assert dynamixel.encode_fast_status(dynamixel.decode_fast_status(packet, [4, 4, 4])) == data
    else:
        assert dynamixel.encode(packet, _kind(data)) == data


def test_vectors_mean_what_the_manual_says() -> None:
    by_note = {line.split("#")[1].strip(): data for line, data in _vectors() if "#" in line}
    made = {
        "PING id1": dynamixel.ping(1),
        "broadcast PING": dynamixel.ping(0xFE),
        "READ 4 at 132": dynamixel.read(1, 132, 4),
        "WRITE 512 at 116": dynamixel.write(1, 116, (512).to_bytes(4, "little")),
        "REG_WRITE 200 at 104": dynamixel.reg_write(1, 104, (200).to_bytes(4, "little")),
        "ACTION": dynamixel.action(1),
        "factory reset, keep ID": dynamixel.factory_reset(1, dynamixel.FACTORY_KEEP_ID),
        "REBOOT": dynamixel.reboot(1),
        "CLEAR multi-turn": dynamixel.clear_turns(1),
        "SYNC_READ ids 1,2": dynamixel.sync_read(132, 4, (1, 2)),
        "SYNC_WRITE 150,170": dynamixel.sync_write(116, {1: b"\x96\0\0\0", 2: b"\xaa\0\0\0"}),
        "BULK_READ": dynamixel.bulk_read([Block(1, 144, 2), Block(2, 146, 1)]),
        "BULK_WRITE": dynamixel.bulk_write([BlockWrite(1, 32, b"\xa0\0"), BlockWrite(2, 31, b"\x50")]),
        "FAST_SYNC_READ 3,7,4": dynamixel.sync_read(132, 4, (3, 7, 4), fast=True),
        "STUFFED write of bytes FF FF FD 00": dynamixel.write(1, 116, b"\xff\xff\xfd\x00"),
    }
    for note, packet in made.items():
        assert dynamixel.encode(packet) == by_note[note], note


def test_fast_bulk_read_has_the_crc_that_the_manual_misprints() -> None:
    blocks = [Block(3, 132, 4), Block(7, 124, 2), Block(4, 146, 1)]
    data = dynamixel.encode(dynamixel.bulk_read(blocks, fast=True))
    assert data[7] == Instruction.FAST_BULK_READ
    (packet,) = Parser("instruction").feed(data)
    assert dynamixel.parse_bulk_read(packet.params) == blocks


def test_crc_is_the_published_one() -> None:
    assert dynamixel.crc16(bytes.fromhex("FF FF FD 00 01 03 00 01")) == 0x4E19
    assert dynamixel.crc16(b"\x03\x00\x01", dynamixel.crc16(bytes.fromhex("FF FF FD 00 01"))) == 0x4E19


@settings(max_examples=40)
@given(st.lists(STATUSES, max_size=5), st.data())
def test_packets_survive_any_chunks(packets: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(dynamixel.encode(packet, "status") for packet in packets)
    parser, found = Parser("status"), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:size])
        stream = stream[size:]
    assert found == packets
    assert parser.bad == parser.skipped == parser.pending == 0


@settings(max_examples=40)
@given(st.builds(Packet, st.integers(0, dynamixel.MAX_ID) | st.just(0xFE), CODES, PARAMS))
def test_instructions_survive(packet: Packet) -> None:
    data = dynamixel.encode(packet)
    assert Parser("instruction").feed(data) == [packet]
    assert Parser("status").feed(data) == []  # an echo does no harm


@given(st.binary(max_size=200))
def test_no_header_survives_stuffing(body: bytes) -> None:
    stuffed = dynamixel.stuff(body)
    assert dynamixel.HEADER not in stuffed
    assert dynamixel.unstuff(stuffed) == body


@given(st.lists(st.binary(max_size=600), max_size=8), st.sampled_from(["status", "instruction"]))
def test_any_bytes_never_raise_or_pile_up(chunks: list[bytes], kind: Kind) -> None:
    parser = Parser(kind, max_length=100)
    for chunk in chunks:
        parser.feed(chunk)
        assert parser.pending < 107
    parser.flush()
    assert parser.pending == 0


HEADERS = [b"\xff\xff\xfd\x00", b"\xff\xff", b"\xfd", b"\x01\x04\x00", b"\x55", b"\xfe\x07\x00\x55\x00", b"\x00"]


@given(st.lists(st.sampled_from(HEADERS), max_size=60))
def test_false_headers_never_raise(parts: list[bytes]) -> None:
    parser = Parser()
    assert isinstance(parser.feed(b"".join(parts)) + parser.flush(), list)


def test_every_flipped_bit_and_lost_byte_is_noticed() -> None:
    whole = dynamixel.encode(Packet(1, 0, bytes(range(21))), "status")
    for k in range(len(whole)):
        parser = Parser()
        assert parser.feed(whole[:k] + whole[k + 1 :]) + parser.flush() == []
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[k] ^= 1 << bit
            parser = Parser()
            assert parser.feed(bytes(flipped)) + parser.flush() == []


def test_damage_costs_one_frame_only() -> None:
    good = dynamixel.encode(Packet(2, 0, b"\x07"), "status")
    bad = bytearray(dynamixel.encode(Packet(1, 0, b"\x05"), "status"))
    bad[9] ^= 1
    parser = Parser()
    assert parser.feed(bytes(bad) + good) == [Packet(2, 0, b"\x07")]
    assert parser.bad == 1


def test_flush_frees_a_frame_behind_a_false_length() -> None:
    good = dynamixel.encode(Packet(2, 0, b"\x07"), "status")
    parser = Parser()
    assert parser.feed(b"\xff\xff\xfd\x00\x01\xf0\x03" + good) == []
    assert parser.flush() == [Packet(2, 0, b"\x07")]


def test_clear_forgets() -> None:
    good = dynamixel.encode(Packet(2, 0, b"\x07"), "status")
    parser = Parser()
    parser.feed(good[:5])
    parser.clear()
    assert parser.pending == 0 and parser.feed(good[5:]) == []


def test_a_status_without_an_error_byte_is_none() -> None:
    frame = dynamixel.HEADER + bytes((1, 3, 0, 0x55))
    assert Parser().feed(frame + dynamixel.crc16(frame).to_bytes(2, "little")) == []


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(Share, st.integers(0, 252), st.integers(0, 255), PARAMS.map(lambda p: p[:12])),
        min_size=1,
        max_size=8,
    )
)
def test_fast_status_round_trip(shares: list[Share]) -> None:
    data = dynamixel.encode_fast_status(shares)
    (packet,) = Parser().feed(data)
    sizes = [len(share.data) for share in shares]
    assert dynamixel.decode_fast_status(packet, sizes) == shares
    assert dynamixel.decode_fast_status(packet, [*sizes, 4]) == shares  # more asked for than came


def test_fast_status_stops_at_a_share_whose_crc_is_wrong() -> None:
    shares = [Share(1, 0, b"\x01\x02"), Share(2, 0, b"\x03\x04")]
    (packet,) = Parser().feed(dynamixel.encode_fast_status(shares))
    damaged = bytearray(packet.params)
    damaged[3] ^= 1  # the CRC behind the first share; the packet's own is not looked at here
    assert dynamixel.decode_fast_status(Packet(packet.id, packet.code, bytes(damaged)), [2, 2]) == []


@given(st.binary(max_size=60), st.lists(st.integers(0, 20), max_size=5))
def test_parameters_of_a_stranger_never_raise(params: bytes, sizes: list[int]) -> None:
    dynamixel.parse_sync_read(params)
    dynamixel.parse_sync_write(params)
    dynamixel.parse_bulk_read(params)
    dynamixel.parse_bulk_write(params)
    dynamixel.decode_fast_status(Packet(0xFE, 0, params), sizes)


ADDRESS = st.integers(0, 65535)
IDS = st.integers(0, 252)


@settings(max_examples=40)
@given(ADDRESS, st.integers(1, 65535), st.lists(IDS, min_size=1), st.booleans())
def test_sync_read_round_trip(address: int, size: int, ids: list[int], fast: bool) -> None:
    asked = dynamixel.parse_sync_read(dynamixel.sync_read(address, size, ids, fast).params)
    assert asked == (address, size, tuple(ids))


@settings(max_examples=40)
@given(ADDRESS, st.integers(1, 8), st.data())
def test_sync_write_round_trip(address: int, size: int, data: st.DataObject) -> None:
    blocks = data.draw(st.dictionaries(IDS, st.binary(min_size=size, max_size=size), min_size=1))
    assert dynamixel.parse_sync_write(dynamixel.sync_write(address, blocks).params) == (address, size, blocks)


@settings(max_examples=40)
@given(st.lists(st.builds(BlockWrite, IDS, ADDRESS, st.binary(max_size=9)), min_size=1, max_size=9))
def test_bulk_write_round_trip(writes: list[BlockWrite]) -> None:
    assert dynamixel.parse_bulk_write(dynamixel.bulk_write(writes).params) == writes


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (Packet(0xFD, 1), "instruction"), (Packet(0xFF, 1), "instruction"), (Packet(-1, 1), "instruction"),
        (Packet(0xFE, 0), "status"), (Packet(1, 0x55), "instruction"), (Packet(1, 256), "status"),
        (Packet(1, 2, bytes(1100)), "instruction"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(packet: Packet, kind: Kind) -> None:
    with pytest.raises(RobotError):
        dynamixel.encode(packet, kind)


def test_more_refusals() -> None:
    with pytest.raises(RobotError):
        dynamixel.encode_fast_status([])
    with pytest.raises(RobotError):
        dynamixel.encode_fast_status([Share(1, 0, bytes(2000))])
    with pytest.raises(RobotError):
        dynamixel.sync_write(116, {1: b"\x00", 2: b"\x00\x00"})
