"""What lies where in a LeRobotDataset v3.0 folder, and the two small records that describe it: ``Info`` and ``Feature``.

    meta/info.json                                   frame rate, features, totals: the index, written last
    meta/stats.json                                  mean, std, min, max, count and quantiles of each feature
    meta/tasks.parquet                               task_index -> the words
    meta/embodied.json                               ours: units of the joint vectors; LeRobot does not look at it
    meta/episodes/chunk-XXX/file-XXX.parquet         one row per episode: length, files, positions, statistics
    data/chunk-XXX/file-XXX.parquet                  one row per frame
    videos/KEY/chunk-XXX/file-XXX.mp4                frame k of an episode is row k of its data
    .staging/                                        the open episode, and one that is being put in place

The writer of this project gives every episode files of its own; the reader also takes datasets with many episodes a file.
Source of the layout: LeRobot 0.4.4 and 0.6.2, read and run.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardware.errors import EmbodiedError

VERSION = "v3.0"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes"
OURS = "meta/embodied.json"
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = EPISODES + "/" + CHUNK_FILE + ".parquet"
DATA_PATH = "data/" + CHUNK_FILE + ".parquet"
VIDEO_PATH = "videos/{video_key}/" + CHUNK_FILE + ".mp4"
#: Files per ``chunk-XXX`` folder.
CHUNK = 1000
IMAGES = "observation.images."
#: Number dtypes this project reads and writes, as numpy names.
NUMBERS = ("float32", "float64", "int64", "int32", "bool")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


class DatasetError(EmbodiedError):
    """A dataset is missing, damaged, of another kind, or cannot take what it was given."""


@dataclass(frozen=True)
class Feature:
    """One column or video: numpy dtype, ``video``, ``image`` or ``string``; the shape of one row; names of its entries."""

    dtype: str
    shape: tuple[int, ...] = (1,)
    names: Any = None  # a list of names, a dict of lists, or None: LeRobot writes all three
    info: Mapping[str, Any] | None = None  # of a video: size, codec, frame rate

    @property
    def is_video(self) -> bool:
        """Whether it lies in an MP4 file and not in the table."""
        return self.dtype == "video"

    @property
    def is_picture(self) -> bool:
        """Whether one row is a picture (H, W, 3), however it is stored."""
        return self.dtype in ("video", "image")

    @property
    def is_number(self) -> bool:
        """Whether one row is an array of numbers."""
        return self.dtype in NUMBERS

    def to_json(self) -> dict[str, Any]:
        """As LeRobot writes it."""
        data: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": self.names}
        return data if self.info is None else {**data, "info": dict(self.info)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Feature:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything that is no feature."""
        return cls(str(data["dtype"]), tuple(int(n) for n in data["shape"]), data.get("names"), data.get("info"))


#: The columns that every dataset has; the writer fills them in.
INDEX_FEATURES: dict[str, Feature] = {
    "timestamp": Feature("float32"),
    "frame_index": Feature("int64"),
    "episode_index": Feature("int64"),
    "index": Feature("int64"),
    "task_index": Feature("int64"),
}


def video_feature(height: int, width: int) -> Feature:
    """A camera's pictures (height, width, 3). Raises ``DatasetError`` for sizes that yuv420p cannot hold."""
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise DatasetError(f"a camera's picture must have an even height and width, not {height} x {width}; crop it")
    return Feature("video", (height, width, 3), ["height", "width", "channels"])


def video_info(feature: Feature, fps: int, codec: str) -> dict[str, Any]:
    """What ``info.json`` says about a video."""
    height, width, channels = feature.shape
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
    }


@dataclass(frozen=True)
class Info:
    """``meta/info.json``."""

    fps: int
    features: Mapping[str, Feature]
    robot_type: str | None = None
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = CHUNK
    data_path: str = DATA_PATH
    video_path: str = VIDEO_PATH

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features that lie in MP4 files."""
        return tuple(key for key, feature in self.features.items() if feature.is_video)

    @property
    def picture_keys(self) -> tuple[str, ...]:
        """Features whose rows are pictures."""
        return tuple(key for key, feature in self.features.items() if feature.is_picture)

    def to_json(self) -> dict[str, Any]:
        """As LeRobot writes it, keys in its order."""
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
            "chunks_size": self.chunks_size,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{self.total_episodes}"} if self.total_episodes else {},
            "data_path": self.data_path,
            "video_path": self.video_path if self.video_keys else None,
            "features": {key: feature.to_json() for key, feature in self.features.items()},
        }

    def grown(self, frames: int, tasks: int) -> Info:
        """With one more episode of ``frames`` rows, and ``tasks`` tasks in all."""
        return replace(
            self,
            total_episodes=self.total_episodes + 1,
            total_frames=self.total_frames + frames,
            total_tasks=tasks,
        )


def check_names(features: Mapping[str, Feature]) -> None:
    """Raises ``DatasetError`` for a feature name that is no plain file name, or that the writer fills in itself."""
    for name, feature in features.items():
        if not _NAME.fullmatch(name) or name.startswith("."):
            raise DatasetError(f"{name!r} is no name for a feature; use letters, digits, '.', '_' and '-' only")
        if name in INDEX_FEATURES:
            raise DatasetError(f"the feature {name!r} is filled in by the writer; leave it out")
        if feature.is_picture:
            if not feature.is_video or len(feature.shape) != 3 or feature.shape[2] != 3:
                raise DatasetError(f"{name}: pictures are written as videos of shape (height, width, 3)")
            video_feature(*feature.shape[:2])
        elif feature.dtype != "string" and not feature.is_number:
            raise DatasetError(f"{name}: the dtype {feature.dtype!r} is none of {', '.join(NUMBERS)}, string, video")
        elif len(feature.shape) != 1 or (feature.dtype == "string" and feature.shape != (1,)):
            raise DatasetError(f"{name}: only vectors and single values can be written, not the shape {feature.shape}")


def read_info(root: Path) -> Info:
    """Raises ``DatasetError`` when the folder is no dataset of version 3.0."""
    path = root / INFO
    if not path.is_file():
        raise DatasetError(
            f"{root} holds no dataset: {INFO} is missing; name a folder in the LeRobotDataset v3.0 layout"
        )
    data = read_json(path)
    try:
        version = str(data["codebase_version"])
        if version != VERSION:
            raise DatasetError(
                f"{root} has the format {version}, not {VERSION}; convert it with LeRobot's own converter"
            )
        features = {str(key): Feature.from_json(value) for key, value in data["features"].items()}
        info = Info(
            fps=int(data["fps"]),
            features=features,
            robot_type=data.get("robot_type"),
            total_episodes=int(data["total_episodes"]),
            total_frames=int(data["total_frames"]),
            total_tasks=int(data.get("total_tasks", 0)),
            chunks_size=int(data.get("chunks_size", CHUNK)),
            data_path=str(data.get("data_path") or DATA_PATH),
            video_path=str(data.get("video_path") or VIDEO_PATH),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy") from error
    if info.fps < 1 or info.total_episodes < 0 or info.total_frames < 0 or info.chunks_size < 1:
        raise DatasetError(f"{path} is damaged: it names a frame rate of {info.fps} and {info.total_frames} frames")
    missing = [key for key in INDEX_FEATURES if key not in features]
    if missing:
        raise DatasetError(f"{path} is damaged: the features lack {', '.join(missing)}")
    return info


def read_json(path: Path) -> Any:
    """Raises ``DatasetError`` naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; restore it or run `embodied data repair`") from error


def chunk_and_file(number: int, chunks_size: int) -> dict[str, int]:
    """Where file ``number`` lies, counting from 0."""
    return {"chunk_index": number // chunks_size, "file_index": number % chunks_size}


def inside(root: Path, template: str, **parts: Any) -> Path:
    """A file of the dataset from a template of ``info.json``. Raises ``DatasetError`` when it would lie elsewhere."""
    fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if not fields <= parts.keys():
        raise DatasetError(f"{root / INFO} holds the path {template!r}; only {', '.join(parts)} may stand in braces")
    path = root / template.format(**parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{root} names a file outside its own folder ({path}); it will not be opened")
    return path


def differences(ours: Mapping[str, Feature], theirs: Mapping[str, Feature]) -> Sequence[str]:
    """In which features two datasets differ, in words; codecs and frame numbers aside."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if a is None or b is None:
            found.append(f"{key} is missing in one")
        elif (a.dtype, a.shape) != (b.dtype, b.shape):
            found.append(f"{key} is {a.dtype}{list(a.shape)} in one and {b.dtype}{list(b.shape)} in the other")
        elif a.names != b.names:
            found.append(f"{key} has other names: {a.names} and {b.names}")
    return found
