"""Tasks that put one object in, on or beside another."""

from __future__ import annotations

from hardware.errors import SceneError
from sim.conditions import DIRECTION_XY, Beside, Direction, In, On
from sim.scene import CONTAINERS, GRASPABLE, ObjectSpec
from sim.tasks.layout import GAP_M, Layout, in_reach
from sim.tasks.task import Family, Part, Step, any_of, put_new

#: Free table (m) between the outline of the reference and the middle of what is put beside it.
BESIDE_M = 0.045
_BESIDE_WORDS: dict[Direction, str] = {
    "left": "to the left of", "right": "to the right of", "front": "in front of", "behind": "behind",
}  # fmt: skip


def container(layout: Layout) -> ObjectSpec:
    """A container: one that is there already, sometimes, or a new one."""
    there = [spec for spec in layout.specs if spec.kind in CONTAINERS]
    if there and layout.rng.random() < 0.3:
        return there[int(layout.rng.integers(len(there)))]
    return put_new(layout, any_of(layout, CONTAINERS))


def place(layout: Layout) -> Part:
    """Put an object in a bowl, or on a tray or plate."""
    into = container(layout)
    spec = put_new(layout, any_of(layout, GRASPABLE))
    relation = "in" if into.kind == "bowl" else "on"
    words = f"put the {spec.label} {relation} the {into.label}"
    steps = Step("pick", spec.name), Step("place", spec.name, "in", into.name)
    return Part(words, In(spec.name, into.name), steps)


def stack(layout: Layout) -> Part:
    """Put a cube or cylinder on another."""
    support = put_new(layout, any_of(layout, ("cube", "cylinder")))
    spec = put_new(layout, any_of(layout, ("cube", "cylinder")))
    words = f"stack the {spec.label} on the {support.label}"
    steps = Step("pick", spec.name), Step("place", spec.name, "on", support.name)
    return Part(words, On(spec.name, support.name), steps)


def spot_beside(reference: ObjectSpec, relation: Direction) -> tuple[float, float]:
    """The spot (m) beside an object, on one side as seen in the front picture."""
    dx, dy = DIRECTION_XY[relation]
    distance = 0.5 * reference.size_m + BESIDE_M
    return reference.position[0] + dx * distance, reference.position[1] + dy * distance


def beside(relation: Direction) -> Family:
    """The family that puts an object on that side of another."""

    def family(layout: Layout) -> Part:
        reference = put_new(layout, any_of(layout, (*GRASPABLE, *CONTAINERS)))
        spec = put_new(layout, any_of(layout, GRASPABLE))
        spot = spot_beside(reference, relation)
        if not in_reach(spot) or not layout.free(spot, 0.5 * spec.size_m, ignore=frozenset((reference.name,))):
            raise SceneError(f"the spot {relation} of {reference.name!r} is not free")
        layout.keep_free(spot, 0.5 * spec.size_m + GAP_M)
        words = f"put the {spec.label} {_BESIDE_WORDS[relation]} the {reference.label}"
        steps = Step("pick", spec.name), Step("place", spec.name, relation, reference.name)
        return Part(words, Beside(spec.name, reference.name, relation), steps)

    return family
