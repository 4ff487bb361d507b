"""Rows 1 to 16: the wire, the port and who is on it."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from lab import CALM_S, STEP, Lab, goals, positions, refused, row, stands_still, torques, walk

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.handshake import HandshakeError
from hardware.rig import load_rig
from hardware.safety import Reason
from hardware.serial_arm import SerialArm
from hardware.servo.bus import Bus, NoReply
from hardware.servo.port import PortLost, PortTaken

_REPLY_BYTES = 21  # of an STS3215's telemetry


def _read(bus: Bus) -> dict[int, int]:
    return {id_: reading.position for id_, reading in bus.telemetry().items()}


def _lasting(lab: Lab, on: bool, fault: str) -> None:
    """One damaged reply costs nothing; a joint whose every reply is damaged makes the arm hold, by name."""
    with lab.arm(latency_s=0.04) as (servos, arm):
        walk(arm, 1)
        if on:
            servos.inject(f"{fault}:elbow_flex")
        applied = walk(arm, 8)
        assert refused(applied) == on
        assert ("elbow_flex" in (arm.fault or "")) == on
        if on:
            assert stands_still(servos, arm) and set(torques(servos).values()) == {1}


@row(1, "a byte of a reply is lost")
def lost_byte(lab: Lab, on: bool) -> None:
    with lab.bus() as (servos, bus):
        for k in range(_REPLY_BYTES):
            if on:
                servos.inject(f"lose_byte.{k}:3x1")
            assert _read(bus) == positions(servos)
        assert (bus.health[3].missed >= _REPLY_BYTES) == on
    _lasting(lab, on, "lose_byte")


@row(2, "a reply is damaged and its checksum says so")
def checksum(lab: Lab, on: bool) -> None:
    bits = range(0, 8 * _REPLY_BYTES, 5)  # every bit of a byte, and every byte but a few
    with lab.bus() as (servos, bus):
        for bit in bits:
            if on:
                servos.inject(f"corrupt.{bit}:3x1")
            assert _read(bus) == positions(servos)
        assert (bus.health[3].missed >= len(bits)) == on
        assert (bus.damaged > 0) == on
        assert bus.health[4].missed < len(bits) // 2  # counted for the servo that it happened to
    _lasting(lab, on, "corrupt.60")


@row(3, "a reply is damaged and its checksum does not show it")
def forged(lab: Lab, on: bool) -> None:
    for fault in ("forge.10", "swap.0"):
        with lab.arm() as (servos, arm):
            walk(arm, 2)
            truth = arm.read()[2]
            if on:
                servos.inject(f"{fault}:elbow_flexx1")
            applied = walk(arm, 1)
            assert abs(arm.read()[2] - truth) < 0.05 and not refused(applied) and arm.fault is None
            if on:
                assert servos.injector.counts[fault.partition(".")[0]] == 1
                servos.inject(f"{fault}:elbow_flex")
            assert refused(walk(arm, 4)) == on
            assert ("jumped" in (arm.fault or "")) == on


@row(4, "a reply bears another servo's id")
def wrong_id(lab: Lab, on: bool) -> None:
    for other in (1, 9):  # one that was asked as well, and one that nobody asked
        with lab.bus() as (servos, bus):
            if on:
                servos.inject(f"wrong_id.{other}:3x1")
            seen = _read(bus)
            assert {id_: seen[id_] for id_ in (2, 3, 4, 5, 6)} == {
                id_: position for id_, position in positions(servos).items() if id_ != 1
            }
            assert (bus.strays > 0) == on
    with Emulator("so101", pace=Pace("stepped")) as servos:
        if on:
            servos.inject("duplicate_id:elbow_flex")
        rig = nominal(load_rig("so101"), servos.port)
        if on:
            with pytest.raises(HandshakeError, match="elbow_flex.*[Tt]wo servos with one id"):
                SerialArm.open(rig, lockstep=True)
        else:
            SerialArm.open(rig, lockstep=True).close()


@row(5, "a reply comes after the deadline")
def late(lab: Lab, on: bool) -> None:
    with lab.bus(latency_s=0.02) as (servos, bus):
        bus.write(3, "goal_position", 1234)
        if on:
            bus.attempts = 1
            servos.inject("delay:3=0.06x1")
            with pytest.raises(NoReply):
                bus.read(3, "goal_position")
            time.sleep(0.1)  # it lies in the input now, and fits the next question in id and length
            bus.attempts = 3
        else:
            assert bus.read(3, "goal_position") == 1234
        assert bus.read(3, "present_position") == positions(servos)[3]


@row(6, "a reply comes twice")
def twice(lab: Lab, on: bool) -> None:
    with lab.bus() as (servos, bus):
        bus.write(3, "goal_position", 1234)
        if on:
            servos.inject("duplicate:3")
        for _ in range(5):
            assert bus.read(3, "goal_position") == 1234
            assert bus.read(3, "present_position") == positions(servos)[3]
            assert _read(bus) == positions(servos)
        assert (servos.injector.counts["duplicate"] >= 15) == on


@row(7, "the adapter echoes what is sent")
def echo(lab: Lab, on: bool) -> None:
    for fault in ("echo", "echo.5", "contention"):
        with lab.bus() as (servos, bus):
            if on:
                servos.inject(fault)
            for _ in range(4):
                assert _read(bus) == positions(servos)
                assert bus.read(2, "max_temperature") == 70
            assert (servos.injector.counts[fault.partition(".")[0]] >= 8) == on
            if fault == "contention":
                assert (bus.damaged + bus.strays > 0) == on


@row(8, "noise comes before a reply")
def garbage(lab: Lab, on: bool) -> None:
    with lab.bus() as (servos, bus):
        if on:
            servos.inject("garbage")
        took = []
        for _ in range(10):
            began = time.monotonic()
            seen = bus.telemetry(budget_s=1.0)
            took.append(time.monotonic() - began)
            assert {id_: reading.position for id_, reading in seen.items()} == positions(servos)
        assert min(took) < 1.5
        assert (servos.injector.counts["garbage"] >= 60) == on


@row(9, "a reply breaks off and silence follows")
def truncated(lab: Lab, on: bool) -> None:
    with lab.bus(latency_s=0.03) as (servos, bus):
        bus.attempts = 1
        for k in range(8):  # a status packet with two bytes of data has eight
            if on:
                servos.inject(f"truncate.{k}:3x1")
                with pytest.raises(NoReply):
                    bus.read(3, "present_position")
            assert bus.read(3, "present_position") == positions(servos)[3]


@row(10, "one servo is silent")
def silent(lab: Lab, on: bool) -> None:
    with lab.bus(latency_s=0.04) as (servos, bus):
        if on:
            servos.inject("mute:elbow_flex")
        seen = _read(bus)
        assert set(seen) == ({1, 2, 4, 5, 6} if on else {1, 2, 3, 4, 5, 6})
        assert seen.items() <= positions(servos).items()
    _lasting(lab, on, "mute")


@row(11, "goals are lost on the way while readings still come")
def lost_goals(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 2)
        stood, angles = goals(servos), servos.angles()
        if on:
            servos.inject("lose_write")
        reasons: set[Reason] = set()
        target = arm.observe().command
        for _ in range(26):  # 1.3 s
            target = target + STEP
            applied = arm.act(target)
            reasons |= set(applied.reasons)
            lead = np.abs(applied.q - arm.read())[:5] if arm.fault is None else np.zeros(5)
            assert np.all(lead <= 0.1 + 0.05 * arm.limits.velocity[:5] + 0.01)  # until it is noticed
        assert (Reason.LATCHED in reasons) == on
        assert ("goals do not arrive" in (arm.fault or "")) == on
        assert (goals(servos) == stood) == on
        if on:
            assert servos.angles() == pytest.approx(angles, abs=0.05)  # the arm stands where the last goal led it
            assert set(torques(servos).values()) == {1}
            servos.heal()  # they would arrive again: still nothing moves before the user resets
            assert stands_still(servos, arm)
            arm.reset_fault()
            assert not refused(walk(arm, 3)) and goals(servos) != stood


@row(12, "the port vanishes in motion")
def unplugged(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 3)
        if not on:
            walk(arm, 3)
            assert arm.fault is None
            return
        servos.unplug()
        with pytest.raises(PortLost, match="hold their last goal"):
            walk(arm, 6)
        held = goals(servos)
        servos.replug()
        servos.advance(0.2)
        for call in (arm.observe, arm.reset_fault, lambda: walk(arm, 2)):  # nothing reconnects in silence
            with pytest.raises(PortLost):
                call()
        assert goals(servos) == held and set(torques(servos).values()) == {1}


@row(13, "the port comes back under another name or is another arm's")
def renamed(lab: Lab, on: bool) -> None:
    with Emulator("so101", pace=Pace("stepped")) as servos, Emulator("koch", pace=Pace("stepped")) as other:
        rig = nominal(load_rig("so101"), servos.port)
        if not on:
            SerialArm.open(rig, lockstep=True).close()
            return
        named = rig.model_copy(update={"bus": rig.bus.model_copy(update={"usb_serial": "58FA0831"})})
        with pytest.raises(HandshakeError, match="is not the adapter 58FA0831 of so101"):
            SerialArm.open(named, lockstep=True)
        models = {joint.id: joint.model for joint in rig.joints.values()}
        with pytest.raises(HandshakeError, match="no servo of so101 answers"):
            SerialArm(rig, Bus.open(other.port, models, latency_s=0.02), lockstep=True)
        servos.inject("poke.5:wrist_roll=9x1")  # six servos, but not those of the rig file
        servos.advance(0.05)
        with pytest.raises(HandshakeError, match="wrist_roll: servo 5 does not answer"):
            SerialArm(rig, Bus.open(servos.port, models, latency_s=0.02), lockstep=True)


_HOLDER = """
import sys, time
from hardware.servo.port import open_port
port = open_port(sys.argv[1], 1_000_000)
print("open", flush=True)
time.sleep(60)
"""


@row(14, "two programs want one port")
def shared(lab: Lab, on: bool) -> None:
    with Emulator("so101", pace=Pace("stepped")) as servos:
        rig = nominal(load_rig("so101"), servos.port)
        if not on:
            SerialArm.open(rig, lockstep=True).close()
            return
        with subprocess.Popen(
            [sys.executable, "-c", _HOLDER, servos.port], stdout=subprocess.PIPE, text=True
        ) as holder:
            try:
                assert holder.stdout is not None and holder.stdout.readline() == "open\n"
                took = []
                for _ in range(5):  # the shortest counts: what a busy machine adds is not the driver's
                    began = time.monotonic()
                    with pytest.raises(PortTaken, match=f"in use by process {holder.pid} .*stop that first"):
                        SerialArm.open(rig, lockstep=True)
                    took.append(time.monotonic() - began)
                assert min(took) < 1.0
            finally:
                holder.kill()
        SerialArm.open(rig, lockstep=True).close()


@row(15, "a servo has another baud rate or is of another model")
def stranger(lab: Lab, on: bool) -> None:
    for fault, told in (
        ("baud:elbow_flex=57600", "elbow_flex: servo 3 does not answer"),
        ("baud=57600", "no servo of so101 answers .* baud.*power supply"),
        ("poke.3:elbow_flex=9x1", "elbow_flex: servo 3 is of unknown model"),
    ):
        with Emulator("so101", pace=Pace("stepped")) as servos:
            rig = nominal(load_rig("so101"), servos.port)
            models = {joint.id: joint.model for joint in rig.joints.values()}
            if on:
                servos.inject(fault)
                servos.advance(0.05)
                saved = [servo.registers.saved for servo in servos.servos.values()]
                with pytest.raises(HandshakeError, match=told):
                    SerialArm(rig, Bus.open(servos.port, models, latency_s=0.05), lockstep=True)
                assert saved == [servo.registers.saved for servo in servos.servos.values()]  # nothing was written
            else:
                SerialArm(rig, Bus.open(servos.port, models, latency_s=CALM_S), lockstep=True).close()


@row(16, "the bus is so slow that retries pile up")
def slow(lab: Lab, on: bool) -> None:
    budget_s = 0.05
    with lab.bus(latency_s=0.02) as (servos, bus):
        if on:
            servos.inject("delay=0.2")
        took = []
        for _ in range(8):
            began = time.monotonic()
            seen = bus.telemetry(budget_s=budget_s)
            took.append(time.monotonic() - began)
            assert on == (not seen)
        # The shortest of them: what the machine itself adds on a bad day is not the driver's.
        assert min(took) <= budget_s + 0.02
    with lab.arm(latency_s=0.02) as (servos, arm):
        walk(arm, 1)
        if on:
            servos.inject("delay=0.2")
        assert refused(walk(arm, 6)) == on
