"""Tasks about many objects: sort by colour, sort by kind, clear the table, and chains of other tasks."""

from __future__ import annotations

import math

from hardware.errors import SceneError
from sim.conditions import All, In
from sim.scene import GRASPABLE, ObjectSpec
from sim.tasks.fixtures import close_drawer, open_drawer, press_button
from sim.tasks.layout import Layout
from sim.tasks.placing import beside, place, stack
from sim.tasks.single import push
from sim.tasks.task import Family, Part, Step, any_of, free_colors, joined, put_new

#: Distance (m) from a container's middle at which the first, second and third object are let go.
_RING_M = 0.018


def _into(container: ObjectSpec, specs: list[ObjectSpec]) -> tuple[All, list[Step]]:
    """Several objects into one container, side by side."""
    steps: list[Step] = []
    for k, spec in enumerate(specs):
        turn = math.tau * k / max(len(specs), 2)
        ring = _RING_M if len(specs) > 1 else 0.0
        offset = (ring * math.cos(turn), ring * math.sin(turn))
        steps += [Step("pick", spec.name), Step("place", spec.name, "in", container.name, offset_m=offset)]
    return All(tuple(In(spec.name, container.name) for spec in specs)), steps


def sort_by_color(layout: Layout) -> Part:
    """Put the objects of two colours into the bowls of those colours."""
    chosen = free_colors(layout, (*GRASPABLE, "bowl"))[:2]
    if len(chosen) < 2:
        raise SceneError("there are no two colours left to sort by")
    bowls = [put_new(layout, "bowl", color) for color in chosen]
    parts = []
    for color, bowl in zip(chosen, bowls, strict=True):
        kinds = layout.rng.permutation(len(GRASPABLE))[: int(layout.rng.integers(1, 3))]
        condition, steps = _into(bowl, [put_new(layout, GRASPABLE[k], color) for k in kinds])
        parts.append(Part("", condition, tuple(steps)))
    merged = joined(parts)
    return Part("sort the objects by colour into the bowls of their colour", merged.condition, merged.steps)


def sort_by_kind(layout: Layout) -> Part:
    """Put all objects of one kind into one container and those of another kind into another."""
    containers = [put_new(layout, any_of(layout, ("bowl", "tray"))) for _ in range(2)]
    first, second = (GRASPABLE[k] for k in layout.rng.permutation(len(GRASPABLE))[:2])
    parts = []
    for kind, container in zip((first, second), containers, strict=True):
        condition, steps = _into(container, [put_new(layout, kind) for _ in range(int(layout.rng.integers(1, 3)))])
        relation = "in" if container.kind == "bowl" else "on"
        parts.append(Part(f"the {kind}s {relation} the {container.label}", condition, tuple(steps)))
    merged = joined(parts)
    return Part(f"put {parts[0].words} and {parts[1].words}", merged.condition, merged.steps)


def clear_table(layout: Layout) -> Part:
    """Put everything that can be picked up on a tray."""
    tray = put_new(layout, "tray")
    count = int(layout.rng.integers(2, 4))
    condition, steps = _into(tray, [put_new(layout, any_of(layout, GRASPABLE)) for _ in range(count)])
    return Part(f"clear the table: put everything on the {tray.label}", condition, tuple(steps))


#: What a chain is made of.
LINKS: tuple[Family, ...] = (
    place, place, stack, push, beside("left"), beside("right"), open_drawer, close_drawer, press_button,
)  # fmt: skip


def chain(layout: Layout) -> Part:
    """Two to five tasks in a row, each with objects of its own."""
    length = int(layout.rng.choice([2, 3, 4, 5], p=[0.4, 0.3, 0.2, 0.1]))
    parts = [LINKS[int(layout.rng.integers(len(LINKS)))](layout) for _ in range(length)]
    return joined(parts)
