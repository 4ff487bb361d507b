"""Before an arm may be used: is every servo there, is it the right one, and does it hold what the rig file says.

Reads first. EEPROM is written only where a value differs; a homing offset that differs is never overwritten, because
then the servo is another one, or was reset, and the calibration no longer says where the joint is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from hardware.rig import Rig
from hardware.servo.bus import Bus, Identity, NoReply
from hardware.servo.port import BusError
from hardware.servo.registers import MODELS


class HandshakeError(BusError):
    """The servos on the bus are not those of the rig file."""


def check_adapter(rig: Rig) -> None:
    """Is the adapter the one that the rig file names? Raises ``HandshakeError``; says nothing when none is named."""
    if not rig.bus.usb_serial or "://" in rig.bus.port:
        return
    from serial.tools import list_ports

    found = {os.path.realpath(port.device): port.serial_number for port in list_ports.comports()}
    here = found.get(os.path.realpath(rig.bus.port))
    if here != rig.bus.usb_serial:
        elsewhere = [device for device, serial in found.items() if serial == rig.bus.usb_serial]
        hint = f"it is at {elsewhere[0]} now: put that into the rig file" if elsewhere else "is the arm plugged in?"
        raise HandshakeError(f"{rig.bus.port} is not the adapter {rig.bus.usb_serial} of {rig.name}; {hint}")


def identify(bus: Bus, rig: Rig) -> dict[str, Identity]:
    """Who is there, by joint. Raises ``HandshakeError`` that tells of every joint at once what is wrong."""
    found: dict[str, Identity] = {}
    problems: list[str] = []
    silent = 0
    for name, joint in rig.joints.items():
        try:
            # A bus on which nobody answers must be told soon, so only the first silence is probed thoroughly.
            identity = bus.identify(joint.id, attempts=bus.attempts if silent == 0 else 1)
            if identity.model_number != joint.model.number:  # a checksum may miss damage: one more look
                identity = bus.identify(joint.id)
        except NoReply:
            silent += 1
            problems.append(f"{name}: servo {joint.id} does not answer")
            continue
        if identity.model_number != joint.model.number:
            problems.append(f"{name}: servo {joint.id} is {_called(identity.model_number)}, not a {joint.servo}")
        found[name] = identity
    if silent == len(rig.joints):
        raise HandshakeError(
            f"no servo of {rig.name} answers on {rig.bus.port} at {rig.bus.baud} baud; check the arm's power supply, the "
            "cable, and the baud rate in the rig file"
        )
    if problems:
        twins = " Two servos with one id also look like this." if bus.damaged else ""
        raise HandshakeError(
            f"{rig.name} on {rig.bus.port} is not the arm of the rig file: {'; '.join(problems)}. Check cables and ids."
            + twins
        )
    return found


def configure(bus: Bus, rig: Rig, identities: Mapping[str, Identity]) -> list[str]:
    """Make every servo hold what the rig file says; returns 'joint.register' of what had to be written.

    Raises ``HandshakeError`` when a homing offset is another one, ``BusError`` when a servo refuses a value.
    """
    bus.fast = all(
        model.fast_read_firmware is not None and int(identities[name].firmware) >= model.fast_read_firmware
        for name, model in ((name, joint.model) for name, joint in rig.joints.items())
    )
    written: list[str] = []
    moved: list[str] = []
    for name, joint in rig.joints.items():
        level = bus.read(joint.id, "status_return_level")
        if level < (1 if bus.protocol == "feetech" else 2):
            bus.unacknowledged.add(joint.id)
        c = joint.calibration
        if c is not None and c.homing_offset is not None:
            held = bus.read(joint.id, "homing_offset")
            if held != c.homing_offset and (held := bus.read(joint.id, "homing_offset")) != c.homing_offset:
                moved.append(f"{name} holds offset {held}, the calibration was made with {c.homing_offset}")
    if moved:
        raise HandshakeError(
            f"{rig.name} was calibrated with other servos, or they were reset: {'; '.join(moved)}. Nothing was changed; "
            f"calibrate again: embodied robot calibrate {rig.name}"
        )
    for name, joint in rig.joints.items():
        c = joint.calibration
        wanted = dict(joint.settings)
        if c is not None and rig.role == "follower":  # the servo's own limits, below the safety core
            wanted |= {"min_position": c.min, "max_position": c.max}
        # A Dynamixel forgets gains when its mode changes, so the mode goes first.
        for register, value in sorted(wanted.items(), key=lambda item: item[0] != "operating_mode"):
            if bus.ensure(joint.id, register, value):
                written.append(f"{name}.{register}")
    return written


def release(rig: Rig) -> None:
    """Make an arm limp that a program left holding. Raises ``BusError`` naming the joints that may still hold."""
    models = {joint.id: joint.model for joint in rig.joints.values()}
    with Bus.open(rig.bus.port, models, baud=rig.bus.baud) as bus:
        identify(bus, rig)
        failed = bus.torque_off()
        with contextlib.suppress(BusError):
            clear_watchdog(bus)
    if failed:
        raise BusError(f"the torque may still be on: {'; '.join(failed.values())}. Switch the arm's power off")


def clear_watchdog(bus: Bus) -> None:
    """Release tripped bus watchdogs, and leave them off. Does nothing on servos that have none. Raises ``BusError``."""
    ids = [id_ for id_, model in bus.models.items() if "bus_watchdog" in model]
    for _ in range(bus.attempts if ids else 0):
        bus.write_all("bus_watchdog", dict.fromkeys(ids, 0))
        held = bus.read_all("bus_watchdog", ids)
        ids = [id_ for id_ in ids if held.get(id_) != 0]
        if not ids:
            return
    if ids:
        raise BusError(f"servos {', '.join(map(str, ids))} keep their bus watchdog tripped; switch the arm off and on")


def _called(number: int) -> str:
    return next(
        (f"an {model.name}" for model in MODELS.values() if model.number == number), f"of unknown model {number}"
    )
