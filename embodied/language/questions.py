"""Questions about a picture and their answers: where something is, whether something is so, what there is.

The truth comes from the scene that was rendered. Questions whose answer would be a matter of opinion (is it *left of*,
when it is as far in front?) are not asked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embodied.language import references
from embodied.language.holdout import HELD_OUT_LABELS, Split
from embodied.language.patterns import Pattern, Phrase, compile_patterns
from embodied.language.surface import Mention, typed
from embodied.language.view import DIRECTION_XY, Item, View, look
from embodied.language.words import BESIDE_WORDS, INTO, NAMED, Voice, pick
from hardware.camera_model import CameraModel
from sim.scene import COLORS, CONTAINERS, GRASPABLE, KINDS, Scene

Manner = Literal["there", "in", "on", "beside", "drawer", "empty", "point", "points", "describe"]
Topic = Literal["there", "in", "on", "beside", "drawer", "empty", "point", "describe"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question. ``answer``: for yes/no questions; ``names``: the objects asked for, from left to right."""

    text: str
    topic: Topic
    answer: bool | None = None
    names: tuple[str, ...] = ()
    mentions: tuple[Mention, ...] = ()


_ASK: dict[str, tuple[str, ...]] = {
    "there": (
        "is there {a}?", "is there {a} on the table?", "(can|do) you see {a}?", "is {a} (there|present|visible)?",
        "does the (picture|table|scene) (have|contain|show) {a}?",
    ),
    "in": (
        "is {x} {in} {y}?", "is {x} {in} {y}?", "is {x} (now|already) {in} {y}?", "did {x} (end up|land) {in} {y}?",
        "does {y} (hold|contain) {x}?", "{x} {in} {y}?", "check that {x} is {in} {y}", "has {x} been put {in} {y}?",
    ),
    "on": (
        "is {x} {in} {y}?", "is {x} (now|already) {in} {y}?", "is {x} stacked {in} {y}?", "does {x} (stand|sit|rest) {in} {y}?",
        "{x} {in} {y}?", "check that {x} is {in} {y}", "has {x} been put {in} {y}?",
    ),
    "beside": (
        "is {x} {rel} {y}?", "is {x} {rel} {y}?", "is {x} (now|already) {rel} {y}?", "does {x} (stand|lie) {rel} {y}?",
        "{x} {rel} {y}?", "check that {x} is {rel} {y}",
    ),
    "drawer": ("is {x} {state}?", "is {x} {state} now?", "{x} {state}?", "check that {x} is {state}", "has {x} been {state2}?"),
    "empty": ("is {y} empty?", "is nothing {in} {y}?", "is {y} (still|already) empty?", "check that {y} is empty"),
    "point": (
        "{x}", "{x}", "{x}", "where is {x}?", "where is {x}?", "find {x}", "locate {x}", "point to {x}", "point at {x}",
        "show me {x}", "show me where {x} is",
    ),
    "points": ("{x}", "{x}", "find {x}", "locate {x}", "point to {x}", "point at {x}", "show me {x}", "where are {x}?"),
    "describe": (
        "list the objects", "list the objects", "list all objects", "what is on the table?", "what do you see?",
        "what objects are there?", "name everything on the table", "what can you see on the table?",
    ),
}  # fmt: skip
_ASK_HELD_OUT: dict[str, tuple[str, ...]] = {
    "there": ("is there any sign of {a}?", "tell me whether there is {a}", "would you say {a} is here?"),
    "in": ("has {x} made it {in} {y}?", "can {x} be found {in} {y}?", "tell me whether {x} is {in} {y}"),
    "on": ("has {x} made it {in} {y}?", "tell me whether {x} is {in} {y}", "do you find {x} {in} {y}?"),
    "beside": ("tell me whether {x} is {rel} {y}", "do you find {x} {rel} {y}?", "would you say {x} is {rel} {y}?"),
    "drawer": ("tell me whether {x} is {state}", "would you say {x} is {state}?"),
    "empty": ("tell me whether {y} is empty", "would you say {y} is empty?"),
    "point": ("tell me where {x} is", "where can {x} be found?", "mark {x}", "in which place is {x}?"),
    "points": ("tell me where {x} are", "mark {x}", "where can {x} be found?"),
    "describe": ("tell me what there is", "give me a list of what is here", "which things are on the table?"),
}
_PATTERNS = {topic: compile_patterns(sources, NAMED) for topic, sources in _ASK.items()}
_PATTERNS_HELD_OUT = {topic: compile_patterns(sources, NAMED) for topic, sources in _ASK_HELD_OUT.items()}
_STATES = {True: ("open", "opened", "open"), False: ("closed", "closed", "shut")}


@dataclass(frozen=True)
class _Asker:
    """What the makers of questions share."""

    view: View
    voice: Voice
    scene: Scene
    forbidden: frozenset[str]

    @property
    def dice(self) -> random.Random:
        return self.voice.dice

    def say(self, topic: Manner, slots: dict[str, Phrase]) -> tuple[str, tuple[Mention, ...]]:
        patterns: dict[str, tuple[Pattern, ...]] = _PATTERNS_HELD_OUT if self.voice.held_out else _PATTERNS
        segments = self.dice.choice(patterns[topic]).expand(self.dice, slots)
        return typed(segments, self.voice, typos=False)

    def name(self, item: Item) -> Phrase | None:
        """Words that single an item out."""
        roll = self.dice.random()
        if roll < 0.12 and (words := references.spatial(item, self.view, self.voice)) is not None:
            return words
        return references.plain(item, self.view, self.voice)


def verify_questions(
    scene: Scene, camera: CameraModel, rng: np.random.Generator, count: int, *, split: Split = "train"
) -> list[Question]:
    """Up to ``count`` yes/no questions about a scene, half of them to be answered with yes as far as it allows."""
    return _questions(scene, camera, rng, count, split, _VERIFY)


def locate_questions(
    scene: Scene, camera: CameraModel, rng: np.random.Generator, count: int, *, split: Split = "train"
) -> list[Question]:
    """Up to ``count`` questions where something is; ``names`` is empty when it is nowhere."""
    return _questions(scene, camera, rng, count, split, ((1.0, _locate),))


def describe_questions(
    scene: Scene, camera: CameraModel, rng: np.random.Generator, count: int, *, split: Split = "train"
) -> list[Question]:
    """Up to ``count`` requests to list what is there."""
    return _questions(scene, camera, rng, count, split, ((1.0, _describe),))


_Maker = Callable[["_Asker"], "Question | None"]


def _questions(
    scene: Scene,
    camera: CameraModel,
    rng: np.random.Generator,
    count: int,
    split: Split,
    makers: tuple[tuple[float, _Maker], ...],
) -> list[Question]:
    view = look(scene, camera)
    found: list[Question] = []
    weights, functions = [w for w, _ in makers], [f for _, f in makers]
    forbidden = frozenset() if split == "novel" else HELD_OUT_LABELS
    for seed in rng.integers(2**62, size=4 * count):
        dice = random.Random(int(seed))
        voice = Voice(
            dice, held_out=split == "paraphrase", bare=dice.random() < 0.08, plain=dice.random() < 0.4,
            kinds=frozenset(item.kind for item in view.items),
        )  # fmt: skip
        made = dice.choices(functions, weights)[0](_Asker(view, voice, scene, forbidden))
        if made is not None:
            found.append(made)
            if len(found) == count:
                break
    return found


def _left_to_right(items: tuple[Item, ...]) -> tuple[str, ...]:
    return tuple(item.name for item in sorted(items, key=lambda item: item.foot[0]))


def _there(asker: _Asker) -> Question | None:
    view, dice = asker.view, asker.dice
    yes = dice.random() < 0.42
    if yes:
        if not view.items:
            return None
        item = dice.choice(view.items)
        color, kind = item.color, item.kind
    else:
        color, kind = dice.choice(COLORS), dice.choice(KINDS)
        roll = dice.random()
        if view.items and roll < 0.4:
            color = dice.choice(view.items).color
        elif view.items and roll < 0.9:
            kind = dice.choice(view.items).kind
        if view.matching(color, kind) or f"{color} {kind}" in asker.forbidden:
            return None
    words = references.words_for(color, kind, asker.voice)
    names = tuple(i.name for i in view.matching(color, kind))
    article = "an " if words[0] in "aeiou" else "a "
    text, mentions = asker.say("there", {"a": ((article + words, names),)})
    return Question(text, "there", yes, mentions=mentions)


def _where(asker: _Asker, item: Item) -> Item | None:
    """The container that an item lies in or the object it stands on; None for the table."""
    spec = asker.scene.find(item.name)
    best = None
    for other in asker.view.items:
        if other is item or other.kind in ("drawer", "button", "ball"):
            continue
        holder = asker.scene.find(other.name)
        near = math.dist(spec.position, holder.position) < 0.5 * holder.size_m
        if near and (other.kind in CONTAINERS or spec.z > holder.z + 0.5 * holder.height_m):
            best = other if best is None or holder.z > asker.scene.find(best.name).z else best
    return best


def _resting(asker: _Asker) -> Question | None:
    """Whether something is in or on something."""
    view, dice = asker.view, asker.dice
    things = [i for i in view.items if i.kind in GRASPABLE]
    holders = [i for i in view.items if i.kind in (*CONTAINERS, "cube", "cylinder")]
    if not things or not holders:
        return None
    placed = [i for i in things if _where(asker, i) is not None]
    yes = bool(placed) and dice.random() < 0.8
    if yes:
        x = dice.choice(placed)
        y = _where(asker, x)
    else:
        # Hard ones first: something that lies in another place than the one asked for, or a full one asked of another.
        x = dice.choice(placed) if placed and dice.random() < 0.4 else dice.choice(things)
        own = _where(asker, x)
        if own is not None and own.kind not in CONTAINERS and _where(asker, own) is not None:
            return None  # on a cube in a bowl: is it in the bowl?
        full = [h for h in holders if h not in (x, own) and any(_where(asker, i) is h for i in things)]
        others = [h for h in holders if h not in (x, own)]
        if not others:
            return None
        y = dice.choice(full) if full and dice.random() < 0.4 else dice.choice(others)
        if _where(asker, y) is x:
            return None
    if y is None or (words_x := asker.name(x)) is None or (words_y := asker.name(y)) is None:
        return None
    topic: Topic = "in" if y.kind in CONTAINERS else "on"
    into: Phrase = ((pick(dice, INTO[y.kind]), None),)
    text, mentions = asker.say(topic, {"x": words_x, "y": words_y, "in": into})
    return Question(text, topic, yes, mentions=mentions)


def _beside(asker: _Asker) -> Question | None:
    view, dice = asker.view, asker.dice
    items = [i for i in view.items if i.kind != "drawer"]
    if len(items) < 2:
        return None
    x, y = dice.sample(items, 2)
    offset = (x.xy[0] - y.xy[0], x.xy[1] - y.xy[1])
    along = {side: offset[0] * d[0] + offset[1] * d[1] for side, d in DIRECTION_XY.items()}
    side = max(along, key=lambda s: along[s])
    across = math.sqrt(max(math.hypot(*offset) ** 2 - along[side] ** 2, 0.0))
    yes = dice.random() < 0.5
    if along[side] < 0.03 or (yes and across > 0.6 * along[side]):
        return None
    if not yes:
        side = dice.choice([s for s in along if along[s] < 0.2 * abs(along[side])])
    if (words_x := asker.name(x)) is None or (words_y := asker.name(y)) is None:
        return None
    relation: Phrase = ((pick(dice, BESIDE_WORDS[side]), None),)
    text, mentions = asker.say("beside", {"x": words_x, "y": words_y, "rel": relation})
    return Question(text, "beside", yes, mentions=mentions)


def _drawer(asker: _Asker) -> Question | None:
    drawers = asker.view.matching(None, "drawer")
    if not drawers:
        return None
    item = asker.dice.choice(drawers)
    opening = asker.scene.find(item.name).opening
    if 0.15 < opening < 0.7 or (words := references.plain(item, asker.view, asker.voice)) is None:
        return None
    claim = asker.dice.random() < 0.5
    plain, done, other = _STATES[claim]
    state = plain if asker.dice.random() < 0.7 else other
    slots: dict[str, Phrase] = {"x": words, "state": ((state, None),), "state2": ((done, None),)}
    text, mentions = asker.say("drawer", slots)
    return Question(text, "drawer", claim == (opening > 0.5), mentions=mentions)


def _empty(asker: _Asker) -> Question | None:
    view = asker.view
    full: list[Item] = []
    bare: list[Item] = []
    for holder in view.containers:
        held = any(_where(asker, i) is holder for i in view.items if i.kind in GRASPABLE)
        (full if held else bare).append(holder)
    yes = asker.dice.random() < 0.5
    choices = bare if yes else full
    if not choices or (words := asker.name(y := asker.dice.choice(choices))) is None:
        return None
    into: Phrase = ((pick(asker.dice, INTO[y.kind]), None),)
    text, mentions = asker.say("empty", {"y": words, "in": into})
    return Question(text, "empty", yes, mentions=mentions)


def _locate(asker: _Asker) -> Question | None:
    view, dice, voice = asker.view, asker.dice, asker.voice
    roll = dice.random()
    phrase: Phrase | None
    names: tuple[str, ...]
    manner: Manner = "point"
    if roll < 0.2:  # nothing that is there
        color, kind = dice.choice(COLORS), dice.choice(KINDS)
        if view.items and dice.random() < 0.8:
            near = dice.choice(view.items)
            color, kind = (near.color, kind) if dice.random() < 0.5 else (color, near.kind)
        if view.matching(color, kind) or f"{color} {kind}" in asker.forbidden:
            return None
        phrase, names = references.described(color, kind, voice, ()), ()
    elif roll < 0.45:  # several
        item = dice.choice(view.items) if view.items else None
        if item is None:
            return None
        by_color, by_kind = dice.choice(((False, True), (True, False), (True, True), (False, False)))
        tint, noun = item.color if by_color else None, item.kind if by_kind else None
        group = view.matching(tint, noun)
        words = pick(dice, "objects|things")
        if by_color or by_kind:
            words = references.words_for(tint, noun, voice, plural=True)
        names, manner = _left_to_right(group), "points"
        phrase = ((pick(dice, "all the |all |every one of the ") + words, names),)
    else:
        if not view.items:
            return None
        item = dice.choice(view.items)
        makers = (references.plain, references.plain, references.plain, references.spatial, references.by_size)
        phrase, names = dice.choice(makers)(item, view, voice), (item.name,)
    if phrase is None:
        return None
    text, mentions = asker.say(manner, {"x": phrase})
    return Question(text, "point", names=names, mentions=mentions)


def _describe(asker: _Asker) -> Question | None:
    text, _ = asker.say("describe", {})
    return Question(text, "describe", names=_left_to_right(asker.view.items))


_VERIFY: tuple[tuple[float, _Maker], ...] = (
    (0.22, _there),
    (0.45, _resting),
    (0.15, _beside),
    (0.1, _drawer),
    (0.08, _empty),
)
