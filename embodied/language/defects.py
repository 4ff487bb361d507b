"""Instructions that must not be carried out as they stand: something is absent, ambiguous, impossible or unclear."""

from __future__ import annotations

from collections.abc import Callable

from embodied.language import many, references, speech, steps
from embodied.language.chains import clauses_for, draw_steps, join
from embodied.language.draft import Context, Draft, ask, refuse
from embodied.language.patterns import Phrase, Segment
from embodied.language.steps import STEP_WEIGHTS, Step
from embodied.language.templates import patterns_for
from embodied.language.view import SUPPORTS, Item
from embodied.language.words import INTO, TOWARDS_WORDS, pick
from sim.scene import COLORS, CONTAINERS, GRASPABLE, KINDS, Color, Kind

#: Things that no scene can hold; a refusal to look for them names no object.
_STRANGERS = (
    "banana|apple|cup|mug|bottle|spoon|fork|knife|screwdriver|hammer|book|phone|pen|pencil|key|shoe|sock|egg|duck|car"
    "|pyramid|cone|star|ring|triangle|cross|heart|cushion|marker|tower|wheel|dinosaur|sponge|toothbrush|coin|glass"
    "|tomato|carrot|teddy bear|scissors|stapler|mouse|keyboard|doll"
)
_STRANGE_COLORS = "brown|grey|gray|silver|beige|transparent|striped|brown|dotted|checkered"
_STEP_KINDS = tuple(kind for kind in STEP_WEIGHTS if kind != "home")
_STEP_KIND_WEIGHTS = tuple(STEP_WEIGHTS[kind] for kind in _STEP_KINDS)
Description = tuple[Color | None, Kind | None]


def _role(kind: str, slot: str) -> tuple[Kind, ...]:
    """Kinds of objects that make sense in a slot."""
    if slot == "y":
        return {"put_in": CONTAINERS, "put_on": SUPPORTS}.get(kind, (*GRASPABLE, *CONTAINERS, "button"))
    if kind in ("open", "close"):
        return ("drawer",)
    if kind == "press":
        return ("button",)
    return KINDS if kind == "reach" else GRASPABLE


def _absent(context: Context, role: tuple[Kind, ...]) -> Description | None:
    """A description of nothing that is there; mostly a near miss of something that is."""
    view, dice = context.view, context.voice.dice
    roll = dice.random()
    if roll < 0.08:
        kinds = [k for k in role if not view.matching(None, k)]
        return (None, dice.choice(kinds)) if kinds else None
    if roll < 0.12:
        colors = [c for c in COLORS if not view.matching(c, None)]
        return (dice.choice(colors), None) if colors else None
    color = dice.choice(COLORS)
    kind = dice.choice(role)
    present = [i.kind for i in view.items if i.kind in role]
    if view.items and roll < 0.55:  # a colour that is there, on another shape
        color = dice.choice(view.items).color
    elif present and roll < 0.92:  # a shape that is there, in another colour
        kind = dice.choice(present)
    if view.matching(color, kind) or f"{color} {kind}" in context.forbidden:
        return None
    return color, kind


def _fill_slots(context: Context, kind: str, broken: dict[str, Phrase], kinds: dict[str, Kind]) -> Draft | None:
    """Words of a step with some slots already broken; the others get real objects with plain words."""
    view, voice = context.view, context.voice
    dice = voice.dice
    phrases = dict(broken)
    used: Item | None = None
    for slot, items in zip("xy", steps.candidates(kind, view), strict=True):
        if slot in phrases or (slot == "y" and not steps.needs_destination(kind)):
            continue
        real = [i for i in items if len(view.matching(i.color, i.kind)) == 1 and i is not used]
        if not real:
            return None
        used = dice.choice(real)
        words = references.plain(used, view, voice)
        if words is None:
            return None
        phrases[slot] = words
        kinds = kinds | {slot: used.kind}
    step = Step(kind, where=dice.choice(steps.DIRECTIONS) if kind in ("relation", "push") else "")
    pattern = dice.choice(patterns_for(kind, voice))
    slots = steps.slots_for(step, phrases, voice, into=kinds.get("y"))
    return Draft(pattern.expand(dice, slots), (), pattern.statement)


def build_absent(context: Context) -> Draft | None:
    """One thing that is named is not there."""
    voice = context.voice
    dice = voice.dice
    if not context.view.containers and context.view.loose and dice.random() < 0.06:
        pattern = dice.choice(patterns_for("clear", voice))
        return Draft(pattern.expand(dice, {}), refuse("absent", "container"), pattern.statement)
    if dice.random() < 0.08:
        return _absent_group(context)
    kind = dice.choices(_STEP_KINDS, _STEP_KIND_WEIGHTS)[0]
    slot = "y" if steps.needs_destination(kind) and dice.random() < 0.45 else "x"
    broken: dict[str, Phrase] = {}
    kinds: dict[str, Kind] = {}
    role = _role(kind, slot)
    if dice.random() < 0.07:
        what = ""
        tint = f"{dice.choice(COLORS)} " if dice.random() < 0.3 else ""
        kinds[slot] = dice.choice(role)
        stranger = pick(dice, _STRANGERS)
        if dice.random() < 0.3:
            tint, stranger = f"{pick(dice, _STRANGE_COLORS)} ", voice.noun(kinds[slot])
        broken[slot] = ((f"{voice.the}{tint}{stranger}", ()),)
    else:
        description = _absent(context, role)
        if description is None:
            return None
        color, noun = description
        what = references.canonical(color, noun)
        broken[slot] = references.described(color, noun, voice, ())
        kinds[slot] = noun if noun is not None else dice.choice(role)
    draft = _fill_slots(context, kind, broken, kinds)
    if draft is None:
        return None
    return _perhaps_in_chain(Draft(draft.segments, refuse("absent", what), draft.statement), context)


def _absent_group(context: Context) -> Draft | None:
    """ "put all the balls in the bowl" without a ball, or all the cubes into a container that is not there."""
    view, voice = context.view, context.voice
    dice = voice.dice
    if dice.random() < 0.4:
        if not view.loose or (group := many.everything(view, voice)) is None:
            return None
        if dice.random() < 0.6:
            group = many.of_kind(view, voice, dice.choice(view.loose).kind) or group
        description = _absent(context, CONTAINERS)
        if description is None:
            return None
        g, y = group.phrase, references.described(*description, voice, ())
        y_kind: Kind = description[1] or "bowl"
    else:
        description = _absent(context, GRASPABLE)
        real = [c for c in view.containers if len(view.matching(c.color, c.kind)) == 1]
        if description is None or not real:
            return None
        container = dice.choice(real)
        words = references.plain(container, view, voice)
        if words is None:
            return None
        g = ((f"{pick(dice, 'all the|all|the|both')} {references.words_for(*description, voice, plural=True)}", ()),)
        y, y_kind = words, container.kind
    pattern = dice.choice(patterns_for("group", voice))
    slots = {"g": g, "y": y, "in": ((pick(dice, INTO[y_kind]), None),), **many.verbs_for(g, voice)}
    return Draft(pattern.expand(dice, slots), refuse("absent", references.canonical(*description)), pattern.statement)


def _perhaps_in_chain(draft: Draft, context: Context) -> Draft:
    """Sometimes a defect hides in one step of a longer instruction; the whole plan is still the speech act."""
    dice = context.voice.dice
    if draft.statement or dice.random() > 0.15:
        return draft
    drawn = draw_steps(context, 1)
    if drawn is None or (phrases := steps.phrases_for(drawn[0], context.view, context.voice, style="plain")) is None:
        return draft
    sound = [clause.segments for clause in clauses_for(drawn[0], phrases, context, split_up=False)]
    both: list[list[Segment]] = [draft.segments, *sound] if dice.random() < 0.5 else [*sound, draft.segments]
    return Draft(join(both, context), draft.calls)


def build_ambiguous(context: Context) -> Draft | None:
    """The words fit several objects, or leave out what is needed."""
    dice = context.voice.dice
    roll = dice.random()
    if roll < 0.17:
        return _incomplete(context)
    if roll < 0.25:
        return _which_container(context)
    kind = dice.choices(_STEP_KINDS, _STEP_KIND_WEIGHTS)[0]
    slot = "y" if steps.needs_destination(kind) and dice.random() < 0.45 else "x"
    items = steps.candidates(kind, context.view)["xy".index(slot)]
    if len(items) < 2:
        return None
    item = dice.choice(items)
    options: list[Description] = [(item.color, item.kind), (None, item.kind), (None, item.kind), (item.color, None)]
    color, noun = dice.choice(options)
    fitting = [i for i in items if color in (None, i.color) and noun in (None, i.kind)]
    # three are needed where the other slot might hold one of them: with two, "the cube" beside "the red cube" is clear
    if len(fitting) < (3 if steps.needs_destination(kind) and kind != "put_in" else 2):
        return None
    voice = context.voice
    words = references.described(color, noun, voice, tuple(i.name for i in fitting))
    if noun is not None and dice.random() < 0.12:
        many_words = references.words_for(color, noun, voice, plural=True)
        text = pick(dice, f"one of the {many_words}|any of the {many_words}|one of these {many_words}")
        words = ((text, words[0][1]),)
    draft = _fill_slots(context, kind, {slot: words}, {slot: item.kind})
    if draft is None:
        return None
    return _perhaps_in_chain(Draft(draft.segments, ask(references.canonical(color, noun)), draft.statement), context)


def _which_container(context: Context) -> Draft | None:
    view, voice = context.view, context.voice
    dice = voice.dice
    if len(view.containers) < 2 or not view.loose:
        return None
    if dice.random() < 0.5:
        pattern = dice.choice(patterns_for("clear", voice))
        return Draft(pattern.expand(dice, {}), ask("container"), pattern.statement)
    names = tuple(i.name for i in view.containers)
    words: Phrase = ((voice.the + pick(dice, "container|receptacle"), names),)
    draft = _fill_slots(context, "put_in", {"y": words}, {"y": "tray"})
    return None if draft is None else Draft(draft.segments, ask("container"), draft.statement)


def _incomplete(context: Context) -> Draft | None:
    """No object, no destination or no direction."""
    view, voice = context.view, context.voice
    dice = voice.dice
    what = dice.choice(("object", "destination", "direction"))
    pattern = dice.choice(patterns_for(f"no_{what}", voice))
    movable = [i for i in view.movable if len(view.matching(i.color, i.kind)) == 1]
    if not movable or not view.containers or (what == "object" and len(movable) < 2):
        return None
    x = references.plain(dice.choice(movable), view, voice)
    container = dice.choice(view.containers)
    y = references.plain(container, view, voice)
    if x is None or y is None:
        return None
    slots: dict[str, Phrase] = {
        "x": x, "y": y, "in": ((pick(dice, INTO[container.kind]), None),),
        "dir": ((pick(dice, TOWARDS_WORDS[dice.choice(steps.DIRECTIONS)]), None),),
    }  # fmt: skip
    return Draft(pattern.expand(dice, slots), ask(what), pattern.statement)


def build_impossible(context: Context) -> Draft | None:
    """What this arm or these objects cannot do, or what no arm can."""
    dice = context.voice.dice
    if dice.random() < 0.5:
        return _from_corpus(context, "impossible")
    return dice.choice(_IMPOSSIBLE_MAKERS)(context)


def _one(context: Context, kinds: tuple[Kind, ...]) -> tuple[Item, Phrase] | None:
    """A random item of those kinds with plain words."""
    items = [i for i in context.view.items if i.kind in kinds and len(context.view.matching(i.color, i.kind)) == 1]
    if not items:
        return None
    item = context.voice.dice.choice(items)
    words = references.plain(item, context.view, context.voice)
    return None if words is None else (item, words)


def _say_impossible(context: Context, kind: str, slots: dict[str, Phrase], item: Item, into: str = "") -> Draft:
    voice = context.voice
    pattern = voice.dice.choice(patterns_for(kind, voice))
    filled = steps.slots_for(Step(kind), slots, voice)
    filled["in"] = ((pick(voice.dice, into or "in"), None),)
    return Draft(pattern.expand(voice.dice, filled), refuse("impossible", item.label), pattern.statement)


def _grasp_the_ungraspable(context: Context) -> Draft | None:
    found = _one(context, (*CONTAINERS, "drawer", "button"))
    return None if found is None else _say_impossible(context, "pick", {"x": found[1]}, found[0])


def _carry_the_ungraspable(context: Context) -> Draft | None:
    """A bowl into a cube, a plate on a tray."""
    x, y = _one(context, (*CONTAINERS, "button")), _one(context, (*GRASPABLE, *CONTAINERS))
    if x is None or y is None or x[0] is y[0]:
        return None
    kind = "put_in" if y[0].kind in CONTAINERS else "put_on"
    return _say_impossible(context, kind, {"x": x[1], "y": y[1]}, x[0], INTO[y[0].kind])


def _onto_the_round(context: Context) -> Draft | None:
    x, y = _one(context, GRASPABLE), _one(context, ("ball", "button"))
    if x is None or y is None or x[0] is y[0]:
        return None
    return _say_impossible(context, "put_on", {"x": x[1], "y": y[1]}, y[0], INTO[y[0].kind])


def _into_the_solid(context: Context) -> Draft | None:
    x, y = _one(context, GRASPABLE), _one(context, (*GRASPABLE, "drawer"))
    if x is None or y is None or x[0] is y[0]:
        return None
    return _say_impossible(context, "put_in", {"x": x[1], "y": y[1]}, y[0], "in|into|inside|inside of")


def _onto_itself(context: Context) -> Draft | None:
    x = _one(context, GRASPABLE)
    if x is None:
        return None
    itself: Phrase = (("itself", x[1][0][1]),) if context.voice.dice.random() < 0.4 else x[1]
    kind = context.voice.dice.choice(("put_on", "put_in", "relation"))
    words = {"put_on": "on|on top of", "put_in": "in|into|inside"}.get(kind, "")
    slots: dict[str, Phrase] = {"x": x[1], "y": itself}
    if kind == "relation":
        step = Step("relation", where=context.voice.dice.choice(steps.DIRECTIONS))
        pattern = context.voice.dice.choice(patterns_for("relation", context.voice))
        filled = steps.slots_for(step, slots, context.voice)
        return Draft(pattern.expand(context.voice.dice, filled), refuse("impossible", x[0].label), pattern.statement)
    return _say_impossible(context, kind, slots, x[0], words)


def _open_the_solid(context: Context) -> Draft | None:
    found = _one(context, (*GRASPABLE, *CONTAINERS))
    if found is None:
        return None
    text = pick(context.voice.dice, "open |open up |close |shut |press |press down ")
    if context.voice.held_out:
        text = pick(context.voice.dice, "seal |depress |trigger ")
    return Draft([(text, None), *found[1]], refuse("impossible", found[0].label))


def _beyond_the_plan_language(context: Context) -> Draft | None:
    """Two objects in ways that no skill covers: between, under, swapping, holding two at once."""
    x, y, z = (_one(context, kinds) for kinds in (GRASPABLE, GRASPABLE, KINDS))
    if x is None or y is None or z is None or len({x[0].name, y[0].name, z[0].name}) < 3:
        return None
    pattern = context.voice.dice.choice(patterns_for("beyond", context.voice))
    segments = pattern.expand(context.voice.dice, {"x": x[1], "y": y[1], "z": z[1]})
    return Draft(segments, refuse("impossible"), pattern.statement)


_IMPOSSIBLE_MAKERS: tuple[Callable[[Context], Draft | None], ...] = (
    _grasp_the_ungraspable, _grasp_the_ungraspable, _carry_the_ungraspable, _carry_the_ungraspable, _onto_the_round,
    _into_the_solid, _onto_itself, _open_the_solid, _beyond_the_plan_language,
)  # fmt: skip


def _from_corpus(context: Context, reason: str) -> Draft | None:
    dice, view = context.voice.dice, context.view
    trained, held_out = {
        "unsafe": (speech.UNSAFE, speech.UNSAFE_HELD_OUT),
        "impossible": (speech.IMPOSSIBLE, speech.IMPOSSIBLE_HELD_OUT),
    }[reason]
    items = [i for i in view.items if len(view.matching(i.color, i.kind)) == 1]
    x = references.plain(dice.choice(items), view, context.voice) if items else None
    pattern = dice.choice(held_out if context.voice.held_out else trained)
    if x is None and "{x}" in pattern.source:
        return None
    return Draft(pattern.expand(dice, {"x": x or ()}), refuse(reason), pattern.statement)


def build_unsafe(context: Context) -> Draft | None:
    """What could hurt people or break things."""
    return _from_corpus(context, "unsafe")


def build_unclear(context: Context) -> Draft | None:
    """No instruction, or none in English."""
    dice, view = context.voice.dice, context.view
    if view.items and dice.random() < 0.3:
        held_out = context.voice.held_out
        pattern = dice.choice(speech.NOTHING_ASKED_HELD_OUT if held_out else speech.NOTHING_ASKED)
        words = references.plain(dice.choice(view.items), view, context.voice)
        return Draft(pattern.expand(dice, {"x": words}), refuse("unclear"), True) if words else None
    text = speech.unclear(context.voice.dice, held_out=context.voice.held_out)
    return Draft([(text, None)], refuse("unclear"), raw=True)
