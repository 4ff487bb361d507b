"""Writes episodes, one closed set of files each. See ``commit`` for what a crash can and cannot cost.

    with DatasetWriter("data/picks", fps=20, robot_type="so101", features=features) as writer:
        episode = writer.begin("put the red cube in the blue bowl")
        episode.add({"observation.state": q, "action": sent, ...}, {"front": rgb})       # once per control step
        episode.save(success=True)

An error in ``add`` (NaN, a missing picture, a wrong shape) leaves the row out and the episode as it was: it can be saved up
to there. A full disk drops the open episode and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from policies.dataset import statistics
from policies.dataset.commit import Lock, Stage, finish, free_mb, to_text, unfinished, write_failed, write_json
from policies.dataset.episode import EpisodeWriter
from policies.dataset.layout import (
    DATA_PATH,
    EPISODES,
    EPISODES_PATH,
    INDEX_FEATURES,
    INFO,
    OURS,
    STATS,
    TASKS,
    VIDEO_PATH,
    DatasetError,
    Feature,
    Info,
    check_names,
    chunk_and_file,
    differences,
    inside,
    read_info,
    read_json,
    video_info,
)
from policies.dataset.statistics import Stats, aggregate, column_stats, has_stats
from policies.dataset.tables import Columns, read_episodes, read_tasks, write_episode, write_rows, write_tasks
from policies.dataset.video import CODEC, Encoding, checksum


@dataclass(frozen=True)
class WriterOptions:
    """How a writer behaves."""

    missing: Literal["error", "repeat"] = "error"
    """When a camera's picture is missing: refuse the row, or show the one before again and mark it in ``repeated.NAME``."""
    encoding: Encoding = field(default_factory=Encoding)
    """How videos are compressed."""
    min_free_mb: float = 100.0
    """An episode does not begin with less space left than this."""


class DatasetWriter:
    """A dataset that episodes are added to; made when it is not there yet. One writer at a time."""

    def __init__(
        self,
        root: Path | str,
        *,
        fps: float,
        robot_type: str,
        features: Mapping[str, Feature],
        units: str = "si",
        options: WriterOptions = WriterOptions(),
    ) -> None:
        """``features`` without those the writer fills in itself (``layout.INDEX_FEATURES``).

        Raises ``DatasetError`` when the dataset there has another rate, robot, unit or other features.
        """
        if fps < 1 or fps != int(fps):
            raise DatasetError(f"the format holds whole frame rates only, not {fps}; record at 20 Hz, for example")
        check_names(features)
        self.root = Path(root)
        self.options = options
        wanted = Info(int(fps), {**features, **INDEX_FEATURES}, robot_type)
        try:
            if not (self.root / INFO).exists() and self.root.exists() and _holds_data(self.root):
                raise DatasetError(f"{self.root} holds files but no {INFO}; choose an empty folder, or repair it")
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.root)
        except OSError as error:
            raise write_failed(error, self.root, "making the dataset's folder") from error
        try:
            finish(self.root)
            if (self.root / INFO).exists():
                self._fits(wanted, units)
            else:
                self._create(wanted, units)
            self._load()
        except OSError as error:
            self._lock.release()
            raise write_failed(error, self.root, "opening the dataset") from error
        except BaseException:
            self._lock.release()
            raise
        self.current: EpisodeWriter | None = None

    @property
    def features(self) -> dict[str, Feature]:
        """What each row must hold: all features but those that the writer fills in."""
        return {key: feature for key, feature in self.info.features.items() if key not in INDEX_FEATURES}

    def begin(self, task: str) -> EpisodeWriter:
        """Open the next episode. ``task`` is what was asked for, in words."""
        self._ready()
        left = free_mb(self.root)
        if left < self.options.min_free_mb:
            raise DatasetError(
                f"only {left:.0f} MB are left on the disk of {self.root}, and an episode wants {self.options.min_free_mb:.0f}; "
                "free some space first"
            )
        try:
            self.current = EpisodeWriter(self, task, self._stage())
        except OSError as error:
            raise write_failed(error, self.root, "beginning an episode") from error
        return self.current

    def append(
        self,
        columns: Columns,
        tasks: list[str],
        video: Callable[[str, Path], Stats | None],
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a whole episode at once, as merging does: (T, ...) columns, T tasks, and ``video(key, path)`` which puts each
        camera's finished MP4 file at ``path`` and returns its statistics. Returns the episode's number."""
        self._ready()
        stage = self._stage()
        try:
            stats = {key: video(key, self.video_path(stage, key)) for key in self.info.video_keys}
            return self.commit(stage, columns, tasks, {k: v for k, v in stats.items() if v is not None}, extra or {})
        except OSError as error:
            raise write_failed(error, self.root, f"writing episode {self.info.total_episodes}") from error
        finally:
            stage.drop()

    def close(self) -> None:
        """Discard the open episode and let others write. Safe to call twice."""
        if self.current is not None:
            self.current.discard()
        self._lock.release()

    def _load(self) -> None:
        self.info = read_info(self.root)
        self.tasks = read_tasks(self.root / TASKS)
        stored = self.root / STATS
        self._stats = statistics.from_json(read_json(stored)) if stored.exists() else {}

    def _ready(self) -> None:
        if self.current is not None:
            raise DatasetError("an episode is open already; save it or discard it first")
        if unfinished(self.root)[0]:  # the last episode was interrupted between its commit and its place
            finish(self.root)
            self._load()

    def _stage(self) -> Stage:
        return Stage(self.root, self.info.total_episodes)

    def video_path(self, stage: Stage, key: str) -> Path:
        at = chunk_and_file(self.info.total_episodes, self.info.chunks_size)
        return stage.path(inside(self.root, VIDEO_PATH, video_key=key, **at))

    def _create(self, info: Info, units: str) -> None:
        features = {
            key: replace(feature, info={**video_info(feature, info.fps, CODEC), **(feature.info or {})})
            if feature.is_video
            else feature
            for key, feature in info.features.items()
        }
        info = replace(info, features=features)
        write_json(self.root / OURS, {"format": 1, "units": units})
        write_json(self.root / INFO, info.to_json())

    def _fits(self, wanted: Info, units: str) -> None:
        info = read_info(self.root)
        if info.robot_type != wanted.robot_type:
            raise DatasetError(
                f"{self.root} is of the robot {info.robot_type!r}, not {wanted.robot_type!r}; use another folder"
            )
        if info.fps != wanted.fps:
            raise DatasetError(f"{self.root} has {info.fps} frames per second, not {wanted.fps}; use another folder")
        found = differences(info.features, wanted.features)
        if found:
            raise DatasetError(f"{self.root} has other features: {'; '.join(found)}; use another folder")
        there = read_json(self.root / OURS).get("units") if (self.root / OURS).exists() else None
        if there != units:
            raise DatasetError(
                f"{self.root} is in the units {there or 'of LeRobot'}, not in {units}; import it into a new folder"
            )
        described = len(read_episodes(self.root / EPISODES))
        if described != info.total_episodes:
            raise DatasetError(
                f"{self.root / INFO} says {info.total_episodes} episodes but {described} are described; "
                "run `embodied data repair`"
            )

    def commit(
        self,
        stage: Stage,
        columns: Columns,
        tasks: list[str],
        picture_stats: Mapping[str, Stats],
        extra: Mapping[str, Any],
    ) -> int:
        """Write tables and index next to the videos, and make them count."""
        number, length = self.info.total_episodes, len(tasks)
        at = chunk_and_file(number, self.info.chunks_size)
        known = self.tasks + [task for task in dict.fromkeys(tasks) if task not in self.tasks]
        start = self.info.total_frames
        columns = {
            **columns,
            "timestamp": (np.arange(length) / self.info.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(start, start + length),
            "task_index": np.array([known.index(task) for task in tasks]),
        }
        stats: dict[str, Stats] = {
            key: column_stats(columns[key])
            for key, feature in self.info.features.items()
            if has_stats(key, feature) and not feature.is_picture
        }
        stats.update(picture_stats)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": list(dict.fromkeys(tasks)),
            "length": length,
            "data/chunk_index": at["chunk_index"],
            "data/file_index": at["file_index"],
            "dataset_from_index": start,
            "dataset_to_index": start + length,
        }
        for key in self.info.video_keys:
            row |= {f"videos/{key}/{part}": value for part, value in at.items()}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self.info.fps}
            row[f"videos/{key}/crc32"] = checksum(self.video_path(stage, key))
        row |= {"meta/episodes/chunk_index": at["chunk_index"], "meta/episodes/file_index": at["file_index"], **extra}
        info = self.info.grown(length, len(known))
        together = aggregate([self._stats, stats]) if self._stats else stats

        write_rows(stage.path(inside(self.root, DATA_PATH, **at)), self.info.features, columns)
        write_episode(stage.path(inside(self.root, EPISODES_PATH, **at)), row, stats)
        write_tasks(stage.path(self.root / TASKS), known)
        stage.path(self.root / STATS).write_text(to_text(statistics.to_json(together)), encoding="utf-8")
        stage.path(self.root / INFO).write_text(to_text(info.to_json()), encoding="utf-8")
        stage.commit()
        self.info, self.tasks, self._stats = info, known, together
        return number

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _holds_data(root: Path) -> bool:
    return any((root / name).exists() for name in ("data", "videos", EPISODES)) or any(
        entry.is_file() for entry in root.iterdir()
    )
