"""Every instruction of both protocols, over a real pseudo-terminal."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from servo_client import STEPPED, Client, dynamixel_client, feetech_client

from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.servo import dynamixel, feetech
from hardware.servo.dynamixel import ALERT, Block, BlockWrite, Result
from hardware.servo.packet import Packet


@pytest.fixture
def so101() -> Iterator[tuple[Emulator, Client]]:
    with Emulator("so101", pace=STEPPED) as arm, feetech_client(arm) as client:
        yield arm, client


@pytest.fixture
def koch() -> Iterator[tuple[Emulator, Client]]:
    with Emulator("koch", pace=STEPPED) as arm, dynamixel_client(arm) as client:
        yield arm, client


def test_the_makers_examples_byte_for_byte(so101) -> None:
    arm, client = so101
    for request, reply in (
        ("FF FF 01 02 01 FB", "FF FF 01 02 00 FC"),
        ("FF FF 01 04 02 38 02 BE", "FF FF 01 04 00 00 08 F2"),
        ("FF FF 06 04 02 03 02 EE", "FF FF 06 04 00 09 03 E9"),
        ("FF FF 01 09 03 2A 00 08 00 00 E8 03 D5", "FF FF 01 02 00 FC"),
        ("FF FF 01 04 03 28 01 CE", "FF FF 01 02 00 FC"),
    ):
        expected = bytes.fromhex(reply)
        assert client.raw(bytes.fromhex(request), len(expected)) == expected
    assert arm.servos["shoulder_pan"].registers.get("goal_velocity") == 1000


def test_sync_read_is_answered_by_each_in_the_order_asked(so101) -> None:
    _, client = so101
    replies = client.ask(feetech.sync_read(56, 15, (3, 1, 6)), 3)
    assert [(reply.id, len(reply.params)) for reply in replies] == [(3, 15), (1, 15), (6, 15)]
    data = client.raw(bytes.fromhex("FF FF FE 0A 82 38 02 01 02 03 04 05 06 26"), 48)
    assert data == b"".join(feetech.encode(Packet(k, 0, b"\x00\x08"), "status") for k in range(1, 7))


def test_broadcasts_are_obeyed_in_silence_but_for_a_ping(so101) -> None:
    arm, client = so101
    assert client.silence(feetech.write(feetech.BROADCAST, 46, struct.pack("<H", 100)))
    assert client.silence(feetech.sync_write(42, {1: b"\x00\x07", 2: b"\x01\x07"}))
    assert [client.get(arm, k, "goal_velocity") for k in (1, 6)] == [100, 100]
    assert [client.get(arm, k, "goal_position") for k in (1, 2)] == [1792, 1793]
    assert client.silence(feetech.read(feetech.BROADCAST, 56, 2))
    assert [reply.id for reply in client.ask(feetech.ping(feetech.BROADCAST), 6)] == [1, 2, 3, 4, 5, 6]


def test_registered_writes_wait_for_the_action(so101) -> None:
    arm, client = so101
    assert client.ask(feetech.reg_write(1, 42, b"\x00\x09"))[0].code == 0
    assert client.get(arm, 1, "goal_position") == 0
    assert client.get(arm, 1, "registered_write") == 1
    assert client.silence(feetech.action())
    assert (client.get(arm, 1, "goal_position"), client.get(arm, 1, "registered_write")) == (0x900, 0)


def test_a_servo_that_answers_reads_only(so101) -> None:
    arm, client = so101
    client.put(arm, 1, "status_return_level", 0)
    assert client.silence(feetech.write(1, 42, b"\x00\x08"))
    assert client.get(arm, 1, "goal_position") == 0x800
    assert client.ask(feetech.ping(1))[0].id == 1


def test_a_new_id_holds_from_the_next_packet_on_and_is_kept_only_if_unlocked(so101) -> None:
    arm, client = so101
    client.put(arm, 1, "lock", 0)
    assert client.put(arm, 1, "id", 9).id == 1
    assert client.silence(feetech.ping(1))
    assert client.ask(feetech.ping(9))[0].id == 9
    client.ask(feetech.write(9, 55, b"\x01"))  # lock
    client.ask(feetech.write(9, 5, b"\x0a"))
    assert client.ask(feetech.ping(10))[0].id == 10
    arm.power_cycle()
    assert client.ask(feetech.ping(9))[0].id == 9


def test_two_servos_with_one_id_talk_at_once(so101) -> None:
    arm, client = so101
    client.put(arm, 2, "id", 1)
    arm.hold({"shoulder_pan": 0.5})
    arm.advance(0.1)
    heard = client.raw(feetech.encode(feetech.read(1, 56, 2)), 8, wait_s=0.1)
    a, b = (feetech.encode(Packet(1, 0, struct.pack("<H", round(p))), "status") for p in (2048 + 0.5 * 651.899, 2048))
    assert heard == bytes(x & y for x, y in zip(a, b, strict=True))


def test_feetech_reboot_is_silent_and_loses_ram(so101) -> None:
    arm, client = so101
    client.put(arm, 1, "goal_position", 2048)
    client.put(arm, 1, "torque_enable", 1)
    assert client.silence(feetech.reboot(1))
    assert client.silence(feetech.ping(1))
    arm.advance(0.9)
    assert client.ask(feetech.ping(1))[0].id == 1
    assert (client.get(arm, 1, "torque_enable"), client.get(arm, 1, "goal_position")) == (0, 0)


def test_recovery_keeps_the_id(so101) -> None:
    arm, client = so101
    client.put(arm, 4, "lock", 0)
    client.put(arm, 4, "min_position", 700)
    client.ask(Packet(4, feetech.Instruction.RECOVERY))
    arm.advance(0.9)
    assert (client.get(arm, 4, "min_position"), client.get(arm, 4, "id")) == (0, 4)


def test_making_the_present_position_the_middle(so101) -> None:
    arm, client = so101
    arm.hold({"elbow_flex": 0.6, "wrist_flex": -0.4})
    arm.advance(0.1)
    before = client.get(arm, 3, "present_position")
    client.put(arm, 3, "torque_enable", 128)
    assert client.get(arm, 3, "present_position") == 2048
    assert client.get(arm, 3, "homing_offset") == before - 2048
    assert client.get(arm, 3, "torque_enable") == 0
    client.ask(Packet(4, feetech.Instruction.CALIBRATE, struct.pack("<H", 1024)))
    assert client.get(arm, 4, "present_position") == 1024


def test_homing_offset_is_subtracted_and_limits_clip_the_goal(so101) -> None:
    arm, client = so101
    client.put(arm, 3, "lock", 0)
    client.put(arm, 3, "homing_offset", -100)
    assert client.get(arm, 3, "present_position") == 2148
    client.put(arm, 3, "max_position", 2200)
    client.put(arm, 3, "goal_position", 3000)
    client.put(arm, 3, "torque_enable", 1)
    arm.advance(1.0)
    assert client.get(arm, 3, "present_position") == pytest.approx(2200, abs=3)


def test_multi_turn_counts_on_and_can_be_reset(so101) -> None:
    arm, client = so101
    arm.servos["wrist_roll"].shaft.stops = (-100.0, 100.0)
    client.put(arm, 5, "lock", 0)
    client.put(arm, 5, "max_position", 0)
    arm.hold({"wrist_roll": 10.0})
    arm.advance(1.2)
    assert client.get(arm, 5, "present_position") == round(2048 + 10.0 * 651.899)
    client.ask(Packet(5, feetech.Instruction.RESET_TURNS))
    assert 0 <= client.get(arm, 5, "present_position") < 4096


def test_nonsense_is_met_with_silence(so101) -> None:
    _, client = so101
    for packet in (
        feetech.ping(77), Packet(1, 0x55), Packet(1, feetech.Instruction.READ, b"\x38"),
        Packet(1, feetech.Instruction.WRITE, b"\x38"), Packet(254, feetech.Instruction.SYNC_READ, b"\x38"),
    ):  # fmt: skip
        assert client.silence(packet, 0.03)
    assert client.raw(bytes.fromhex("FF FF 01 02 01 FA"), wait_s=0.03) == b""  # a wrong checksum
    assert client.ask(feetech.ping(1))


def test_dynamixel_ping_and_broadcast_ping(koch) -> None:
    _, client = koch
    assert client.ask(dynamixel.ping(1))[0].params == bytes((0x24, 0x04, 45))
    replies = client.ask(dynamixel.ping(dynamixel.BROADCAST), 6)
    assert [(r.id, int.from_bytes(r.params[:2], "little")) for r in replies] == [
        (1, 1060), (2, 1060), (3, 1200), (4, 1200), (5, 1200), (6, 1200),
    ]  # fmt: skip


def test_dynamixel_sync_bulk_and_fast_reads_agree(koch) -> None:
    arm, client = koch
    arm.hold({joint: 0.1 * k for k, joint in enumerate(arm.servos)})
    arm.advance(0.1)
    ids = (3, 1, 6)
    sync = client.ask(dynamixel.sync_read(132, 4, ids), 3)
    assert [reply.id for reply in sync] == list(ids)
    bulk = client.ask(dynamixel.bulk_read([Block(i, 132, 4) for i in ids]), 3)
    assert bulk == sync
    for packet in (
        dynamixel.sync_read(132, 4, ids, fast=True), dynamixel.bulk_read([Block(i, 132, 4) for i in ids], fast=True),
    ):  # fmt: skip
        (fast,) = client.ask(packet)
        shares = dynamixel.decode_fast_status(fast, [4, 4, 4])
        assert [(share.id, share.error, share.data) for share in shares] == [(r.id, r.code, r.params) for r in sync]


def test_dynamixel_sync_and_bulk_writes_are_silent(koch) -> None:
    arm, client = koch
    assert client.silence(dynamixel.sync_write(116, {1: struct.pack("<i", 2100), 2: struct.pack("<i", 2000)}))
    assert client.silence(
        dynamixel.bulk_write([BlockWrite(3, 116, struct.pack("<i", 1900)), BlockWrite(4, 65, b"\x01")])
    )
    assert [client.get(arm, k, "goal_position") for k in (1, 2, 3)] == [2100, 2000, 1900]
    assert client.get(arm, 4, "led") == 1


@pytest.mark.parametrize(
    ("name", "value", "torque", "result"),
    [
        ("goal_position", 2500, 0, Result.OK),
        ("goal_position", 5000, 0, Result.DATA_LIMIT),
        ("goal_velocity", 300, 0, Result.DATA_LIMIT),
        ("return_delay", 0, 1, Result.ACCESS),
        ("return_delay", 0, 0, Result.OK),
    ],
)
def test_dynamixel_refuses_with_a_reason(koch, name: str, value: int, torque: int, result: Result) -> None:
    arm, client = koch
    client.put(arm, 1, "torque_enable", torque)
    assert client.put(arm, 1, name, value).code == result


def test_dynamixel_other_errors(koch) -> None:
    _, client = koch
    assert client.ask(Packet(1, 0x7E))[0].code == Result.INSTRUCTION
    assert client.ask(dynamixel.read(1, 5000, 4))[0].code == Result.ACCESS
    assert client.ask(dynamixel.write(1, 116, b"\x00\x08"))[0].code == Result.DATA_LENGTH
    damaged = bytearray(dynamixel.encode(dynamixel.ping(1)))
    damaged[-1] ^= 1
    (reply,) = dynamixel.Parser("status").feed(client.raw(bytes(damaged), 11))
    assert (reply.id, reply.code) == (1, Result.CRC)


def test_dynamixel_status_return_level(koch) -> None:
    arm, client = koch
    client.put(arm, 1, "status_return_level", 1)
    assert client.silence(dynamixel.write(1, 65, b"\x01"))
    assert client.get(arm, 1, "led") == 1
    assert client.silence(dynamixel.write(1, 68, b"\x00"))
    assert client.silence(dynamixel.read(1, 65, 1))
    assert client.ask(dynamixel.ping(1))


def test_dynamixel_registered_write_action_clear_and_backup(koch) -> None:
    arm, client = koch
    assert client.ask(dynamixel.reg_write(1, 116, struct.pack("<i", 2222)))[0].code == Result.OK
    assert client.get(arm, 1, "registered_instruction") == 1
    assert client.silence(dynamixel.action())
    assert client.get(arm, 1, "goal_position") == 2222
    client.put(arm, 2, "operating_mode", 4)
    arm.servos["shoulder_lift"].shaft.stops = (-100.0, 100.0)
    arm.hold({"shoulder_lift": 12.0})
    arm.advance(1.5)
    assert client.get(arm, 2, "present_position") > 8192
    assert client.ask(dynamixel.clear_turns(2))[0].code == Result.OK
    assert 0 <= client.get(arm, 2, "present_position") < 4096
    backup = dynamixel.Instruction.CONTROL_TABLE_BACKUP
    assert client.ask(Packet(3, backup, b"\x02CTRL"))[0].code == Result.RESULT_FAIL  # nothing stored yet
    client.put(arm, 3, "position_p", 1234)
    assert client.ask(Packet(3, backup, b"\x01CTRL"))[0].code == Result.OK
    client.put(arm, 3, "position_p", 1)
    client.ask(Packet(3, backup, b"\x02CTRL"))
    assert (client.get(arm, 3, "position_p"), client.get(arm, 3, "backup_ready")) == (1234, 1)


@pytest.mark.parametrize(("what", "id_"), [(0xFF, 1), (0x01, 5), (0x02, 5)])
def test_dynamixel_factory_reset_keeps_what_it_says(koch, what: int, id_: int) -> None:
    arm, client = koch
    client.put(arm, 5, "homing_offset", 77)
    assert client.ask(dynamixel.factory_reset(5, what))[0].code == Result.OK
    arm.advance(0.5)
    registers = arm.servos["wrist_roll"].registers
    assert (registers.get("id"), registers.get("homing_offset")) == (id_, 0)
    assert registers.get("baud_rate") == (3 if what == 0x02 else 1)


def test_the_alert_bit_rides_on_every_reply_until_a_reboot(koch) -> None:
    arm, client = koch
    arm.inject("sag:elbow@0-0.5=3.0")
    arm.advance(0.1)
    (reply,) = client.ask(dynamixel.read(3, 132, 4))
    assert reply.code == ALERT
    assert client.get(arm, 3, "hardware_error") == 1
    arm.advance(1.0)
    assert client.ask(dynamixel.ping(3))[0].code == ALERT
    assert client.ask(dynamixel.reboot(3))[0].code == 0
    arm.advance(0.5)
    assert client.ask(dynamixel.ping(3))[0].code == 0


def test_a_change_of_mode_forgets_the_gains(koch) -> None:
    arm, client = koch
    client.put(arm, 3, "position_p", 900)
    client.put(arm, 3, "operating_mode", 5)
    assert client.get(arm, 3, "position_p") == 400


def test_eeprom_outlives_the_emulator(tmp_path: Path) -> None:
    file = tmp_path / "eeprom.json"
    with Emulator("so101", pace=STEPPED, eeprom=file) as arm, feetech_client(arm) as client:
        client.put(arm, 3, "lock", 0)
        client.put(arm, 3, "homing_offset", -321)
    assert json.loads(file.read_text())["servos"]["elbow_flex"]["homing_offset"] == -321
    with Emulator("so101", pace=STEPPED, eeprom=file) as arm, feetech_client(arm) as client:
        assert client.get(arm, 3, "homing_offset") == -321
    file.write_text("{}")
    with pytest.raises(RobotError, match="no EEPROM file"):
        Emulator("so101", eeprom=file)


def test_one_sync_write_of_goals_is_one_control_period() -> None:
    with Emulator("so101", pace=Pace("stepped", period_s=0.05)) as arm, feetech_client(arm) as client:
        client.ask(feetech.sync_write(40, dict.fromkeys(range(1, 7), b"\x01")), 0, 0.0)
        before = client.get(arm, 1, "present_position")
        times = []
        for k in range(5):
            client.ask(feetech.sync_write(42, dict.fromkeys(range(1, 7), struct.pack("<H", before + 10 * k))), 0, 0.0)
            client.ask(feetech.sync_read(56, 15, range(1, 7)), 6)
            times.append(arm.time_s)
        periods = [b - a for a, b in zip(times, times[1:], strict=False)]
        assert periods == pytest.approx([0.05] * 4, abs=1e-6)


def test_the_same_traffic_gives_the_same_motion_twice() -> None:
    def run() -> list[bytes]:
        with Emulator("so101", pace=Pace("stepped", period_s=0.02)) as arm, feetech_client(arm) as client:
            heard = []
            client.ask(feetech.sync_write(40, dict.fromkeys(range(1, 7), b"\x01")), 0, 0.0)
            for k in range(30):
                goals = {i: struct.pack("<H", 2048 + (7 * k * i) % 300) for i in range(1, 7)}
                client.ask(feetech.sync_write(42, goals), 0, 0.0)
                heard.append(client.raw(feetech.encode(feetech.sync_read(56, 15, range(1, 7))), 126))
            return heard

    assert run() == run()


def test_a_shadow_id_is_obeyed_in_silence(koch) -> None:
    arm, client = koch
    client.put(arm, 2, "shadow_id", 1)
    assert client.put(arm, 1, "led", 1).id == 1
    assert client.get(arm, 2, "led") == 1
    client.ask(dynamixel.sync_write(116, {1: struct.pack("<i", 1999)}), 0, 0.0)
    assert client.get(arm, 2, "goal_position") == 1999
    assert len(client.ask(dynamixel.ping(1), 2, wait_s=0.05)) == 1
