"""A webcam that is not there: what OpenCV, /dev and /sys would show of it, with faults on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
SIZE = {"width": 64, "height": 48}
CALIBRATED: dict[str, Any] = {"intrinsics": [60.0, 60.0, 32.0, 24.0], "pose": np.eye(4).tolist()}


def noise(seed: int = 0, *, width: int = 64, height: int = 48) -> Picture:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3)).astype(np.uint8)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@dataclass
class Computer:
    """A /sys and /dev with cameras, as Linux shows them."""

    root: Path

    def plug(
        self,
        number: int,
        *,
        socket: str,
        serial: str = "",
        product: str = "0825",
        name: str = "Webcam",
        link: bool = True,
    ) -> None:
        usb = self.root / "sys/devices/usb1" / socket
        (usb / f"{socket}:1.0").mkdir(parents=True)
        (usb / "idVendor").write_text("046d\n")
        (usb / "idProduct").write_text(product + "\n")
        if serial:
            (usb / "serial").write_text(serial + "\n")
        for index in (0, 1):  # pictures and metadata
            entry = self.root / "sys/class/video4linux" / f"video{number + index}"
            entry.mkdir(parents=True)
            (entry / "name").write_text(name + "\n")
            (entry / "index").write_text(f"{index}\n")
            (entry / "device").symlink_to(usb / f"{socket}:1.0")
            node = self.root / "dev" / f"video{number + index}"
            node.parent.mkdir(exist_ok=True)
            node.write_text("")
        for kind, label in (("by-path", f"pci-usb-0:{socket}-video-index0"), ("by-id", f"usb-{name}_{serial}-index0")):
            path = self.root / "dev/v4l" / kind / label
            path.parent.mkdir(parents=True, exist_ok=True)
            if link and not path.is_symlink():
                path.symlink_to(f"../../video{number}")

    def unplug(self, number: int) -> None:
        for index in (0, 1):
            entry = self.root / "sys/class/video4linux" / f"video{number + index}"
            for file in ("name", "index", "device"):
                (entry / file).unlink()
            usb = self.root / "sys/devices"
            entry.rmdir()
            (self.root / "dev" / f"video{number + index}").unlink()
        for link in (self.root / "dev/v4l").rglob("*index0"):
            if not link.exists():
                link.unlink()
        for folder in sorted(usb.rglob("*"), reverse=True):
            used = any((e / "device").resolve() == folder for e in (self.root / "sys/class/video4linux").iterdir())
            if folder.name.endswith(":1.0") and not used:
                for file in [*folder.parent.iterdir()]:
                    file.rmdir() if file.is_dir() else file.unlink()
                folder.parent.rmdir()


@dataclass
class Webcam:
    """What the camera behind a fake capture does; change it while it is used."""

    mode: str = "good"
    period_s: float = 0.005
    size: tuple[int, int] = (64, 48)
    stamp_ms: float = 0.0
    opened: list[str] = field(default_factory=list)
    released: int = 0
    settings: list[tuple[int, float]] = field(default_factory=list)
    shots: int = 0
    hang: threading.Event = field(default_factory=threading.Event)

    def capture(self, path: str) -> FakeCapture:
        self.opened.append(path)
        return FakeCapture(self)


class FakeCapture:
    """``cv2.VideoCapture`` of a ``Webcam``."""

    def __init__(self, webcam: Webcam) -> None:
        self.webcam = webcam

    def isOpened(self) -> bool:
        return self.webcam.mode != "busy"

    def set(self, prop: int, value: float) -> bool:
        self.webcam.settings.append((prop, value))
        return True

    def get(self, prop: int) -> float:
        return self.webcam.stamp_ms if prop == cv2.CAP_PROP_POS_MSEC else 0.0

    def read(self) -> tuple[bool, Picture | None]:
        webcam = self.webcam
        time.sleep(webcam.period_s)
        if webcam.mode == "unplugged":
            return False, None
        if webcam.mode == "hang":
            webcam.hang.wait(20.0)
            return False, None
        if webcam.mode == "broken":
            raise cv2.error("select failed")
        webcam.shots += webcam.mode != "frozen"
        width, height = webcam.size
        picture = noise(webcam.shots, width=width, height=height)
        return True, np.zeros_like(picture) if webcam.mode == "black" else picture

    def release(self) -> None:
        self.webcam.released += 1
