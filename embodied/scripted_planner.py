"""A privileged planner: it reads the true scene and understands plain English by fixed rules.

For demonstrations, tests and upper bounds only. It is called *scripted* in every report. The rules cover single steps,
chains joined by "then" or "and", and "all the cubes"; what they do not cover is refused as unclear, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from embodied.language.view import Item, View, look
from embodied.language.words import BESIDE_WORDS, COLOR_WORDS, NOUNS, PLURALS, TOWARDS_WORDS
from embodied.plan import (
    MAX_CALLS,
    Ask,
    Close,
    Direction,
    Home,
    Open,
    Pick,
    Place,
    Plan,
    Press,
    Push,
    Reach,
    Refuse,
    RefuseReason,
    Relation,
    SkillCall,
)
from hardware.camera_model import Frame
from sim.scene import CONTAINERS, GRASPABLE, Color, Kind

if TYPE_CHECKING:
    from sim.world import World

_COLORS: dict[str, Color] = {word: color for color, words in COLOR_WORDS.items() for word, _ in words}
_NOUNS: dict[str, Kind] = {word: kind for kind, words in NOUNS.items() for word, _ in words}
_PLURAL_NOUNS: dict[str, Kind] = {PLURALS.get(word, word + "s"): kind for word, kind in _NOUNS.items()}
_EXTREMES: dict[str, tuple[int, int]] = {  # picture axis and sign: the item with the largest sign * coordinate
    "leftmost": (0, -1), "left": (0, -1), "rightmost": (0, 1), "right": (0, 1), "nearest": (1, 1), "closest": (1, 1),
    "front": (1, 1), "farthest": (1, -1), "furthest": (1, -1), "back": (1, -1),
}  # fmt: skip
_THINGS = ("thing", "things", "object", "objects", "item", "items", "one", "everything")
_PICK = ("pick", "grab", "take", "lift", "grasp", "hold", "get", "raise", "grip", "fetch", "collect", "snatch")
_PUT = (
    "put", "place", "set", "lay", "drop", "move", "bring", "transfer", "stick", "pop", "stack", "position", "stand",
    "carry", "deliver", "balance", "add", "return", "deposit", "throw", "insert",
)  # fmt: skip
_PUSH = ("push", "slide", "nudge", "shove", "shift", "move")
_PRESS = ("press", "push", "hit", "tap", "click", "touch", "activate", "poke")
_REACH = ("reach", "point", "hover", "touch", "find", "locate", "go", "show")
_VERBS = {*_PICK, *_PUT, *_PUSH, *_PRESS, *_REACH, "open", "pull", "close", "shut", "clear", "sort"}


def _alternatives(words: object) -> str:
    return "|".join(re.escape(w) for w in sorted(set(words), key=len, reverse=True))  # type: ignore[call-overload]


_MENTION = re.compile(
    rf"(?P<all>\b(?:all|every|each|both)\b(?: of)?(?: the)? |\beverything\b)?"
    rf"(?:\b(?:the|a|an|that|this|any|some|my) )?"
    rf"(?:\b(?P<extreme>{_alternatives(_EXTREMES)}) )?"
    rf"(?:\b(?P<color>{_alternatives(_COLORS)}) )?"
    rf"\b(?P<noun>{_alternatives([*_NOUNS, *_PLURAL_NOUNS, *_THINGS])})\b"
)
_BESIDE: list[tuple[str, str]] = [(w, rel) for rel, words in BESIDE_WORDS.items() for w in words.split("|")]
_TOWARDS: list[tuple[str, Direction]] = [
    (word, direction)
    for direction in get_args(Direction)
    for word in sorted(set(TOWARDS_WORDS[direction].split("|")), key=len, reverse=True)
]
_INTO = ("inside of", "inside", "into", "in to", "in", "on top of", "onto", "on", "upon", "to", "over")


class _SaysNo(Exception):
    """Carries a speech act out of the parser."""

    def __init__(self, speech: Ask | Refuse) -> None:
        super().__init__(speech.skill)
        self.speech = speech


def _refuse(reason: RefuseReason, text: str, name: str = "") -> _SaysNo:
    return _SaysNo(Refuse(reason=reason, object=name[:60], text=text[:300]))


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    items: tuple[Item, ...]
    words: str


def understand(instruction: str, view: View) -> Plan:
    """The plan for an English instruction, given what stands where. Always a plan: a refusal is one."""
    text = re.sub(r"[.!?;]+", " then ", instruction.lower().replace("-", " "))
    text = re.sub(r"\s+", " ", text.replace(",", " , ")).strip()
    # "go home", "return to the rest position"
    calls: list[SkillCall] = []
    last: tuple[Item, ...] = ()
    held: tuple[Item, ...] = ()
    try:
        for clause in _clauses(text):
            made, last, held = _clause(clause, view, last, held)
            calls += made
        if not calls:
            raise _refuse("unclear", f"I do not understand {instruction.strip()!r}")
        if len(calls) > MAX_CALLS:
            raise _refuse("impossible", f"that takes {len(calls)} steps; {MAX_CALLS} are the most I plan at once")
    except _SaysNo as no:
        return Plan(calls=(no.speech,))
    return Plan(calls=tuple(calls))


def _clauses(text: str) -> list[str]:
    """Split at "then", and at "and" or a comma before a verb."""
    verbs = _alternatives(_VERBS)
    parts = re.split(
        rf"(?:\s*,\s*)?\b(?:and then|after that|afterwards?|then|next(?! to))\b|(?:,|\band\b)\s+(?=(?:{verbs})\b)", text
    )
    return [part.strip(" ,") for part in parts if part and part.strip(" ,")]


def _mentions(text: str, view: View, last: tuple[Item, ...]) -> list[_Mention]:
    found = []
    for match in _MENTION.finditer(text):
        noun = match["noun"]
        if noun == "one" and not match["color"]:
            continue
        if match["extreme"] in ("left", "right", "front", "back") and text[: match.start("extreme")].endswith(
            "to the "
        ):
            continue
        kind = _NOUNS.get(noun) or _PLURAL_NOUNS.get(noun)
        color = _COLORS[match["color"]] if match["color"] else None
        items = view.matching(color, kind)
        words = " ".join(w for w in (color, kind or "object") if w)
        many = (
            bool(match["all"]) or noun in _PLURAL_NOUNS and noun not in _NOUNS or noun in ("things", "objects", "items")
        )
        if kind is None and many:
            items = tuple(i for i in items if i.kind in GRASPABLE)
        if not items:
            raise _refuse("absent", f"I see no {words} on the table", words)
        if many:
            items = tuple(i for i in items if not i.inside) or items
        elif match["extreme"]:
            axis, sign = _EXTREMES[match["extreme"]]
            items = (max(items, key=lambda i: sign * i.foot[axis]),)
        elif len(items) > 1:
            question = f"There are {len(items)} objects that could be the {words}. Which one do you mean?"
            raise _SaysNo(Ask(object=words, question=question))
        found.append(_Mention(match.start(), match.end(), items, words))
    for match in re.finditer(r"\b(?:it|them)\b", text):
        if last and not any(m.start <= match.start() < m.end for m in found):
            found.append(_Mention(match.start(), match.end(), last, "it"))
    return sorted(found, key=lambda m: m.start)


def _clause(
    text: str, view: View, last: tuple[Item, ...], held: tuple[Item, ...]
) -> tuple[list[SkillCall], tuple[Item, ...], tuple[Item, ...]]:
    words = set(re.findall(r"[a-z']+", text))
    if words & {"home", "rest position", "resting"} or re.search(
        r"\b(rest|initial|start\w*|neutral) (pose|position)", text
    ):
        return [Home()], last, held
    mentions = _mentions(text, view, last)
    if not mentions:
        _insist_on_known_thing(text, words)
    subject = mentions[0]
    beside = None
    if len(mentions) > 1:
        calls, put = _put(text, mentions, held)
        return calls, put, ()
    if words & {"open", "pull"}:
        return [Open(object=_only(subject, "drawer").label, point=subject.items[0].foot)], subject.items, held
    if words & {"close", "shut"} and subject.items[0].kind == "drawer":
        return [Close(object=_only(subject, "drawer").label, point=subject.items[0].foot)], subject.items, held
    if subject.items[0].kind == "button" and words & {*_PRESS}:
        return [Press(object=i.label, point=i.foot) for i in subject.items], subject.items, held
    toward = next((d for w, d in _TOWARDS if re.search(rf"\b{re.escape(w)}\b", text[subject.end :])), None)
    if toward and words & {*_PUSH, "give", "make"}:
        _insist_movable(subject)
        return [Push(object=i.label, point=i.foot, direction=toward) for i in subject.items], subject.items, held
    if held and words & {*_PUT} and beside is None:
        rest = next((rel for w, rel in _BESIDE if re.search(rf"\b{re.escape(w)}\b", text[: subject.start])), None)
        return [_place(subject.items[0], rest)], held, ()
    if words & {*_PICK}:
        _insist_movable(subject)
        if len(subject.items) > 1:
            raise _refuse("impossible", "the gripper holds one object at a time")
        return [Pick(object=subject.items[0].label, point=subject.items[0].foot)], subject.items, subject.items
    if words & {*_REACH} or re.search(r"\b(gripper|arm|hand)\b", text):
        return [Reach(object=subject.items[0].label, point=subject.items[0].foot)], subject.items, held
    if words & {*_PUT}:
        raise _refuse("unclear", f"where should the {subject.words} go?", subject.words)
    raise _refuse("unclear", f"I do not know what to do with the {subject.words}", subject.words)


def _put(text: str, mentions: list[_Mention], held: tuple[Item, ...]) -> tuple[list[SkillCall], tuple[Item, ...]]:
    """Two mentions: the first ones go to the last one."""
    target = mentions[-1]
    between = text[mentions[-2].end : target.start]
    words = between.split()
    relation = next((rel for w, rel in _BESIDE if re.search(rf"\b{re.escape(w)}\b", between)), None)
    if relation is None and not any(re.search(rf"\b{w}\b", between) for w in _INTO):
        raise _refuse("unclear", f"I do not understand how {' '.join(words) or 'those two'} relates two objects")
    if len(target.items) > 1:
        raise _SaysNo(Ask(object=target.words, question=f"Which {target.words} do you mean?"))
    calls: list[SkillCall] = []
    moved = [i for m in mentions[:-1] for i in m.items]
    moved = list(dict.fromkeys(i for i in moved if i != target.items[0]))
    for item in moved:
        if item in held:
            calls.append(_place(target.items[0], relation))
            continue
        _insist_movable(_Mention(0, 0, (item,), item.label))
        calls += [Pick(object=item.label, point=item.foot), _place(target.items[0], relation)]
    return calls, tuple(moved)


def _place(target: Item, relation: str | None) -> Place:
    resolved: Relation
    if relation == "next":  # any side will do: the one towards the middle of the picture is the roomiest
        resolved = "left" if target.foot[0] > 0.5 else "right"
    elif relation in ("left", "right", "front", "behind"):
        resolved = relation  # type: ignore[assignment]
    elif target.kind in ("drawer", "button"):
        raise _refuse("impossible", f"nothing can be put in or on the {target.label} by this arm", target.label)
    elif target.kind == "ball":
        raise _refuse("impossible", f"nothing stays on the {target.label}", target.label)
    else:
        resolved = "in" if target.kind in CONTAINERS and target.kind != "plate" else "on"
    return Place(
        relation=resolved, object=target.label, point=target.foot, top=target.top if resolved == "on" else None
    )


def _insist_movable(subject: _Mention) -> None:
    for item in subject.items:
        if item.kind not in GRASPABLE:
            raise _refuse("impossible", f"the {item.label} cannot be moved by this gripper", item.label)
        if item.covered:
            raise _refuse("impossible", f"something stands on the {item.label}", item.label)


def _only(subject: _Mention, kind: Kind) -> Item:
    item = subject.items[0]
    if item.kind != kind:
        raise _refuse("impossible", f"the {item.label} cannot be opened or closed; a {kind} can", item.label)
    return item


def _insist_on_known_thing(text: str, words: set[str]) -> None:
    if not words & _VERBS:
        raise _refuse(
            "unclear", f"I do not understand {text!r}; I know plain English such as 'put the red cube in the bowl'"
        )
    colors = [c for c in _COLORS if re.search(rf"\b{re.escape(c)}\b", text)]
    thing = text.split(colors[0], 1)[1].split() if colors else []
    name = f"{colors[0]} {thing[0]}" if colors and thing else "what you name"
    raise _refuse("absent", f"I see nothing on the table that is {name}", name)


class ScriptedPlanner:
    """The rules above on the true scene of a simulation."""

    name = "scripted"
    scripted = True

    def __init__(self, world: World) -> None:
        self._world = world

    def plan(self, instruction: str, frame: Frame) -> Plan:
        """A plan from the true scene; of ``frame`` only the camera model is used, to express points."""
        return understand(instruction, look(self._world.scene_now(), frame.model))
