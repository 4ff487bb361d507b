"""Videos of episodes: streaming encoder, decoder with random access, and copying without encoding anew.

Frame k has the time stamp k / fps and is row k of the episode. The encoder works in a thread of its own behind a bounded
queue; when the queue is full the caller waits. A frame is never dropped, because every later one would then belong to the
wrong row. H.264, yuv420p, no B-frames, a key frame every other frame: any frame is at most one frame away from a seek.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from policies.dataset.layout import DatasetError
from policies.dataset.statistics import ChannelHistogram, Stats

Picture = NDArray[np.uint8]
CODEC = "h264"
#: Largest difference between a row's time and its frame's, s; LeRobot's tolerance.
TOLERANCE_S = 1e-4
#: So long the encoder may take for nothing before it counts as broken, s.
_STALL_S = 30.0


@dataclass(frozen=True)
class Encoding:
    """How videos are compressed."""

    crf: int = 23
    """Quality: lower is better and larger."""
    preset: str = "veryfast"
    """x264's trade of time against size."""
    key_every: int = 2
    """Frames from one key frame to the next; small numbers make random access fast and files larger."""
    queue: int = 64
    """Frames that may wait for the encoder before the caller has to wait."""


class VideoEncoder:
    """Frames in, a closed and counted MP4 file out."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int, encoding: Encoding = Encoding()) -> None:
        """``size`` is (height, width), both even."""
        self.path = path
        self.frames = 0  # handed over so far
        self.waited_s = 0.0  # how long callers waited for the encoder in all
        self._size = size
        self._fps = fps
        self._encoding = encoding
        self._queue: queue.Queue[Picture | None] = queue.Queue(maxsize=encoding.queue)
        self._histogram = ChannelHistogram()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"encode {path.name}", daemon=True)
        self._thread.start()

    def add(self, rgb: Picture) -> None:
        """Append a frame (H, W, 3) uint8; it is copied. Raises what the encoder failed with: ``OSError``, ``DatasetError``."""
        begun = time.monotonic()
        self._put(np.array(rgb))
        self.waited_s += time.monotonic() - begun
        self.frames += 1

    def close(self) -> Stats:
        """Finish the file, make sure that it holds every frame, and return the statistics of the pictures."""
        self._put(None)
        self._thread.join()
        self._raise_failure()
        stored = frame_times(self.path)
        expected = np.arange(self.frames) / self._fps
        if len(stored) != self.frames or not np.allclose(stored, expected, atol=TOLERANCE_S):
            raise DatasetError(
                f"{self.path.name} holds {len(stored)} of the {self.frames} frames recorded; record it again"
            )
        return self._histogram.stats()

    def abort(self) -> None:
        """Give up; the file is worthless."""
        self._failure = self._failure or DatasetError("recording was given up")
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout=_STALL_S)

    def _put(self, item: Picture | None) -> None:
        deadline = time.monotonic() + _STALL_S
        while True:
            self._raise_failure()
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                if time.monotonic() > deadline:
                    raise DatasetError(
                        f"the video encoder of {self.path.name} has not moved for {_STALL_S:.0f} s"
                    ) from None
            else:
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._encode()
        except Exception as error:  # handed to the recording thread at its next call
            self._failure = self._failure or error

    def _encode(self) -> None:
        with av.open(str(self.path), mode="w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=self._fps)
            stream.height, stream.width = self._size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, self._fps)
            stream.codec_context.thread_count = 1
            stream.options = {
                "preset": self._encoding.preset,
                "crf": str(self._encoding.crf),
                "g": str(self._encoding.key_every),
                "bf": "0",
            }
            number = 0
            while (rgb := self._queue.get()) is not None:
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, self._fps)
                container.mux(stream.encode(frame))
                self._histogram.add(rgb)
                number += 1
            container.mux(stream.encode(None))


class VideoDecoder:
    """Frames of one file by their time. Keeps the file open until ``close``."""

    def __init__(self, path: Path) -> None:
        """Raises ``DatasetError`` when the file is no video."""
        self.path = path
        try:
            self._container: Any = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise _damaged(path, error) from error
        self._stream.thread_type = "NONE"  # frames come out at once, and the cores belong to the caller
        self._frames: Iterator[Any] | None = None
        self._last: tuple[float, Any] | None = None  # the frame decoded last and its time

    def at(self, time_s: float, tolerance_s: float = TOLERANCE_S) -> Picture:
        """The frame (H, W, 3) shown at ``time_s``. Raises ``DatasetError`` when none lies within the tolerance."""
        if self._last is not None and abs(self._last[0] - time_s) <= tolerance_s:
            return self._rgb(self._last[1])
        try:
            # Going on is cheaper than seeking only for the frames right behind the last one.
            ahead = self._last is not None and 0.0 < time_s - self._last[0] < 0.25
            for attempt in ("go on", "seek") if ahead else ("seek",):
                if attempt == "seek":
                    self._seek(time_s - tolerance_s)
                found = self._forward_to(time_s, tolerance_s)
                if found is not None:
                    return found
        except (av.FFmpegError, OSError) as error:
            self._frames = self._last = None
            raise _damaged(self.path, error) from error
        raise DatasetError(f"{self.path} has no frame at {time_s:.4f} s; run `embodied data check`")

    def span(self, start_s: float, count: int, fps: int, tolerance_s: float = TOLERANCE_S) -> Iterator[Picture]:
        """``count`` frames in a row from ``start_s`` on."""
        for number in range(count):
            yield self.at(start_s + number / fps, tolerance_s)

    def close(self) -> None:
        """Safe to call twice."""
        self._frames = self._last = None
        self._container.close()

    def _seek(self, time_s: float) -> None:
        self._container.seek(max(0, int(time_s / self._stream.time_base)), stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._last = None

    def _forward_to(self, time_s: float, tolerance_s: float) -> Picture | None:
        if self._frames is None:
            return None
        for frame in self._frames:
            here = float(frame.pts * self._stream.time_base)
            self._last = (here, frame)
            if abs(here - time_s) <= tolerance_s:
                return self._rgb(frame)
            if here > time_s:
                return None
        self._frames = None
        return None

    @staticmethod
    def _rgb(frame: Any) -> Picture:
        return np.asarray(frame.to_ndarray(format="rgb24"))

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def frame_times(path: Path) -> NDArray[np.float64]:
    """The time stamps (N,) of the frames in order, in seconds, without decoding. Raises ``DatasetError``."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            stamps = [packet.pts for packet in packets if not packet.is_corrupt]
            return np.sort(np.array(stamps, dtype=np.float64)) * float(stream.time_base or 0)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _damaged(path, error) from error


def checksum(path: Path) -> int:
    """CRC-32 of the file's bytes. Raises ``DatasetError``."""
    value = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                value = zlib.crc32(block, value)
    except OSError as error:
        raise _damaged(path, error) from error
    return value


def copy_span(source: Path, target: Path, start_s: float, count: int, fps: int) -> bool:
    """Copy ``count`` frames from ``start_s`` on into a file of their own, without decoding them.

    Returns False, and leaves nothing of use in ``target``, where that cannot be: the span does not begin with a key frame.
    Raises ``DatasetError`` when the source is damaged.
    """
    try:
        return _copy_packets(source, target, start_s, count, fps)
    except (av.FFmpegError, IndexError) as error:
        if isinstance(error, OSError) and error.filename == str(target):
            raise
        raise _damaged(source, error) from error


def _copy_packets(source: Path, target: Path, start_s: float, count: int, fps: int) -> bool:
    slack = 0.5 / fps
    with av.open(str(source)) as reading, av.open(str(target), mode="w", format="mp4") as writing:
        stream = reading.streams.video[0]
        base = stream.time_base
        if base is None:
            return False
        copied = writing.add_stream_from_template(stream, opaque=True)  # packets are only passed on, not encoded
        reading.seek(int(start_s / base), stream=stream, backward=True)
        first, kept = None, 0
        for packet in reading.demux(stream):
            if packet.pts is None or packet.dts is None or float(packet.pts * base) < start_s - slack:
                continue
            if float(packet.pts * base) >= start_s + count / fps - slack:
                break
            if first is None:
                if not packet.is_keyframe:
                    return False
                first = packet.pts
            packet.pts -= first
            packet.dts -= first
            packet.stream = copied
            writing.mux(packet)
            kept += 1
    stored = frame_times(target) if kept == count else np.zeros(0)
    return len(stored) == count and bool(np.allclose(stored, np.arange(count) / fps, atol=TOLERANCE_S))


def _damaged(path: Path, error: BaseException) -> DatasetError:
    if isinstance(error, FileNotFoundError):
        return DatasetError(f"the video {path} is missing; run `embodied data check` to see which episodes are whole")
    reason = " ".join(str(error).split())[:160]
    return DatasetError(
        f"the video {path} is damaged ({reason}); run `embodied data check` to see which episodes are whole"
    )
