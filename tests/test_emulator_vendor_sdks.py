"""The makers' own SDKs, unmodified, as clients of the emulator in its own process, as a user would run it.

Their timeouts are fixed at 34 ms, which a busy machine does not always keep; so every call may be repeated. After that,
what has come late is dropped by the test, since the SDKs would take it for the next answer (and do not check its length).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

scs = pytest.importorskip("scservo_sdk", reason="needs feetech-servo-sdk")
dxl = pytest.importorskip("dynamixel_sdk", reason="needs dynamixel-sdk")

COMMAND = (
    "import sys, tyro; from embodied.commands.robot import Robot, run; "
    "sys.exit(run(tyro.cli(Robot, args=sys.argv[1:])))"
)
IDS = range(1, 7)
_OPEN: list[Any] = []
OK = 0


@contextmanager
def _emulated(arm: str, link: str) -> Iterator[str]:
    words = [sys.executable, "-c", COMMAND, "emulate", arm, "--link", link, "--json", "--seconds", "120"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert link in process.stdout.readline()
            yield link
        finally:
            process.terminate()
            process.stdout.read()


@pytest.fixture(scope="module")
def feetech(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    with _emulated("so101", str(tmp_path_factory.mktemp("bus") / "so101")) as name:
        port = scs.PortHandler(name)
        assert port.openPort() and port.setBaudRate(1_000_000)
        _OPEN[:] = [port]
        yield port, scs.PacketHandler(0)
        port.closePort()


@pytest.fixture(scope="module")
def dynamixel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    with _emulated("koch", str(tmp_path_factory.mktemp("bus") / "koch")) as name:
        port = dxl.PortHandler(name)
        assert port.openPort() and port.setBaudRate(1_000_000)
        _OPEN[:] = [port]
        yield port, dxl.PacketHandler(2.0)
        port.closePort()


def _until(call: Callable[[], Any], good: Callable[[Any], bool], tries: int = 10) -> Any:
    result: Any = None
    for k in range(tries):
        try:
            result = call()
        except IndexError as error:  # from inside the SDK: a late reply that is shorter than the one asked for
            result = error
        fine = not isinstance(result, IndexError) and good(result)
        if k or not fine:
            time.sleep(0.1)
            _OPEN[0].ser.reset_input_buffer()
        if fine:
            return result
    raise AssertionError(f"after {tries} tries: {result}")


def _written(call: Callable[[], tuple[int, int]]) -> None:
    _until(call, lambda result: result == (OK, 0))


def _value(call: Callable[[], tuple[int, int, int]]) -> int:
    value, _, error = _until(call, lambda result: result[1] == OK)
    assert error == 0
    return int(value)


def test_feetech_ping_read_write(feetech) -> None:
    port, bus = feetech
    for k in IDS:
        assert _value(lambda k=k: bus.ping(port, k)) == 777
    assert bus.ping(port, 9)[1] != OK
    assert _value(lambda: bus.read1ByteTxRx(port, 3, 0)) == 3
    _written(lambda: bus.write2ByteTxRx(port, 3, 42, 2222))
    assert _value(lambda: bus.read2ByteTxRx(port, 3, 42)) == 2222
    assert _value(lambda: bus.read2ByteTxRx(port, 3, 56)) == pytest.approx(2048, abs=200)


def test_feetech_sync_write_moves_what_sync_read_sees(feetech) -> None:
    port, bus = feetech
    for k in IDS:
        _written(lambda k=k: bus.write2ByteTxRx(port, k, 42, 2048))
        _written(lambda k=k: bus.write1ByteTxRx(port, k, 40, 1))
    write = scs.GroupSyncWrite(port, bus, 42, 2)
    for k in IDS:
        assert write.addParam(k, [scs.SCS_LOBYTE(2148 + k), scs.SCS_HIBYTE(2148 + k)])
    assert write.txPacket() == OK
    time.sleep(0.8)
    read = scs.GroupSyncRead(port, bus, 56, 15)
    for k in IDS:
        assert read.addParam(k)
    _until(read.txRxPacket, lambda result: result == OK)
    for k in IDS:
        assert read.getData(k, 56, 2) == pytest.approx(2148 + k, abs=5)
        assert 60 <= read.getData(k, 62, 1) <= 80


def test_feetech_registered_write_and_action(feetech) -> None:
    port, bus = feetech
    for k in (1, 2):
        _written(lambda k=k: bus.regWriteTxRx(port, k, 46, 2, [100 + k, 0]))
    assert _value(lambda: bus.read2ByteTxRx(port, 1, 46)) == 0
    assert bus.action(port, 254) == OK
    assert [_value(lambda k=k: bus.read2ByteTxRx(port, k, 46)) for k in (1, 2)] == [101, 102]


def test_feetech_reboot_as_the_manual_has_it(feetech) -> None:
    """The SDK has no call for it: its own txPacket sends instruction 08."""
    port, bus = feetech
    _written(lambda: bus.write1ByteTxRx(port, 5, 40, 1))
    packet = [0, 0, 5, 2, 8, 0]
    assert bus.txPacket(port, packet) == OK
    port.is_using = False
    assert bus.ping(port, 5)[1] != OK
    time.sleep(0.9)
    assert _value(lambda: bus.ping(port, 5)) == 777
    assert _value(lambda: bus.read1ByteTxRx(port, 5, 40)) == 0


def test_dynamixel_ping_read_write(dynamixel) -> None:
    port, bus = dynamixel
    assert [_value(lambda k=k: bus.ping(port, k)) for k in IDS] == [1060, 1060, 1200, 1200, 1200, 1200]
    found, _ = _until(lambda: bus.broadcastPing(port), lambda result: len(result[0]) == 6)
    assert found[3] == [1200, 46]
    _written(lambda: bus.write4ByteTxRx(port, 1, 112, 100))
    assert _value(lambda: bus.read4ByteTxRx(port, 1, 112)) == 100
    _, error = _until(lambda: bus.write4ByteTxRx(port, 1, 116, 9999), lambda result: result[0] == OK)
    assert error == dxl.ERRNUM_DATA_LIMIT
    assert "exceeds the limit" in bus.getRxPacketError(error)


@pytest.mark.parametrize("fast", [False, True])
def test_dynamixel_sync_write_moves_what_sync_read_sees(dynamixel, fast: bool) -> None:
    port, bus = dynamixel
    goal = 2300 if fast else 2200
    for k in IDS:
        _written(lambda k=k: bus.write1ByteTxRx(port, k, 64, 1))
    write = dxl.GroupSyncWrite(port, bus, 116, 4)
    for k in IDS:
        assert write.addParam(k, list((goal + k).to_bytes(4, "little")))
    assert write.txPacket() == OK
    time.sleep(1.2)
    read = dxl.GroupSyncRead(port, bus, 132, 4)
    for k in IDS:
        assert read.addParam(k)
    _until(read.fastSyncRead if fast else read.txRxPacket, lambda result: result == OK)
    for k in IDS:
        assert read.getData(k, 132, 4) == pytest.approx(goal + k, abs=28)


def test_dynamixel_bulk_read_and_write(dynamixel) -> None:
    port, bus = dynamixel
    write = dxl.GroupBulkWrite(port, bus)
    assert write.addParam(1, 65, 1, [1]) and write.addParam(2, 112, 4, [50, 0, 0, 0])
    assert write.txPacket() == OK
    read = dxl.GroupBulkRead(port, bus)
    assert read.addParam(1, 65, 1) and read.addParam(2, 112, 4)
    _until(read.txRxPacket, lambda result: result == OK)
    assert (read.getData(1, 65, 1), read.getData(2, 112, 4)) == (1, 50)


def test_dynamixel_eeprom_is_locked_while_torque_is_on_and_a_reboot_frees_it(dynamixel) -> None:
    port, bus = dynamixel
    _written(lambda: bus.write1ByteTxRx(port, 4, 64, 1))
    _, error = _until(lambda: bus.write1ByteTxRx(port, 4, 9, 0), lambda result: result[0] == OK)
    assert error == dxl.ERRNUM_ACCESS
    _written(lambda: bus.reboot(port, 4))
    time.sleep(0.5)
    assert _value(lambda: bus.read1ByteTxRx(port, 4, 64)) == 0
    _written(lambda: bus.write1ByteTxRx(port, 4, 9, 0))


def test_dynamixel_registered_write_action_and_factory_reset(dynamixel) -> None:
    port, bus = dynamixel
    _written(lambda: bus.regWriteTxRx(port, 6, 65, 1, [1]))
    assert _value(lambda: bus.read1ByteTxRx(port, 6, 65)) == 0
    # To all: of a single servo the SDK would take the acknowledgement, for which it does not wait, for the next answer.
    assert bus.action(port, dxl.BROADCAST_ID) == OK
    assert _value(lambda: bus.read1ByteTxRx(port, 6, 65)) == 1
    _written(lambda: bus.factoryReset(port, 6, 0x02))
    time.sleep(0.5)
    assert _value(lambda: bus.read1ByteTxRx(port, 6, 65)) == 0
