"""One step of an instruction: what should happen to which objects, its skill calls, and its words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from embodied.language import references
from embodied.language.patterns import Phrase, Segment
from embodied.language.templates import patterns_for
from embodied.language.view import DIRECTION_XY, PUSH_M, Item, View, beside
from embodied.language.words import BESIDE_WORDS, INTO, TOWARDS_WORDS, Voice, pick
from embodied.plan import Close, Direction, Home, Open, Pick, Place, Point, Press, Push, Reach, Relation, SkillCall
from sim.scene import CONTAINERS, Kind

DIRECTIONS: tuple[Direction, ...] = ("left", "right", "front", "behind")
#: Kinds of single steps and their weights inside chains and refusals.
STEP_WEIGHTS: dict[str, float] = {
    "reach": 0.10, "pick": 0.20, "put_in": 0.24, "put_on": 0.11, "relation": 0.13,
    "push": 0.10, "open": 0.05, "close": 0.05, "press": 0.06, "home": 0.03,
}  # fmt: skip
#: The fraction of training steps that may name a spot or push that is blocked or out of reach: people do that.
CARELESS = 0.3


@dataclass(frozen=True, slots=True)
class Step:
    """``x`` is acted on, ``y`` is the destination or reference; ``where`` a relation or a direction."""

    kind: str
    x: Item | None = None
    y: Item | None = None
    where: str = ""
    vague: bool = False  # "next to": the side is chosen by ``side_towards_middle``

    def calls(self) -> tuple[SkillCall, ...]:
        """The skill calls that carry it out."""
        if self.x is None:
            return (Home(),)
        x, label = self.x, self.x.label
        if self.kind in _SINGLE:
            return (_SINGLE[self.kind](object=label, point=x.foot),)
        if self.kind == "push":
            return (Push(object=label, point=x.foot, direction=self.where),)  # type: ignore[arg-type]
        if self.y is None:
            raise ValueError(f"a step of kind {self.kind!r} needs a destination")
        return carry(x, self.y, self.where)


_SINGLE: dict[str, type[Reach] | type[Pick] | type[Open] | type[Close] | type[Press]] = {
    "reach": Reach, "pick": Pick, "open": Open, "close": Close, "press": Press,
}  # fmt: skip


def carry(x: Item, y: Item, where: str = "") -> tuple[SkillCall, ...]:
    """Pick ``x`` up and put it in, on or beside ``y``; without ``where`` the kind of ``y`` says which."""
    relation: Relation = where or ("in" if y.kind in CONTAINERS else "on")  # type: ignore[assignment]
    top: Point | None = y.top if relation == "on" else None
    return (
        Pick(object=x.label, point=x.foot),
        Place(relation=relation, object=y.label, point=y.foot, top=top),
    )


def side_towards_middle(reference: Item) -> Direction:
    """Which side "next to" means: the one towards the middle of the picture, where the arm surely reaches."""
    return "left" if reference.foot[0] > 0.5 else "right"


def candidates(kind: str, view: View) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Items that can be the ``x`` and the ``y`` of a step of that kind."""
    if kind == "reach":
        return view.items, ()
    if kind in ("pick", "push"):
        return view.movable, ()
    if kind in ("open", "close"):
        return view.matching(None, "drawer"), ()
    if kind == "press":
        return view.matching(None, "button"), ()
    if kind == "put_in":
        return view.movable, view.containers
    if kind == "put_on":
        return view.movable, view.supports
    if kind == "relation":
        return view.movable, tuple(i for i in view.items if not i.inside and not i.covered and i.kind != "drawer")
    return (), ()


def needs_destination(kind: str) -> bool:
    """Whether steps of that kind have a ``y``."""
    return kind in ("put_in", "put_on", "relation")


def make(kind: str, view: View, voice: Voice, *, careful: bool, taken: frozenset[str] = frozenset()) -> Step | None:
    """A random step; None when the view has nothing for it. ``taken``: objects that earlier steps have moved.

    ``careful`` demands that the spot of a relation or push is free and in reach.
    """
    if kind == "home":
        return Step("home")
    dice = voice.dice
    xs, ys = candidates(kind, view)
    xs = tuple(x for x in xs if x.name not in taken)
    ys = tuple(y for y in ys if y.name not in taken)
    if not xs:
        return None
    x = dice.choice(xs)
    if not needs_destination(kind):
        if kind != "push":
            return Step(kind, x)
        ways = [way for way in DIRECTIONS if not careful or _can_push(x, way, view)]
        return Step("push", x, where=dice.choice(ways)) if ways else None
    ys = tuple(y for y in ys if y is not x and not (kind == "put_in" and _lies_in(x, y)))
    if not ys:
        return None
    y = dice.choice(ys)
    if kind != "relation":
        return Step(kind, x, y)
    ways = [way for way in DIRECTIONS if not careful or view.is_free(beside(y, way), 0.5 * x.size_m + 0.004, (x,))]
    side = side_towards_middle(y)
    if side in ways and abs(y.foot[0] - 0.5) > 0.05 and dice.random() < 0.12:
        return Step("relation", x, y, side, vague=True)
    return Step("relation", x, y, dice.choice(ways)) if ways else None


def _can_push(x: Item, way: str, view: View) -> bool:
    """Whether the end and the middle of a push are free and in reach, and the gripper fits in behind the object."""
    dx, dy = DIRECTION_XY[way]
    spots = [(x.xy[0] + d * dx, x.xy[1] + d * dy) for d in (PUSH_M, 0.5 * PUSH_M, -0.5 * x.size_m - 0.02)]
    return all(view.is_free(spot, 0.5 * x.size_m, (x,)) for spot in spots)


def _lies_in(x: Item, container: Item) -> bool:
    return x.inside and math.dist(x.xy, container.xy) < 0.5 * container.size_m


def phrases_for(step: Step, view: View, voice: Voice, *, style: str = "any") -> dict[str, Phrase] | None:
    """Unique words for the objects of a step. ``style``: any, plain, spatial or size; None when none is possible."""
    found: dict[str, Phrase] = {}
    # the special style goes to one slot, the other stays plain
    special = voice.dice.choice("xy") if step.y is not None else "x"
    for slot, item, other in (("x", step.x, step.y), ("y", step.y, step.x)):
        if item is None:
            continue
        wanted = style if style in ("spatial", "size") and slot == special else "plain" if style != "any" else "any"
        phrase = _phrase(item, other, view, voice, wanted, second=slot == "y")
        if phrase is None:
            return None
        found[slot] = phrase
    return found


def _phrase(item: Item, other: Item | None, view: View, voice: Voice, style: str, *, second: bool) -> Phrase | None:
    if style == "spatial":
        return references.spatial(item, view, voice)
    if style == "size":
        return references.by_size(item, view, voice)
    if second and other is not None and voice.dice.random() < 0.25:
        phrase = references.the_other(item, other, view, voice)
        if phrase is not None:
            return phrase
    if (phrase := references.plain(item, view, voice)) is not None or style == "plain":
        return phrase
    return references.spatial(item, view, voice) or references.by_size(item, view, voice)


def say(
    step: Step, phrases: Mapping[str, Phrase], voice: Voice, *, imperative: bool = False
) -> tuple[list[Segment], bool]:
    """Words of a step, and whether they are a statement. ``imperative`` allows no statement (inside chains)."""
    patterns = patterns_for(step.kind, voice)
    pattern = voice.dice.choice([p for p in patterns if not p.statement] if imperative else patterns)
    return pattern.expand(voice.dice, slots_for(step, phrases, voice)), pattern.statement


def slots_for(
    step: Step, phrases: Mapping[str, Phrase], voice: Voice, *, into: Kind | None = None
) -> dict[str, Phrase]:
    """All slots of a step's patterns. ``into``: the kind of destination when there is no item (an absent one)."""
    slots: dict[str, Phrase] = dict(phrases)
    if "x" in slots:
        names = slots["x"][0][1]
        slots["it"] = (("it" if voice.dice.random() < 0.95 else pick(voice.dice, "that|this one"), names),)
    kind = into or (step.y.kind if step.y is not None else None)
    if kind is not None:
        slots["in"] = ((pick(voice.dice, INTO[kind]), None),)
    if step.kind == "relation":
        slots["rel"] = ((pick(voice.dice, BESIDE_WORDS["next" if step.vague else step.where]), None),)
    if step.kind == "push":
        slots["dir"] = ((pick(voice.dice, TOWARDS_WORDS[step.where]), None),)
    return slots
