"""Two to five steps in one instruction, joined by words, order words, pronouns or left-out verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embodied.language import steps
from embodied.language.draft import Context, Draft
from embodied.language.patterns import Phrase, Segment
from embodied.language.steps import STEP_WEIGHTS, Step
from embodied.language.templates import patterns_for
from embodied.language.words import BESIDE_WORDS, INTO, pick
from embodied.plan import SkillCall
from sim.scene import GRASPABLE

_LENGTHS = (2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5)
_JOINS = (
    ", then ", ", then ", " and then ", " and then ", ", and then ", ", after that ", ". then ", ". after that, ", "; ",
    " and ", " and ", ", and ", ", ", "; then ", " then ", ". next, ", ". now ", ", next ", ", and after that ",
    ". ", ", and also ", ", afterward ",
    ". when you are done, ", ". and then ",
)  # fmt: skip
_HELD_OUT_JOINS = (
    ", and once that is done ", ", subsequently ", ". afterwards, ", ", to continue, ", " and with that done, ",
    ", step two: ",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clause:
    """One verb phrase of a chain."""

    segments: list[Segment]
    calls: tuple[SkillCall, ...]


def draw_steps(context: Context, count: int) -> list[Step] | None:
    """Steps that can follow each other: nothing is used after it was moved, and a bare pick comes last."""
    dice = context.voice.dice
    taken: set[str] = set()
    found: list[Step] = []
    kinds, weights = tuple(STEP_WEIGHTS), tuple(STEP_WEIGHTS.values())
    for index in range(count):
        last = index == count - 1
        for _ in range(6):
            kind = dice.choices(kinds, weights)[0]
            if (kind in ("pick", "home") and not last) or (found and kind == found[-1].kind == "reach"):
                continue
            step = steps.make(kind, context.view, context.voice, careful=context.careful, taken=frozenset(taken))
            if step is not None:
                break
        else:
            return None
        found.append(step)
        if step.kind != "reach" and step.x is not None:
            taken.add(step.x.name)
        if step.y is not None and (step.kind == "relation" or step.y.kind in GRASPABLE):
            taken.add(step.y.name)
    return found


def clauses_for(step: Step, phrases: dict[str, Phrase], context: Context, *, split_up: bool) -> list[Clause]:
    """The words of one step; ``split_up`` says a carrying step as "pick up x", "put it in y"."""
    voice = context.voice
    calls = step.calls()
    if not split_up or step.y is None:
        return [Clause(steps.say(step, phrases, voice, imperative=True)[0], calls)]
    grab, _ = steps.say(Step("pick", step.x), {"x": phrases["x"]}, voice, imperative=True)
    words = BESIDE_WORDS["next" if step.vague else step.where] if step.kind == "relation" else INTO[step.y.kind]
    slots: dict[str, Phrase] = {
        "it": (("it", phrases["x"][0][1]),), "to": ((pick(voice.dice, words), None),), "y": phrases["y"],
    }  # fmt: skip
    pattern = voice.dice.choice(patterns_for("put_it", voice))
    return [Clause(grab, calls[:1]), Clause(pattern.expand(voice.dice, slots), calls[1:])]


def join(clauses: Sequence[list[Segment]], context: Context) -> list[Segment]:
    """Join imperative clauses with order words."""
    dice, held_out = context.voice.dice, context.voice.held_out
    joins = _HELD_OUT_JOINS if held_out else _JOINS
    out: list[Segment] = []
    roll = dice.random()
    numbered = not held_out and roll < 0.03
    first = not held_out and 0.03 < roll < 0.25
    same = dice.choice(joins) if dice.random() < 0.5 and joins else None
    for index, clause in enumerate(clauses):
        if numbered:
            out.append((f"{' ' if index else ''}{index + 1}{'.' if roll < 0.015 else ')'} ", None))
        elif index == 0 and first:
            out.append((dice.choice(("first ", "first, ", "start by this: ", "at first ")), None))
        elif index and first and index == len(clauses) - 1 and dice.random() < 0.4:
            out.append((dice.choice((", finally ", " and finally ", ", lastly ", ". finally, ", ", and last ")), None))
        elif index:
            out.append((same or dice.choice(joins), None))
        out += clause
    return out


def build_chain(context: Context) -> Draft | None:
    """A chain whose plan is the concatenation of its steps."""
    dice = context.voice.dice
    count = dice.choice(_LENGTHS)
    one_split = dice.random() < 0.12
    drawn = draw_steps(context, 1 if one_split else count)
    if drawn is None or (one_split and drawn[0].y is None):
        return None
    all_phrases = []
    for index, step in enumerate(drawn):
        phrases = steps.phrases_for(step, context.view, context.voice, style="plain" if index else "any")
        if phrases is None:
            return None
        all_phrases.append(phrases)
    calls = tuple(call for step in drawn for call in step.calls())
    if count == 2 and all(s.kind in ("put_in", "put_on") for s in drawn) and len(drawn) == 2 and dice.random() < 0.6:
        return _gapped(drawn, all_phrases, calls, context)
    clauses: list[Clause] = []
    for step, phrases in zip(drawn, all_phrases, strict=True):
        if step.kind == "reach" and dice.random() < 0.5 and step is drawn[-1]:
            clauses += _hover_then_pick(step, phrases, context)
        else:
            clauses += clauses_for(step, phrases, context, split_up=one_split or dice.random() < 0.15)
    calls = tuple(call for clause in clauses for call in clause.calls)
    words = [clause.segments for clause in clauses]
    if len(words) == 2 and not context.voice.held_out and dice.random() < 0.1 and not _has_pronoun(words):
        return _reordered(words, calls, context)
    return Draft(join(words, context), calls)


def _has_pronoun(words: Sequence[list[Segment]]) -> bool:
    return any(text in ("it", "that", "this one") for clause in words for text, _ in clause)


def _hover_then_pick(step: Step, phrases: dict[str, Phrase], context: Context) -> list[Clause]:
    """ "move over the red cube and then pick it up": only for things that can be picked up."""
    reach = clauses_for(step, phrases, context, split_up=False)
    if step.x is None or not step.x.movable:
        return reach
    again: dict[str, Phrase] = {"x": (("it", (step.x.name,)),)}
    return reach + clauses_for(Step("pick", step.x), again, context, split_up=False)


def _reordered(words: Sequence[list[Segment]], calls: tuple[SkillCall, ...], context: Context) -> Draft:
    """ "before you press the button, pick up the ball": said in another order than it is done."""
    first, second = words
    form = context.voice.dice.randrange(4)
    if form == 0:
        segments: list[Segment] = [("before you ", None), *second, (", ", None), *first]
    elif form == 1:
        segments = [*first, (" before you ", None), *second]
    elif form == 2:
        segments = [("after you ", None), *first, (", ", None), *second]
    else:
        segments = [*second, (", but first ", None), *first]
    return Draft(segments, calls, statement=form in (0, 2))


def _gapped(
    drawn: list[Step], phrases: list[dict[str, Phrase]], calls: tuple[SkillCall, ...], context: Context
) -> Draft:
    """ "put the red cube in the bowl and the ball on the plate"."""
    voice = context.voice
    slots: dict[str, Phrase] = {}
    for index, (step, words) in enumerate(zip(drawn, phrases, strict=True), start=1):
        kind = step.y.kind if step.y is not None else "bowl"
        into = pick(voice.dice, INTO[kind])
        slots |= {f"x{index}": words["x"], f"y{index}": words["y"], f"in{index}": ((into, None),)}
    pattern = voice.dice.choice(patterns_for("gap", voice))
    return Draft(pattern.expand(voice.dice, slots), calls, pattern.statement)
