"""Which cameras are plugged in, and which is which.

``/dev/video0`` names whatever came first at this start of the computer. A camera is known by vendor, product and serial
number; where cheap twins share a serial number, by the USB socket it hangs in. All of it is read from sysfs: no camera is
opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True)
class Device:
    """A video device."""

    node: str  # /dev/video0
    name: str  # what the camera calls itself
    usb_id: str = ""  # vendor:product:serial; empty for what is not on USB
    usb_socket: str = ""  # such as 1-2.3: bus, then the ports down to the camera
    by_id: str = ""
    by_path: str = ""

    @property
    def has_serial(self) -> bool:
        """Whether it has a serial number."""
        return not self.usb_id.endswith(":")


def find_devices(root: Path = _ROOT) -> list[Device]:
    """The cameras that are there, by number. ``root`` is where ``/dev`` and ``/sys`` are."""
    folder = root / "sys/class/video4linux"
    if not folder.is_dir():
        return []
    links = {kind: _links(root, root / "dev/v4l" / kind) for kind in ("by-id", "by-path")}
    entries = sorted(folder.glob("video*"), key=lambda entry: (len(entry.name), entry.name))
    # A USB camera has a second node for metadata, with index 1.
    return [_device(entry, links) for entry in entries if _text(entry / "index") in ("", "0")]


def stable_path(device: Device, present: Sequence[Device]) -> str:
    """The name to put into a rig file: by serial number if that is unique among ``present``, else by socket."""
    twins = [other for other in present if other.usb_id == device.usb_id]
    if device.by_id and device.has_serial and len(twins) == 1:
        return device.by_id
    return device.by_path or device.by_id or device.node


def device_at(source: str, root: Path = _ROOT) -> Device | None:
    """The camera that a path such as ``/dev/v4l/by-id/...`` leads to now, or None."""
    path = root / source.lstrip("/")
    node = path.resolve().name if path.exists() else ""
    return next((device for device in find_devices(root) if Path(device.node).name == node), None)


def same_camera(known: Device, found: Device, present: Sequence[Device]) -> bool:
    """Whether ``found`` is ``known``, plugged in again. In doubt (no serial, or twins with one) the socket decides."""
    if known.usb_id != found.usb_id:
        return False
    if not known.usb_id:
        return (known.name, known.node) == (found.name, found.node)
    twins = [device for device in present if device.usb_id == known.usb_id]
    return known.usb_socket == found.usb_socket if not known.has_serial or len(twins) > 1 else True


def _device(entry: Path, links: dict[str, dict[str, str]]) -> Device:
    interface = (entry / "device").resolve()
    usb = interface.parent
    vendor, product = _text(usb / "idVendor"), _text(usb / "idProduct")
    on_usb = bool(vendor and product)
    return Device(
        node=f"/dev/{entry.name}",
        name=_text(entry / "name") or entry.name,
        usb_id=f"{vendor}:{product}:{_text(usb / 'serial')}" if on_usb else "",
        usb_socket=usb.name if on_usb else "",
        by_id=links["by-id"].get(entry.name, ""),
        by_path=links["by-path"].get(entry.name, ""),
    )


def _links(root: Path, folder: Path) -> dict[str, str]:
    """Symbolic links of a folder by the name of what they lead to."""
    if not folder.is_dir():
        return {}
    return {link.resolve().name: "/" + str(link.relative_to(root)) for link in sorted(folder.iterdir(), reverse=True)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
