"""Puts episodes of datasets into a new one: merging, salvaging, importing from and exporting to LeRobot's units.

Rows are renumbered and statistics counted again. Videos are copied as they are, without loss, wherever an episode begins
with a key frame, as LeRobot's and this project's do. The sources stay untouched; the new dataset is written by
``DatasetWriter``, so a crash costs at most the episode being copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policies.dataset.episode import UNJUDGED
from policies.dataset.layout import IMAGES, INDEX_FEATURES, INFO, DatasetError, Feature, differences, video_info
from policies.dataset.lerobot_units import Units
from policies.dataset.reader import Dataset
from policies.dataset.statistics import Stats
from policies.dataset.tables import Columns
from policies.dataset.video import CODEC, VideoEncoder, checksum, copy_span
from policies.dataset.writer import DatasetWriter

Convert = Callable[[Columns], Columns]
#: Called with how many episodes were copied, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Copied:
    """What was put into the new dataset, and what could not be."""

    episodes: int
    frames: int
    encoded_anew: int = 0  # videos that could not be copied as they are
    left_out: tuple[str, ...] = ()  # why, one sentence per episode


def merge(sources: Sequence[Path], out: Path, *, progress: Progress | None = None) -> Copied:
    """All episodes of several datasets, in order. Raises ``DatasetError`` unless rate, robot, units and features agree."""
    if len(sources) < 2:
        raise DatasetError("merging wants at least two datasets")
    datasets = [Dataset(source) for source in sources]
    try:
        _same_kind(datasets)
        return _copy(datasets, out, progress=progress)
    finally:
        for dataset in datasets:
            dataset.close()


def salvage(source: Path, out: Path, *, progress: Progress | None = None) -> Copied:
    """Every sound episode of a damaged dataset; each one is read and decoded whole before it is copied."""
    with Dataset(source) as dataset:
        return _copy([dataset], out, skip_damaged=True, progress=progress)


def from_lerobot(source: Path, out: Path, units: Units, *, robot_type: str, progress: Progress | None = None) -> Copied:
    """A dataset in LeRobot's units as one in radians and 0..1."""
    with Dataset(source, units=units) as dataset:
        return _copy([dataset], out, units="si", robot_type=robot_type, progress=progress)


def to_lerobot(source: Path, out: Path, units: Units, *, robot_type: str, progress: Progress | None = None) -> Copied:
    """A dataset in radians and 0..1 as one in LeRobot's units."""
    with Dataset(source) as dataset:
        if dataset.stored_units != "si":
            raise DatasetError(f"{source} is not in radians, so it cannot be turned into {units.name}; import it first")
        units.check(dataset.features)
        return _copy([dataset], out, units=units.name, robot_type=robot_type, convert=units.from_si, progress=progress)


def _same_kind(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        found = [
            f"{what} {a!r} and {b!r}"
            for what, a, b in (
                ("frames per second", first.fps, other.fps),
                ("robot", first.info.robot_type, other.info.robot_type),
                ("units", first.stored_units, other.stored_units),
            )
            if a != b
        ]
        found += differences(first.features, other.features)
        if found:
            raise DatasetError(f"{first.root} and {other.root} cannot be merged: {'; '.join(found)}")


def _copy(
    datasets: Sequence[Dataset],
    out: Path,
    *,
    units: str | None = None,
    robot_type: str | None = None,
    convert: Convert | None = None,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> Copied:
    if (out / INFO).exists():
        raise DatasetError(f"{out} holds a dataset already; choose a new folder")
    first = datasets[0]
    total = sum(len(dataset.episodes) for dataset in datasets)
    done = frames = anew = 0
    left_out: list[str] = []
    with DatasetWriter(
        out,
        fps=first.fps,
        robot_type=robot_type or first.info.robot_type or "unknown",
        features=_as_videos(first),
        units=units or first.stored_units or "unknown",
    ) as writer:
        for dataset in datasets:
            stats = dataset.episode_stats()
            for episode in dataset.episodes:
                try:
                    if skip_damaged:
                        _read_through(dataset, episode.index)
                    anew += _copy_episode(dataset, episode.index, stats[episode.index], writer, convert)
                    done, frames = done + 1, frames + episode.length
                except DatasetError as error:
                    if not skip_damaged:
                        raise
                    left_out.append(f"episode {episode.index}: {error}")
                if progress is not None:
                    progress(done + len(left_out), total)
    return Copied(done, frames, anew, tuple(left_out))


def _as_videos(dataset: Dataset) -> dict[str, Feature]:
    """The features to write: pictures stored in the table become videos."""
    return {
        key: replace(feature, dtype="video", info=video_info(feature, dataset.fps, CODEC))
        if feature.dtype == "image"
        else feature
        for key, feature in dataset.features.items()
        if key not in INDEX_FEATURES
    }


def _read_through(dataset: Dataset, number: int) -> None:
    """Raises ``DatasetError`` if anything of the episode cannot be read."""
    dataset.episode(number, cameras=())
    for clip in dataset.episodes[number].clips.values():
        if clip.crc32 is not None and checksum(clip.path) != clip.crc32:
            raise DatasetError(f"{clip.path} is damaged: its checksum is not the one noted when it was recorded")
    for camera in dataset.camera_names:
        for _ in dataset.pictures(number, camera):
            pass


def _copy_episode(
    dataset: Dataset, number: int, stats: Mapping[str, Stats], writer: DatasetWriter, convert: Convert | None
) -> int:
    """Returns how many videos had to be encoded anew."""
    episode = dataset.episodes[number]
    rows = dataset.episode(number, cameras=())
    tasks = rows.pop("task")
    anew = 0

    def video(key: str, path: Path) -> Stats | None:
        nonlocal anew
        if dataset.features[key].is_video:
            clip = episode.clips[key]
            if copy_span(clip.path, path, clip.start_s, episode.length, dataset.fps):
                return stats.get(key)
        anew += 1
        height, width, _ = dataset.features[key].shape
        encoder = VideoEncoder(path, (height, width), dataset.fps)
        try:
            for picture in dataset.pictures(number, key.removeprefix(IMAGES)):
                encoder.add(picture)
            return encoder.close()
        finally:
            encoder.abort()

    success = UNJUDGED if episode.success is None else int(episode.success)
    columns = {key: values for key, values in rows.items() if key not in INDEX_FEATURES}
    writer.append(
        convert(columns) if convert is not None else columns,
        tasks,
        video,
        extra={"success": success, "measured_fps": episode.measured_fps},
    )
    return anew
