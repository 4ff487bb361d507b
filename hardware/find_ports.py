"""Finding an arm: serial ports by their USB identity, their names that stay, and the rigs that fit what answers there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware.asking import Ask
from hardware.errors import RobotError
from hardware.rig import load_rig, rig_names
from hardware.servo.bus import Identity

#: USB adapters on which servos usually hang: (vendor, product) -> name.
ADAPTERS = {
    (0x1A86, 0x55D3): "CH343 (Waveshare and Feetech bus servo adapters)",
    (0x1A86, 0x7523): "CH340",
    (0x1A86, 0x55D4): "CH9102",
    (0x10C4, 0xEA60): "CP210x",
    (0x0403, 0x6014): "FTDI FT232H (ROBOTIS U2D2)",
    (0x0403, 0x6001): "FTDI FT232R",
    (0x0403, 0x6015): "FTDI FT-X",
}
BY_ID = Path("/dev/serial/by-id")


@dataclass(frozen=True)
class UsbPort:
    """A serial port and the USB device behind it."""

    device: str
    stable: str = ""  # its name in /dev/serial/by-id, which survives another plug and another start
    vendor: int | None = None
    product: int | None = None
    serial: str = ""
    description: str = ""

    @property
    def adapter(self) -> str:
        """What kind of adapter it is; empty when it is none that servos usually hang on."""
        return ADAPTERS.get((self.vendor or 0, self.product or 0), "")

    def __str__(self) -> str:
        usb = "no USB device" if self.vendor is None else f"{self.vendor:04x}:{self.product or 0:04x}"
        serial = f", serial number {self.serial}" if self.serial else ""
        return f"{self.device} ({self.adapter or self.description or 'unknown'}, {usb}{serial})"


@dataclass(frozen=True)
class Fit:
    """How well a rig fits the servos that answered."""

    rig: str
    missing: tuple[str, ...] = ()  # joints whose servo does not answer or is of another model


def usb_ports(by_id: Path = BY_ID) -> list[UsbPort]:
    """The serial ports of this machine with a USB device behind them; usual servo adapters first."""
    from serial.tools import list_ports

    ports = [
        UsbPort(p.device, stable_name(p.device, by_id), p.vid, p.pid, p.serial_number or "", p.description or "")
        for p in list_ports.comports()
        if p.vid is not None
    ]
    return sorted(ports, key=lambda port: (not port.adapter, port.device))


def describe(device: str, by_id: Path = BY_ID) -> UsbPort:
    """A port by name, by whatever link, with its USB identity if it has one."""
    real = os.path.realpath(device)
    for port in usb_ports(by_id):
        if os.path.realpath(port.device) == real:
            return port
    return UsbPort(device, stable_name(device, by_id))


def stable_name(device: str, by_id: Path = BY_ID) -> str:
    """The link in ``by_id`` that leads to a device; empty when there is none."""
    try:
        links = sorted(by_id.iterdir())
    except OSError:
        return ""
    real = os.path.realpath(device)
    return next((str(link) for link in links if os.path.realpath(link) == real), "")


def fitting_rigs(servos: Iterable[Identity], sources: Sequence[str] | None = None) -> list[Fit]:
    """Rigs with these servos, whole ones first; those of which less than half answers are left out."""
    there = {servo.id: servo.model_number for servo in servos}
    fits = []
    for source in sources or rig_names():
        joints = load_rig(source).joints
        missing = tuple(name for name, joint in joints.items() if there.get(joint.id) != joint.model.number)
        if len(missing) < len(joints) / 2:
            fits.append(Fit(source, missing))
    whole = [fit for fit in fits if not fit.missing]
    return whole or sorted(fits, key=lambda fit: len(fit.missing))


def find_by_plugging(ask: Ask, ports: Callable[[], list[UsbPort]] = usb_ports) -> UsbPort:
    """The port that vanishes when the user pulls its cable and comes back. Raises ``RobotError`` when none or several do."""
    ask("Plug in the arm's USB cable and press Enter")
    before = {port.device: port for port in ports()}
    ask("Now pull the arm's USB cable and press Enter")
    gone = sorted(set(before) - {port.device for port in ports()})
    if len(gone) != 1:
        told = ", ".join(gone) or "none"
        raise RobotError(f"one port should have vanished, not: {told}; was it the right cable? Try again")
    ask("Plug it in again and press Enter")
    old = before[gone[0]]
    for port in ports():
        same_place = port.device == old.device and (port.vendor, port.product) == (old.vendor, old.product)
        if (old.serial and port.serial == old.serial) or same_place:
            return port
    raise RobotError(f"{old.device} did not come back; wait a moment after plugging it in, then try again")
