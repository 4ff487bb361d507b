"""Reads datasets in the LeRobotDataset v3.0 layout, ours and LeRobot's.

    with Dataset("data/picks") as dataset:
        dataset[7]["observation.images.front"]         # (H, W, 3) uint8, frame 7 of the whole dataset
        dataset.episode(0)["action"]                   # (T, 6): an episode at once
    Dataset("data/picks", delta_timestamps={"action": [0.0, 0.05, 0.10]})[7]["action"]    # (3, 6), and "action_is_pad" (3,)

Only the episodes' descriptions are read at once; rows and videos when they are asked for, a few of each kept open. May be
handed to worker processes: each opens files of its own.
"""

from __future__ import annotations

import bisect
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.dataset import statistics
from policies.dataset.layout import (
    EPISODES,
    IMAGES,
    OURS,
    STATS,
    TASKS,
    DatasetError,
    Feature,
    inside,
    read_info,
    read_json,
)
from policies.dataset.lerobot_units import Units
from policies.dataset.statistics import Stats
from policies.dataset.tables import Columns, read_episodes, read_rows, read_tasks, row_stats
from policies.dataset.video import TOLERANCE_S, VideoDecoder

Picture = NDArray[np.uint8]
#: Episodes' rows and open videos kept at a time.
_ROWS_KEPT, _VIDEOS_KEPT = 16, 8
#: A forked process must not even close its parent's decoders: that waits for threads which it does not have.
_INHERITED: list[object] = []


@dataclass(frozen=True)
class Clip:
    """Where an episode's pictures of one camera lie: a file, and the time of the first of them in it."""

    path: Path
    start_s: float
    crc32: int | None = None  # of the whole file, where the writer noted it


@dataclass(frozen=True)
class Episode:
    """One episode as the index describes it."""

    index: int
    length: int
    start: int  # number of its first row in the whole dataset
    tasks: tuple[str, ...]
    data: Path
    clips: Mapping[str, Clip]  # by feature
    success: bool | None = None  # None: nobody judged, or not written by this project
    measured_fps: float = 0.0  # by the robot's clock; 0: unknown


class Dataset:
    """Random access to frames, and whole episodes."""

    def __init__(
        self,
        root: Path | str,
        *,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        units: Units | None = None,
        tolerance_s: float = TOLERANCE_S,
    ) -> None:
        """``delta_timestamps`` gives a feature at several times around each frame, in seconds. ``units`` says in which units
        the joint vectors lie on disk; they come out in radians and 0..1. Raises ``DatasetError``."""
        self.root = Path(root)
        self.info = read_info(self.root)
        self.units = units
        self.tasks = read_tasks(self.root / TASKS)
        rows = read_episodes(self.root / EPISODES)[: self.info.total_episodes]
        if len(rows) < self.info.total_episodes:
            raise DatasetError(
                f"{self.root} says it has {self.info.total_episodes} episodes, but only {len(rows)} are described: its "
                "recording was cut short; run `embodied data repair`"
            )
        self.episodes = tuple(self._episode(row) for row in rows)
        self._starts = [episode.start for episode in self.episodes]
        self._deltas = self._steps(delta_timestamps or {})
        self._tolerance_s = tolerance_s
        self.stored_units = read_json(self.root / OURS).get("units") if (self.root / OURS).exists() else None
        if units is not None:
            if self.stored_units == "si":
                raise DatasetError(f"{self.root} is in radians already; leave the units out")
            units.check(self.info.features)
        self._forget()

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.info.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """All columns and videos."""
        return self.info.features

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return tuple(key.removeprefix(IMAGES) for key in self.info.picture_keys)

    def stats(self) -> dict[str, Stats]:
        """Statistics over the whole dataset, in the units that the rows come out in."""
        path = self.root / STATS
        stats = statistics.from_json(read_json(path)) if path.exists() else {}
        return stats if self.units is None else self.units.stats_to_si(stats)

    def episode_stats(self) -> list[dict[str, Stats]]:
        """Statistics of each episode as stored; empty where none are."""
        return [row_stats(row) for row in read_episodes(self.root / EPISODES, stats=True)[: len(self.episodes)]]

    def __len__(self) -> int:
        return self.info.total_frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Frame ``index`` of the whole dataset: arrays and pictures by feature, and ``task`` in words."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} frames, no frame {index}")
        index %= len(self)
        episode = self.episodes[bisect.bisect_right(self._starts, index) - 1]
        frame = index - episode.start
        rows = self._rows(episode)
        item: dict[str, Any] = {key: values[frame] for key, values in rows.items() if key not in self._deltas}
        for key in self.info.picture_keys:
            if key not in self._deltas:
                item[key] = self._picture(episode, rows, key, frame)
        for key, steps in self._deltas.items():
            wanted = frame + steps
            at = np.clip(wanted, 0, episode.length - 1)
            item[f"{key}_is_pad"] = wanted != at
            if self.features[key].is_picture:
                item[key] = np.stack([self._picture(episode, rows, key, int(k)) for k in at])
            else:
                item[key] = rows[key][at]
        item["task"] = self._task(int(rows["task_index"][frame]))
        return item

    def episode(self, number: int, cameras: Sequence[str] | None = None) -> dict[str, Any]:
        """A whole episode: each column (T, ...), the pictures (T, H, W, 3) of the named cameras (None: all), and ``task``,
        the T tasks in words."""
        if not 0 <= number < len(self.episodes):
            raise DatasetError(
                f"{self.root} has {len(self.episodes)} episodes, counted from 0; there is no episode {number}"
            )
        names = self.camera_names if cameras is None else tuple(cameras)
        for name in names:
            if name not in self.camera_names:
                raise DatasetError(
                    f"{self.root} has no camera {name!r}; it has: {', '.join(self.camera_names) or 'none'}"
                )
        found = self.episodes[number]
        rows = self._rows(found)
        item: dict[str, Any] = {key: values for key, values in rows.items() if key not in self.info.picture_keys}
        for key in self.info.picture_keys:
            if key.removeprefix(IMAGES) in names:
                item[key] = np.stack([self._picture(found, rows, key, frame) for frame in range(found.length)])
        item["task"] = [self._task(int(k)) for k in rows["task_index"]]
        return item

    def pictures(self, number: int, camera: str) -> Iterator[Picture]:
        """The pictures (H, W, 3) of one camera in one episode, one by one."""
        found = self.episodes[number]
        rows = self._rows(found)
        for frame in range(found.length):
            yield self._picture(found, rows, IMAGES + camera, frame)

    def close(self) -> None:
        """Close the videos; they open again when needed. Safe to call twice."""
        for decoder in self._decoders.values():
            decoder.close()
        self._forget()

    def _forget(self) -> None:
        self._rows_kept: OrderedDict[int, Columns] = OrderedDict()
        self._decoders: OrderedDict[Path, VideoDecoder] = OrderedDict()
        self._process = os.getpid()

    def _episode(self, row: Mapping[str, Any]) -> Episode:
        try:
            clips = {
                key: Clip(
                    inside(
                        self.root,
                        self.info.video_path,
                        video_key=key,
                        chunk_index=int(row[f"videos/{key}/chunk_index"]),
                        file_index=int(row[f"videos/{key}/file_index"]),
                    ),
                    float(row[f"videos/{key}/from_timestamp"]),
                    row.get(f"videos/{key}/crc32"),
                )
                for key in self.info.video_keys
            }
            data = inside(
                self.root,
                self.info.data_path,
                chunk_index=int(row["data/chunk_index"]),
                file_index=int(row["data/file_index"]),
            )
            judged, rate = row.get("success"), row.get("measured_fps")
            return Episode(
                index=int(row["episode_index"]),
                length=int(row["length"]),
                start=int(row["dataset_from_index"]),
                tasks=tuple(row["tasks"]),
                data=data,
                clips=clips,
                success=None if judged is None or judged < 0 else bool(judged),
                measured_fps=float(rate or 0.0),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{self.root / EPISODES} is damaged: {type(error).__name__}: {error}") from error

    def _steps(self, deltas: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.int64]]:
        steps = {}
        for key, times in deltas.items():
            if key not in self.features:
                raise DatasetError(f"there is no feature {key!r}; there are: {', '.join(self.features)}")
            frames = np.asarray(times, dtype=np.float64) * self.fps
            if np.any(np.abs(frames - frames.round()) > TOLERANCE_S * self.fps):
                raise DatasetError(f"delta_timestamps of {key} must be multiples of 1/{self.fps} s, not {list(times)}")
            steps[key] = frames.round().astype(np.int64)
        return steps

    def _task(self, number: int) -> str:
        if not 0 <= number < len(self.tasks):
            raise DatasetError(f"{self.root / TASKS} has no task {number}; run `embodied data check`")
        return self.tasks[number]

    def _rows(self, episode: Episode) -> Columns:
        def load() -> Columns:
            rows = read_rows(episode.data, self.features, episode.index)
            lengths = {len(values) for values in rows.values()}
            if lengths != {episode.length}:
                raise DatasetError(
                    f"episode {episode.index} should have {episode.length} rows, but {episode.data} holds "
                    f"{max(lengths)} of them; run `embodied data check`"
                )
            return rows if self.units is None else self.units.to_si(rows)

        self._mind_the_process()
        return _kept(self._rows_kept, episode.index, load, _ROWS_KEPT)

    def _picture(self, episode: Episode, rows: Columns, key: str, frame: int) -> Picture:
        if not self.features[key].is_video:
            return _stored_picture(rows[key][frame], episode.data)
        self._mind_the_process()
        clip = episode.clips[key]
        decoder = _kept(self._decoders, clip.path, lambda: VideoDecoder(clip.path), _VIDEOS_KEPT)
        return decoder.at(clip.start_s + float(rows["timestamp"][frame]), self._tolerance_s)

    def _mind_the_process(self) -> None:
        if self._process != os.getpid():  # after a fork: the parent's open files are the parent's
            _INHERITED.append(self._decoders)
            self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_rows_kept", "_decoders", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


K = TypeVar("K")
V = TypeVar("V")


def _kept(cache: OrderedDict[K, V], key: K, make: Callable[[], V], limit: int) -> V:
    """The cached value; the one unused longest goes when there are too many."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > limit:
            _, old = cache.popitem(last=False)
            if isinstance(old, VideoDecoder):
                old.close()
    cache.move_to_end(key)
    return cache[key]


def _stored_picture(cell: Any, path: Path) -> Picture:
    """A picture that lies in the table itself, as LeRobot stores it without videos."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(cell["bytes"])) as image:
            return np.asarray(image.convert("RGB"))
    except (TypeError, KeyError, OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"{path} holds a damaged picture: {error}") from error
