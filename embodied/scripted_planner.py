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
#: Superlatives: picture axis (2: size) and sign; the item with the largest sign * value is meant.
_EXTREMES: dict[str, tuple[int, int]] = {
    "leftmost": (0, -1), "left": (0, -1), "rightmost": (0, 1), "right": (0, 1), "nearest": (1, 1), "closest": (1, 1),
    "front": (1, 1), "farthest": (1, -1), "furthest": (1, -1), "back": (1, -1), "left hand": (0, -1),
    "right hand": (0, 1), "biggest": (2, 1), "bigger": (2, 1), "largest": (2, 1), "larger": (2, 1), "smallest": (2, -1),
    "smaller": (2, -1), "tiniest": (2, -1), "littlest": (2, -1),
}  # fmt: skip
#: The same, said after the noun.
_TRAILING: tuple[tuple[str, tuple[int, int]], ...] = (
    (r"on the left(?: side| hand side)?(?! of| side of| hand side of)", (0, -1)),
    (r"on the right(?: side| hand side)?(?! of| side of| hand side of)", (0, 1)),
    (r"(?:nearest|closest)(?: to)? (?:the camera|me|the viewer)|in the front|furthest forward", (1, 1)),
    (r"(?:furthest|farthest)(?: away)? from (?:the camera|me|the viewer)|in the back|furthest back", (1, -1)),
    (r"(?:nearest|closest)(?: to)? the (?:robot|arm)", (1, -1)),
    (r"furthest (?:to the )?left|farthest left", (0, -1)),
    (r"furthest (?:to the )?right|farthest right", (0, 1)),
)
_THINGS = ("thing", "things", "object", "objects", "item", "items", "one", "everything")
_RECEPTACLES = ("container", "containers")
_PICK = (
    "pick", "picked", "grab", "grabbed", "take", "lift", "lifted", "grasp", "grasped", "hold", "get", "raise", "raised",
    "grip", "gripped", "fetch", "collect", "snatch",
)  # fmt: skip
_PUT = (
    "put", "place", "placed", "set", "lay", "drop", "move", "moved", "bring", "transfer", "stick", "pop", "stack",
    "stacked",
    "position", "stand", "carry", "deliver", "balance", "add", "return", "deposit", "throw", "insert", "let", "fill",
)  # fmt: skip
_PUSH = (
    "push", "pushed", "slide", "nudge", "nudged", "shove", "shift", "shifted", "move", "moved", "give", "make", "must",
    "should", "has", "needs",
)  # fmt: skip
_PRESS = (
    "press", "pressed", "push", "pushed", "hit", "tap", "click", "touch", "activate", "poke", "use", "operate",
    "pressure",
)  # fmt: skip
_REACH = ("reach", "point", "hover", "find", "locate", "go", "show", "come", "wait", "stop", "stay")
_OPEN = ("open", "opened", "pull", "slide")
_CLOSE = ("close", "closed", "shut")
_VERBS = {*_PICK, *_PUT, *_PUSH, *_PRESS, *_REACH, *_OPEN, *_CLOSE} - {"must", "should", "has", "needs"}
#: Said before or after what is wanted; longest first.
_POLITE = re.compile(
    r"^(?:(?:please|kindly|now|just|okay|ok|hey|hi|hello|alright|robot|quickly|,|(?:could|can|would|will) you|"
    r"go ahead and|"
    r"(?:your (?:task|job) is|you (?:should|need)|try|it's time)(?: to)?|let's|to|"
    r"i(?:'d like| would like| want| need)(?: you)? to|first|finally|and|at first|in the end)\b[ ,]*)+"
)
_THANKS = re.compile(
    r"(?:[ ,]*\b(?:please|now|right now|for me|thanks|thank you|carefully|gently|slowly|quickly|if you can|ok|"
    r"would you|would you please))+ *$"
)


def _alternatives(words: object) -> str:
    return "|".join(re.escape(w) for w in sorted(set(words), key=len, reverse=True))  # type: ignore[call-overload]


_MENTION = re.compile(
    rf"(?P<all>\b(?:all|every|each|both)\b(?: of)?(?: the)? |\beverything\b)?"
    rf"(?:\b(?:the|a|an|that|this|any|some|my) )?"
    rf"(?:\b(?P<extreme>{_alternatives(_EXTREMES)}) )?"
    rf"(?:\b(?P<color>{_alternatives(_COLORS)}) )?"
    rf"\b(?P<noun>{_alternatives([*_NOUNS, *_PLURAL_NOUNS, *_THINGS, *_RECEPTACLES])})\b"
    rf"(?: (?:that|which) (?:is|are) (?P<after>{_alternatives(_COLORS)})\b)?"
    rf"(?: (?:that is |which is )?(?:{'|'.join(f'(?P<t{k}>{words})' for k, (words, _) in enumerate(_TRAILING))})\b)?"
)
_BESIDE: list[tuple[str, str]] = [(w, rel) for rel, words in BESIDE_WORDS.items() for w in words.split("|")]
_TOWARDS: list[tuple[str, Direction]] = [
    (word, direction)
    for direction in get_args(Direction)
    for word in sorted(set(TOWARDS_WORDS[direction].split("|")), key=len, reverse=True)
]
_HOME = re.compile(r"\bwhere you (started|were)\b|\b(rest|initial|start\w*|neutral) (pose|position)")
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
    text = re.sub(r"\b(can|could|would|will) you\b", "please", text)  # "can" is also a cylinder
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
    breaks = r"(?:\s*,\s*)?\b(?:and then|after that|afterwards?|then|next(?! to)|finally|lastly|and last)\b"
    clauses: list[str] = []
    for part in re.split(rf"{breaks}|(?:,|\band\b)\s+(?=(?:{verbs})\b)", text):
        part = part.strip(" ,")
        if clauses and not set(clauses[-1].split()) & _VERBS:  # "in the bowl, put the cube" is one clause
            clauses[-1] = f"{clauses[-1]} , {part}"
        elif part:
            clauses.append(part)
    return clauses


def _mentions(text: str, view: View, last: tuple[Item, ...]) -> list[_Mention]:
    found = []
    for match in _MENTION.finditer(text):
        noun = match["noun"]
        if noun == "one" and not match["color"]:
            continue
        kind = _NOUNS.get(noun) or _PLURAL_NOUNS.get(noun)
        spoken = match["color"] or match["after"]
        color = _COLORS[spoken] if spoken else None
        items = view.matching(color, kind)
        if noun in _RECEPTACLES:
            items = tuple(i for i in items if i.kind in CONTAINERS)
        words = " ".join(w for w in (color, kind or "object") if w)
        plural = noun in _PLURAL_NOUNS and noun not in _NOUNS
        many = bool(match["all"]) or plural or noun in ("everything", "things", "objects", "items")
        if kind is None and many and noun not in _RECEPTACLES:
            items = tuple(i for i in items if i.kind in GRASPABLE)
        if not items:
            raise _refuse("absent", f"I see no {words} on the table", words)
        if many:
            items = tuple(i for i in items if not i.inside) or items
        elif extreme := _extreme(match):
            axis, sign = extreme
            items = (max(items, key=lambda i: sign * (*i.foot, i.size_m)[axis]),)
        elif len(items) > 1:
            question = f"There are {len(items)} objects that could be the {words}. Which one do you mean?"
            raise _SaysNo(Ask(object=words, question=question))
        found.append(_Mention(match.start(), match.end(), items, words))
    for match in re.finditer(r"\b(?:it|them)\b", text):
        if last and not any(m.start <= match.start() < m.end for m in found):
            found.append(_Mention(match.start(), match.end(), last, "it"))
    return sorted(found, key=lambda m: m.start)


def _extreme(match: re.Match[str]) -> tuple[int, int] | None:
    """Axis and sign of the superlative in a mention."""
    if match["extreme"]:
        return _EXTREMES[match["extreme"]]
    return next((which for k, (_, which) in enumerate(_TRAILING) if match[f"t{k}"]), None)


def _clause(
    text: str, view: View, last: tuple[Item, ...], held: tuple[Item, ...]
) -> tuple[list[SkillCall], tuple[Item, ...], tuple[Item, ...]]:
    text = _THANKS.sub("", _POLITE.sub("", text))
    if not text:
        return [], last, held
    words = set(re.findall(r"[a-z']+", text))
    if words & {"home", "resting", "reset"} or re.search(_HOME, text):
        return [Home()], last, held
    mentions = _mentions(text, view, last)
    if not mentions:
        _insist_on_known_thing(text, words)
    subject = mentions[0]
    if len(mentions) > 1:
        calls, put = _put(text, mentions, held)
        return calls, put, ()
    item = subject.items[0]
    if item.kind == "drawer" and words & {*_CLOSE}:
        return [Close(object=item.label, point=item.foot)], subject.items, held
    if words & {"open", "opened"} or (item.kind == "drawer" and words & {*_OPEN}):
        return [Open(object=_only(subject, "drawer").label, point=item.foot)], subject.items, held
    if item.kind == "button" and words & {*_PRESS}:
        return [Press(object=i.label, point=i.foot) for i in subject.items], subject.items, held
    elsewhere = text[: subject.start] + " | " + text[subject.end :]
    toward = next((d for w, d in _TOWARDS if re.search(rf"\b{re.escape(w)}\b", elsewhere)), None)
    if toward and words & {*_PUSH} and not words & {"hand", "gripper", "arm", "claw"}:
        _insist_movable(subject)
        return [Push(object=i.label, point=i.foot, direction=toward) for i in subject.items], subject.items, held
    if held and words & {*_PUT}:
        rest = next((rel for w, rel in _BESIDE if re.search(rf"\b{re.escape(w)}\b", text[: subject.start])), None)
        return [_place(item, rest)], held, ()
    gripper = bool(words & {"hand", "gripper", "arm", "claw"})
    grips = r"\b(in|into|with|from)( your| the)? (gripper|hand|arm|claw)"
    into_hand = gripper and (text.startswith("close") or re.search(grips, text[subject.end :]))
    if into_hand or (words & {*_PICK} and not re.search(r"\b(above|over|closer|close|near) ", text[: subject.start])):
        _insist_movable(subject)
        if len(subject.items) > 1:
            raise _refuse("impossible", "the gripper holds one object at a time")
        if item in held:  # "pick it up and hold it"
            return [], subject.items, held
        return [Pick(object=item.label, point=item.foot)], subject.items, subject.items
    if (
        words & {*_REACH}
        or gripper
        or re.match(r"(move|get) (right |over |directly )?(above|over|to|closer|near)\b", text)
    ):
        return [Reach(object=item.label, point=item.foot)], subject.items, held
    if words & {*_PUT}:
        raise _refuse("unclear", f"where should the {subject.words} go?", subject.words)
    raise _refuse("unclear", f"I do not know what to do with the {subject.words}", subject.words)


def _put(text: str, mentions: list[_Mention], held: tuple[Item, ...]) -> tuple[list[SkillCall], tuple[Item, ...]]:
    """Two mentions: the first ones go to the last one."""
    target, moving = mentions[-1], mentions[:-1]
    between = text[moving[-1].end : target.start]
    opening = text[: mentions[0].start]
    words = between.split()
    fronted = re.fullmatch(rf"(?:{_alternatives([*_INTO, *(w for w, _ in _BESIDE)])}) *", opening)
    if fronted:  # "in the bowl, put the cube"
        target, moving, between = mentions[0], mentions[1:], opening
    elif re.match(r"fill\b", text):  # "fill the bowl with the cubes"
        target, moving, between = mentions[0], mentions[1:], "in"
    relation = next((rel for w, rel in _BESIDE if re.search(rf"\b{re.escape(w)}\b", between)), None)
    if relation is None and not any(re.search(rf"\b{w}\b", between) for w in _INTO):
        raise _refuse("unclear", f"I do not understand how {' '.join(words) or 'those two'} relates two objects")
    if len(target.items) > 1:
        raise _SaysNo(Ask(object=target.words, question=f"Which {target.words} do you mean?"))
    calls: list[SkillCall] = []
    moved = [i for m in moving for i in m.items]
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
