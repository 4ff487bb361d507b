"""Questions drawn at random: scenes with an instruction about them and the plan it means.

Question ``k`` of seed ``s`` draws everything from ``default_rng([FIRST + s, k])``, so it is the same on every machine and
can be repeated alone. The seeds of training and evaluation never meet, because training's are smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embodied.score import FIRST, Question, front_camera
from hardware.errors import EmbodiedError, SceneError

if TYPE_CHECKING:
    from sim.scene import Kind
    from sim.world import World

_NEEDED: dict[str, tuple[Kind, ...]] = {
    "pick": ("cube",), "put_in": ("cube", "bowl"), "put_on": ("cube", "cube"), "relation": ("cube", "cylinder"),
    "reach": ("ball",), "push": ("cube",), "open": ("drawer",), "close": ("drawer",), "press": ("button",),
    "chain": ("cube", "bowl", "cylinder"), "group": ("cube", "cube", "tray"), "clear": ("cube", "ball", "tray"),
    "sort": ("cube", "cylinder", "bowl", "tray"),
}  # fmt: skip


def question(seed: int, index: int, kind: str | None, split: str, world: World | None = None) -> Question:
    """The ``index``-th question of a suite. ``kind``: of instruction, drawn by weight when None.

    With a ``world`` questions are drawn again while any part of what they ask is already so: closing a shut drawer would
    count as a success of whoever does nothing. The world is left with the question's scene.
    """
    from embodied.language import example, scene_fits
    from sim.generate import random_scene

    rng = np.random.default_rng([FIRST + seed, index])
    for _ in range(1000):
        try:
            scene = random_scene(rng, kinds_required=_NEEDED.get(kind, ()) if kind else ())
            if not scene_fits(scene, split):  # type: ignore[arg-type]
                continue
            asked = example(scene, front_camera(scene), rng, split=split, kind=kind)  # type: ignore[arg-type]
        except SceneError:
            continue  # the scene has nothing for this kind of instruction: draw another
        found = Question(index, (seed, index), scene, asked.instruction, asked.plan, asked.kind)
        if world is None or not already_so(found, world):
            return found
    raise EmbodiedError(f"no scene for instructions of kind {kind!r} in the split {split!r} was found in 1000 draws")


def already_so(asked: Question, world: World) -> bool:
    """Whether any condition of a question holds before anything has moved. Loads its scene into ``world``."""
    world.load(asked.scene)
    return so_now(asked, world)


def so_now(asked: Question, world: World) -> bool:
    """Whether any condition of a question holds in ``world`` as it is."""
    from embodied.language.view import look
    from embodied.referee import conditions_of
    from sim.conditions import Start, holds

    start = Start.of(world)
    view = look(asked.scene, front_camera(asked.scene))
    return any(holds(world, condition, start) for condition in conditions_of(asked.truth, view))
