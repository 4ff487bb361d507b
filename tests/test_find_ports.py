"""Finding an arm: USB identities, names that stay, pulling the cable, and who answers at which rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from hardware.asking import take_defaults
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.find_ports import UsbPort, describe, find_by_plugging, fitting_rigs, usb_ports
from hardware.servo.bus import Bus, Identity
from hardware.servo.port import PortError
from hardware.servo.registers import STS3215
from hardware.servo.scan import alone, listen, scan


def _com(device: str, vid: int | None, pid: int | None, serial: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=serial, description="USB serial")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an arm, a GPS mouse and a port on the mainboard; the folder of lasting names."""
    (tmp_path / "by-id").mkdir()
    devices = {name: str(tmp_path / name) for name in ("ttyS0", "ttyACM0", "ttyACM1")}
    for device in devices.values():
        Path(device).touch()
    (tmp_path / "by-id" / "usb-1a86_58FA-if00").symlink_to(devices["ttyACM1"])
    ports = [
        _com(devices["ttyS0"], None, None),
        _com(devices["ttyACM0"], 0x1546, 0x01A7),
        _com(devices["ttyACM1"], 0x1A86, 0x55D3, "58FA"),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    return tmp_path


def test_servo_adapters_come_first_with_their_lasting_names(machine: Path) -> None:
    arm, gps = usb_ports(machine / "by-id")
    assert (arm.device, arm.serial) == (str(machine / "ttyACM1"), "58FA")
    assert arm.adapter.startswith("CH343") and gps.adapter == ""
    assert arm.stable == str(machine / "by-id" / "usb-1a86_58FA-if00") and gps.stable == ""
    assert "1a86:55d3, serial number 58FA" in str(arm)


def test_a_port_is_known_by_any_of_its_names(machine: Path) -> None:
    assert describe(str(machine / "by-id" / "usb-1a86_58FA-if00"), machine / "by-id").serial == "58FA"
    assert describe("/dev/ttyNOWHERE", machine / "nothing") == UsbPort("/dev/ttyNOWHERE")


ARM = UsbPort("/dev/ttyACM0", "", 0x1A86, 0x55D3, "58FA")
OTHER = UsbPort("/dev/ttyACM1", "", 0x1A86, 0x55D3, "77AB")
RENAMED = UsbPort("/dev/ttyACM2", "", 0x1A86, 0x55D3, "58FA")


@pytest.mark.parametrize(
    ("states", "found"),
    [
        (([ARM, OTHER], [OTHER], [ARM, OTHER]), ARM),
        (([ARM, OTHER], [OTHER], [OTHER, RENAMED]), RENAMED),
    ],
)
def test_pulling_the_cable_tells_the_port(states, found: UsbPort) -> None:
    ports = iter(states)
    assert find_by_plugging(take_defaults, lambda: next(ports)) == found


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (([ARM], [ARM]), "not: none; was it the right cable"),
        (([ARM, OTHER], []), "not: /dev/ttyACM0, /dev/ttyACM1"),
        (([ARM], [], [OTHER]), "did not come back"),
    ],
)
def test_pulling_the_wrong_cable(states, words: str) -> None:
    ports = iter(states)
    with pytest.raises(RobotError, match=words):
        find_by_plugging(take_defaults, lambda: next(ports))


def _six(model: int, ids: range = range(1, 7)) -> list[Identity]:
    return [Identity(id_, model, "3.10") for id_ in ids]


def test_rigs_that_fit() -> None:
    assert {fit.rig for fit in fitting_rigs(_six(777))} == {"so100", "so100_leader", "so101", "so101_leader"}
    assert [fit.rig for fit in fitting_rigs(_six(1190))] == ["koch_leader"]
    partly = fitting_rigs(_six(777, range(1, 6)))
    assert {fit.missing for fit in partly} == {("gripper",)}
    assert fitting_rigs(_six(777, range(1, 3))) == [] and fitting_rigs(_six(4711)) == []


@pytest.fixture(params=["so101", "koch"])
def arm(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(request.param, pace=Pace("stepped")) as arm:
        yield arm


def test_servos_are_found_whatever_they_speak(arm: Emulator) -> None:
    (line,) = scan(arm.port)
    assert line.protocol == arm.chain.servos[0].model.protocol and line.baud == 1_000_000 and not line.damaged
    assert [(servo.id, servo.model_number) for servo in line.servos] == [
        (servo.id, servo.model.number) for servo in arm.chain.servos
    ]


def test_one_servo_at_another_rate_is_found(arm: Emulator) -> None:
    arm.inject("dead,baud:gripper=115200")
    arm.advance(0.1)
    arm.heal("dead")
    arm.inject(",".join(f"dead:{joint}" for joint in arm.servos if joint != "gripper"))
    arm.advance(2.0)
    (line,) = scan(arm.port, ids=range(1, 3))
    assert (line.baud, [servo.id for servo in line.servos]) == (115_200, [6])


def test_nobody_is_found_where_nobody_is(arm: Emulator) -> None:
    arm.inject("dead")
    arm.advance(0.1)
    assert scan(arm.port, bauds=(1_000_000,), ids=range(1, 3)) == []
    with pytest.raises(PortError, match="there is no port"):
        scan("/dev/ttyNOWHERE7")


def test_ids_are_asked_one_by_one_where_the_broadcast_fails(arm: Emulator) -> None:
    protocol = arm.chain.servos[0].model.protocol
    arm.inject("drop~1x1")  # the first reply to the broadcast is lost
    line = listen(arm.port, protocol, 1_000_000, always=range(1, 8))
    assert [servo.id for servo in line.servos] == [1, 2, 3, 4, 5, 6]


def test_two_servos_with_one_id_are_not_alone() -> None:
    with Emulator("so101", pace=Pace("stepped")) as arm:
        with Bus.open(arm.port, {1: STS3215, 2: STS3215}) as bus:
            assert alone(bus, 1) and alone(bus, 2)
        arm.inject("poke.5:shoulder_lift=1x1")
        arm.hold({"shoulder_pan": 0.5, "shoulder_lift": -0.3})
        arm.advance(1.0)
        with Bus.open(arm.port, {1: STS3215}) as bus:
            assert not alone(bus, 1)
