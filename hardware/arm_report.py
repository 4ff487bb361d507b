"""Reading everything that an arm and its port tell, without changing anything. ``doctor`` judges it.

Works on an arm that is incomplete, uncalibrated or wrongly wired: what cannot be read is missing in the report.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hardware.find_ports import UsbPort, describe
from hardware.rig import Rig
from hardware.servo.bus import Bus, Identity, NoReply, Reading, Refused
from hardware.servo.port import BusError, owners
from hardware.servo.registers import ServoModel
from hardware.servo.scan import known_model

_CHUNK = 60  # bytes of one read; small enough for every servo's buffer
_ROUNDS = 25  # telemetry reads by which the line is judged
_LATENCY_S = 0.06  # a late answer is not a lost one: the line is judged, not this computer
_LAST_PLAIN = 148  # Dynamixel: what lies behind is indirect data, which repeats the rest
SYS = Path("/sys")


@dataclass(frozen=True)
class PortReport:
    """What the operating system tells about a port, before it is opened."""

    url: str
    usb: UsbPort
    exists: bool = True
    allowed: bool = True  # this user may read and write it
    group: str = ""  # that may use it
    owners: tuple[str, ...] = ()  # processes that have it open
    latency_ms: int | None = None  # FTDI's latency timer; None for adapters that have none
    error: str = ""  # why it could not be opened


@dataclass(frozen=True)
class ServoReport:
    """What one servo tells. ``registers`` are raw values by name, empty when it is silent or its model is unknown."""

    joint: str
    id: int
    identity: Identity | None = None
    model: ServoModel | None = None  # what it is, which may not be what the rig says
    registers: Mapping[str, int] = field(default_factory=dict)
    reading: Reading | None = None
    asked: int = 0  # telemetry reads, with those that had to be repeated
    answered: int = 0
    damaged: int = 0  # frames damaged while only this servo was asked


@dataclass(frozen=True)
class ArmReport:
    """A port and the servos of a rig on it."""

    port: PortReport
    servos: tuple[ServoReport, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every servo was read."""
        return bool(self.servos) and all(servo.registers for servo in self.servos)


def read_arm(rig: Rig, sys: Path = SYS) -> ArmReport:
    """Read port and servos of a rig. Never raises for what an arm may have wrong."""
    port = read_port(rig.bus.port, sys)
    if not port.exists or not port.allowed:
        return ArmReport(port)
    models = {joint.id: joint.model for joint in rig.joints.values()}
    servos = []
    try:
        with Bus.open(rig.bus.port, models, baud=rig.bus.baud, latency_s=_LATENCY_S) as bus:
            for name, joint in rig.joints.items():
                servos.append(read_servo(bus, name, joint.id))
    except BusError as error:
        replaced = PortReport(**{**vars(port), "error": str(error)})
        return ArmReport(replaced, tuple(servos))
    return ArmReport(port, tuple(servos))


def read_servo(bus: Bus, joint: str, id: int) -> ServoReport:
    """Everything one servo tells. Raises ``PortLost``."""
    before = bus.damaged
    try:
        identity = bus.identify(id)
    except (NoReply, Refused):
        return ServoReport(joint, id, damaged=bus.damaged - before)
    model = known_model(identity.model_number, bus.protocol)
    if model is None:
        return ServoReport(joint, id, identity, damaged=bus.damaged - before)
    bus.models[id] = model
    registers = _registers(bus, id, model)
    good, missed = bus.health[id].good, bus.health[id].missed
    reading: Reading | None = None
    for _ in range(_ROUNDS):
        reading = bus.telemetry([id]).get(id, reading)
    answered = bus.health[id].good - good
    asked = answered + bus.health[id].missed - missed
    return ServoReport(joint, id, identity, model, registers, reading, asked, answered, bus.damaged - before)


def _registers(bus: Bus, id: int, model: ServoModel) -> dict[str, int]:
    end = max(register.end for register in model)
    if model.protocol == "dynamixel":
        end = min(end, _LAST_PLAIN)
    values: dict[str, int] = {}
    address = 0
    while address < end:
        inside = [r for r in model if r.address >= address and r.end <= min(address + _CHUNK, end)]
        if not inside:
            break
        last = max(register.end for register in inside)
        found = bus.sync_read(address, last - address, [id])
        if id in found:
            values.update(model.decode_block(address, found[id][1]))
        address = last
    return values


def read_port(url: str, sys: Path = SYS) -> PortReport:
    """What the operating system knows about a port. A URL of a network port is taken as it is."""
    if "://" in url:
        return PortReport(url, UsbPort(url))
    usb = describe(url)
    if not os.path.exists(url):
        return PortReport(url, usb, exists=False)
    held = tuple(str(owner) for owner in owners(url) if owner.pid != os.getpid())
    allowed = os.access(url, os.R_OK | os.W_OK)
    return PortReport(url, usb, True, allowed, _group(url), held, latency_ms(url, sys))


def latency_ms(device: str, sys: Path = SYS) -> int | None:
    """The latency timer of an FTDI adapter; None for an adapter that has none."""
    name = os.path.basename(os.path.realpath(device))
    try:
        return int((sys / "bus/usb-serial/devices" / name / "latency_timer").read_text())
    except (OSError, ValueError):
        return None


def _group(path: str) -> str:
    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return ""
