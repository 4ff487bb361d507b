"""Small datasets whose every row and picture says which it is, for the tests of datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.dataset import commit
from policies.dataset.layout import Feature, video_feature
from policies.dataset.lerobot_units import JOINT_NAMES
from policies.dataset.writer import DatasetWriter, WriterOptions

FPS = 20
SIZE = (32, 64)
CAMERAS = ("front", "wrist")
VECTOR = Feature("float32", (6,), JOINT_NAMES)
FEATURES: dict[str, Feature] = {
    "action": VECTOR,
    "observation.state": VECTOR,
    **{f"observation.images.{camera}": video_feature(*SIZE) for camera in CAMERAS},
    "skill": Feature("string"),
    "time.monotonic": Feature("float64"),
    "success": Feature("int64"),
    **{f"repeated.{camera}": Feature("bool") for camera in CAMERAS},
}
NO_LIMIT = WriterOptions(min_free_mb=0.0)


def stamped(number: int) -> NDArray[np.uint8]:
    """A picture (32, 64, 3) with a 16-bit number in black and white fields, which survives compression."""
    bits = [(number >> bit) & 1 for bit in range(16)]
    fields = np.array(bits, dtype=np.uint8).reshape(2, 8) * 200 + 20
    return np.repeat(np.kron(fields, np.ones((16, 8), dtype=np.uint8))[:, :, None], 3, axis=2)


def number_in(picture: NDArray[np.uint8]) -> int:
    """Inverse of ``stamped``."""
    fields = picture.mean(axis=2).reshape(2, 16, 8, 8).mean(axis=(1, 3)) > 120.0
    return sum(int(bit) << place for place, bit in enumerate(fields.ravel()))


def identity(episode: int, frame: int, camera: str) -> int:
    """The number in a picture."""
    return episode << 9 | frame << 1 | CAMERAS.index(camera)


def row(episode: int, frame: int) -> dict[str, Any]:
    """Values that say where they belong."""
    return {
        "action": np.arange(6) * 0.1 + episode * 0.01 + frame * 0.001,
        "observation.state": np.full(6, episode * 0.02 + frame * 0.0005),
        "skill": "pick" if frame % 2 else "",
        "time.monotonic": 100.0 * episode + frame / FPS,
    }


def pictures(episode: int, frame: int) -> dict[str, NDArray[np.uint8]]:
    """Each camera's picture."""
    return {camera: stamped(identity(episode, frame, camera)) for camera in CAMERAS}


def open_writer(root: Path, options: WriterOptions = NO_LIMIT, **other: Any) -> DatasetWriter:
    """A writer for these rows."""
    return DatasetWriter(root, **{"fps": FPS, "robot_type": "so101", "features": FEATURES, "options": options, **other})


def record(writer: DatasetWriter, length: int, task: str = "lift it") -> int:
    """One more episode."""
    number = writer.info.total_episodes
    episode = writer.begin(task)
    for frame in range(length):
        episode.add(row(number, frame), pictures(number, frame))
    return episode.save(success=number % 2 == 0)


def make(root: Path, lengths: Sequence[int] = (5, 8, 3)) -> Path:
    """A dataset with episodes of these lengths."""
    with open_writer(root) as writer:
        for number, length in enumerate(lengths):
            record(writer, length, f"task {number % 2}")
    return root


@pytest.fixture(autouse=True)
def instant_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is most of what recording a tiny episode takes; imported where that is not the point."""
    monkeypatch.setattr(commit.os, "fsync", lambda descriptor: None)
