"""Where pictures come from: a device, a video file, a folder of pictures. One picture at a time, no judgement.

Only the thread that opened a source may use it: OpenCV's captures are not made for two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from hardware.cameras.devices import Device, device_at, find_devices, same_camera
from hardware.cameras.errors import CameraError, RecordingEndedError, UnpluggedError, WrongCameraError
from hardware.cameras.picture_checks import Picture
from hardware.rig import CameraConfig

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: A kernel's time stamp older than this is of another clock, and the time of arrival is taken instead.
_PLAUSIBLE_AGE_S = 2.0


class Source(Protocol):
    """Pictures, one by one."""

    def read(self) -> tuple[Picture, float] | None:
        """Wait for the next picture: (H, W, 3) BGR and the monotonic time it was taken; None when none came.

        Raises ``CameraError`` when there will be none.
        """
        ...

    def close(self) -> None:
        """Release the device or file; safe to call twice."""
        ...


class Capture(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, Any]: ...

    def set(self, prop: int, value: float) -> bool: ...

    def get(self, prop: int) -> float: ...

    def release(self) -> None: ...


def open_v4l2(path: str) -> Capture:
    """OpenCV's capture of a Linux video device."""
    # A camera that hangs would otherwise hold the thread, and with it the end of the program, for ten seconds.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    capture: Capture = cv2.VideoCapture(path, cv2.CAP_V4L2)
    return capture


class DeviceSource:
    """A video device that is open."""

    def __init__(self, config: CameraConfig, capture: Capture, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes ``capture`` over. Raises ``CameraError`` when the device has no pictures of that size."""
        self._config, self._capture, self._clock = config, capture, clock
        # The order matters: sizes depend on the format, rates on the size.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        capture.set(cv2.CAP_PROP_FPS, config.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> tuple[Picture, float] | None:
        """See ``Source``."""
        there, picture = self._capture.read()
        if not there or picture is None:
            return None
        now = self._clock()
        # V4L2 gives the kernel's monotonic stamp here: the moment of exposure rather than of arrival.
        taken = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        stamp = taken if 0.0 <= now - taken <= _PLAUSIBLE_AGE_S else now
        return _of_size(picture, self._config), stamp

    def close(self) -> None:
        """See ``Source``."""
        self._capture.release()


class DeviceOpener:
    """Opens one camera, and after it was unplugged the same one again; never another."""

    def __init__(
        self,
        config: CameraConfig,
        *,
        open_capture: Callable[[str], Capture] = open_v4l2,
        clock: Callable[[], float] = time.monotonic,
        root: Path = Path("/"),
    ) -> None:
        self.path = f"/dev/video{config.source}" if config.source.isdigit() else config.source
        self._config, self._open_capture, self._clock, self._root = config, open_capture, clock, root
        self._known: Device | None = None

    def __call__(self) -> DeviceSource:
        """Open it. Raises ``UnpluggedError``, ``WrongCameraError``, or ``CameraError`` when it may not be opened."""
        device = device_at(self.path, self._root)
        if device is None:
            raise UnpluggedError(
                f"there is no camera at {self.path}; plug it in, or see what is there with: embodied camera find"
            )
        self._insist(device)
        node = self._root / device.node.lstrip("/")
        if not os.access(node, os.R_OK | os.W_OK):
            raise CameraError(
                f"{self.path} may not be opened; join the group that owns {device.node}, usually: "
                "sudo usermod -aG video $USER, then log in again"
            )
        capture = self._open_capture(str(node))
        if not capture.isOpened():
            capture.release()
            raise CameraError(f"{self.path} ({device.name}) cannot be opened; is another program using it?")
        self._known = device
        return DeviceSource(self._config, capture, self._clock)

    def _insist(self, device: Device) -> None:
        wanted = self._config.usb_id
        if wanted is not None and device.usb_id != wanted:
            raise WrongCameraError(
                f"{self.path} is {device.name} ({device.usb_id or 'not on USB'}), not the camera {wanted} of the rig file; "
                "see where that one is with: embodied camera find"
            )
        if self._known is not None and not same_camera(self._known, device, find_devices(self._root)):
            raise WrongCameraError(
                f"{self.path} is another camera now: {device.name} ({device.usb_id or device.node}, socket "
                f"{device.usb_socket or 'unknown'}); plug {self._known.name} ({self._known.usb_id}) into the socket "
                f"{self._known.usb_socket} again"
            )


class RecordingSource:
    """A video file or a folder of pictures, at the pace of its frames times ``speed``; 0: as fast as it is read."""

    def __init__(
        self,
        config: CameraConfig,
        *,
        speed: float = 1.0,
        loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ``CameraError`` for a speed that is not 0 and gives less than one picture a second."""
        if speed != 0.0 and not config.fps * speed >= 1.0:
            raise CameraError(
                f"a recording must give at least one picture a second; {config.fps:g} x {speed:g} are less"
            )
        self._config, self._loop, self._clock, self._sleep = config, loop, clock, sleep
        self._frames = self._forever()
        self._period_s = 1.0 / (config.fps * speed) if speed > 0.0 else 0.0
        self._due_s: float | None = None

    def read(self) -> tuple[Picture, float]:
        """See ``Source``. Raises ``RecordingEndedError`` after the last picture."""
        picture = next(self._frames, None)
        if picture is None:
            raise RecordingEndedError(f"the recording {self._config.source} has no further pictures")
        if self._period_s:
            now = self._clock()
            due = now if self._due_s is None else max(self._due_s, now)
            self._due_s = due + self._period_s
            self._sleep(due - now)
        return _of_size(picture, self._config), self._clock()

    def close(self) -> None:
        """See ``Source``."""
        self._frames.close()

    def _forever(self) -> Generator[Picture, None, None]:
        """A generator of pictures: once, or again and again."""
        while True:
            count = 0
            for picture in recorded_pictures(Path(self._config.source)):
                count += 1
                yield picture
            if count == 0:
                raise CameraError(f"{self._config.source} holds no pictures that OpenCV can read")
            if not self._loop:
                return


def recorded_pictures(path: Path) -> Iterator[Picture]:
    """The pictures (H, W, 3) BGR of a folder, in the order of their names, or of a video file.

    Raises ``CameraError`` for a picture that cannot be read.
    """
    if path.is_dir():
        for file in picture_files(path):
            yield read_picture(file)
        return
    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            there, picture = capture.read()
            if not there:
                return
            yield np.asarray(picture, np.uint8)
    finally:
        capture.release()


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)


def read_picture(path: Path) -> Picture:
    """A picture (H, W, 3) BGR from a file. Raises ``CameraError``."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise CameraError(f"{path} is no picture that OpenCV can read")
    return np.asarray(picture, np.uint8)


def _of_size(picture: Any, config: CameraConfig) -> Picture:
    rgb = np.asarray(picture, np.uint8)
    if rgb.shape != (config.height, config.width, 3):
        raise CameraError(
            f"{config.source} gives pictures of {rgb.shape[1]} x {rgb.shape[0]}, not {config.width} x {config.height}; set "
            "width and height to a size that it has, and calibrate again"
        )
    return rgb
