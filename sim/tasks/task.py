"""What a task is: objects put on the table, words, the steps that lead there, and the condition that says it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardware.errors import SceneError
from sim.conditions import All, Condition
from sim.scene import COLORS, GRASPABLE, Color, Kind, ObjectSpec, Scene
from sim.tasks.layout import Layout

#: Times a task is drawn anew when the table is full before it is given up.
_DRAWS = 200


@dataclass(frozen=True)
class Step:
    """One thing to do, in terms of objects (privileged): ``skill`` is reach, pick, place, push, open, close or press."""

    skill: str
    object: str
    relation: str = ""  # place: in, on, left, right, front, behind
    reference: str = ""  # place: the other object
    direction: str = ""  # push
    offset_m: tuple[float, float] = (0.0, 0.0)  # place in: where in the container, away from its middle


@dataclass(frozen=True)
class Part:
    """What one family of tasks added to a layout."""

    words: str
    condition: Condition
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class TaskSample:
    """One episode's task, as data."""

    task: str
    scene: Scene
    instruction: str
    condition: Condition
    steps: tuple[Step, ...]


#: Puts the objects of a task on the table and says what is to be done with them. Raises ``SceneError`` when it is full.
Family = Callable[[Layout], Part]


@dataclass(frozen=True)
class Task:
    """A named source of task samples."""

    name: str
    family: Family
    distractors: int = 2  # at most

    def sample(self, rng: np.random.Generator) -> TaskSample:
        """Draw scene, instruction and condition. Raises ``SceneError`` if the table was full every time."""
        for _ in range(_DRAWS):
            layout = Layout(rng)
            try:
                part = self.family(layout)
                for _ in range(int(rng.integers(0, self.distractors + 1))):
                    put_new(layout, any_of(layout, GRASPABLE))
            except SceneError:
                continue
            scene = Scene(objects=tuple(layout.specs))
            return TaskSample(self.name, scene, part.words, part.condition, part.steps)
        raise SceneError(f"the objects of the task {self.name!r} found no room on the table in {_DRAWS} draws")


def any_of(layout: Layout, kinds: tuple[Kind, ...]) -> Kind:
    """One of several kinds at random."""
    return kinds[int(layout.rng.integers(len(kinds)))]


def free_colors(layout: Layout, kinds: tuple[Kind, ...]) -> list[Color]:
    """Colours that no object of any of those kinds has yet, in random order."""
    used = {spec.color for spec in layout.specs if spec.kind in kinds}
    left = [color for color in COLORS if color not in used]
    return [left[i] for i in layout.rng.permutation(len(left))]


def put_new(layout: Layout, kind: Kind, color: Color | None = None, *, opening: float = 0.0) -> ObjectSpec:
    """A new object; its label is the only one of its sort. Raises ``SceneError`` without room or a free colour."""
    if color is None:
        color = next(iter(free_colors(layout, (kind,))), None)
    if color is None or any(s.kind == kind and s.color == color for s in layout.specs):
        raise SceneError(f"there is already a {kind} of every colour")
    return layout.put(kind, color, opening=opening)


def joined(parts: list[Part]) -> Part:
    """Several parts as one, done in order."""
    words = parts[0].words + "".join(f", then {part.words}" for part in parts[1:])
    return Part(words, All(tuple(p.condition for p in parts)), tuple(step for part in parts for step in part.steps))
