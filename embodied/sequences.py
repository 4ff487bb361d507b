"""Sequences of instructions in one scene, one after another, as the CALVIN benchmark asks them.

    scene = rich_scene(seed, index, world)              # cubes, a cylinder, a bowl, a drawer and a button at least
    world.load(scene)
    for asked in instructions(world, seed, index):      # five; each is drawn when it is asked for
        ...                                             # do it in ``world``; leave the loop when it is not fulfilled

CALVIN (Mees et al., 2022) gives a robot five instructions in a row and never resets what is on the table; the sequence ends
at the first that is not fulfilled. Reported are the average number fulfilled and the share of sequences that got so far. As
there, the kinds of instructions take turns, and each is possible in the state that the ones before it should have led to.
Here that state is not predicted but looked at: an instruction is about the scene as it really is.

Not asked, because no plan can say it or because it cannot be done: taking or using what stands on another object (a plan's
points are feet on the table), putting things on what has fallen over, reaching what is out of reach, opening a drawer that
something stands in front of, or putting something there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embodied.drawn_questions import so_now
from embodied.score import FIRST, Question, front_camera
from embodied.statistics import Rate
from hardware.errors import EmbodiedError, PlanError, SceneError, UnreachableError

if TYPE_CHECKING:
    from embodied.language.view import View
    from sim.scene import Kind, ObjectSpec, Scene
    from sim.world import World

#: Instructions in a row.
LENGTH = 5
#: Steps that leave the hand empty and something changed; a pick would leave the next instruction with a full hand.
SEQUENCE_KINDS: tuple[str, ...] = ("put_in", "put_on", "relation", "push", "open", "close", "press")
#: After two of them were stacked there is still one to move.
_NEEDED: tuple[Kind, ...] = ("cube", "cube", "cylinder", "bowl", "drawer", "button")
#: A foot higher than this (m) stands on another object; the floor of a bowl is lower.
_RAISED_M = 0.015
#: Half the width (m) of the lane in which a drawer's handle travels, with the fingers that hold it.
_LANE_M = 0.03
#: Half the size (m) of the largest thing that can be carried.
_CARRIED_M = 0.017
_DRAWS = 8
_RESAMPLES = 2_000


def rich_scene(seed: int, index: int, world: World) -> Scene:
    """The scene of the ``index``-th sequence of a seed; the world is left with it.

    Drawn from ``default_rng([FIRST + seed, index, 0])``, again while there is nothing to ask about it.
    """
    from embodied.language import scene_fits
    from sim.generate import random_scene

    rng = np.random.default_rng([FIRST + seed, index, 0])
    for _ in range(1000):
        try:
            scene = random_scene(rng, kinds_required=_NEEDED)
        except SceneError:
            continue
        if not scene_fits(scene, "seen"):
            continue
        world.load(scene)
        if next(instructions(world, seed, index), None) is not None:
            return scene
    raise EmbodiedError(f"no scene for sequence {index} of seed {seed} was found in 1000 draws")


def instructions(world: World, seed: int, index: int) -> Iterator[Question]:
    """``LENGTH`` questions, each about the scene that ``world`` shows when it is drawn; fewer when nothing is left to ask.

    Nothing in the world moves by it; it only forgets past presses of buttons. The words of question ``k`` come from
    ``default_rng([FIRST + seed, index, k])``, counted from 1. None is about what is so already.
    """
    asked: list[str] = []
    for position in range(1, LENGTH + 1):
        rng = np.random.default_rng([FIRST + seed, index, position])
        found = _draw(world, rng, (seed, index), asked)
        if found is None:
            return
        asked.append(found.kind)
        yield found


def _draw(world: World, rng: np.random.Generator, seed: tuple[int, int], asked: Sequence[str]) -> Question | None:
    """A question that can be answered now; kinds that were asked least come first, in random order."""
    from embodied.language import example

    world.clear_presses()  # what was pressed before does not count any more
    scene, times = world.scene_now(), Counter(asked)
    for kind in sorted(rng.permutation(SEQUENCE_KINDS).tolist(), key=lambda kind: times[kind]):
        for _ in range(_DRAWS):
            try:
                drawn = example(scene, front_camera(scene), rng, split="seen", kind=kind)
            except SceneError:
                break  # the scene has nothing for this kind
            question = Question(seed[1], seed, scene, drawn.instruction, drawn.plan, drawn.kind)
            if _possible(question, world) and not so_now(question, world):
                return question
    return None


def _possible(asked: Question, world: World) -> bool:
    """Whether the true plan can be carried out in the world as it is."""
    from embodied.grounding import Grounder
    from embodied.language.view import look
    from embodied.plan import Place, Push

    scene, camera = asked.scene, front_camera(asked.scene)
    view = look(scene, camera)
    try:
        grounded = Grounder(camera, world.spec).check(asked.truth)
    except (PlanError, UnreachableError):
        return False
    for step in grounded:
        spec = _spec_of(step.call, scene, view)
        if spec is None or step.goal is None or abs(spec.z) > _RAISED_M:
            return False
        if isinstance(step.call, Place) and step.call.relation in ("in", "on"):
            if not world.object_upright(spec.name):
                return False
        elif isinstance(step.call, Place | Push) and _in_a_lane(step.goal.to, _CARRIED_M, scene):
            return False
        if spec.kind == "drawer" and any(
            _in_a_lane(o.position, 0.5 * o.size_m, scene) for o in scene.objects if o.kind != "drawer"
        ):
            return False
    return True


def _spec_of(call: object, scene: Scene, view: View) -> ObjectSpec | None:
    from embodied.referee import item_meant

    name, point = getattr(call, "object", ""), getattr(call, "point", None)
    item = None if point is None else item_meant(view, name, point)
    return None if item is None else scene.find(item.name)


def _in_a_lane(xy: Sequence[float] | np.ndarray, radius_m: float, scene: Scene) -> bool:
    """Whether something round at ``xy`` (m) is in the way of a drawer's handle, from shut to open."""
    from embodied.language.view import handle_foot

    for drawer in (o for o in scene.objects if o.kind == "drawer"):
        shut, pulled = (np.array(handle_foot(drawer.model_copy(update={"opening": opening}))) for opening in (0.0, 1.0))
        along = pulled - shut
        share = float(np.clip((np.asarray(xy[:2]) - shut) @ along / (along @ along), 0.0, 1.0))
        if math.dist(xy[:2], shut + share * along) < radius_m + _LANE_M:
            return True
    return False


@dataclass
class Lengths:
    """How many instructions in a row were fulfilled, sequence by sequence."""

    counts: list[int] = field(default_factory=list)

    def reached(self, length: int) -> Rate:
        """The share of sequences in which at least so many were fulfilled."""
        return Rate(sum(count >= length for count in self.counts), len(self.counts))

    @property
    def average(self) -> float:
        """The average length, 0..5; 0 without sequences."""
        return float(np.mean(self.counts)) if self.counts else 0.0

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """Bootstrap 95 % interval (percentiles) of the average length; (0, 5) without sequences.

        When all sequences are equally long it has no width, which only says that there were too few of them: the
        intervals of ``reached`` are honest then.
        """
        if not self.counts:
            return 0.0, float(LENGTH)
        rng = np.random.default_rng(seed)
        means = rng.choice(self.counts, (_RESAMPLES, len(self.counts))).mean(axis=1)
        low, high = np.percentile(means, (2.5, 97.5))
        return float(low), float(high)
