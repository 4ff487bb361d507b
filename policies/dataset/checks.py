"""Says what is wrong with a dataset, and puts right what can be.

``check`` reads every row and decodes every picture. ``repair`` finishes what a crash interrupted and counts the index
again; it never deletes a whole episode. What lies damaged in the middle stays where it is: ``copying.salvage`` puts the sound
episodes into a new folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.dataset import statistics
from policies.dataset.commit import Lock, finish, unfinished, write_failed, write_json
from policies.dataset.episode import REPEATED, measured_fps
from policies.dataset.layout import EPISODES, INFO, STATS, TASKS, DatasetError, read_info, read_json
from policies.dataset.reader import Dataset, Episode
from policies.dataset.statistics import aggregate
from policies.dataset.tables import Columns, read_episodes, read_tasks, row_stats
from policies.dataset.video import TOLERANCE_S, checksum, frame_times

#: A recording whose true rate is further than this from the rate it claims is pointed out.
_RATE_SHARE = 0.1


@dataclass(frozen=True)
class Checked:
    """``problems`` keep someone from reading the data, or make it wrong; ``remarks`` are worth knowing."""

    episodes: int
    frames: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(root: Path, *, decode: bool = True, progress: Callable[[int, int], None] | None = None) -> Checked:
    """Read everything. ``decode=False`` counts the videos' frames and compares checksums, where there are some, but does not
    decode them, which is much faster.

    Raises ``DatasetError`` only when the folder is no dataset at all.
    """
    info = read_info(root)
    problems: list[str] = []
    remarks: list[str] = []
    waiting, left_open = unfinished(root)
    if waiting:
        problems.append(f"{waiting} finished episode was not put in place yet; run `embodied data repair`")
    if left_open:
        remarks.append(
            f"{left_open} episode was being recorded when its process ended; `embodied data repair` drops it"
        )
    try:
        dataset = Dataset(root)
    except DatasetError as error:
        return Checked(info.total_episodes, info.total_frames, (*problems, str(error)), tuple(remarks))
    with dataset:
        frames = 0
        for number, episode in enumerate(dataset.episodes):
            wrong, noted = _check_episode(dataset, episode, number, frames, decode)
            problems += [f"episode {number}: {what}" for what in wrong]
            remarks += [f"episode {number}: {what}" for what in noted]
            frames += episode.length
            if progress is not None:
                progress(number + 1, len(dataset.episodes))
        if frames != info.total_frames:
            problems.append(
                f"{INFO} says {info.total_frames} frames, but the episodes have {frames}; run `embodied data repair`"
            )
        if len(dataset.tasks) < info.total_tasks:
            problems.append(f"{INFO} says {info.total_tasks} tasks, but {TASKS} has {len(dataset.tasks)}")
        problems += _check_stats(dataset)
        used = {episode.data.resolve() for episode in dataset.episodes}
        extra = [path for path in root.glob("data/*/*.parquet") if path.resolve() not in used]
        if extra:
            remarks.append(
                f"{len(extra)} data files belong to no episode, for example {extra[0]}; LeRobot would read them"
            )
    return Checked(info.total_episodes, info.total_frames, tuple(problems), tuple(remarks))


def _check_episode(
    dataset: Dataset, episode: Episode, number: int, start: int, decode: bool
) -> tuple[list[str], list[str]]:
    wrong: list[str] = []
    if episode.index != number or episode.start != start:
        wrong.append(f"it is described as episode {episode.index} from frame {episode.start} on, not from {start} on")
    try:
        rows: Columns = dataset.episode(number, cameras=())
    except DatasetError as error:
        return [*wrong, str(error)], []
    wrong += _check_rows(dataset, episode, rows)
    for key, clip in episode.clips.items():
        try:
            stamps = frame_times(clip.path)
            wanted = clip.start_s + rows["timestamp"].astype(np.float64)
            nearest = np.searchsorted(stamps, wanted - TOLERANCE_S)
            there = nearest < len(stamps)
            there[there] = np.abs(stamps[nearest[there]] - wanted[there]) <= TOLERANCE_S
            if not there.all():
                wrong.append(f"{key}: {int((~there).sum())} of {len(there)} rows have no picture in {clip.path.name}")
            elif clip.crc32 is not None and checksum(clip.path) != clip.crc32:
                wrong.append(f"{key}: {clip.path} is damaged: its checksum is not the one noted when it was recorded")
            elif decode:
                for _ in dataset.pictures(number, key.removeprefix("observation.images.")):
                    pass
        except DatasetError as error:
            wrong.append(str(error))
    return wrong, _remarks(dataset, rows)


def _check_rows(dataset: Dataset, episode: Episode, rows: Columns) -> list[str]:
    counting = np.arange(episode.length)
    expected: Sequence[tuple[str, Any]] = (
        ("frame_index", counting),
        ("index", episode.start + counting),
        ("episode_index", np.full(episode.length, episode.index)),
    )
    wrong = [f"the column {key} does not count as it should" for key, values in expected if np.any(rows[key] != values)]
    if np.abs(rows["timestamp"] - counting / dataset.fps).max(initial=0.0) > 1e-3:
        wrong.append(f"the time stamps are not 1/{dataset.fps} s apart")
    for key, feature in dataset.features.items():
        if feature.is_number and not np.all(np.isfinite(rows[key])):
            wrong.append(f"{key} holds values that are not finite")
    return wrong


def _remarks(dataset: Dataset, rows: Columns) -> list[str]:
    noted = []
    rate = measured_fps(rows)
    if rate and abs(rate / dataset.fps - 1.0) > _RATE_SHARE:
        noted.append(f"it was recorded at {rate:.1f} frames per second by the robot's clock, not at {dataset.fps}")
    noted += [
        f"{int(values.sum())} of {len(values)} pictures of {key.removeprefix(REPEATED)} are repeated ones"
        for key, values in rows.items()
        if key.startswith(REPEATED) and values.any()
    ]
    return noted


def _check_stats(dataset: Dataset) -> list[str]:
    try:
        missing = [
            key for key in ("action", "observation.state") if key in dataset.features and key not in dataset.stats()
        ]
    except DatasetError as error:
        return [str(error)]
    if missing and len(dataset):
        return [f"{STATS} lacks {', '.join(missing)}; run `embodied data repair`"]
    return []


@dataclass(frozen=True)
class Repaired:
    """What was done."""

    finished: int  # episodes that were recorded whole and are now in place
    dropped: int  # open episodes that were lost
    counted_again: bool  # whether the index or the statistics had to be made anew
    episodes: int  # how many there are now


def repair(root: Path) -> Repaired:
    """Finish what a crash interrupted, and make index and statistics fit the episodes that are there.

    Raises ``DatasetError`` when the folder is no dataset, or someone is writing to it.
    """
    if not (root / INFO).exists():
        read_info(root)
    lock = Lock(root)
    try:
        finished, dropped = finish(root)
        for partial in root.glob("meta/*.partial"):
            partial.unlink()
        return Repaired(finished, dropped, _count_again(root), read_info(root).total_episodes)
    except OSError as error:
        raise write_failed(error, root, "repairing") from error
    finally:
        lock.release()


def _count_again(root: Path) -> bool:
    info = read_info(root)
    rows = read_episodes(root / EPISODES, stats=True)
    whole = [row for number, row in enumerate(rows) if int(row["episode_index"]) == number]
    counted = replace(
        info,
        total_episodes=len(whole),
        total_frames=sum(int(row["length"]) for row in whole),
        total_tasks=len(read_tasks(root / TASKS)),
    )
    stats = aggregate([row_stats(row) for row in whole]) if whole else {}
    changed = False
    if counted != info:
        write_json(root / INFO, counted.to_json())
        changed = True
    if stats and (changed or not _stats_fit(root, stats)):
        write_json(root / STATS, statistics.to_json(stats))
        changed = True
    return changed


def _stats_fit(root: Path, stats: dict[str, statistics.Stats]) -> bool:
    """Whether the stored statistics count as many rows as there are."""
    try:
        stored = statistics.from_json(read_json(root / STATS))
        return all(
            key in stored and int(stored[key]["count"][0]) == int(part["count"][0]) for key, part in stats.items()
        )
    except (DatasetError, KeyError, AttributeError, TypeError, IndexError):
        return False
