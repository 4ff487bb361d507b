"""Tasks about one object: reach, pick, push."""

from __future__ import annotations

import math

from hardware.errors import SceneError
from sim.conditions import DIRECTION_XY, Direction, Held, Pushed, Reached
from sim.scene import GRASPABLE, KINDS
from sim.tasks.layout import Layout, in_reach
from sim.tasks.task import Part, Step, any_of, put_new

#: How far (m) a push slides an object.
PUSH_M = 0.08
DIRECTIONS: tuple[Direction, ...] = tuple(DIRECTION_XY)
_PUSH_WORDS: dict[Direction, str] = {
    "left": "to the left", "right": "to the right", "front": "to the front", "behind": "to the back",
}  # fmt: skip


def reach(layout: Layout) -> Part:
    """Bring the gripper above an object."""
    spec = put_new(layout, any_of(layout, KINDS))
    return Part(f"reach for the {spec.label}", Reached(spec.name), (Step("reach", spec.name),))


def pick(layout: Layout) -> Part:
    """Lift an object."""
    spec = put_new(layout, any_of(layout, GRASPABLE))
    return Part(f"pick up the {spec.label}", Held(spec.name), (Step("pick", spec.name),))


def push(layout: Layout) -> Part:
    """Slide an object some way in a direction of the picture."""
    spec = put_new(layout, any_of(layout, GRASPABLE))
    direction = DIRECTIONS[int(layout.rng.integers(len(DIRECTIONS)))]
    dx, dy = DIRECTION_XY[direction]
    way = [(spec.position[0] + share * PUSH_M * dx, spec.position[1] + share * PUSH_M * dy) for share in (0.5, 1.0)]
    if not all(in_reach(s) and layout.free(s, 0.5 * spec.size_m, ignore=frozenset((spec.name,))) for s in way):
        raise SceneError(f"the way {direction} of {spec.name!r} is not free")
    for spot in way:
        layout.keep_free(spot, 0.5 * math.sqrt(2.0) * spec.size_m)
    words = f"push the {spec.label} {_PUSH_WORDS[direction]}"
    return Part(words, Pushed(spec.name, direction, PUSH_M), (Step("push", spec.name, direction=direction),))
