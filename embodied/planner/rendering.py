"""Training pictures: random scenes rendered once into shards, given new instructions each time they are used.

A shard is two files: ``scenes-00012.npy`` (N, 192, 256, 3) uint8 and ``scenes-00012.jsonl`` (N scenes), the second
written last, so that a shard whose ``.jsonl`` is there is whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.planner.picture import HEIGHT, WIDTH, shrink
from hardware.errors import SceneError
from sim.scene import COLORS, Color, Kind, Scene

SHARD = 250
#: Share of pictures taken at the camera's own size and scaled down, as a user's camera picture is; the others are
#: rendered directly at the model's size (three times cheaper, and rougher at the edges).
FULL_SIZE_SHARE = 0.25
#: Share of pictures with the arm somewhere over the table instead of near its rest pose.
BUSY_ARM_SHARE = 0.1
#: Share of pictures as they look after some work: things in containers, on one another, drawers open.
ARRANGED_SHARE = 0.45
#: Share of pictures with things where pushing and putting beside leave them: beside the base, at the edge, close together.
DISPLACED_SHARE = 0.4
#: Share of scenes with the objects that the harder instructions need (several of a kind in few colours, drawers, buttons):
#: what comes by chance leaves them too rare.
RICH_SHARE = 0.5
RICH: tuple[tuple[Kind, ...], ...] = (
    ("cube", "cube"), ("cube", "cube", "cube"), ("cylinder", "cylinder"), ("ball", "ball"), ("cube", "cube", "cylinder"),
    ("ball", "ball", "ball"), ("cube", "cylinder", "bowl", "tray"), ("bowl", "bowl", "cube"), ("drawer", "cube"),
    ("drawer", "ball", "ball"), ("button", "cube", "cube"), ("plate", "plate", "ball"),
    ("cube", "cube", "cylinder", "bowl", "drawer", "button"), ("cube", "cylinder", "drawer", "button"),
)  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One file pair, opened lazily."""

    path: Path  # the .jsonl

    def scenes(self) -> list[Scene]:
        """The scenes in order."""
        return [Scene.model_validate_json(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def images(self) -> NDArray[np.uint8]:
        """(N, 192, 256, 3), memory-mapped."""
        images: NDArray[np.uint8] = np.load(self.path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        return images


def shards(folder: Path) -> list[Shard]:
    """The whole shards of a folder."""
    return [Shard(path) for path in sorted(folder.glob("scenes-*.jsonl"))]


def render_shards(folder: Path, *, first: int, last: int, seed: int, size: int = SHARD) -> None:
    """Write the shards ``first`` … ``last - 1`` that are missing. The same seed gives the same pictures."""
    from sim.world import World

    folder.mkdir(parents=True, exist_ok=True)
    world: World | None = None
    for index in range(first, last):
        path = folder / f"scenes-{index:05d}.jsonl"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, index])
        scenes, images = [], np.empty((size, HEIGHT, WIDTH, 3), np.uint8)
        for row in range(size):
            scene = training_scene(rng)
            if world is None:
                world = World(scene, renderer="tiny")
            else:
                world.load(scene)
            images[row] = take(world, rng)
            scenes.append(scene)
        np.save(path.with_suffix(".npy"), images, allow_pickle=False)
        part = path.with_suffix(f".part{os.getpid()}")
        part.write_text(
            "".join(scene.model_dump_json(exclude_defaults=True) + "\n" for scene in scenes), encoding="utf-8"
        )
        os.replace(part, path)
    if world is not None:
        world.close()


def training_scene(rng: np.random.Generator) -> Scene:
    """A random scene without held-out colour and kind pairs, look and camera varied."""
    from embodied.language import scene_fits
    from sim.generate import arranged, displaced, random_scene

    while True:
        required: tuple[Kind, ...] = ()
        colors: list[Color] | None = None
        if rng.random() < RICH_SHARE:
            required = RICH[int(rng.integers(len(RICH)))]
            if rng.random() < 0.6:
                colors = [COLORS[i] for i in rng.choice(len(COLORS), int(rng.integers(1, 4)), replace=False)]
        vary_camera = bool(rng.random() < 0.7)
        try:
            scene = random_scene(rng, kinds_required=required, colors=colors, n_objects=(2, 8), vary_camera=vary_camera)
        except SceneError:
            continue
        if scene_fits(scene, "train"):
            if rng.random() < DISPLACED_SHARE:
                scene = displaced(scene, rng)
            return arranged(scene, rng) if rng.random() < ARRANGED_SHARE else scene


def take(world: object, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The front camera's picture at the model's size, arm near its rest pose most of the time."""
    from hardware.arm_spec import SO101
    from sim.world import World

    if not isinstance(world, World):
        raise TypeError(f"expected a World, got {type(world).__name__}")
    home = np.asarray(SO101.home, float)
    spread = 0.35 if rng.random() < BUSY_ARM_SHARE else 0.02
    noise = rng.normal(0.0, spread, 6)
    world.reset_arm(np.clip(home + noise, SO101.lower, SO101.upper))
    if rng.random() < FULL_SIZE_SHARE:
        return shrink(world.render("front").rgb, smooth=bool(rng.random() < 0.5))
    return np.asarray(world.render("front", size=(WIDTH, HEIGHT)).rgb, np.uint8)
