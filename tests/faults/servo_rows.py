"""Rows 17 to 28: a servo that is hot, weak, blocked, swapped, or not where it says."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from lab import STEP, Lab, goals, refused, registers, row, stands_still, torques, walk

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator, Pace
from hardware.errors import RobotError
from hardware.handshake import HandshakeError
from hardware.joint_map import JointMap
from hardware.rig import Calibration, Rig, RigError, format_rig, load_rig, parse_rig
from hardware.serial_arm import SerialArm
from hardware.servo.bus import Refused


def _with_setting(rig: Rig, joint: str, **settings: int) -> Rig:
    changed = rig.joints[joint]
    changed = changed.model_copy(update={"settings": {**changed.settings, **settings}})
    return rig.model_copy(update={"joints": {**rig.joints, joint: changed}})


@row(17, "a servo reports overload")
def overload(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 2)
        if on:
            servos.inject("error.5:elbow_flex")
        assert refused(walk(arm, 4)) == on
        if on:
            assert "elbow_flex reports overload" in (arm.fault or "") and "load" in (arm.fault or "")
            assert torques(servos) == {joint: int(joint != "elbow_flex") for joint in servos.servos}
            servos.heal()  # the cause is gone: still nothing moves, and nothing restarts by itself
            assert stands_still(servos, arm) and torques(servos)["elbow_flex"] == 0


@row(18, "a servo becomes too hot")
def overheat(lab: Lab, on: bool) -> None:
    rig = _with_setting(nominal(load_rig("so101")), "elbow_flex", max_temperature=40)
    with lab.arm(rig=rig) as (servos, arm):
        walk(arm, 1)
        if on:
            servos.inject("overheat:elbow_flex=41")
        here = arm.observe().command
        applied = [arm.act(here) for _ in range(75)]
        assert refused(applied) == on
        assert (arm.fault is not None) == on
        if on:
            assert "elbow_flex" in (arm.fault or "") and "°C" in (arm.fault or "")
            assert torques(servos)["elbow_flex"] == 0
            servos.heal()
            assert stands_still(servos, arm)


@row(19, "the supply voltage falls")
def undervoltage(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 2)
        now = servos.time_s
        servos.inject(f"sag@{now + 0.05}-{now + 0.15}=3.5")  # a dip is no loss, with the fault off as well
        assert not refused(walk(arm, 8)) and arm.fault is None
        if on:
            servos.inject("sag=3.5")
        assert refused(walk(arm, 12)) == on
        assert ("voltage" in (arm.fault or "")) == on
        if on:
            servos.heal()
            assert stands_still(servos, arm)


@row(20, "a Dynamixel's alert bit rides on every reply")
def alert(lab: Lab, on: bool) -> None:
    rig = _with_setting(nominal(load_rig("koch")), "gripper", max_temperature=40)
    with lab.arm("koch", rig=rig) as (servos, arm):
        walk(arm, 2)
        if on:
            servos.inject("error.7:elbow_flex")  # the bit without a hardware error behind it
        assert not refused(walk(arm, 4)) and arm.fault is None  # its values are good
        told: list[logging.LogRecord] = []
        with _listening(told):
            if on:
                servos.inject("overheat:gripper=41")
                servos.advance(4.0)
            assert refused(walk(arm, 6)) == on
        assert ("gripper reports over" in (arm.fault or "")) == on
        assert sum("gripper reports" in record.getMessage() for record in told) == int(on)  # once, not once a packet
    with lab.bus("koch") as (servos, bus):
        bus.write(3, "torque_enable", 1)
        if on:  # the lower bits are about this instruction and no fault of the servo
            with pytest.raises(Refused, match="access"):
                bus.write(3, "return_delay", 7)
        assert bus.telemetry()[3].faults == ()


@contextmanager
def _listening(records: list[logging.LogRecord]) -> Any:
    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep, logger = Keep(), logging.getLogger("hardware")
    logger.addHandler(keep)
    try:
        yield
    finally:
        logger.removeHandler(keep)


@row(21, "a servo restarts and loses its torque")
def restarted(lab: Lab, on: bool) -> None:
    for fault in ("torque_off:elbow_flex", "reboot:elbow_flex"):
        with lab.arm() as (servos, arm):
            walk(arm, 2)
            if on:
                servos.inject(f"{fault}@{servos.time_s + 0.05}")
            assert refused(walk(arm, 25)) == on
            assert ("elbow_flex" in (arm.fault or "")) == on
            if on:
                assert torques(servos)["elbow_flex"] == 0
                assert stands_still(servos, arm)
                assert torques(servos)["elbow_flex"] == 0  # nobody switches it on again but the user
                arm.reset_fault()
                arm.act(arm.read())
                assert set(torques(servos).values()) == {1}


@row(22, "a servo was reset or swapped for another")
def swapped(lab: Lab, on: bool) -> None:
    rig = nominal(load_rig("so101"))
    with Emulator("so101", pace=Pace("stepped")) as servos:
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": servos.port})})
        SerialArm.open(rig, lockstep=True).close()  # everything is as the rig file wants it from here on
        saved = {joint: servo.registers.saved for joint, servo in servos.servos.items()}
        if on:
            servos.inject("poke.31:elbow_flex=200x1")
            servos.advance(0.05)
            saved = {joint: servo.registers.saved for joint, servo in servos.servos.items()}
            with pytest.raises(HandshakeError, match="elbow_flex holds offset 200, .*calibrate again"):
                SerialArm.open(rig, lockstep=True)
        else:
            SerialArm.open(rig, lockstep=True).close()
        assert saved == {joint: servo.registers.saved for joint, servo in servos.servos.items()}


@row(23, "an encoder jumps")
def jump(lab: Lab, on: bool) -> None:
    for count in (1000, -1000):
        with lab.arm() as (servos, arm):
            walk(arm, 2)
            before = arm.read()[2]
            if on:
                servos.inject(f"jump:elbow_flex={count}")
            first = walk(arm, 1)
            assert not refused(first) and abs(arm.read()[2] - before) < 0.05  # one such sample is only left out
            assert refused(walk(arm, 3)) == on
            assert ("elbow_flex: its position jumped" in (arm.fault or "")) == on
            if on:
                assert stands_still(servos, arm)


@row(24, "a joint crosses the end of its encoder")
def seam(lab: Lab, on: bool) -> None:
    with pytest.raises(ValueError, match="across the end of the encoder"):
        Calibration(min=3300, max=900)
    pan = Calibration(min=3300, max=4095, zero=3948, homing_offset=-1900)
    rig = nominal(load_rig("so101")).with_calibration({"shoulder_pan": pan})
    with lab.arm(rig=rig, faults="poke.31:shoulder_pan=-1900x1") as (servos, arm):
        walk(arm, 1)
        assert 3900 < registers(servos, "present_position")["shoulder_pan"] < 4000
        here = arm.observe().command
        for rad in np.linspace(0.02, 0.3 if on else 0.1, 12):  # 0.3 rad are 196 counts: beyond 4095, which is 48
            servos.hold({"shoulder_pan": float(rad)})
            applied = arm.act(here)
            assert 3300 <= goals(servos)["shoulder_pan"] <= 4095
        assert refused([applied]) == on
        assert ("shoulder_pan: its position jumped" in (arm.fault or "")) == on
        for far in (0.5, 2.0, 6.0):  # no command leads across the end either
            assert 3300 <= JointMap(rig).counts(np.full(6, far))[1] <= 4095


@row(25, "a joint pushes against something")
def blocked(lab: Lab, on: bool) -> None:
    with lab.arm() as (servos, arm):
        walk(arm, 2)
        if on:
            servos.inject("block:shoulder_lift")
        target = arm.observe().command
        for _ in range(60):
            target = np.minimum(target + STEP, 0.6)
            applied = arm.act(target)
            lead = applied.q[1] - servos.angles()["shoulder_lift"]
            assert abs(lead) < 0.2  # the goal never runs away from a joint that cannot follow
        assert refused([applied]) == on
        assert (arm.fault is not None) == on
        if on:
            servos.heal()
            assert stands_still(servos, arm)


@row(26, "a servo's old goal is not where the joint is when torque comes on")
def old_goal(lab: Lab, on: bool) -> None:
    for name in ("so101", "koch"):
        with lab.arm(name) as (servos, arm):
            if on:
                for joint, servo in servos.servos.items():
                    servos.inject(f"poke.{servo.model['goal_position'].address}:{joint}=300x1")
                servos.advance(0.05)
                assert set(goals(servos).values()) == {300}
            before, here = servos.angles(), arm.read()
            for _ in range(6):
                arm.act(here)
            assert set(torques(servos).values()) == {1}
            assert servos.angles() == pytest.approx(before, abs=0.002)  # a count is 0.0015 rad


@row(27, "a setting would be changed while torque is on")
def eeprom_under_torque(lab: Lab, on: bool) -> None:
    for name in ("so101", "koch"):
        with lab.bus(name) as (servos, bus):
            bus.ensure(3, "return_delay", 10)
            saved = servos.servos["elbow_flex"].registers.saved
            if on:
                bus.write(3, "torque_enable", 1)
                with pytest.raises(Refused, match="torque is on"):
                    bus.ensure(3, "return_delay", 20)
                if name == "koch":  # and the servo's own refusal is not swallowed
                    with pytest.raises(Refused, match="access error"):
                        bus.write(3, "return_delay", 20)
            else:
                assert bus.ensure(3, "return_delay", 20)
            assert (servos.servos["elbow_flex"].registers.saved == saved) == on


@row(28, "the calibration is missing, partial, damaged or another arm's")
def no_calibration(lab: Lab, on: bool) -> None:
    whole = nominal(load_rig("so101"), "/dev/ttyNOWHERE7")
    text = format_rig(whole)
    if not on:
        assert parse_rig(text) == whole
        return
    with pytest.raises(RigError, match="not calibrated .*embodied robot calibrate so101"):
        SerialArm.open(load_rig("so101"), port="/dev/ttyNOWHERE7")
    partial = whole.joints["gripper"].model_copy(update={"calibration": None})
    partial_rig = whole.model_copy(update={"joints": {**whole.joints, "gripper": partial}})
    with pytest.raises(RigError, match=r"not calibrated \(gripper\)"):
        SerialArm.open(partial_rig)
    last = text.rindex("calibration")
    for cut in [
        *range(0, last, 97),
        *range(last, len(text) - 1),
    ]:  # cut anywhere: an error, or a rig that says what it lacks
        try:
            rig = parse_rig(text[:cut])
        except RigError:
            continue
        with pytest.raises(RobotError):
            SerialArm.open(rig)
    with Emulator("so101", pace=Pace("stepped")) as servos:
        servos.inject("poke.31=77x1")  # servos of an arm that was calibrated otherwise
        servos.advance(0.05)
        with pytest.raises(HandshakeError, match="was calibrated with other servos"):
            SerialArm.open(nominal(load_rig("so101"), servos.port), lockstep=True)
