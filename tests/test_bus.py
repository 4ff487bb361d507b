"""The bus against servos that live in memory, byte for byte, so that every damage can be done to a reply."""

from __future__ import annotations

import itertools
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import serial
import serial.rfc2217
from hypothesis import given, settings
from hypothesis import strategies as st
from servo_line import STS, XL, Line

from hardware.errors import RobotError
from hardware.servo import dynamixel, feetech
from hardware.servo.bus import Bus, NoReply, Refused
from hardware.servo.late_replies import REMEMBERED, LateReplies
from hardware.servo.loop import FaultKind, ServoLoop
from hardware.servo.packet import Packet
from hardware.servo.port import BusError, PortError, PortLost, PortTaken, open_port, owners
from hardware.servo.registers import STS3215, XL330_M288, XL430_W250, ServoModel


def _bus(line: Line, latency_s: float = 0.02) -> Bus:
    return Bus(line, line.models, latency_s=latency_s)


@pytest.fixture(params=["feetech", "dynamixel"])
def line(request: pytest.FixtureRequest) -> Line:
    return Line(STS if request.param == "feetech" else XL)


class Once:
    """Damages the replies to the first request only."""

    def __init__(self, damage: Callable[[list[bytes]], list[bytes]]) -> None:
        self.damage, self.done = damage, False

    def __call__(self, request: bytes, replies: list[bytes]) -> list[bytes]:
        if self.done or not replies:
            return replies
        self.done = True
        return self.damage(replies)


# ---- single servos


def test_identify_read_write(line: Line) -> None:
    bus = _bus(line)
    assert bus.identify(1).model_number == line.models[1].number
    bus.write(2, "goal_position", 1000)
    assert bus.read(2, "goal_position") == line.peek(2, "goal_position") == 1000
    assert bus.health[2].good == 2 and bus.health[2].missed == 0
    with pytest.raises(BusError, match="only be read"):
        bus.write(1, "present_position", 5)
    with pytest.raises(BusError, match="known ids: 1, 2, 3"):
        bus.read(9, "id")


def test_ensure_writes_only_what_differs(line: Line) -> None:
    bus = _bus(line)
    assert bus.ensure(1, "return_delay", 0) is True
    wrote = len(line.writes())
    assert bus.ensure(1, "return_delay", 0) is False
    assert len(line.writes()) == wrote
    assert line.peek(1, "return_delay") == 0
    if "lock" in line.models[1]:
        assert line.peek(1, "lock") == 1  # locked again


def test_eeprom_is_not_touched_under_torque(line: Line) -> None:
    bus = _bus(line)
    line.poke(1, "torque_enable", 1)
    with pytest.raises(Refused, match="torque is on"):
        bus.ensure(1, "max_position", 3000)
    assert line.writes() == []
    line.poke(1, "goal_position", 2048)
    assert bus.ensure(1, "position_p" if line.protocol == "dynamixel" else "torque_limit", 500)  # RAM may


def test_ensure_notices_a_servo_that_does_not_keep_a_value(line: Line) -> None:
    bus = _bus(line)
    line._write = lambda id_, address, data: None  # type: ignore[method-assign]
    with pytest.raises(Refused, match="after writing 0"):
        bus.ensure(1, "return_delay", 0)


def test_a_refusal_of_a_dynamixel_is_no_value() -> None:
    line = Line(XL)
    line.alert[1] = dynamixel.Result.ACCESS
    line.tamper = lambda request, replies: [dynamixel.encode(Packet(1, dynamixel.Result.ACCESS), "status")]
    with pytest.raises(Refused, match="access error"):
        _bus(line).read(1, "present_position")


def test_the_alert_bit_is_a_fault_and_the_value_counts() -> None:
    line = Line(XL)
    line.alert[2] = dynamixel.ALERT
    line.poke(2, "hardware_error", 0b100000)
    readings = _bus(line).telemetry()
    assert readings[2].position == 2048 and readings[2].faults == ("overload",)
    assert readings[1].faults == ()


def test_the_error_byte_of_a_feetech_is_a_fault_and_the_value_counts() -> None:
    line = Line(STS)
    line.alert[2] = feetech.Error.OVERLOAD
    readings = _bus(line).telemetry()
    assert readings[2].position == 2048 and readings[2].faults == ("overload",)


def test_a_servo_that_acknowledges_nothing_can_be_written(line: Line) -> None:
    line.tamper = lambda request, replies: [] if len(replies) == 1 and len(replies[0]) < 12 else replies
    bus = _bus(line)
    bus.unacknowledged.add(1)
    bus.write(1, "goal_position", 99)
    assert line.peek(1, "goal_position") == 99


def test_reboot_waits_until_the_servo_is_back(line: Line) -> None:
    _bus(line).reboot(1)
    assert any(p.code == 0x08 for p in line.sent)


# ---- damage


@pytest.mark.parametrize("damage", ["drop", "flip"])
def test_damage_anywhere_is_never_a_wrong_value(line: Line, damage: str) -> None:
    line.poke(1, "present_position", 1234)
    register = line.models[1]["present_position"]
    (reply,) = line._replies(
        (feetech if line.protocol == "feetech" else dynamixel).read(1, register.address, register.size)
    )
    bus = _bus(line, latency_s=0.004)
    for k in range(len(reply)):

        def spoil(replies: list[bytes], k: int = k) -> list[bytes]:
            data = bytearray(replies[0])
            if damage == "drop":
                del data[k]
            else:
                data[k] ^= 0x10
            return [bytes(data)]

        line.tamper = Once(spoil)
        assert bus.read(1, "present_position") == 1234
    assert bus.health[1].missed == len(reply)


def test_truncated_anywhere_then_fine(line: Line) -> None:
    bus = _bus(line, latency_s=0.004)
    for length in (0, 1, 3, 5, 7):

        def cut(replies: list[bytes], length: int = length) -> list[bytes]:
            return [replies[0][:length]]

        line.tamper = Once(cut)
        assert bus.read(1, "present_position") == 2048


def test_garbage_before_a_reply_is_passed_over(line: Line) -> None:
    line.tamper = lambda request, replies: [b"\x00\xff\xff\xff\xfd\x01" + replies[0]] if replies else replies
    assert _bus(line).read(1, "present_position") == 2048


def test_a_reply_of_another_servo_is_no_answer(line: Line) -> None:
    other = line._status(2, b"\x07\x00\x00\x00"[: line.models[1]["present_position"].size])
    line.tamper = Once(lambda replies: [other, replies[0]])
    bus = _bus(line)
    assert bus.read(1, "present_position") == 2048
    assert bus.strays == 1


def test_the_second_of_two_replies_is_not_the_next_answer(line: Line) -> None:
    line.tamper = Once(lambda replies: replies * 2)
    bus = _bus(line)
    assert bus.read(1, "present_position") == 2048
    line.poke(1, "present_position", 7)
    assert bus.read(1, "present_position") == 7


def test_a_late_reply_is_not_the_next_answer(line: Line) -> None:
    late: list[bytes] = []

    def keep(replies: list[bytes]) -> list[bytes]:
        late.extend(replies)
        return []

    line.tamper = Once(keep)
    bus = Bus(line, line.models, latency_s=0.004, attempts=1)
    with pytest.raises(NoReply):
        bus.read(1, "present_position")
    line._buffer.append((time.monotonic() + 0.001, late[0]))  # while the line is given time to calm down
    line.poke(1, "present_position", 7)
    assert bus.read(1, "present_position") == 7


class LateLine(Line):
    """Every reply takes its own time, ``delays`` (s) in turn; a later one may overtake it, or not."""

    def __init__(self, models: dict[int, ServoModel], delays: Iterator[float], *, overtaking: bool) -> None:
        super().__init__(models)
        self.tamper = lambda request, replies: self._hold(replies)
        self._delays, self._overtaking = delays, overtaking

    def _hold(self, replies: list[bytes]) -> list[bytes]:
        for reply in replies:
            ready = time.monotonic() + next(self._delays)
            if not self._overtaking and self._buffer:
                ready = max(ready, self._buffer[-1][0])
            self._buffer.append((ready, reply))
        self._buffer.sort(key=lambda item: item[0])
        return []


#: Registers of one size, so that only what the bus itself does tells their replies apart.
ALIKE = ("goal_position", "present_position", "homing_offset")
QUESTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from(ALIKE)),
        st.tuples(st.none(), st.sampled_from(ALIKE)),
        st.just((None, "telemetry")),
    ),
    min_size=4,
    max_size=10,
)


def _value(id_: int, name: str) -> int:
    return 100 * id_ + ALIKE.index(name)


def _told(bus: Bus, id_: int | None, name: str) -> dict[int, int]:
    """What the bus answers to one question."""
    if name == "telemetry":
        return {i: reading.position for i, reading in bus.telemetry(budget_s=0.02).items()}
    if id_ is None:
        return bus.read_all(name, budget_s=0.02)
    try:
        return {id_: bus.read(id_, name)}
    except NoReply:
        return {}


@pytest.mark.parametrize("protocol", ["feetech", "dynamixel"])
@settings(max_examples=12, deadline=None)
@given(
    questions=QUESTIONS,
    delays=st.one_of(
        st.floats(0.0, 0.025).map(lambda late: [late]),  # the same for every reply
        st.lists(st.sampled_from([0.0, 0.002, 0.006, 0.011, 0.018, 0.03]), min_size=3, max_size=12),
    ),
    overtaking=st.booleans(),
    fast=st.booleans(),
)
def test_however_late_replies_come_no_value_is_another_s(
    protocol: str,
    questions: list[tuple[int | None, str]],
    delays: list[float],
    overtaking: bool,
    fast: bool,
) -> None:
    models = STS if protocol == "feetech" else XL
    line = LateLine(models, itertools.cycle(delays), overtaking=overtaking)
    for id_ in models:
        for name in ALIKE:
            line.poke(id_, name, _value(id_, name))
    bus = _bus(line, latency_s=0.004)
    bus.fast = fast and line.protocol == "dynamixel"
    for id_, name in questions:
        position = "present_position" if name == "telemetry" else name
        for replied, value in _told(bus, id_, name).items():
            assert value == _value(replied, position), (id_, name)


def test_a_line_on_which_every_reply_is_late_still_answers(line: Line) -> None:
    late = LateLine(line.models, itertools.repeat(0.016), overtaking=False)
    for id_ in late.models:
        for name in ALIKE:
            late.poke(id_, name, _value(id_, name))
    bus = _bus(late, latency_s=0.008)
    bus.attempts = 30  # as many as a busy machine may need
    for _ in range(3):
        for name in ALIKE:
            assert bus.read(1, name) == _value(1, name)
    bus.write(1, "goal_position", 5)
    bus.write(1, "goal_position", 6)
    assert late.peek(1, "goal_position") == bus.read(1, "goal_position") == 6


def test_a_line_that_was_never_late_is_asked_for_no_byte_too_many(line: Line) -> None:
    bus = _bus(line, latency_s=0.5)
    for _ in range(3):
        bus.telemetry()
        bus.read(1, "goal_position")
    size = line.models[1].telemetry[1]
    place = 1 if line.protocol == "feetech" else 2
    assert {packet.params[place] for packet in line.sent} == {size, line.models[1]["goal_position"].size}


def test_after_a_miss_the_lengths_are_soon_the_ordinary_ones_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.tamper = Once(lambda replies: [])
    bus = _bus(line, latency_s=0.004)
    assert bus.read(1, "goal_position") == line.peek(1, "goal_position")
    monkeypatch.setattr("hardware.servo.late_replies.LATEST_S", -1.0)
    assert bus.read(1, "goal_position") == line.peek(1, "goal_position")
    place = 1 if line.protocol == "feetech" else 2
    size = line.models[1]["goal_position"].size
    first, retry, later = [packet.params[place] for packet in line.sent]
    assert first == later == size < retry


def test_lengths_are_chosen_around_what_is_owed() -> None:
    late = LateReplies()
    assert not late and late.another_length([1, 2], 2, 9, 0.0) == 2
    for length in (2, 4):
        late.note(1, length, 0.0)
    assert late.another_length([2], 2, 9, 0.1) == 2  # another servo
    assert late.another_length([1, 2], 2, 9, 0.1) == 5  # not 3, which a ping brings
    assert late.another_length([1], 2, 4, 0.1) == 2  # no room: as it was
    assert late.another_length([1], 2, 9, 1.5) == 2 and not late  # forgotten
    for k in range(100):
        late.note(1, k, 2.0)
    assert late.lengths([1], 2.0) == set(range(100 - REMEMBERED, 100))


def test_an_echo_is_stripped(line: Line) -> None:
    line.tamper = lambda request, replies: [request, *replies]
    bus = _bus(line)
    assert bus.identify(1).id == 1
    bus.write(1, "goal_position", 3)
    assert bus.read(1, "goal_position") == 3
    assert len(bus.telemetry()) == 3
    bus.write_all("goal_position", {1: 5, 2: 6})
    assert bus.read(2, "goal_position") == 6
    assert bus.health[1].missed == 0 and bus.damaged == 0


def test_a_damaged_echo_does_no_harm(line: Line) -> None:
    bus = _bus(line)
    bus.identify(1)
    line.tamper = lambda request, replies: [request[:5] + b"\x99" + request[6:], *replies]
    assert bus.read(1, "present_position") == 2048


def test_silence_is_bounded_in_time(line: Line) -> None:
    line.tamper = lambda request, replies: []
    bus = _bus(line, latency_s=0.01)
    begun = time.monotonic()
    with pytest.raises(NoReply, match="servo 1 .* does not answer"):
        bus.read(1, "present_position")
    assert time.monotonic() - begun < 3.0
    assert bus.health[1].misses_in_a_row == 3


def test_endless_garbage_is_bounded_in_time() -> None:
    class Flood(Line):
        @property
        def in_waiting(self) -> int:
            return 5

        def read(self, size: int = 1) -> bytes:
            return b"\xff\xff\x01\x07\x00"[:size]

    bus = _bus(Flood(STS), latency_s=0.01)
    begun = time.monotonic()
    with pytest.raises(NoReply):
        bus.read(1, "present_position")
    assert time.monotonic() - begun < 3.0


# ---- all at once


def test_one_exchange_for_all_telemetry(line: Line) -> None:
    line.poke(3, "present_position", 77)
    line.poke(3, "present_temperature", 41)
    bus = _bus(line)
    readings = bus.telemetry()
    assert len(line.sent) == 1
    assert [readings[i].position for i in (1, 2, 3)] == [2048, 2048, 77]
    assert readings[3].temperature == 41 and readings[3].voltage == pytest.approx(7.4)


def test_goals_go_out_with_the_question_in_one_transmission(line: Line) -> None:
    transmissions: list[bytes] = []
    write = line.write
    line.write = lambda data: [transmissions.append(data), write(data)][1]  # type: ignore[method-assign]
    bus = _bus(line)
    goals = {1: 1000, 2: 2000, 3: 3000}
    assert len(bus.telemetry(goals=goals)) == 3
    assert len(transmissions) == 1 and [p.code for p in line.sent] == [0x83, 0x82]
    assert [line.peek(i, "goal_position") for i in goals] == [1000, 2000, 3000]


def test_goals_are_not_sent_again_for_a_servo_that_is_silent(line: Line) -> None:
    del line.tables[2]
    bus = _bus(line, latency_s=0.005)
    assert set(bus.telemetry(budget_s=0.1, goals={1: 1000, 3: 3000})) == {1, 3}
    assert [p.code for p in line.sent] == [0x83, 0x82, 0x82, 0x82]
    bus.fast = line.protocol == "dynamixel"
    assert set(bus.telemetry(budget_s=0.1, goals={1: 1001})) == {1, 3}
    assert [p.code for p in line.sent].count(0x83) == 2 and line.peek(1, "goal_position") == 1001


def test_goals_are_stripped_from_what_comes_back_on_a_line_that_echoes(line: Line) -> None:
    line.tamper = lambda request, replies: [request, *replies] if replies else []
    bus = _bus(line)
    bus.identify(1)
    for goal in (1000, 2000):
        assert len(bus.telemetry(goals=dict.fromkeys(line.models, goal))) == 3
        assert line.peek(2, "goal_position") == goal
    assert bus.health[1].missed == 0 and bus.damaged == 0


def test_a_goal_that_no_servo_takes_is_not_sent(line: Line) -> None:
    with pytest.raises(RobotError, match="fit|takes"):
        _bus(line).telemetry(goals={1: 1 << 40})
    assert line.sent == []


def test_a_silent_servo_costs_only_itself(line: Line) -> None:
    del line.tables[2]
    bus = _bus(line, latency_s=0.005)
    readings = bus.telemetry(budget_s=0.1)
    assert set(readings) == {1, 3}
    assert bus.health[2].missed == 3 and bus.health[1].missed == 0
    assert [p.params[-1] for p in line.sent[1:]] == [2, 2]  # only the silent one is asked again


def test_a_budget_bounds_the_retries(line: Line) -> None:
    line.tamper = lambda request, replies: []
    begun = time.monotonic()
    assert _bus(line).telemetry(budget_s=0.01) == {}
    assert time.monotonic() - begun < 2.0
    assert len(line.sent) == 1


def test_fast_sync_read_and_the_plain_way_when_it_breaks_off() -> None:
    line = Line(XL)
    bus = _bus(line, latency_s=0.005)
    bus.fast = True
    assert len(bus.telemetry()) == 3
    assert [p.code for p in line.sent] == [dynamixel.Instruction.FAST_SYNC_READ]
    del line.tables[2]
    assert set(bus.telemetry()) == {1, 3}
    assert line.sent[2].code == dynamixel.Instruction.SYNC_READ


def test_registers_at_different_places_are_written_in_groups() -> None:
    line = Line({1: XL430_W250, 2: XL330_M288})
    bus = _bus(line)
    bus.write_all("goal_position", {1: 5, 2: 6})
    assert len(line.sent) == 1
    assert bus.read_all("goal_position") == {1: 5, 2: 6}


def test_torque_off_tries_every_servo(line: Line) -> None:
    for id_ in line.models:
        line.poke(id_, "torque_enable", 1)
    table = line.tables.pop(2)
    failed = _bus(line, latency_s=0.004).torque_off()
    assert set(failed) == {2} and "servo 2" in failed[2]
    line.tables[2] = table
    assert [line.peek(i, "torque_enable") for i in (1, 2, 3)] == [0, 1, 0]


def test_torque_off_survives_lost_sync_writes(line: Line) -> None:
    for id_ in line.models:
        line.poke(id_, "torque_enable", 1)
    replies = line._replies
    line._replies = lambda p: [] if p.code == 0x83 else replies(p)  # type: ignore[method-assign]
    assert _bus(line).torque_off() == {}
    assert [line.peek(i, "torque_enable") for i in line.models] == [0, 0, 0]


@pytest.mark.parametrize("error", [OSError(5, "gone"), termios.error(5, "gone")])
def test_a_port_that_went_away_is_told(line: Line, error: Exception) -> None:
    bus = _bus(line)
    line.broken = error
    for ask in (lambda: bus.read(1, "id"), bus.telemetry, lambda: bus.write_all("goal_position", {1: 1})):
        with pytest.raises(PortLost, match="went away"):
            ask()
    assert set(bus.torque_off()) == {1, 2, 3}


def test_a_write_that_took_too_long_is_no_lost_port(line: Line) -> None:
    bus, write = _bus(line), line.write

    def slow(data: bytes) -> int:
        write(data)
        line.write = write  # type: ignore[method-assign]
        raise serial.SerialTimeoutException("Write timeout")

    line.write = slow  # type: ignore[method-assign]
    assert bus.read(1, "id") == 1


def test_protocols_do_not_mix() -> None:
    with pytest.raises(BusError, match="one protocol"):
        Bus(Line(STS), {1: STS3215, 2: XL330_M288})
    with pytest.raises(BusError, match="one protocol"):
        Bus(Line(STS), {})
    assert Bus(Line(STS), {}, "feetech").identify(1).model_number == 777  # looking for servos


# ---- ports


@pytest.fixture
def device() -> Iterator[tuple[int, str]]:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    yield master, name
    os.close(master)


def test_a_second_program_is_told_who_has_the_port(device: tuple[int, str]) -> None:
    port = open_port(device[1], 1_000_000)
    with closing(port):
        code = (
            "import sys\nfrom hardware.servo.port import open_port, PortTaken\n"
            f"try:\n    open_port({device[1]!r}, 1000000)\nexcept PortTaken as error:\n    print(error); sys.exit(7)\n"
        )
        root = Path(__file__).resolve().parents[1]
        result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
        assert result.returncode == 7, result.stderr
        assert f"process {os.getpid()}" in result.stdout and "stop that first" in result.stdout
        with pytest.raises(PortTaken, match="this very program"):
            open_port(device[1], 1_000_000)
        assert os.getpid() in [owner.pid for owner in owners(device[1])]


def test_a_read_ends_with_what_has_come(device: tuple[int, str]) -> None:
    port = open_port(device[1], 1_000_000)
    with closing(port):
        begun = time.monotonic()
        assert port.read(100) == b"" and port.in_waiting == 0
        assert time.monotonic() - begun < 0.5
        os.write(device[0], b"abc")
        select.select([port], [], [], 5.0)  # type: ignore[list-item]
        assert port.in_waiting == 3
        assert port.read(2) == b"ab" and port.read(100) == b"c" and port.read(100) == b""
        assert port.write(b"xyz") == 3
        assert select.select([device[0]], [], [], 5.0)[0] and os.read(device[0], 100) == b"xyz"
    with pytest.raises(OSError):
        port.read(1)


def test_a_driver_that_takes_nothing_is_waited_for_no_longer_than_it_may(device: tuple[int, str]) -> None:
    port = open_port(device[1], 1_000_000)
    with closing(port), pytest.raises(serial.SerialTimeoutException):
        begun = time.monotonic()
        try:
            port.write(bytes(1 << 20))  # nobody reads the other end
        finally:
            assert 0.1 < time.monotonic() - begun < 5.0


def test_ports_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="there is no port"):
        open_port("/dev/ttyNOWHERE7", 1_000_000)
    plain = tmp_path / "file"
    plain.write_text("")
    with pytest.raises(PortError, match="is it a serial port"):
        open_port(str(plain), 1_000_000)
    with pytest.raises(PortError, match="cannot reach"):
        open_port("nosuch://x", 1_000_000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(PortError, match="cannot reach"):
            open_port(f"socket://127.0.0.1:{free.getsockname()[1]}", 1_000_000)


def test_pulling_the_cable_is_noticed(device: tuple[int, str]) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    with Bus.open(name, STS) as bus:
        os.close(master)
        with pytest.raises(PortLost):
            for _ in range(3):
                bus.read(1, "id")
    with pytest.raises(PortLost, match="closed"):
        bus.read(1, "id")


def test_a_port_on_another_machine() -> None:
    line = Line(STS)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1024):
                line.write(data)
                connection.sendall(line.read(1024))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with closing(server), Bus.open(f"socket://127.0.0.1:{server.getsockname()[1]}", STS, latency_s=0.3) as bus:
        assert bus.identify(2).firmware == "3.10"
        bus.write_all("goal_position", {1: 11})
        assert bus.read(1, "goal_position") == 11
        assert len(bus.telemetry()) == 3
    thread.join(2.0)


class PtyPort(serial.Serial):
    """A pseudo-terminal has no modem lines to ask for or to set."""

    cts = dsr = ri = cd = False

    def _update_dtr_state(self) -> None: ...

    def _update_rts_state(self) -> None: ...


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's own business
def test_a_port_on_another_machine_that_speaks_rfc2217(device: tuple[int, str]) -> None:
    line, master = Line(STS), device[0]
    stop = threading.Event()

    def servos() -> None:
        while not stop.is_set():
            ready, _, _ = select.select([master], [], [], 0.02)
            if ready:
                with suppress(OSError):  # nobody has the other end open yet, or any more
                    line.write(os.read(master, 1024))
                    os.write(master, line.read(1024))

    class Sender:
        def __init__(self, connection: socket.socket) -> None:
            self.write = connection.sendall

    def serve() -> None:
        connection, _ = server.accept()
        with connection, PtyPort(device[1], 1_000_000, timeout=0) as port:
            manager = serial.rfc2217.PortManager(port, Sender(connection))
            connection.settimeout(0.002)
            while not stop.is_set():
                with suppress(TimeoutError):
                    port.write(b"".join(manager.filter(connection.recv(1024))))
                data = port.read(1024)
                if data:
                    connection.sendall(b"".join(manager.escape(data)))

    server = socket.create_server(("127.0.0.1", 0))
    threads = [threading.Thread(target=run, daemon=True) for run in (servos, serve)]
    for thread in threads:
        thread.start()
    try:
        with closing(server), Bus.open(f"rfc2217://127.0.0.1:{server.getsockname()[1]}", STS, latency_s=0.5) as bus:
            assert bus.identify(2).model_number == 777
            bus.write_all("goal_position", {1: 11})
            assert bus.read(1, "goal_position") == 11
            assert len(bus.telemetry()) == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join(2.0)


# ---- the loop


@pytest.fixture
def loop(line: Line) -> Iterator[ServoLoop]:
    loop = ServoLoop(_bus(line, latency_s=0.008), rate_hz=200.0, names={2: "elbow"}, silence_s=0.05)
    loop.start()
    yield loop
    loop.stop()


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.002)


def _engage(line: Line, loop: ServoLoop, at: int = 2048) -> None:
    def torque(bus: Bus) -> None:
        bus.write_all("goal_position", dict.fromkeys(line.models, at))
        bus.write_all("torque_enable", dict.fromkeys(line.models, 1))
        loop.engage(dict.fromkeys(line.models, at))

    loop.call(torque)


def _lockstep(line: Line, rate_hz: float = 20.0) -> ServoLoop:
    """A loop with torque on whose time is counted in cycles, however slow the machine is."""
    loop = ServoLoop(_bus(line, latency_s=0.05), rate_hz=rate_hz, names={2: "elbow"}, lockstep=True)
    loop.start()
    _engage(line, loop)
    return loop


def test_the_loop_writes_no_goal_before_torque(line: Line, loop: ServoLoop) -> None:
    loop.wait(5)
    assert not loop.move({1: 2100}, 0.1)
    assert all(p.code not in (0x03, 0x83) for p in line.sent)
    assert set(loop.snapshot().readings) == {1, 2, 3}


def test_goals_go_in_small_steps_and_arrive(line: Line) -> None:
    loop = _lockstep(line, rate_hz=100.0)
    goals: list[int] = []
    write = line._write

    def spy(id_: int, address: int, data: bytes) -> None:
        if id_ == 1 and address == line.models[1]["goal_position"].address:
            goals.append(int.from_bytes(data, "little"))
        write(id_, address, data)

    line._write = spy  # type: ignore[method-assign]
    assert loop.move({1: 2048 + 200}, 0.1)
    loop.wait(14)
    assert goals[-1] == 2248 and goals == sorted(goals)
    assert max(b - a for a, b in zip([2048, *goals], goals, strict=False)) <= 21
    assert line.peek(2, "goal_position") == 2048


def test_goals_are_no_faster_than_allowed(line: Line) -> None:
    loop = ServoLoop(_bus(line), rate_hz=200.0, max_speed={1: 500.0})
    loop.start()
    try:
        _engage(line, loop)
        begun = time.monotonic()
        loop.move({1: 2048 + 100}, 0.001)
        _wait_for(lambda: loop.snapshot().goals.get(1) == 2148)
        assert time.monotonic() - begun >= 0.19
    finally:
        loop.stop()


def test_a_silent_servo_latches_and_the_arm_holds(line: Line, loop: ServoLoop) -> None:
    _engage(line, loop)
    loop.move({1: 2648}, 1.0)
    loop.wait(5)
    table = line.tables.pop(2)
    _wait_for(lambda: loop.fault is not None)
    fault = loop.fault
    assert fault is not None and fault.kind is FaultKind.SILENT and fault.ids == (2,) and "elbow" in fault.text
    held = loop.wait(1).goals
    assert 2048 < held[1] < 2648
    assert not loop.move({1: 2100}, 0.1)
    line.tables[2] = table
    assert loop.wait(3).goals == held  # answering again is no reset
    loop.reset()
    assert loop.fault is None and loop.wait(2).fault is None
    assert loop.move({1: 2100}, 0.1)


def test_two_missed_cycles_are_no_fault(line: Line) -> None:
    loop = _lockstep(line)
    table = line.tables.pop(2)
    loop.wait(2)
    line.tables[2] = table
    assert loop.wait(5).fault is None


def test_an_encoder_jump_is_not_followed(line: Line, loop: ServoLoop) -> None:
    _engage(line, loop)
    loop.wait(2)
    line._write = lambda id_, address, data: None  # type: ignore[method-assign]
    line.poke(1, "present_position", 3500)
    _wait_for(lambda: loop.fault is not None)
    fault = loop.fault
    assert fault is not None and fault.kind is FaultKind.JUMP and fault.ids == (1,)
    assert loop.snapshot().readings[1].position == 2048


def test_a_limp_arm_may_be_thrown_about(line: Line, loop: ServoLoop) -> None:
    line.poke(1, "present_position", 3500)
    _wait_for(lambda: loop.snapshot().readings[1].position == 3500)
    assert loop.fault is None


def test_an_overloaded_joint_goes_limp_and_the_others_hold(line: Line, loop: ServoLoop) -> None:
    _engage(line, loop)
    line.alert[2] = dynamixel.ALERT if line.protocol == "dynamixel" else feetech.Error.OVERLOAD
    line.poke(2, "hardware_error", 0b100000)
    _wait_for(lambda: loop.fault is not None and line.peek(2, "torque_enable") == 0)
    fault = loop.fault
    assert fault is not None and fault.kind is FaultKind.SERVO and "overload" in fault.text and "limp" in fault.text
    assert line.peek(1, "torque_enable") == line.peek(3, "torque_enable") == 1


def test_a_voltage_dip_is_forgiven_a_brown_out_is_not(line: Line) -> None:
    loop = _lockstep(line)
    line.alert[1] = dynamixel.ALERT if line.protocol == "dynamixel" else feetech.Error.VOLTAGE
    line.poke(1, "hardware_error", 1)
    loop.wait(3)
    line.alert[1] = 0
    line.poke(1, "hardware_error", 0)
    assert loop.wait(3).fault is None
    line.alert[1] = dynamixel.ALERT if line.protocol == "dynamixel" else feetech.Error.VOLTAGE
    line.poke(1, "hardware_error", 1)
    loop.wait(6)
    assert "voltage" in (loop.fault.text if loop.fault else "")


def test_torque_that_goes_off_by_itself_is_not_switched_on_again(line: Line, loop: ServoLoop) -> None:
    _engage(line, loop)
    line.poke(3, "torque_enable", 0)
    _wait_for(lambda: loop.fault is not None)
    fault = loop.fault
    assert fault is not None and fault.kind is FaultKind.TORQUE_LOST and fault.ids == (3,)
    loop.wait(3)
    assert line.peek(3, "torque_enable") == 0


def _lose_goals(line: Line, share: Callable[[int], bool]) -> None:
    """From now on the ``n``-th write of goals is lost where ``share(n)``; reads go on."""
    write, count = line._write, itertools.count()

    def lossy(id_: int, address: int, data: bytes) -> None:
        goal = line.models[id_]["goal_position"]
        if address != goal.address or id_ != 2 or not share(next(count)):
            write(id_, address, data)

    line._write = lossy  # type: ignore[method-assign]


def test_goals_that_do_not_arrive_make_the_arm_hold(line: Line) -> None:
    loop = _lockstep(line)
    _lose_goals(line, lambda n: True)
    loop.wait(25)
    assert loop.fault is None  # the goal stays where it was, so nothing is lost
    assert loop.move({2: 2058}, 0.05)
    loop.wait(21)
    fault = loop.fault
    assert fault is not None and fault.kind is FaultKind.STALLED and fault.ids == (2,)
    assert "elbow: goals do not arrive" in fault.text and not loop.move({1: 2100}, 0.1)
    assert [line.peek(id_, "torque_enable") for id_ in line.models] == [1, 1, 1]


def test_goals_that_are_lost_now_and_then_are_no_fault(line: Line) -> None:
    loop = _lockstep(line)
    _lose_goals(line, lambda n: n % 20 == 10)  # just when the goals are compared, every other time
    for k in range(80):
        assert loop.move({2: 2048 + k % 40}, 0.05)
        loop.wait(1)
    assert loop.fault is None


def test_a_lost_port_ends_the_loop(line: Line, loop: ServoLoop) -> None:
    line.broken = OSError(5, "gone")
    _wait_for(lambda: loop.fault is not None)
    assert loop.fault is not None and loop.fault.kind is FaultKind.DISCONNECTED
    with pytest.raises(PortLost, match="went away"):
        loop.reset()
    _wait_for(lambda: not loop._thread.is_alive())
    with pytest.raises(BusError, match="not running"):
        loop.call(lambda bus: bus.read(1, "id"))


def test_jobs_return_or_raise_to_their_caller(line: Line, loop: ServoLoop) -> None:
    assert loop.call(lambda bus: bus.read(1, "id")) == 1
    with pytest.raises(BusError, match="known ids"):
        loop.call(lambda bus: bus.read(9, "id"))
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda bus: 1 // 0)
    assert loop.wait(2).fault is None


def test_a_rate_that_no_bus_keeps_is_refused(line: Line) -> None:
    with pytest.raises(BusError, match="200"):
        ServoLoop(_bus(line), rate_hz=1000.0)
