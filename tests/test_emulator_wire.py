from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st
from servo_client import STEPPED, dynamixel_client, feetech_client

from hardware.emulator.emulator import Emulator, Pace
from hardware.emulator.faults import FaultPlan
from hardware.emulator.wire import Pty, collide, heard_as
from hardware.errors import EmbodiedError, RobotError
from hardware.servo import dynamixel, feetech

BLOCK = feetech.encode(feetech.sync_read(56, 15, range(1, 7)))


@given(st.binary(max_size=60))
def test_at_the_same_rate_everything_is_heard(data: bytes) -> None:
    assert heard_as(data, 1_000_000, 1_000_000) == data


@given(st.binary(max_size=60), st.sampled_from([9600, 57_600, 115_200, 1_000_000, 3_000_000]))
def test_at_another_rate_anything_is_heard_but_it_never_hangs(data: bytes, rate: int) -> None:
    heard = heard_as(data, 500_000, rate)
    assert len(heard) <= len(data) * max(1.0, rate / 500_000) + 1


def test_a_request_at_another_rate_holds_no_frame() -> None:
    for rate in (9600, 57_600, 115_200, 500_000):
        assert feetech.Parser("instruction").feed(heard_as(BLOCK, 1_000_000, rate)) == []


def test_wrong_baud_is_silence_and_the_right_one_still_works() -> None:
    with Emulator("so101", pace=STEPPED) as arm:
        for rate in (57_600, 128_000, 115_200):  # 128000 has no constant of its own: custom rates are read too
            with feetech_client(arm, rate) as client:
                assert client.silence(feetech.ping(1))
        with feetech_client(arm) as client:
            assert client.ask(feetech.ping(1))


def test_a_host_that_changes_its_rate_too_early_hears_garbage() -> None:
    with Emulator("koch", pace=STEPPED) as arm, dynamixel_client(arm) as client:
        sent = dynamixel.encode(dynamixel.Packet(1, 0, b"\x24\x04\x2d"), "status")
        assert client.raw(dynamixel.encode(dynamixel.ping(1)), len(sent)) == sent
        assert heard_as(sent, 1_000_000, 57_600) != sent
        assert dynamixel.Parser("status").feed(heard_as(sent, 1_000_000, 57_600)) == []


@pytest.mark.parametrize(("baud", "delay_us"), [(1_000_000, 0), (1_000_000, 500), (115_200, 0)])
def test_bytes_take_their_time(baud: int, delay_us: int) -> None:
    wire_s = (14 + 6 * 21) * 10 / baud + 6 * delay_us * 1e-6
    with Emulator("so101") as arm:
        for servo in arm.servos.values():
            servo.registers.poke(7, delay_us // 2)
            servo.registers.poke(6, servo.model.baud_code(baud))
        time.sleep(0.02)
        with feetech_client(arm, baud) as client:
            taken = []
            for _ in range(8):
                begin = time.perf_counter()
                assert len(client.raw(BLOCK, 126)) == 126
                taken.append(time.perf_counter() - begin)
    assert min(taken) >= wire_s  # never earlier than a wire could
    assert min(taken) < wire_s + 0.02


def test_as_fast_as_asked_without_wire_times() -> None:
    with Emulator("so101", pace=Pace(wire=False, speed=5.0)) as arm, feetech_client(arm) as client:
        begin = arm.time_s
        assert len(client.raw(BLOCK, 126)) == 126
        time.sleep(0.1)
        assert arm.time_s - begin >= 0.5


def test_talking_while_servos_answer_destroys_both() -> None:
    with Emulator("so101") as arm, feetech_client(arm) as client:
        for servo in arm.servos.values():
            servo.registers.poke(7, 254)  # half a millisecond before each reply, so that there is time to interrupt
        time.sleep(0.02)
        client.serial.write(BLOCK)
        time.sleep(0.0012)
        client.serial.write(feetech.encode(feetech.write(1, 42, b"\x01\x02")))
        time.sleep(0.05)
        heard = client.serial.read(4096)
        packets = feetech.Parser("status").feed(heard)
        if arm.traffic["collisions"]:  # a busy machine may have slept past the replies
            assert len(packets) < 6
            assert client.get(arm, 1, "goal_position") == 0
        assert client.ask(feetech.ping(1))[0].id == 1


def test_a_frame_that_does_not_go_on_is_forgotten() -> None:
    with Emulator("so101") as arm, feetech_client(arm) as client:
        client.serial.write(bytes.fromhex("FF FF 01 40 03"))
        time.sleep(0.05)
        assert client.ask(feetech.ping(1))[0].id == 1


@given(st.lists(st.binary(min_size=4, max_size=8), min_size=1, max_size=3))
def test_a_collision_is_low_where_anyone_is_low(frames: list[bytes]) -> None:
    line = collide(frames)
    assert len(line) == max(map(len, frames))
    assert all(line[k] & byte == line[k] for frame in frames for k, byte in enumerate(frame))


def test_a_fast_reply_breaks_off_at_a_silent_servo() -> None:
    with Emulator("koch", pace=STEPPED, faults=FaultPlan.parse("mute:elbow")) as arm, dynamixel_client(arm) as client:
        request = dynamixel.encode(dynamixel.sync_read(132, 4, range(1, 7), fast=True))
        heard = client.raw(request, 99, wait_s=0.05)
        assert len(heard) == 8 + 2 * 8
        assert dynamixel.Parser("status").feed(heard) == []
        assert len(client.ask(dynamixel.sync_read(132, 4, range(1, 7)), 6, wait_s=0.05)) == 5


def test_the_link_follows_the_port_and_goes_with_it(tmp_path: Path) -> None:
    link = tmp_path / "deep" / "arm"
    with Emulator("so101", link=link) as arm:
        assert arm.port == str(link)
        assert os.readlink(link).startswith("/dev/")
        first = os.readlink(link)
        arm.unplug()
        assert not link.is_symlink()
        with pytest.raises(RobotError, match="no port now"):
            _ = arm.port
        other = Pty()  # so that the next port has another name
        arm.replug()
        assert os.readlink(link) != other.path
        other.close()
        assert first.startswith("/dev/")
    assert not link.is_symlink()
    link.write_text("mine")
    with pytest.raises(RobotError, match="is no link"):
        Emulator("so101", link=link).start()
    assert link.read_text() == "mine"


def test_a_client_may_come_and_go_and_claim_the_port_for_itself() -> None:
    with Emulator("so101", pace=STEPPED) as arm:
        for _ in range(3):
            with serial.Serial(arm.port, 1_000_000, timeout=1.0, exclusive=True) as port:
                with pytest.raises(serial.SerialException):
                    serial.Serial(arm.port, 1_000_000, exclusive=True)
                port.write(feetech.encode(feetech.ping(2)))
                assert port.read(6) == feetech.encode(feetech.Packet(2, 0), "status")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
def test_no_bytes_whatsoever_stop_the_servos(pieces: list[bytes]) -> None:
    arm = _noise_arm()
    for piece in pieces:
        arm._hear(piece)
    assert arm._thread is None


_ARMS: list[Emulator] = []


def _noise_arm() -> Emulator:
    """One emulator without a thread for all examples; ids stay as they are because garbage holds no valid frame."""
    if not _ARMS:
        arm = Emulator("koch", pace=STEPPED)
        arm._pty = Pty()
        _ARMS.append(arm)
    return _ARMS[0]


COMMAND = (
    "import sys, tyro; from embodied.commands.robot import Robot, run; "
    "sys.exit(run(tyro.cli(Robot, args=sys.argv[1:])))"
)


def test_the_command_prints_the_port_and_ends_on_request(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    words = [sys.executable, "-c", COMMAND, "emulate", "koch", "--link", str(link), "--faults", "corrupt=1", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert str(link) in process.stdout.readline()
            with serial.Serial(str(link), 1_000_000, timeout=2.0) as port:
                port.write(dynamixel.encode(dynamixel.ping(1)))
                heard = port.read(14)
            assert len(heard) == 14
            assert dynamixel.Parser("status").feed(heard) == []
            process.terminate()
            rest = process.stdout.read()
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert '"corrupt": 1' in rest
    assert not link.is_symlink()


def test_the_command_refuses_in_one_sentence() -> None:
    from embodied.commands.robot import Emulate, Robot, run

    for command, words in (
        (Emulate("so100", faults="explode"), "no fault is called"),
        (Emulate("nothing"), "no rig file"),
        (Emulate("koch", model="pybullet"), "this world has a so101"),
        (Emulate("so101", seconds=-1.0), "zero or more"),
    ):
        with pytest.raises(EmbodiedError, match=words):
            run(Robot(command))
