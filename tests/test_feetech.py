from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.errors import RobotError
from hardware.servo import feetech
from hardware.servo.feetech import Error, Instruction, Kind, Packet, Parser

#: From the makers' manuals, checksums verified; > request, < reply.
VECTORS = """
> FF FF 01 02 01 FB                       # PING id1
< FF FF 01 02 00 FC                       # status ok
> FF FF 01 04 02 38 02 BE                 # READ 2 bytes at 56
< FF FF 01 04 00 18 05 DD                 # 0x0518 = 1304
> FF FF FE 04 03 05 01 F4                 # broadcast WRITE ID=1
> FF FF 01 09 03 2A 00 08 00 00 E8 03 D5  # WRITE pos 2048, time 0, speed 1000
> FF FF 01 09 04 2A 00 08 00 00 E8 03 D4  # REG_WRITE same
> FF FF FE 02 05 FA                       # ACTION
> FFFF FE 20 83 2A 06 01 00080000E803 02 00080000E803 03 00080000E803 04 00080000E803 58  # SYNC_WRITE x4
> FF FF FE 06 82 38 08 01 02 36           # SYNC_READ 8 bytes at 56, ids 1,2
< FF FF 01 0A 00 00 08 00 00 00 00 79 1E 55  # pos 2048 speed 0 load 0 12.1 V 30 C
< FF FF 02 0A 00 FF 07 00 00 00 00 77 23 53  # pos 2047 ... 11.9 V 35 C
> FF FF 01 02 0B F1                       # calibrate: here = mid
> FF FF 01 04 0B 00 04 EB                 # calibrate: here = 1024
> FF FF 01 02 0A F2                       # reset turn state
> FF FF 01 04 03 28 01 CE                 # torque on
> FF FF 01 04 03 37 00 C0                 # unlock EEPROM
> FF FF FE 0A 82 38 02 01 02 03 04 05 06 26  # position sync-read, 6 servos
< FF FF 01 04 00 00 08 F2                 # id1 2048
< FF FF 06 04 00 00 08 ED                 # id6 2048
> FF FF FE 16 83 2A 02 01 41 08 02 41 08 03 41 08 04 41 08 05 41 08 06 41 08 71  # goal 2113 x6
> FF FF 06 05 03 1F 64 08 66              # Homing_Offset -100 (0x0864: bit 11 set)
< FF FF 06 04 00 09 03 E9                 # model number 777
> FF FF FE 0A 82 38 0F 01 02 03 04 05 06 19  # 15-byte telemetry block x6
< FF FF 01 04 20 00 08 D2                 # overload flag set, pos 2048
"""


def _vectors() -> list[tuple[str, bytes]]:
    rows = []
    for line in VECTORS.strip().splitlines():
        data = bytes.fromhex(line[1:].split("#")[0])
        rows.append((line, data))
    return rows


PACKETS = st.builds(Packet, st.integers(0, feetech.MAX_ID), st.integers(0, 255), st.binary(max_size=feetech.MAX_PARAMS))


@pytest.mark.parametrize(("line", "data"), _vectors())
def test_vectors_both_ways(line: str, data: bytes) -> None:
    kind: Kind = "instruction" if line.startswith(">") else "status"
    (packet,) = Parser(kind).feed(data)
    assert feetech.encode(packet, kind) == data


def test_vectors_mean_what_the_manual_says() -> None:
    by_note = {line.split("#")[1].strip(): data for line, data in _vectors() if "#" in line}
    assert feetech.encode(feetech.ping(1)) == by_note["PING id1"]
    assert feetech.encode(feetech.read(1, 56, 2)) == by_note["READ 2 bytes at 56"]
    assert feetech.encode(feetech.write(0xFE, 5, b"\x01")) == by_note["broadcast WRITE ID=1"]
    goal = bytes.fromhex("00 08 00 00 E8 03")
    assert feetech.encode(feetech.reg_write(1, 42, goal)) == by_note["REG_WRITE same"]
    assert feetech.encode(feetech.action()) == by_note["ACTION"]
    assert feetech.encode(feetech.sync_write(42, dict.fromkeys((1, 2, 3, 4), goal))) == by_note["SYNC_WRITE x4"]
    assert feetech.encode(feetech.sync_read(56, 8, (1, 2))) == by_note["SYNC_READ 8 bytes at 56, ids 1,2"]
    assert feetech.encode(feetech.sync_read(56, 15, range(1, 7))) == by_note["15-byte telemetry block x6"]
    assert feetech.encode(Packet(1, Instruction.CALIBRATE)) == by_note["calibrate: here = mid"]
    assert feetech.encode(Packet(1, Instruction.RESET_TURNS)) == by_note["reset turn state"]
    (status,) = Parser().feed(by_note["overload flag set, pos 2048"])
    assert Error(status.code) == Error.OVERLOAD and status.params == b"\x00\x08"


@settings(max_examples=40)
@given(st.lists(PACKETS, max_size=6), st.data())
def test_packets_survive_any_chunks(packets: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(feetech.encode(packet, "status") for packet in packets)
    parser, found = Parser("status"), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:size])
        stream = stream[size:]
    assert found == packets
    assert parser.bad == parser.skipped == parser.pending == 0


@given(st.lists(st.binary(max_size=600), max_size=8), st.sampled_from(["status", "instruction"]))
def test_any_bytes_never_raise_or_pile_up(chunks: list[bytes], kind: Kind) -> None:
    parser = Parser(kind)
    for chunk in chunks:
        parser.feed(chunk)
        assert parser.pending < 4 + 255
    parser.flush()
    assert parser.pending == 0


@given(st.lists(st.sampled_from([b"\xff", b"\xff\xff", b"\x01", b"\xfe", b"\x02", b"\x00\xfc"]), max_size=60))
def test_false_headers_never_raise(parts: list[bytes]) -> None:
    parser = Parser()
    for packet in parser.feed(b"".join(parts)) + parser.flush():
        assert feetech.encode(packet, "status")


@given(st.binary(max_size=40).map(lambda b: b.replace(b"\xff\xff", b"\xff\x00").rstrip(b"\xff")), PACKETS)
def test_a_packet_behind_garbage_is_found(garbage: bytes, packet: Packet) -> None:
    parser = Parser()
    assert parser.feed(garbage + feetech.encode(packet, "status")) == [packet]
    assert parser.skipped == len(garbage)


def test_every_flipped_bit_and_lost_byte_is_noticed() -> None:
    whole = feetech.encode(Packet(1, 0, bytes(range(15))), "status")
    for k in range(len(whole)):
        cut = whole[:k] + whole[k + 1 :]
        assert Packet(1, 0, bytes(range(15))) not in Parser().feed(cut)
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[k] ^= 1 << bit
            parser = Parser()
            assert parser.feed(bytes(flipped)) + parser.flush() == []


def test_damage_costs_one_frame_only() -> None:
    good = feetech.encode(Packet(2, 0, b"\x07"), "status")
    bad = bytearray(feetech.encode(Packet(1, 0, b"\x05"), "status"))
    bad[5] ^= 1
    parser = Parser()
    assert parser.feed(bytes(bad) + good) == [Packet(2, 0, b"\x07")]
    assert parser.bad == 1


def test_flush_frees_a_frame_behind_a_false_length() -> None:
    good = feetech.encode(Packet(2, 0, b"\x07"), "status")
    parser = Parser()
    assert parser.feed(b"\xff\xff\x01\xf0" + good) == []
    assert parser.flush() == [Packet(2, 0, b"\x07")]


def test_clear_forgets() -> None:
    parser = Parser()
    parser.feed(b"\xff\xff\x01")
    parser.clear()
    assert parser.pending == 0 and parser.feed(b"\x02\x00\xfc") == []


def test_status_is_never_broadcast() -> None:
    echo = feetech.encode(feetech.sync_read(56, 8, (1, 2)))
    assert Parser("status").feed(echo) == []
    assert len(Parser("instruction").feed(echo)) == 1


@settings(max_examples=40)
@given(st.integers(0, 255), st.integers(1, 60), st.lists(st.integers(0, 253), min_size=1, max_size=20))
def test_sync_read_round_trip(address: int, size: int, ids: list[int]) -> None:
    asked = feetech.parse_sync_read(feetech.sync_read(address, size, ids).params)
    assert asked == (address, size, tuple(ids))


@settings(max_examples=40)
@given(st.integers(0, 255), st.integers(1, 8), st.data())
def test_sync_write_round_trip(address: int, size: int, data: st.DataObject) -> None:
    blocks = data.draw(st.dictionaries(st.integers(0, 253), st.binary(min_size=size, max_size=size), min_size=1))
    blocks = dict(list(blocks.items())[:20])
    assert feetech.parse_sync_write(feetech.sync_write(address, blocks).params) == (address, size, blocks)


@given(st.binary(max_size=60))
def test_parameters_of_a_stranger_never_raise(params: bytes) -> None:
    feetech.parse_sync_read(params)
    feetech.parse_sync_write(params)


@given(st.sampled_from([10, 11, 12, 15]), st.data())
def test_sign_magnitude(bit: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(-(1 << bit) + 1, (1 << bit) - 1))
    assert feetech.decode_sign_magnitude(feetech.encode_sign_magnitude(value, bit), bit) == value


def test_sign_magnitude_of_the_manual() -> None:
    assert feetech.encode_sign_magnitude(-100, 11) == 0x0864
    assert feetech.decode_sign_magnitude(0x0800, 11) == 0  # minus zero
    with pytest.raises(RobotError, match="±2047"):
        feetech.encode_sign_magnitude(-2048, 11)


@pytest.mark.parametrize(
    "packet", [Packet(0xFF, 1), Packet(-1, 1), Packet(1, 256), Packet(1, -1), Packet(1, 1, bytes(254))]
)
def test_what_does_not_fit_is_refused(packet: Packet) -> None:
    with pytest.raises(RobotError):
        feetech.encode(packet)


def test_broadcast_is_no_status_and_sizes_must_agree() -> None:
    with pytest.raises(RobotError):
        feetech.encode(Packet(0xFE, 0), "status")
    with pytest.raises(RobotError):
        feetech.sync_write(42, {})
    with pytest.raises(RobotError):
        feetech.sync_write(42, {1: b"\x00", 2: b"\x00\x00"})
