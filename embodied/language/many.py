"""Instructions about several objects: groups, exceptions, lists, sorting, clearing the table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from embodied.language import references
from embodied.language.draft import Context, Draft
from embodied.language.patterns import Phrase, Segment
from embodied.language.steps import carry
from embodied.language.templates import patterns_for
from embodied.language.view import Item, View
from embodied.language.words import INTO, NUMBERS, Voice, pick
from embodied.plan import Home, SkillCall
from sim.scene import GRASPABLE

MAX_OBJECTS = 5
#: Neighbours in left-to-right order must be this far apart in the picture, or the order could not be seen.
MIN_GAP_U = 0.012
#: Of the training's instructions about several objects, those about work that is done already; scenes permitting.
DONE_SHARE = 0.5
_EXCEPT = "except|except|except for|but|but not|apart from|other than|besides|save"


@dataclass(frozen=True, slots=True)
class Group:
    """Objects in the order in which they will be moved, and words for them."""

    members: tuple[Item, ...]
    phrase: Phrase


def _before(context: Context, *containers: Item) -> View:
    """The view in which the words are said: at times one of earlier, with what lies in ``containers`` still on the table.

    An agent looks again after its work, with the same words, and must be told what is left, or that all is done.
    Evaluation does not ask about that: there, whoever does nothing would be right.
    """
    if not context.voice.invents or context.voice.dice.random() >= DONE_SHARE:
        return context.view
    return View(tuple(
        replace(item, inside=False) if any(_lies_in(item, c) for c in containers) else item for item in context.view.items
    ))  # fmt: skip


def _lies_in(item: Item, container: Item) -> bool:
    return item.inside and math.dist(item.xy, container.xy) < 0.5 * container.size_m


def _left_to_do(context: Context, pairs: Iterable[tuple[Item, Item]]) -> tuple[SkillCall, ...] | None:
    """The calls that carry each object to its container, without those that are there; None if one is in another."""
    now = {item.name: item for item in context.view.items}
    todo = [(item, home) for item, home in pairs if not _lies_in(now[item.name], home)]
    if any(now[item.name].inside for item, _ in todo):
        return None
    return tuple(call for item, home in todo for call in carry(item, home)) or (Home(),)


def _names(members: tuple[Item, ...]) -> tuple[str, ...]:
    return tuple(item.name for item in members)


def _ordered(members: tuple[Item, ...]) -> bool:
    return all(b.foot[0] - a.foot[0] >= MIN_GAP_U for a, b in pairwise(members))


def _loose(view: View, color: str | None = None, kind: str | None = None) -> tuple[Item, ...]:
    return tuple(i for i in view.loose if (not color or i.color == color) and (not kind or i.kind == kind))


def of_kind(view: View, voice: Voice, kind: str) -> Group | None:
    """ "all the cubes"."""
    members = _loose(view, kind=kind)
    if not members:
        return None
    item = members[0]
    return Group(members, ((_set_words(voice.noun(item.kind), voice.noun(item.kind, plural=True), members, voice),
                            _names(members)),))  # fmt: skip


def of_color(view: View, voice: Voice, color: str) -> Group | None:
    """ "everything red", meaning what can be picked up."""
    members = _loose(view, color=color)
    if not members:
        return None
    word = voice.color(members[0].color)
    if voice.dice.random() < 0.3:
        text = pick(voice.dice, f"everything {word}|everything that is {word}|anything {word}|all that is {word}")
    else:
        thing = pick(voice.dice, "thing|object|item|one")
        text = _set_words(f"{word} {thing}", f"{word} {thing}s", members, voice)
    return Group(members, ((text, _names(members)),))


def of_label(view: View, voice: Voice, color: str, kind: str) -> Group | None:
    """ "both red cubes"."""
    members = _loose(view, color=color, kind=kind)
    if len(members) < 2:
        return None
    item = members[0]
    word = voice.color(item.color)
    singular, plural = voice.noun(item.kind), voice.noun(item.kind, plural=True)
    return Group(members, ((_set_words(f"{word} {singular}", f"{word} {plural}", members, voice), _names(members)),))


def everything(view: View, voice: Voice) -> Group | None:
    """Whatever can be picked up and lies in no container."""
    if not view.loose:
        return None
    forms = (
        "everything|everything|all the things|all the objects|all objects|every object|everything on the table"
        "|all the objects on the table|all the stuff|all of it|all of them|everything you can pick up|all items"
    )
    return Group(view.loose, ((pick(voice.dice, forms), _names(view.loose)),))


def _set_words(singular: str, plural: str, members: tuple[Item, ...], voice: Voice) -> str:
    forms = f"all the {plural}|all the {plural}|all {plural}|all of the {plural}|every {singular}|each {singular}"
    if len(members) > 1:
        number = NUMBERS[len(members)]
        forms += f"|the {plural}|the {plural}|the {number} {plural}|all {number} {plural}"
    if len(members) == 2:
        forms = f"{forms.replace('|all two ' + plural, '')}|both {plural}|both the {plural}|both of the {plural}"
    return pick(voice.dice, forms)


def without(view: View, voice: Voice) -> Group | None:
    """ "everything except the red cube", "all the cubes but the blue one", "everything that is not red"."""
    dice = voice.dice
    if len(view.loose) < 2:
        return None
    left_out = dice.choice(view.loose)
    kind_only = dice.random() < 0.3
    base = of_kind(view, voice, left_out.kind) if kind_only else everything(view, voice)
    if base is None:
        return None
    roll = dice.random()
    same_color = tuple(i for i in base.members if i.color == left_out.color)
    if kind_only:
        if len(base.members) < 2:
            return None
        excluded = same_color if roll < 0.3 else (left_out,)
        if roll >= 0.3 and len(same_color) > 1:
            return None
        color = voice.color(left_out.color)
        singular, plural = voice.noun(left_out.kind), voice.noun(left_out.kind, plural=True)
        negated = pick(dice, f"every {singular} that is not {color}|all {plural} that are not {color}")
        phrase: Phrase = (
            ((negated, _names(_minus(base.members, excluded))),)
            if roll < 0.3
            else (*base.phrase, (f" {pick(dice, _EXCEPT)} ", None), (f"the {color} one", _names(excluded)))
        )
    elif roll < 0.55:
        words = references.plain(left_out, view, voice)
        if words is None:
            return None
        excluded = (left_out,)
        phrase = (*base.phrase, (f" {pick(dice, _EXCEPT)} ", None), *words)
    elif roll < 0.8:
        excluded = _loose(view, kind=left_out.kind)
        noun = voice.noun(left_out.kind, plural=len(excluded) > 1)
        phrase = (*base.phrase, (f" {pick(dice, _EXCEPT)} ", None), (f"the {noun}", _names(excluded)))
    else:
        excluded = same_color
        negated = f"everything that is not {voice.color(left_out.color)}"
        phrase = ((negated, _names(_minus(base.members, excluded))),)
    members = _minus(base.members, excluded)
    return Group(members, phrase) if members else None


def _minus(members: tuple[Item, ...], excluded: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(item for item in members if item not in excluded)


def listed(view: View, voice: Voice) -> Group | None:
    """ "the red cube, the green ball and the blue cube", moved in the order spoken."""
    dice = voice.dice
    several = [i for i in view.loose if len(view.matching(i.color, i.kind)) == 1]
    if len(several) < 2:
        return None
    count = min(len(several), 2 if dice.random() < 0.65 else 3 if dice.random() < 0.8 else 4)
    members = tuple(dice.sample(several, count))
    phrase: list[Segment] = []
    for index, item in enumerate(members):
        words = references.plain(item, view, voice)
        if words is None:
            return None
        if index:
            last = index == count - 1
            phrase.append((dice.choice((" and ", " and ", ", and ", " and also ") if last else (", ",)), None))
        phrase += words
    return Group(members, tuple(phrase))


_SINGULAR = ("every", "each", "anything", "all that is", "all the stuff", "all of it")


def verbs_for(group: Phrase, voice: Voice) -> dict[str, Phrase]:
    """Verbs that agree with the words for a group."""
    one = group[0][0].startswith(_SINGULAR) and not group[0][0].startswith(("every single one", "everyone"))
    goes = "goes|belongs|needs to go|has to go" if one else "go|belong|need to go|have to go"
    return {
        "goes": ((pick(voice.dice, f"{goes}|should go|should be|must go|must be"), None),),
        "is": (("is" if one else "are", None),),
        "lands": ((pick(voice.dice, "lands|winds up" if one else "land|wind up"), None),),
    }


def _fits(group: Group | None, *, in_order: bool = True) -> bool:
    return group is not None and 1 <= len(group.members) <= MAX_OBJECTS and (not in_order or _ordered(group.members))


def build_group(context: Context) -> Draft | None:
    """Several objects into one container."""
    view, voice = context.view, context.voice
    dice = voice.dice
    if not view.containers or not (view.loose or voice.invents):
        return None
    y = dice.choice(view.containers)
    view = _before(context, y)
    if not view.loose:
        return None
    y_words = references.plain(y, view, voice)
    if y_words is None:
        return None
    sample = dice.choice(view.loose)
    roll = dice.random()
    if roll < 0.25:
        group = of_kind(view, voice, sample.kind)
    elif roll < 0.40:
        group = of_color(view, voice, sample.color)
    elif roll < 0.47:
        group = of_label(view, voice, sample.color, sample.kind) or everything(view, voice)
    elif roll < 0.55:
        group = everything(view, voice)
    elif roll < 0.78:
        group = without(view, voice)
    else:
        group = listed(view, voice)
    if group is None or not _fits(group, in_order=roll < 0.78):
        return None
    if len(group.members) == 1 and roll < 0.4 and dice.random() < 0.6:
        return None  # "all the cubes" of one is rare
    slots = {"g": group.phrase, "y": y_words, "in": ((pick(dice, INTO[y.kind]), None),)}
    slots |= verbs_for(group.phrase, voice)
    pattern = dice.choice(patterns_for("group", voice))
    calls = _left_to_do(context, ((item, y) for item in group.members))
    return None if calls is None else Draft(pattern.expand(dice, slots), calls, pattern.statement)


def build_sort(context: Context) -> Draft | None:
    """Two groups into two containers, or each object into the container of its colour."""
    view, voice = context.view, context.voice
    dice = voice.dice
    if len(view.containers) < 2 or (len(view.loose) < 2 and not voice.invents):
        return None
    if dice.random() < 0.6 and (draft := _sort_by_color(context)) is not None:
        return draft
    y, z = dice.sample(view.containers, 2)
    view = _before(context, y, z)
    if len(view.loose) < 2:
        return None
    y_words, z_words = references.plain(y, view, voice), references.plain(z, view, voice)
    if y_words is None or z_words is None:
        return None
    a, b = dice.sample(view.loose, 2)
    if dice.random() < 0.6:
        if a.kind == b.kind:
            return None
        g, h = of_kind(view, voice, a.kind), of_kind(view, voice, b.kind)
    else:
        if a.color == b.color:
            return None
        g, h = of_color(view, voice, a.color), of_color(view, voice, b.color)
    if g is None or h is None or not _fits(g) or not _fits(h) or len(g.members) + len(h.members) > MAX_OBJECTS:
        return None
    slots = {
        "g": g.phrase, "h": h.phrase, "y": y_words, "z": z_words,
        "in": ((pick(dice, INTO[y.kind]), None),), "in2": ((pick(dice, INTO[z.kind]), None),),
        **verbs_for(g.phrase, voice), "goes2": verbs_for(h.phrase, voice)["goes"],
    }  # fmt: skip
    pattern = dice.choice(patterns_for("sort_explicit", voice))
    calls = _left_to_do(context, ((item, home) for group, home in ((g, y), (h, z)) for item in group.members))
    return None if calls is None else Draft(pattern.expand(dice, slots), calls, pattern.statement)


def color_matches(view: View) -> tuple[tuple[Item, Item], ...]:
    """(object, the one container of its colour), left to right; empty when a colour has two containers."""
    homes = {container.color: container for container in view.containers}
    if len(homes) < len(view.containers):
        return ()
    return tuple((item, homes[item.color]) for item in view.loose if item.color in homes)


def _sort_by_color(context: Context) -> Draft | None:
    """Objects whose colour has no container stay where they are."""
    dice = context.voice.dice
    view = _before(context, *context.view.containers)
    pairs = color_matches(view)
    if not 1 <= len(pairs) <= MAX_OBJECTS or not _ordered(tuple(item for item, _ in pairs)):
        return None
    names = _names(view.loose)
    slots: dict[str, Phrase] = {
        "all": ((pick(dice, "the objects|everything|the things|all the objects|them|the table"), names),),
        "each": ((pick(dice, "each object|every object|each thing|everything|each one|every item"), names),),
    }
    pattern = dice.choice(patterns_for("sort_color", context.voice))
    calls = _left_to_do(context, pairs)
    return None if calls is None else Draft(pattern.expand(dice, slots), calls, pattern.statement)


def build_clear(context: Context) -> Draft | None:
    """Everything that can be picked up into one container, left to right."""
    view, voice = context.view, context.voice
    dice = voice.dice
    if not view.containers or any(i.kind in GRASPABLE and i.covered for i in view.items):
        return None
    # Before the dice are used, so that evaluation's questions stay the same; below again for an earlier view.
    if not voice.invents and not (1 <= len(view.loose) <= MAX_OBJECTS and _ordered(view.loose)):
        return None
    y = dice.choice(view.containers)
    view = _before(context, y)
    if not 1 <= len(view.loose) <= MAX_OBJECTS or not _ordered(view.loose):
        return None
    calls = _left_to_do(context, ((item, y) for item in view.loose))
    if calls is None:
        return None
    if len(view.containers) == 1 and dice.random() < 0.5:
        pattern = dice.choice(patterns_for("clear", voice))
        return Draft(pattern.expand(dice, {}), calls, pattern.statement)
    y_words = references.plain(y, view, voice)
    if y_words is None:
        return None
    pattern = dice.choice(patterns_for("clear_into", voice))
    slots = {"y": y_words, "in": ((pick(dice, INTO[y.kind]), None),)}
    return Draft(pattern.expand(dice, slots), calls, pattern.statement)
