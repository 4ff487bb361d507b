"""Cameras that fulfil ``hardware.robot.Camera``: real ones with a thread of their own, and recordings step by step.

    with open_camera("front", rig.cameras["front"]) as camera:
        frame = camera.read()                # newest, rectified, at most 0.2 s old, or an exception
        camera.health()

``read`` never waits and never hands out a picture that is old, frozen or black: it raises. A lost connection is taken up
again in the background; the arm does not go on by itself then, because whoever drives it has met the exception.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.camera_model import CameraModel, Frame
from hardware.cameras.errors import CameraError, RecordingEndedError, StaleFrameError, UnpluggedError
from hardware.cameras.lens import Lens
from hardware.cameras.sources import DeviceOpener, RecordingSource, Source
from hardware.cameras.watch import CameraHealth, Shot, Watch
from hardware.rig import CameraConfig

Float = NDArray[np.float64]

_STOP_S = 2.0  # how long closing may take
_FAILURES = 3  # reads without a picture before the device is opened again
_BACKOFF_S = (0.2, 5.0)  # first and longest wait before the next try


class Viewpoint:
    """Turns pictures as they come into frames: RGB, rectified, with the camera's model."""

    def __init__(self, name: str, config: CameraConfig, tool_pose: Callable[[], Float] | None = None) -> None:
        """``tool_pose`` tells T_base_tool (4, 4) now; a camera on the wrist needs it. Raises ``CameraError``."""
        self._name, self._config, self._tool_pose = name, config, tool_pose
        self._lens = Lens.from_config(config)
        if config.pose is not None:
            T = np.array(config.pose)
            rigid = np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-3) and np.linalg.det(T[:3, :3]) > 0.0
            if not (np.all(np.isfinite(T)) and rigid and np.array_equal(T[3], [0.0, 0.0, 0.0, 1.0])):
                raise CameraError(f"the pose of the camera {name!r} is no rotation and translation; calibrate it again")

    def frame(self, shot: Shot) -> Frame:
        """The frame of a picture. Raises ``CameraError`` before calibration."""
        name, config = self._name, self._config
        if self._lens is None:
            raise CameraError(f"the camera {name!r} is not calibrated; run: embodied camera calibrate lens {name}")
        if config.pose is None:
            raise CameraError(
                f"it is not known where the camera {name!r} is; run: embodied camera calibrate pose {name}"
            )
        pose = np.array(config.pose)
        if config.mount == "wrist":
            if self._tool_pose is None:
                raise CameraError(f"the camera {name!r} rides on the wrist; open it together with its arm")
            pose = self._tool_pose() @ pose
        rgb = cv2.cvtColor(self._lens.rectified(shot.picture), cv2.COLOR_BGR2RGB)
        return Frame(np.asarray(rgb, np.uint8), CameraModel(self._lens.intrinsics, pose), shot.stamp_s)


class StreamCamera:
    """A camera whose own thread keeps the newest picture. A context manager; ``start`` and ``close`` do the same."""

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        viewpoint: Viewpoint,
        *,
        max_age_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        """``open_source`` is called in the thread, again after every loss; it raises ``CameraError`` when it cannot."""
        self.name, self.max_age_s = name, max_age_s
        self._open_source, self._viewpoint, self._clock, self._backoff_s = open_source, viewpoint, clock, backoff_s
        self._watch = Watch(name)
        self._lost: CameraError | None = None  # why there is no connection, while there is none
        self._reconnects = 0
        self._changed = threading.Condition()  # guards watch, lost and reconnects
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StreamCamera:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, timeout_s: float = 5.0) -> StreamCamera:
        """Open the camera and wait for its first good picture. Raises ``CameraError`` if it cannot be had."""
        if self._thread is not None:
            return self
        self._stop.clear()
        self._lost = None
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)
        self._thread.start()
        deadline = self._clock() + timeout_s
        try:
            with self._changed:
                while not self._seen():
                    if self._lost is not None:
                        raise self._lost
                    if self._clock() >= deadline:
                        self._watch.newest(self._clock(), self.max_age_s)  # raises what is wrong
                    self._changed.wait(0.05)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Release the camera; safe to call twice. Raises ``CameraError`` when its driver does not let go within 2 s."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join(_STOP_S)
        if thread.is_alive():
            raise CameraError(f"the driver of the camera {self.name!r} hangs; unplug the camera")

    def read(self, max_age_s: float | None = None) -> Frame:
        """The newest frame, at most ``max_age_s`` old (default: the camera's). Raises ``CameraError``."""
        return self._viewpoint.frame(self.shot(max_age_s))

    def shot(self, max_age_s: float | None = None) -> Shot:
        """The newest picture as it came, not rectified: for calibration. Raises ``CameraError``."""
        with self._changed:
            if self._thread is None:
                raise CameraError(f"the camera {self.name!r} is closed")
            if self._lost is not None:
                raise self._lost
            return self._watch.newest(self._clock(), self.max_age_s if max_age_s is None else max_age_s)

    def next_shot(self, after: int, timeout_s: float = 2.0) -> Shot:
        """The first good picture with a number above ``after``. Raises ``CameraError`` when none comes."""
        deadline = self._clock() + timeout_s
        with self._changed:
            while True:
                shot = self.shot(max_age_s=timeout_s)
                if shot.number > after:
                    return shot
                if self._clock() >= deadline:
                    raise StaleFrameError(f"the camera {self.name!r} gave no new picture for {timeout_s:g} s")
                self._changed.wait(0.05)

    def health(self) -> CameraHealth:
        """What was seen so far, and why ``read`` would raise now."""
        fault = None
        try:
            self.shot()
        except CameraError as error:
            fault = str(error)
        with self._changed:
            return replace(self._watch.health(self._clock()), reconnects=self._reconnects, fault=fault)

    def _seen(self) -> bool:
        try:
            self._watch.newest(self._clock(), self.max_age_s)
        except CameraError:
            return False
        return True

    # ---- the thread

    def _run(self) -> None:
        wait_s = self._backoff_s[0]
        while not self._stop.is_set():
            try:
                source = self._open_source()
                try:
                    if self._stream(source):
                        wait_s = self._backoff_s[0]
                finally:
                    source.close()
            except CameraError as error:
                self._lose(error)
                if isinstance(error, RecordingEndedError):
                    return
            except (OSError, cv2.error) as error:
                self._lose(UnpluggedError(f"the camera {self.name!r} failed: {error}"))
            self._stop.wait(wait_s)
            wait_s = min(2.0 * wait_s, self._backoff_s[1])

    def _stream(self, source: Source) -> bool:
        """Take pictures until the camera gives none; returns whether it gave any."""
        failures = pictures = 0
        while not self._stop.is_set():
            try:
                taken = source.read()
            except CameraError as error:
                self._lose(error)
                raise
            if taken is None:
                failures += 1
                if failures >= _FAILURES:
                    self._lose(
                        UnpluggedError(
                            f"the camera {self.name!r} gives no pictures; is it plugged in? It is tried again until it does"
                        )
                    )
                    break
                continue
            failures, pictures = 0, pictures + 1
            with self._changed:
                if self._lost is not None:
                    self._lost, self._reconnects = None, self._reconnects + 1
                self._watch.feed(*taken)
                self._changed.notify_all()
        return pictures > 0

    def _lose(self, error: CameraError) -> None:
        with self._changed:
            self._lost = error
            self._watch.forget()
            self._changed.notify_all()


class SteppedCamera:
    """A recording of which every ``read`` takes the next picture: no thread, no waiting, the same checks."""

    def __init__(
        self, name: str, source: Source, viewpoint: Viewpoint, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._source, self._viewpoint, self._clock = source, viewpoint, clock
        self._watch = Watch(name)

    def __enter__(self) -> SteppedCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, max_age_s: float | None = None) -> Frame:
        """The next frame. Raises ``CameraError``: frozen, black, at its end."""
        return self._viewpoint.frame(self.shot(max_age_s))

    def shot(self, max_age_s: float | None = None) -> Shot:
        """The next picture as it was recorded."""
        taken = self._source.read()
        if taken is not None:
            self._watch.feed(*taken)
        return self._watch.newest(self._clock(), 1.0 if max_age_s is None else max_age_s)

    def health(self) -> CameraHealth:
        """What was seen so far."""
        return self._watch.health(self._clock())

    def close(self) -> None:
        """Release the recording; safe to call twice."""
        self._source.close()


def open_camera(
    name: str,
    config: CameraConfig,
    *,
    tool_pose: Callable[[], Float] | None = None,
    speed: float = 1.0,
    loop: bool = False,
) -> StreamCamera | SteppedCamera:
    """Open the device, video file or folder of pictures that a rig file names, and wait for its first picture.

    ``tool_pose`` tells T_base_tool (4, 4) now, for a camera on the wrist. ``speed`` and ``loop`` are for recordings: speed
    0 means that every ``read`` takes the next picture. Raises ``CameraError``.
    """
    viewpoint = Viewpoint(name, config, tool_pose)
    path = Path(config.source)
    if path.is_dir() or path.is_file():
        source = RecordingSource(config, speed=speed, loop=loop)
        if speed == 0.0:
            return SteppedCamera(name, source, viewpoint)
        return StreamCamera(name, lambda: source, viewpoint, max_age_s=config.max_age_s).start()
    if config.source.isdigit() or config.source.startswith("/dev/"):
        return StreamCamera(name, DeviceOpener(config), viewpoint, max_age_s=config.max_age_s).start()
    raise CameraError(
        f"there is no {config.source!r}; the source of the camera {name!r} must be a device (see: embodied camera find), a "
        "video file or a folder of pictures"
    )


def open_cameras(
    configs: Mapping[str, CameraConfig], *, tool_pose: Callable[[], Float] | None = None
) -> dict[str, StreamCamera | SteppedCamera]:
    """All cameras of a rig, or none: what was opened is closed again when one cannot be. Raises ``CameraError``."""
    opened: dict[str, StreamCamera | SteppedCamera] = {}
    try:
        for name, config in configs.items():
            opened[name] = open_camera(name, config, tool_pose=tool_pose)
    except BaseException:
        for camera in opened.values():
            camera.close()
        raise
    return opened
