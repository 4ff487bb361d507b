"""Demonstrations: how they are collected, stored and turned into training batches.

A demonstration is one skill carried out by a scripted expert from start to end. The expert may look into the simulator; what
is stored of it is only what the policy will be given (joints, commands, goal points) and what the expert wanted. Shards are
``.npz`` files of ``SHARD`` demonstrations each, written whole or not at all, so an interrupted collection goes on where it
stopped.

    <data>/demos/seed0-pick-0003-25.npz        q (N, 6), command (N, 6), target (N, 6), done (N,), use (N,)
                                               length (E,), goal (E, 3), to (E, 3), seed (E,), skill, format
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hardware.errors import CheckpointError
from policies.goal import SKILLS, Skill

Float = NDArray[np.float64]
FORMAT = 1
#: Demonstrations per file.
SHARD = 25
_ROWS = ("q", "command", "target", "done", "use")


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
    }
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    partial.replace(path)


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
            return [
                Demo(
                    skill=SKILLS[int(stored["skill"])],
                    seed=int(stored["seed"][index]),
                    goal=stored["goal"][index],
                    to=stored["to"][index],
                    **{key: stored[key][end - length : end].astype(np.float64) for key in _ROWS},
                )
                for index, (end, length) in enumerate(zip(ends, stored["length"], strict=True))
            ]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no shard of demonstrations: {error}; delete it to collect anew") from error


class DemoSet:
    """Many demonstrations as flat arrays, from which random batches are drawn."""

    def __init__(self, demos: Iterable[Demo], horizon: int) -> None:
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
        self.usable = np.flatnonzero(np.concatenate([demo.use for demo in demos]) > 0.5)
        # Skills with short demonstrations must not drown: every skill gets the same share of a batch.
        share = 1.0 / np.bincount(self.skill[self.usable], minlength=len(SKILLS)).clip(1)
        weight = share[self.skill[self.usable]]
        self._cumulative = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return len(self.usable)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Row numbers (size,) of a random batch, balanced over skills."""
        return self.usable[np.searchsorted(self._cumulative, rng.random(size)).clip(max=len(self.usable) - 1)]
