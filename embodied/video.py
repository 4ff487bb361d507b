"""Video files: H.264 in MP4, pixel format yuv420p, which every browser plays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.drawing import with_caption, with_inset
from hardware.errors import EmbodiedError
from hardware.robot import Observation, Robot
from hardware.safety import Applied

Picture = NDArray[np.uint8]
Float = NDArray[np.float64]


class VideoWriter:
    """Frames in, an MP4 file out. The size is that of the first frame; use as a context manager."""

    def __init__(self, path: Path | str, fps: float) -> None:
        """Raises ``EmbodiedError`` at once, not after the episode, when the file cannot be written."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("wb").close()
        except OSError as error:
            raise EmbodiedError(
                f"cannot write the video {self.path}: {error.strerror or error}; choose another file"
            ) from error
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1000)
        self._container: Any = None
        self._stream: Any = None

    def add(self, rgb: Picture) -> None:
        """Append one frame (H, W, 3)."""
        import av

        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        if self._stream is None:
            self._open(width, height)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _open(self, width: int, height: int) -> None:
        import av

        # Moov atom first: a browser starts playing before it has the whole file.
        self._container = av.open(str(self.path), mode="w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=self._fps)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"preset": "veryfast", "crf": "23", "tune": "animation"}

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        if self._container is None:
            return
        container, self._container = self._container, None
        container.mux(self._stream.encode())
        container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FilmedRobot:
    """A robot that behaves as the one inside, and is filmed while it acts.

    ``caption`` gives title, subtitle and progress of the moment. Every ``every``-th control period becomes a frame.
    """

    def __init__(
        self,
        robot: Robot,
        writer: VideoWriter,
        caption: Callable[[], tuple[str, str, float | None]],
        *,
        cameras: Sequence[str] = ("front",),
        every: int = 2,
    ) -> None:
        """The first of ``cameras`` fills the frame, the second becomes an inset."""
        self._robot = robot
        self.writer = writer
        self._caption = caption
        self._cameras = tuple(cameras)
        self._every = every
        self._count = 0
        self.spec = robot.spec
        self.control_hz = robot.control_hz

    @property
    def camera_names(self) -> Sequence[str]:
        """As the robot's."""
        return self._robot.camera_names

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """As the robot's."""
        return self._robot.observe(cameras)

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """As the robot's, and films."""
        applied = self._robot.act(target, made_s=made_s)
        if self._count % self._every == 0:
            self.shoot()
        self._count += 1
        return applied

    def shoot(self, repeat: int = 1) -> None:
        """Film this moment, ``repeat`` frames long."""
        frames = self._robot.observe(self._cameras).frames
        picture = frames[self._cameras[0]].rgb
        if len(self._cameras) > 1:
            picture = with_inset(picture, frames[self._cameras[1]].rgb)
        title, subtitle, progress = self._caption()
        picture = with_caption(picture, title, subtitle, progress)
        for _ in range(repeat):
            self.writer.add(picture)

    def reset_fault(self) -> None:
        """As the robot's."""
        self._robot.reset_fault()

    def close(self) -> None:
        """As the robot's."""
        self._robot.close()


def poster(path: Path | str, at: float = 0.5) -> Picture:
    """The frame (H, W, 3) at a fraction of a video's length."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if not frames:
        raise EmbodiedError(f"the video {path} holds no frame")
    return np.asarray(frames[min(int(at * len(frames)), len(frames) - 1)])
