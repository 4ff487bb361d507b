"""What the doctor says about arms and ports, healthy and not; and what it costs to read them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from arm_in_hand import bus_of, rig_on

from hardware.arm_report import ArmReport, PortReport, latency_ms, read_arm, read_port
from hardware.doctor import diagnose
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.find_ports import UsbPort
from hardware.finding import Finding
from hardware.play import Play, measure_play
from hardware.port_advice import udev_rules
from hardware.rig import Rig, load_rig
from hardware.servo.bus import Identity
from hardware.servo.port import BusError

CH343 = UsbPort("/dev/ttyACM0", "/dev/serial/by-id/usb-1a86_58FA-if00", 0x1A86, 0x55D3, "58FA")
U2D2 = UsbPort("/dev/ttyUSB0", "", 0x0403, 0x6014, "FT7")


@pytest.fixture(params=["so101", "koch"])
def arm(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(request.param, pace=Pace("stepped")) as arm:
        yield arm


@pytest.fixture(scope="module")
def healthy() -> ArmReport:
    """A calibrated SO-101 in order, as it was read."""
    with Emulator("so101", pace=Pace("stepped")) as arm:
        _as_the_rig_says(arm)
        report = read_arm(_rig(arm))
    return replace(report, port=PortReport("/dev/ttyACM0", replace(CH343, stable="")))


def _rig(arm: Emulator) -> Rig:
    return nominal(load_rig(arm.chain.name), arm.port)


def _as_the_rig_says(arm: Emulator) -> None:
    rig = _rig(arm)
    for name, joint in rig.joints.items():
        registers, c = arm.servos[name].registers, joint.calibration
        assert c is not None
        for register, value in {**joint.settings, "min_position": c.min, "max_position": c.max}.items():
            registers.save(register, value) if joint.model[register].storage == "eeprom" else registers.put(
                register, value
            )


def _texts(findings: list[Finding], kind: str = "") -> str:
    return "\n".join(str(finding) for finding in findings if kind in ("", finding.kind))


def _changed(report: ArmReport, joint: str, **changes: object) -> ArmReport:
    """The report with other fields of one servo; ``registers`` and ``reading`` are changed within."""
    servos = []
    for servo in report.servos:
        if joint in ("", servo.joint):
            inner = dict(changes)
            if "registers" in inner:
                inner["registers"] = {**servo.registers, **inner["registers"]}  # type: ignore[dict-item]  # a dict is given
            if "reading" in inner:
                assert servo.reading is not None
                inner["reading"] = servo.reading._replace(**inner["reading"])  # type: ignore[arg-type]  # a dict is given
            servo = replace(servo, **inner)
        servos.append(servo)
    return replace(report, servos=tuple(servos))


RIG = nominal(load_rig("so101"), "/dev/ttyACM0")


def test_a_healthy_arm_has_nothing(healthy: ArmReport) -> None:
    assert diagnose(RIG, healthy) == []


def test_a_healthy_koch_has_nothing_but_its_port() -> None:
    with Emulator("koch", pace=Pace("stepped")) as arm:
        _as_the_rig_says(arm)
        rig = _rig(arm)
        assert diagnose(rig, read_arm(rig)) == []
        arm.inject("poke.6:wrist=40,poke.63:gripper=0")
        arm.advance(0.1)
        told = _texts(diagnose(rig, read_arm(rig)))
    assert "wrist_flex: firmware 40 does not know fast reads (46 does)" in told
    assert "have different firmware (40: wrist_flex, wrist_roll; 46: elbow_flex, gripper)" in told


def test_reading_changes_nothing(arm: Emulator) -> None:
    before = {name: (bytes(s.registers.memory[:60]), s.registers.saved) for name, s in arm.servos.items()}
    report = read_arm(rig_on(arm))
    assert report.complete and all(servo.asked == servo.answered == 25 for servo in report.servos)
    for servo in report.servos:
        assert servo.registers["id"] == servo.id and servo.reading is not None and servo.reading.voltage > 4
        assert {r.name for r in arm.servos[servo.joint].model if "indirect" not in r.name} <= set(servo.registers)
    after = {name: (bytes(s.registers.memory[:60]), s.registers.saved) for name, s in arm.servos.items()}
    assert {n: v[1] for n, v in before.items()} == {n: v[1] for n, v in after.items()}
    assert all(before[n][0][:56] == after[n][0][:56] for n in before)


# Servos ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joint", "changes", "kind", "words"),
    [
        ("elbow_flex", {"registers": {"torque_enable": 1}}, "problem", "torque is on.*embodied robot release so101"),
        ("elbow_flex", {"registers": {"homing_offset": -90}}, "problem", "holds homing offset -90.*made with 0"),
        ("elbow_flex", {"registers": {"present_position": 3900}}, "problem", "stands at count 3900, outside its range"),
        ("elbow_flex", {"registers": {"min_position": 0}}, "remark", "its own limits are 0 to"),
        ("elbow_flex", {"registers": {"phase": 0x1C}}, "problem", "counts several turns"),
        ("elbow_flex", {"registers": {"min_position": 0, "max_position": 0}}, "problem", "counts several turns"),
        ("elbow_flex", {"registers": {"return_delay": 250}}, "remark", "waits 500 microseconds.*--together"),
        ("elbow_flex", {"registers": {"position_p": 32}}, "remark", "position_p is 32, not 16"),
        ("elbow_flex", {"registers": {"lock": 0}}, "remark", "EEPROM is not locked"),
        ("elbow_flex", {"registers": {"status_return_level": 0}}, "remark", "does not acknowledge"),
        ("elbow_flex", {"reading": {"temperature": 66.0}}, "problem", "66 degrees Celsius; it switches off at 70"),
        ("elbow_flex", {"reading": {"temperature": 56.0}}, "remark", "warm: 56 degrees"),
        ("elbow_flex", {"reading": {"faults": ("overload",)}}, "problem", "reports overload. Take the load off"),
        ("", {"reading": {"voltage": 4.1}}, "problem", "4.1 V is too little; it works from 4.0 V"),
        ("", {"reading": {"voltage": 15.0}}, "problem", "15.0 V is too much; it allows 14.0 V"),
        ("", {"reading": {"voltage": 12.1}}, "remark", "12 V type of the STS3215 only"),
        ("", {"reading": {"voltage": 5.0}}, "remark", "7.4 V type of the STS3215, with about two thirds"),
        ("gripper", {"reading": {"voltage": 6.0}}, "problem", "6.0 V arrive here, 7.4 V at"),
        ("elbow_flex", {"identity": None, "registers": {}, "reading": {}}, "problem", "no servo answers to id 3.*--only elbow"),
        ("elbow_flex", {"identity": None, "damaged": 3}, "problem", "two servos with this id, or a bad line"),
        ("elbow_flex", {"answered": 10, "damaged": 12}, "problem", "two servos with this id"),
        ("elbow_flex", {"answered": 22}, "problem", "3 of 25 answers were lost"),
        ("elbow_flex", {"identity": Identity(3, 1060, "45"), "model": None}, "problem", "unknown model 1060, the rig says"),
        ("elbow_flex", {"identity": Identity(3, 777, "3.9")}, "remark", "different firmware.*3.9: elbow_flex"),
    ],
)  # fmt: skip
def test_one_thing_wrong(healthy: ArmReport, joint: str, changes: dict[str, object], kind: str, words: str) -> None:
    findings = diagnose(RIG, _changed(healthy, joint, **changes))
    assert re.search(words, _texts(findings, kind)), _texts(findings)
    assert len({finding.kind for finding in findings}) == 1  # nothing else is made of it
    assert all(len(str(finding)) < 330 for finding in findings)


def test_twelve_volts_at_a_leader_are_told_loudly(healthy: ArmReport) -> None:
    leader = nominal(load_rig("so101_leader"), "/dev/ttyACM0")
    findings = diagnose(leader, _changed(healthy, "", reading={"voltage": 12.0}))
    assert "whose motors are of the 7.4 V type. Switch it off at once" in _texts(findings, "problem")


def test_an_uncalibrated_arm_and_a_dead_one(healthy: ArmReport) -> None:
    assert "Run: embodied robot calibrate so101" in _texts(diagnose(load_rig("so101"), healthy), "problem")
    dead = _changed(healthy, "", identity=None)
    findings = diagnose(RIG, dead)
    assert _texts(findings, "problem").startswith("arm: no servo answers at 1000000 baud. Is its power supply on")
    assert len(findings) == 1  # not six more sentences about six servos


# From the wire --------------------------------------------------------------------------------------------------------------


def test_missing_doubled_and_wrong_servos_are_told_apart(so101: Emulator) -> None:
    so101.inject("dead:wrist_roll,poke.5:elbow_flex=2x1,poke.3:gripper=1060")
    so101.hold({"shoulder_lift": 0.5, "elbow_flex": -0.4})
    so101.advance(1.0)
    told = _texts(diagnose(_rig(so101), read_arm(_rig(so101))), "problem")
    assert "wrist_roll: no servo answers to id 5" in told
    assert "shoulder_lift: answers of id 2 are damaged: two servos with this id" in told
    assert "elbow_flex: no servo answers to id 3" in told
    assert "gripper: the servo with id 6 is of unknown model 1060, the rig says sts3215" in told


def test_a_bad_line_is_noticed(so101: Emulator) -> None:
    so101.inject("drop:wrist=0.2")
    told = _texts(diagnose(_rig(so101), read_arm(_rig(so101))), "problem")
    assert "answers were lost" in told and "shoulder_pan" not in told


def test_a_held_port_names_its_owner(so101: Emulator) -> None:
    pid = os.fork()
    if pid == 0:  # another program that has the port
        fd = os.open(so101.port, os.O_RDWR | os.O_NOCTTY)
        time.sleep(20 if fd >= 0 else 0)
        os._exit(0)
    try:
        for _ in range(200):
            report = read_port(so101.port)
            if report.owners:
                break
            time.sleep(0.02)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    told = _texts(diagnose(RIG, ArmReport(report)), "problem")
    assert f"is in use by process {pid}" in told and "Stop that first" in told


# The port ------------------------------------------------------------------------------------------------------------------


def test_ports_that_are_not_there_or_not_allowed() -> None:
    missing = read_port("/dev/ttyNOWHERE7")
    assert "there is no /dev/ttyNOWHERE7. Plug the arm in" in _texts(diagnose(RIG, ArmReport(missing)))
    locked = PortReport("/dev/ttyACM0", CH343, allowed=False, group="dialout")
    told = _texts(diagnose(RIG, ArmReport(locked)))
    assert "you may not use /dev/ttyACM0. Join its group (sudo usermod -aG dialout $USER)" in told
    assert "Use its lasting name: /dev/serial/by-id/usb-1a86_58FA-if00" in told


def test_another_adapter_than_the_rigs() -> None:
    rig = RIG.model_copy(update={"bus": RIG.bus.model_copy(update={"usb_serial": "77AB"})})
    assert "serial number is 58FA, the rig's is 77AB" in _texts(
        diagnose(rig, ArmReport(PortReport("/dev/ttyACM0", CH343)))
    )


def test_the_latency_timer_of_ftdi_adapters(tmp_path: Path) -> None:
    timer = tmp_path / "bus/usb-serial/devices/ttyUSB0/latency_timer"
    timer.parent.mkdir(parents=True)
    timer.write_text("16\n")
    assert latency_ms("/dev/ttyUSB0", tmp_path) == 16 and latency_ms("/dev/ttyACM0", tmp_path) is None
    slow = PortReport("/dev/ttyUSB0", U2D2, latency_ms=16)
    told = _texts(diagnose(RIG, ArmReport(slow)))
    assert "up to 16 ms" in told and "/sys/bus/usb-serial/devices/ttyUSB0/latency_timer" in told
    assert "latency" not in _texts(diagnose(RIG, ArmReport(replace(slow, latency_ms=1))))


def test_udev_rules() -> None:
    rules = udev_rules(PortReport("/dev/ttyUSB0", U2D2, latency_ms=16), "koch").splitlines()
    assert rules == [
        'SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", ATTRS{idProduct}=="6014", ATTRS{serial}=="FT7", GROUP="dialout", '
        'MODE="0660", SYMLINK+="koch"',
        'ACTION=="add", SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"',
    ]
    assert len(udev_rules(PortReport("/dev/ttyACM0", CH343), "a").splitlines()) == 1
    assert udev_rules(PortReport("/dev/pts/3", UsbPort("/dev/pts/3")), "a") == ""


# Play ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rocked_deg", "worn"), [(1.0, False), (5.0, True)])
def test_play_is_how_far_a_held_joint_can_be_rocked(so101: Emulator, rocked_deg: float, worn: bool) -> None:
    here = so101.angles()["elbow_flex"]
    half = rocked_deg / 2 * 3.14159 / 180
    turn = iter(range(1_000_000))

    def rock(seconds: float) -> None:
        so101.hold({"elbow_flex": here + (half if next(turn) % 2 else -half)})
        so101.advance(0.2)

    with bus_of(so101) as bus:
        play = measure_play(bus, _rig(so101), "elbow_flex", 0.3, sleep=rock)
        assert bus.read(3, "torque_enable") == 0
    assert play.degrees == pytest.approx(rocked_deg, abs=0.3) and play.worn is worn


def test_play_lets_go_even_when_the_servo_falls_silent(so101: Emulator) -> None:
    def fall_silent(seconds: float) -> None:
        so101.inject("mute:elbow")
        so101.advance(0.1)

    with bus_of(so101) as bus, pytest.raises(BusError):
        measure_play(bus, _rig(so101), "elbow_flex", 0.3, sleep=fall_silent)
    assert so101.servos["elbow_flex"].registers.get("torque_enable") == 0  # it obeys, it only does not answer
    assert not Play("elbow_flex", 2.4).worn
