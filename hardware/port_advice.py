"""What is wrong with a serial port, in plain words, and the udev rules that put it right for good. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from hardware.arm_report import PortReport
from hardware.finding import Finding, problem, remark
from hardware.rig import Rig

_FTDI_GOOD_MS = 1


def port_findings(rig: Rig, port: PortReport) -> Iterator[Finding]:
    """What keeps a port from being used, or slows it."""
    if not port.exists:
        yield problem("port", f"there is no {port.url}", "Plug the arm in, then look with: embodied robot find")
        return
    if port.owners:
        yield problem("port", f"{port.url} is in use by {' and '.join(port.owners)}", "Stop that first")
    if not port.allowed:
        group = port.group or "dialout"
        yield problem(
            "port",
            f"you may not use {port.url}",
            f"Join its group (sudo usermod -aG {group} $USER) and log in again, or install a udev rule (--udev prints one)",
        )
    elif port.error and not port.owners:
        yield problem("port", port.error)
    if rig.bus.usb_serial and port.usb.serial and rig.bus.usb_serial != port.usb.serial:
        yield problem(
            "port",
            f"the adapter's serial number is {port.usb.serial}, the rig's is {rig.bus.usb_serial}",
            "This is another arm, or its adapter was changed; calibrate it",
        )
    if port.latency_ms is not None and port.latency_ms > _FTDI_GOOD_MS:
        yield remark(
            "port",
            f"the adapter holds answers back for up to {port.latency_ms} ms (FTDI latency timer); this program asks the "
            "kernel to lower that while it has the port, others do not",
            f"Set it to 1: echo 1 | sudo tee /sys/bus/usb-serial/devices/{_last(port.url)}/latency_timer, or for good "
            "with the udev rule that --udev prints",
        )
    if port.usb.stable and port.usb.stable != port.url:
        yield remark("port", f"{port.url} may have another name tomorrow", f"Use its lasting name: {port.usb.stable}")


def _last(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def udev_rules(port: PortReport, name: str) -> str:
    """A udev rule that gives an adapter a name of its own and lets the group dialout use it; empty without USB."""
    usb = port.usb
    if usb.vendor is None or usb.product is None:
        return ""
    serial = f', ATTRS{{serial}}=="{usb.serial}"' if usb.serial else ""
    rules = [
        f'SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{usb.vendor:04x}", ATTRS{{idProduct}}=="{usb.product:04x}"{serial}, '
        f'GROUP="dialout", MODE="0660", SYMLINK+="{name}"'
    ]
    if port.latency_ms is not None:
        rules.append('ACTION=="add", SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"')
    return "\n".join(rules)
