"""Referring expressions: words that single out one object of a view, or that deliberately fail to.

Every expression made here for one object is *unique* in the picture, and clearly so: "the leftmost cube" is used only
when it is further left than the next by a visible margin, "the bigger ball" only when it is bigger by a fifth.
"""

from __future__ import annotations

import math
from itertools import pairwise

from embodied.language.patterns import Phrase
from embodied.language.view import Item, View
from embodied.language.words import ORDINALS, Voice, invented, pick
from sim.scene import CONTAINERS, Color, Kind

#: Margins by which a superlative must hold: picture coordinates, metres, and the ratio of sizes.
MARGIN_UV = 0.05
MARGIN_M = 0.03
MARGIN_SIZE = 1.2

#: How often a noun or a colour that nobody knows stands where the other word is enough.
INVENTED_SHARE = 0.035

_THINGS = "thing|object|item"
#: One expression with its noun written ``%``; the text may hold alternatives separated by ``|``.
_LEFTMOST = "the leftmost %|the leftmost %|the % furthest to the left|the % on the far left|the % farthest left"
_RIGHTMOST = _LEFTMOST.replace("left", "right")
_LEFT_OF_TWO = "the left %|the % on the left|the left-hand %|the % on the left side"
_RIGHT_OF_TWO = _LEFT_OF_TWO.replace("left", "right")
_FRONTMOST = "the % closest to the camera|the % nearest to the camera|the frontmost %|the % furthest forward"
_FRONT_OF_TWO = "the % in front|the front %|the % at the front|the % closer to the camera"
_BACKMOST = "the % furthest from the camera|the % farthest from the camera|the % furthest back|the rearmost %"
_BACK_OF_TWO = "the % at the back|the back %|the % in the back|the rear %"
_ORDINAL = "the @ % from the #|the @ % from the #|the @ % counting from the #"
_MIDDLE = "the middle %|the % in the middle|the center %|the % between the others"
_BIGGEST = "the biggest %|the largest %|the biggest %"
_BIGGER = "the bigger %|the larger %|the big %|the large %|the bigger %"
_SMALLEST = "the smallest %|the tiniest %|the littlest %"
_SMALLER = "the smaller %|the small %|the little %|the smaller %|the tiny %"
#: "put the cube close to the bowl" would read as a destination; a superlative or "that is" does not.
_NEAREST = "nearest to|closest to|nearest|that is closest to|that is next to|which is nearest to"
_FARTHEST = "furthest from|farthest from|furthest away from|that is furthest from"


def described(color: Color | None, kind: Kind | None, voice: Voice, names: tuple[str, ...]) -> Phrase:
    """``the red cube``, ``the cube`` or ``the red one``, referring to ``names`` (none: to nothing that is there)."""
    return ((voice.the + words_for(color, kind, voice), names),)


def words_for(color: Color | None, kind: Kind | None, voice: Voice, *, plural: bool = False) -> str:
    """Colour and noun without an article; a missing kind becomes a word such as "thing"."""
    if kind is None:
        noun = pick(voice.dice, "ones|things|objects|items" if plural else f"one|one|{_THINGS}")
    else:
        noun = voice.noun(kind, plural=plural)
    return f"{voice.color(color)} {noun}" if color else noun


def canonical(color: Color | None, kind: Kind | None) -> str:
    """How plans name a description: ``red cube``, ``cube``, ``red object``, ``object``."""
    return " ".join(word for word in (color, kind or "object") if word)


def plain(item: Item, view: View, voice: Voice) -> Phrase | None:
    """By colour and kind, or by one of them where that is enough; None when both together are not enough."""
    dice, names = voice.dice, (item.name,)
    same = view.matching(item.color, item.kind)
    if len(same) > 1:
        return None
    if voice.invents and dice.random() < INVENTED_SHARE and (phrase := _half_known(item, view, voice)) is not None:
        return phrase
    roll = dice.random()
    if roll < 0.25 and len(view.matching(None, item.kind)) == 1:
        return described(None, item.kind, voice, names)
    if roll < 0.33 and len(view.matching(item.color, None)) == 1:
        return described(item.color, None, voice, names)
    if roll < 0.36 and item.kind in CONTAINERS and len(view.containers) == 1:
        return ((voice.the + pick(dice, "container|container|receptacle"), names),)
    if 0.97 < roll < 0.985:
        return ((pick(dice, "that |a |this ") + words_for(item.color, item.kind, voice), names),)
    if roll > 0.985 and item.kind not in ("drawer", "button"):
        return ((f"the {voice.noun(item.kind)} that is {voice.color(item.color)}", names),)
    return described(item.color, item.kind, voice, names)


def _half_known(item: Item, view: View, voice: Voice) -> Phrase | None:
    """ "the red blick", when nothing else is red; "the fip cube", when there is one cube."""
    if len(view.matching(item.color, None)) == 1:
        return ((f"{voice.the}{voice.color(item.color)} {invented(voice.dice)}", (item.name,)),)
    if len(view.matching(None, item.kind)) == 1:
        return ((f"{voice.the}{invented(voice.dice)} {voice.noun(item.kind)}", (item.name,)),)
    return None


def spatial(item: Item, view: View, voice: Voice) -> Phrase | None:
    """By where it lies in the picture: superlatives, ordinals, nearness to another object. None when nothing fits."""
    ways = [(make, group, noun) for group, noun in _groups(item, view, voice) for make in _SPATIAL]
    voice.dice.shuffle(ways)
    return next((phrase for make, group, noun in ways if (phrase := make(item, group, noun, view, voice))), None)


def by_size(item: Item, view: View, voice: Voice) -> Phrase | None:
    """By a comparison of sizes inside its kind. None when the sizes do not clearly differ."""
    for group, noun in _groups(item, view, voice):
        if any(other.kind != item.kind for other in group):
            continue
        sizes = sorted(other.size_m for other in group if other is not item)
        two = len(group) == 2
        if item.size_m >= MARGIN_SIZE * sizes[-1]:
            forms = _BIGGER if two and voice.dice.random() < 0.7 else _BIGGEST
        elif item.size_m * MARGIN_SIZE <= sizes[0]:
            forms = _SMALLER if two and voice.dice.random() < 0.7 else _SMALLEST
        else:
            continue
        return _fill(forms, noun, item, voice)
    return None


def the_other(item: Item, mentioned: Item, view: View, voice: Voice) -> Phrase | None:
    """ "the other cube", when the sentence has mentioned the only other one."""
    if item.kind == mentioned.kind and len(view.matching(None, item.kind)) == 2:
        return ((f"the other {voice.noun(item.kind)}", (item.name,)),)
    return None


def _groups(item: Item, view: View, voice: Voice) -> list[tuple[tuple[Item, ...], str]]:
    """The groups of two or more that an item can be singled out of, each with its noun."""
    found = []
    same = view.matching(None, item.kind)
    if len(same) > 1:
        found.append((same, voice.noun(item.kind)))
    twins = view.matching(item.color, item.kind)
    if 1 < len(twins) < len(same):
        found.append((twins, f"{voice.color(item.color)} {voice.noun(item.kind)}"))
    if len(view.matching(item.color, None)) > 1 and voice.dice.random() < 0.15:
        found.append((view.matching(item.color, None), f"{voice.color(item.color)} {pick(voice.dice, _THINGS)}"))
    if len(view.items) > 2 and voice.dice.random() < 0.15:
        found.append((view.items, pick(voice.dice, _THINGS)))
    return found


def _fill(forms: str, noun: str, item: Item, voice: Voice) -> Phrase:
    text = pick(voice.dice, forms).replace("%", noun)
    return ((text.removeprefix("the ") if voice.bare else text, (item.name,)),)


def _by_side(item: Item, group: tuple[Item, ...], noun: str, view: View, voice: Voice) -> Phrase | None:
    others = [other.foot for other in group if other is not item]
    u, v = item.foot
    two = len(others) == 1 and voice.dice.random() < 0.75
    forms = []
    if all(u < other[0] - MARGIN_UV for other in others):
        forms.append(_LEFT_OF_TWO if two else _LEFTMOST)
    if all(u > other[0] + MARGIN_UV for other in others):
        forms.append(_RIGHT_OF_TWO if two else _RIGHTMOST)
    if all(v > other[1] + MARGIN_UV for other in others):
        forms.append(_FRONT_OF_TWO if two else _FRONTMOST)
    if all(v < other[1] - MARGIN_UV for other in others):
        forms.append(_BACK_OF_TWO if two else _BACKMOST)
    return _fill(voice.dice.choice(forms), noun, item, voice) if forms else None


def _by_order(item: Item, group: tuple[Item, ...], noun: str, view: View, voice: Voice) -> Phrase | None:
    if not 3 <= len(group) <= 5:
        return None
    row = sorted(group, key=lambda other: other.foot[0])
    if any(b.foot[0] - a.foot[0] < 0.6 * MARGIN_UV for a, b in pairwise(row)):
        return None
    at = row.index(item)
    if len(row) == 3 and at == 1 and voice.dice.random() < 0.5:
        return _fill(_MIDDLE, noun, item, voice)
    if voice.dice.random() < 0.5:
        return _fill(_ORDINAL.replace("@", ORDINALS[at]).replace("#", "left"), noun, item, voice)
    return _fill(_ORDINAL.replace("@", ORDINALS[len(row) - 1 - at]).replace("#", "right"), noun, item, voice)


def _landmark(item: Item, group: tuple[Item, ...], view: View, voice: Voice) -> tuple[Item, Phrase] | None:
    candidates = [other for other in view.items if other not in group]
    voice.dice.shuffle(candidates)
    for other in candidates:
        if (phrase := plain(other, view, voice)) is not None:
            return other, phrase
    return None


def _by_nearness(item: Item, group: tuple[Item, ...], noun: str, view: View, voice: Voice) -> Phrase | None:
    if (landmark := _landmark(item, group, view, voice)) is None:
        return None
    mark, phrase = landmark
    distance = math.dist(item.xy, mark.xy)
    others = [math.dist(other.xy, mark.xy) for other in group if other is not item]
    if distance < min(others) - MARGIN_M:
        words = pick(voice.dice, _NEAREST)
    elif distance > max(others) + MARGIN_M:
        words = pick(voice.dice, _FARTHEST)
    else:
        return None
    return ((f"{voice.the}{noun} {words} ", (item.name,)), *phrase)


def _by_relation(item: Item, group: tuple[Item, ...], noun: str, view: View, voice: Voice) -> Phrase | None:
    """ "the cube to the left of the bowl", when every other cube is clearly not."""
    if (landmark := _landmark(item, group, view, voice)) is None:
        return None
    mark, phrase = landmark
    axis = voice.dice.randrange(2)
    ahead = [(other, other.foot[axis] - mark.foot[axis]) for other in group]
    mine = next(offset for other, offset in ahead if other is item)
    across = abs(item.foot[1 - axis] - mark.foot[1 - axis])
    if abs(mine) < 1.5 * MARGIN_UV or across > abs(mine):
        return None
    if any(offset * mine > -0.5 * MARGIN_UV * abs(mine) for other, offset in ahead if other is not item):
        return None
    if axis == 0:
        words = pick(voice.dice, "that is to the left of|that is left of|which is on the left of|that lies left of")
        words = words if mine < 0 else words.replace("left", "right")
    else:
        words = pick(voice.dice, "that is |which is |that lies ") + ("in front of" if mine > 0 else "behind")
    return ((f"{voice.the}{noun} {words} ", (item.name,)), *phrase)


_SPATIAL = (_by_side, _by_side, _by_order, _by_nearness, _by_relation)
