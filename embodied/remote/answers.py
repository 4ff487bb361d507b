"""From what a remote model wrote to a plan, or a reason why it is none. Everything it wrote is data.

Tolerant in form: code fences, prose around, ``<think>`` blocks, trailing commas, a list or an object with ``calls``, one
call per line, calls written as tool calls, ``point_2d`` for ``point``. Strict in meaning: closed vocabulary, at most
``MAX_CALLS`` calls, finite points inside the picture in the agreed coordinates, short plain names, no field that the
plan language does not have. An answer that breaks off is never completed, because half a plan is another plan.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, get_args

from pydantic import ValidationError

from embodied.plan import MAX_CALLS, Plan, Point
from embodied.remote.prompts import SCALES, call_types
from embodied.remote.settings import Points
from hardware.errors import PlanError

MOST_CHARACTERS = 64 * 1024
_DEEPEST = 12
#: Fields that models like to add and that mean nothing here. Any other unknown field makes an answer invalid.
_IGNORED = frozenset(("label", "note", "thought", "reasoning", "explanation", "confidence", "id", "step", "bbox_2d"))
_RENAMED = {"point_2d": "point", "top_2d": "top", "action": "skill", "name": "skill"}
_SKILLS: dict[str, frozenset[str]] = {
    get_args(call.model_fields["skill"].annotation)[0]: frozenset(call.model_fields) for call in call_types()
}
_NAME = re.compile(r"[^\W_](?:[^\W_]|[ '’-])*")
#: A number may be so little outside (of 1) and is moved to the edge: models round.
_SLACK = 0.002


def read_answer(text: str, points: Points, width: int, height: int, *, finish: str = "stop") -> Plan:
    """The plan in a model's answer about a picture of ``width`` x ``height`` pixels.

    ``finish``: the server's word for why the model stopped. Raises ``PlanError`` with the first thing wrong.
    """
    if finish in ("length", "max_tokens"):
        raise PlanError("the planner's answer breaks off in the middle; half a plan is not carried out")
    if finish == "content_filter":
        raise PlanError("the planner's answer was withheld by the server's content filter")
    if len(text) > MOST_CHARACTERS:
        raise PlanError(f"the planner's answer has {len(text)} characters; no plan needs more than {MOST_CHARACTERS}")
    calls = _calls_in(_without_thinking(text))
    if len(calls) > MAX_CALLS:
        raise PlanError(f"the planner's answer has {len(calls)} steps; {MAX_CALLS} are the most that are carried out")
    read = [_call(item, points, width, height) for item in calls]
    try:
        return Plan.model_validate({"calls": read})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"the planner's answer does not follow the plan language at {where}: {first['msg']}") from None


def said(value: object, most: int = 60) -> str:
    """A piece of an answer for a sentence of ours: printable, on one line, short, quoted."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    return repr(" ".join(line.split())[:most])


def _without_thinking(text: str) -> str:
    """What follows the model's thoughts; thoughts that never end leave nothing."""
    after = re.split(r"</think(?:ing)?>", text)[-1]  # the opening tag is often in the template and not in the answer
    return re.split(r"<think(?:ing)?>", after, maxsplit=1)[0]


def _calls_in(text: str) -> list[Any]:
    """The list of calls, not yet looked at."""
    values = [value for value in _json_values(text) if _looks_like_plan(value)]
    if not values:
        raise PlanError(f"the planner did not answer with a plan but with {said(text, 80)}; try other words")
    if len(values) > 1 and all(isinstance(value, dict) and "calls" not in value for value in values):
        return values  # one call per line
    plans = [value.get("calls", [value]) if isinstance(value, dict) else value for value in values]
    if any(plan != plans[0] for plan in plans[1:]):
        raise PlanError(f"the planner answered with {len(plans)} different plans; which one is meant cannot be told")
    if not isinstance(plans[0], list):
        raise PlanError("the planner's calls are not a list; try again or use another model")
    return list(plans[0])


def _looks_like_plan(value: object) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict) for item in value) or value == []
    return isinstance(value, dict) and bool({"calls", "skill", "name", "action"} & value.keys())


def _json_values(text: str) -> list[Any]:
    """Every complete JSON object or list at the outermost level of ``text``, in order.

    Raises ``PlanError`` when one begins and never ends: looking for a smaller one inside would find a part of a plan.
    """
    values, at = [], 0
    while (start := _next_bracket(text, at)) is not None:
        end, commas = _matching(text, start)
        if end is None:
            raise PlanError("the planner's answer breaks off in the middle; half a plan is not carried out")
        piece = "".join(c for i, c in enumerate(text[start:end], start) if i not in commas)
        try:
            values.append(json.loads(piece, object_pairs_hook=_once, parse_constant=_no_constant))
        except json.JSONDecodeError as error:
            if '"' in piece:  # meant as JSON; a bracket in prose is not
                raise PlanError(f"the planner's answer is not valid JSON ({error.msg}): {said(piece, 80)}") from None
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the planner's answer is not valid JSON ({said(error)})") from None
        at = end
    return values


def _next_bracket(text: str, at: int) -> int | None:
    found = re.compile(r"[\[{]").search(text, at)
    return None if found is None else found.start()


def _matching(text: str, start: int) -> tuple[int | None, set[int]]:
    """Where the bracket at ``start`` is closed (None: never), and where commas stand directly before a closing bracket."""
    closing: list[str] = []
    commas: set[int] = set()
    comma: int | None = None
    in_string = False
    at = start
    while at < len(text):
        c = text[at]
        if in_string:
            if c == "\\":
                at += 1
            elif c == '"':
                in_string = False
        elif c == '"':
            in_string, comma = True, None
        elif c in "[{":
            closing.append("]" if c == "[" else "}")
            comma = None
            if len(closing) > _DEEPEST:
                raise PlanError("the planner's answer is nested deeper than any plan")
        elif c in "]}":
            if c != closing.pop():
                raise PlanError("the planner's answer is not valid JSON (brackets do not match)")
            if comma is not None:
                commas.add(comma)
            comma = None
            if not closing:
                return at + 1, commas
        elif c == ",":
            comma = at
        elif not c.isspace():
            comma = None
        at += 1
    return None, commas


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ on which of two equal keys counts, so there must not be two."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _call(item: object, points: Points, width: int, height: int) -> dict[str, Any]:
    """One call as the plan model wants it, every value checked."""
    if not isinstance(item, dict):
        raise PlanError(f"the planner's answer contains {said(item)} where a skill call should be")
    item = _flattened(item)
    skill = item.get("skill")
    skill = skill.strip().lower() if isinstance(skill, str) else skill
    if not isinstance(skill, str) or skill not in _SKILLS:
        raise PlanError(f"the planner wants {said(skill)}, which is no skill; there are {', '.join(_SKILLS)}")
    fields = _SKILLS[skill]
    if "object" in fields and "object" not in item and "label" in item:
        item = {**item, "object": item["label"]}
    out: dict[str, Any] = {"skill": skill}
    for name, value in item.items():
        if name == "skill" or value is None or (name not in fields and (name in _IGNORED or value == "")):
            continue
        if name not in fields:
            raise PlanError(f"the planner's {skill} has a field {said(name)}, which the plan language does not have")
        if name in ("point", "top"):
            out[name] = _point(value, points, width, height)
        elif name in ("question", "text"):
            out[name] = _sentence(value)
        elif name == "object":
            out[name] = _object(value, may_be_empty=skill == "refuse")
        else:
            out[name] = value
    return out


def _flattened(item: dict[str, Any]) -> dict[str, Any]:
    """A call with the plan language's own keys; ``{"name": skill, "arguments": {...}}`` is opened."""
    if "arguments" in item and set(item) <= {"name", "arguments", "id", "type"}:
        arguments = item["arguments"]
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}", object_pairs_hook=_once, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                raise PlanError("the arguments of the planner's tool call are not valid JSON") from None
        if not isinstance(arguments, dict) or arguments.get("skill", item.get("name")) != item.get("name"):
            raise PlanError("the arguments of the planner's tool call do not fit the tool")
        item = {**arguments, "skill": item.get("name")}
    out: dict[str, Any] = {}
    for key, value in item.items():
        name = _RENAMED.get(key, key)
        if name in out:
            raise PlanError(f"the planner's answer gives {said(name)} twice")
        out[name] = value
    return out


def _point(value: object, points: Points, width: int, height: int) -> Point:
    """A point in 0..1 of the picture, x first."""
    if isinstance(value, dict) and set(value) == {"x", "y"}:
        value = [value["y"], value["x"]] if points == "rel1000_yx" else [value["x"], value["y"]]
    if not isinstance(value, list) or len(value) != 2:
        raise PlanError(f"the planner's answer has {said(value)} where a point [.., ..] should be")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise PlanError(f"the planner's point {said(value)} does not consist of two numbers")
    if not all(abs(v) < 1e9 for v in value):  # also false for what is not finite
        raise PlanError(f"the planner's point {said(value)} is not finite or absurdly large")
    first, second = value
    x, y = (second, first) if points == "rel1000_yx" else (first, second)
    across, down = (width, height) if points == "abs_px" else (SCALES[points], SCALES[points])
    u, v = x / across, y / down
    if not (-_SLACK <= u <= 1 + _SLACK and -_SLACK <= v <= 1 + _SLACK):
        raise PlanError(
            f"the planner's point {said(value)} lies outside the picture when read as {points}; if this model writes "
            "points another way, set EMBODIED_PLANNER_POINTS"
        )
    return min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0)


def _object(value: object, *, may_be_empty: bool) -> str:
    """A name made of letters, digits, spaces, hyphens and apostrophes."""
    if not isinstance(value, str):
        raise PlanError(f"the planner calls an object {said(value)}, which is no name")
    name = re.sub(r"^the ", "", " ".join(unicodedata.normalize("NFKC", value).split()).lower())
    if not name and may_be_empty:
        return ""
    if len(name) > 60 or not _NAME.fullmatch(name):
        raise PlanError(f"the planner calls an object {said(value)}; a name is short and has only letters and digits")
    return name


def _sentence(value: object) -> str:
    """Words for the user: one line of printable characters, without anything a terminal or a page could act upon."""
    if not isinstance(value, str):
        raise PlanError(f"the planner's answer has {said(value)} where a sentence should be")
    printable = "".join(c if c.isprintable() and c not in "<>[]{}`\\" else " " for c in value)
    return " ".join(printable.split())[:300]
