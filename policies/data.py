"""Demonstrations: how they are collected, stored and turned into training batches.

A demonstration is one skill carried out by a scripted expert from start to end. The expert may look into the simulator; what
is stored of it is only what the policy will be given (joints, commands, goal points) and what the expert wanted. Shards are
``.npz`` files of ``SHARD`` demonstrations each, written whole or not at all, so an interrupted collection goes on where it
stopped.

    <data>/demos/seed0-pick-0003-25.npz        q (N, 6), command (N, 6), target (N, 6), done (N,), use (N,)
                                               length (E,), goal (E, 3), to (E, 3), seed (E,), skill, format
    with pictures, also                        rows (K,), shown (E,), seen (E, 3), aim (K, 3), and of each camera
                                               film_front (bytes), length_front (K,), shape_front (3,), eye_front (K, 3)

Pictures are kept of every second step only: neighbours look alike, and pictures take time. They are small and compressed
without loss (measured: 88 x 88 pixels in 1.3 kB, unpacked in 40 us), in memory too, so that a laptop holds thousands of
demonstrations.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.errors import CheckpointError
from policies.skills import SKILLS, Skill

Float = NDArray[np.float64]
FORMAT = 2
#: Demonstrations per file.
SHARD = 25
#: A picture is stored of every so many control steps.
PICTURE_STRIDE = 2
_ROWS = ("q", "command", "target", "done", "use")
_FILM, _EYE = "film_", "eye_"


@dataclass(frozen=True)
class Film:
    """A row of equally large pictures, each compressed without loss."""

    shape: tuple[int, int, int]  # (P, P, 3) uint8
    frames: tuple[bytes, ...]

    @classmethod
    def of(cls, pictures: Sequence[NDArray[np.uint8]]) -> Film:
        """Compress pictures (P, P, 3)."""
        height, width, channels = pictures[0].shape
        # The fastest level: the others save a tenth and take twice as long.
        return cls((height, width, channels), tuple(zlib.compress(picture.tobytes(), 1) for picture in pictures))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(self.frames[index]), np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Pictures:
    """What the cameras saw during a demonstration, K of its steps."""

    rows: NDArray[np.int64]  # (K,) steps
    images: Mapping[str, Film]  # by camera, K patches with their margin, see policies/images.py
    eyes: Mapping[str, Float]  # by camera (K, 3) m: where it is believed to be
    seen: Float  # (3,) m: where the goal point lies according to front picture and calibration; middle of the patches
    aim: Float  # (K, 3) m: where the arm must believe the goal point to be, to reach it


@dataclass(frozen=True)
class Demo:
    """One skill, start to end, one row per control step."""

    skill: Skill
    seed: int  # number of the episode within its skill and round
    q: Float  # (T, 6) measured
    command: Float  # (T, 6) sent last, before this step
    target: Float  # (T, 6) what the expert wants at this step
    done: Float  # (T,) 1 where the expert has finished
    use: Float  # (T,) 1 where the row is a label to learn from, 0 where it is only history
    goal: Float  # (3,) m, base frame
    to: Float  # (3,)
    pictures: Pictures | None = None


def save_shard(path: Path, demos: Sequence[Demo]) -> None:
    """Write demonstrations of one skill; the file appears only when complete."""
    skills = {demo.skill for demo in demos}
    if len(skills) != 1:
        raise ValueError(f"a shard holds demonstrations of exactly one skill, not of {sorted(skills) or 'none'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.concatenate([getattr(demo, key) for demo in demos]).astype(np.float32) for key in _ROWS}
    arrays |= {
        "length": np.array([len(demo.q) for demo in demos]),
        "goal": np.stack([demo.goal for demo in demos]),
        "to": np.stack([demo.to for demo in demos]),
        "seed": np.array([demo.seed for demo in demos]),
        "skill": np.array(SKILLS.index(demos[0].skill)),
        "format": np.array(FORMAT),
        **_picture_arrays(demos),
    }
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(path)


def _picture_arrays(demos: Sequence[Demo]) -> dict[str, NDArray[Any]]:
    shown = [demo.pictures for demo in demos if demo.pictures is not None]
    if not shown:
        return {}
    if len(shown) != len(demos):
        raise ValueError("a shard holds demonstrations that all have pictures, or none that has")
    arrays = {
        "rows": np.concatenate([p.rows for p in shown]).astype(np.int64),
        "shown": np.array([len(p.rows) for p in shown]),
        "seen": np.stack([p.seen for p in shown]),
        "aim": np.concatenate([p.aim for p in shown]),
    }
    for camera, film in shown[0].images.items():
        frames = [frame for p in shown for frame in p.images[camera].frames]
        arrays |= {
            _FILM + camera: np.frombuffer(b"".join(frames), np.uint8),
            "length_" + camera: np.array([len(frame) for frame in frames]),
            "shape_" + camera: np.array(film.shape),
            _EYE + camera: np.concatenate([p.eyes[camera] for p in shown]),
        }
    return arrays


def _pictures(stored: Mapping[str, NDArray[Any]]) -> list[Pictures | None]:
    if "shown" not in stored:
        return [None] * len(stored["length"])
    films = {}
    for key in stored:
        if key.startswith(_FILM):
            camera = key.removeprefix(_FILM)
            content, cuts = stored[key].tobytes(), np.cumsum(stored["length_" + camera])
            starts = cuts - stored["length_" + camera]
            frames = [content[start:end] for start, end in zip(starts.tolist(), cuts.tolist(), strict=True)]
            height, width, channels = stored["shape_" + camera].tolist()
            films[camera] = ((height, width, channels), frames)
    ends = np.cumsum(stored["shown"])
    return [
        Pictures(
            rows=stored["rows"][end - count : end],
            images={name: Film(shape, tuple(frames[end - count : end])) for name, (shape, frames) in films.items()},
            eyes={name: stored[_EYE + name][end - count : end] for name in films},
            seen=stored["seen"][index],
            aim=stored["aim"][end - count : end],
        )
        for index, (end, count) in enumerate(zip(ends, stored["shown"], strict=True))
    ]


def load_shard(path: Path) -> list[Demo]:
    """Read one shard. Raises ``CheckpointError`` when it is not one."""
    try:
        # Opened here, since numpy leaves its own handle open when the archive inside is broken.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT:
                raise CheckpointError(
                    f"{path} has data format {int(file['format'])}, not {FORMAT}; delete it to collect anew"
                )
            stored = {key: file[key] for key in file.files}
            ends = np.cumsum(stored["length"])
            pictures = _pictures(stored)
            return [
                Demo(
                    skill=SKILLS[int(stored["skill"])],
                    seed=int(stored["seed"][index]),
                    goal=stored["goal"][index],
                    to=stored["to"][index],
                    pictures=pictures[index],
                    **{key: stored[key][end - length : end].astype(np.float64) for key in _ROWS},
                )
                for index, (end, length) in enumerate(zip(ends, stored["length"], strict=True))
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is no shard of demonstrations: {error}; delete it to collect anew") from error


class DemoSet:
    """Many demonstrations as flat arrays, from which random batches are drawn."""

    def __init__(self, demos: Iterable[Demo], horizon: int, *, seeing: bool = False) -> None:
        """``seeing``: only rows with pictures are drawn. Raises ``CheckpointError`` if there is nothing to draw."""
        from policies.features import HISTORY

        demos = list(demos)
        if not demos:
            raise CheckpointError(
                "there are no demonstrations to learn from; collect some with `embodied train policy`"
            )
        lengths = np.array([len(demo.q) for demo in demos])
        starts = np.cumsum(lengths) - lengths
        row = np.arange(lengths.sum())
        episode = np.repeat(np.arange(len(demos)), lengths)
        first, last = starts[episode], (starts + lengths - 1)[episode]

        q = np.concatenate([demo.q for demo in demos]).astype(np.float32)
        command = np.concatenate([demo.command for demo in demos]).astype(np.float32)
        target = np.concatenate([demo.target for demo in demos]).astype(np.float32)
        past = [q[np.maximum(row - steps, first)] for steps in HISTORY]
        self.episode = episode
        self.skill = np.array([SKILLS.index(demo.skill) for demo in demos])[episode]  # (N,)
        one_hot = np.eye(len(SKILLS), dtype=np.float32)[self.skill]
        goal = np.stack([demo.goal for demo in demos]).astype(np.float32)[episode]
        to = np.stack([demo.to for demo in demos]).astype(np.float32)[episode]
        #: (N, RAW_WIDTH), see policies/features.py
        self.raw = np.concatenate([q, command, *past, one_hot, goal, to], axis=1)
        # Past the end of a demonstration the expert would keep its last target.
        ahead = np.minimum(row[:, None] + np.arange(horizon), last[:, None])  # (N, H)
        self.chunk = target[ahead]  # (N, H, 6)
        self.chunk[:, :, :5] -= q[:, None, :5]
        self.done = np.concatenate([demo.done for demo in demos]).astype(np.float32)  # (N,)
        usable = np.concatenate([demo.use for demo in demos]) > 0.5
        if seeing:
            self._shown = _all_pictures(demos)
            self._picture = np.full(len(row), -1)  # of each row: which of its episode's pictures, or none
            for shown, start in zip(self._shown, starts, strict=True):
                self._picture[start + shown.rows] = np.arange(len(shown.rows))
            usable &= self._picture >= 0
        self.usable = np.flatnonzero(usable)
        # Skills with short demonstrations must not drown: every skill gets the same share of a batch.
        share = 1.0 / np.bincount(self.skill[self.usable], minlength=len(SKILLS)).clip(1)
        weight = share[self.skill[self.usable]]
        self._cumulative = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return len(self.usable)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Row numbers (size,) of a random batch, balanced over skills."""
        return self.usable[np.searchsorted(self._cumulative, rng.random(size)).clip(max=len(self.usable) - 1)]

    def images(self, rows: NDArray[np.int64], camera: str) -> NDArray[np.uint8]:
        """The pictures (B, P, P, 3) of rows that were drawn."""
        return np.stack([self._shown[self.episode[row]].images[camera][self._picture[row]] for row in rows])

    def eyes(self, rows: NDArray[np.int64], camera: str) -> NDArray[np.float32]:
        """Of each row: where a camera is believed to be (B, 3), m."""
        shown = [self._shown[self.episode[row]].eyes[camera][self._picture[row]] for row in rows]
        return np.stack(shown).astype(np.float32)

    def seen(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of each row: where the front picture has the goal point, and where the arm must aim to reach it, (B, 3) m each."""
        shown = [self._shown[episode] for episode in self.episode[rows]]
        aim = [pictures.aim[which] for pictures, which in zip(shown, self._picture[rows], strict=True)]
        return np.stack([p.seen for p in shown]).astype(np.float32), np.stack(aim).astype(np.float32)


def _all_pictures(demos: Sequence[Demo]) -> list[Pictures]:
    shown = [demo.pictures for demo in demos if demo.pictures is not None]
    if len(shown) != len(demos):
        raise CheckpointError(
            f"{len(demos) - len(shown)} of {len(demos)} demonstrations have no pictures, and this policy learns from "
            "pictures; collect them anew"
        )
    return shown
