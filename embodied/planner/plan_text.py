"""Plans as the text a model writes: JSON whose points are integers from 0 to 1000, as the Qwen3-VL family points.

    [{"skill":"pick","object":"red cube","point_2d":[430,615]},
     {"skill":"place","relation":"in","object":"blue bowl","point_2d":[700,480]}]

The same text is what the grammar allows, what the tokenizer has single tokens for, and what other models are asked for.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from pydantic import ValidationError

from embodied.plan import Ask, Home, Place, Plan, Point, Push, Refuse, SkillCall
from hardware.errors import PlanError

SCALE = 1000
#: How a model writes a point: 0..1000 of the picture with x or with y first, pixels of the picture as the model sees it, 0..1,
#: or 0..100. The same numbers mean different places, so it is a setting and never guessed from them.
Coordinates = Literal["rel1000_xy", "rel1000_yx", "abs_px", "unit", "percent"]
#: The shipped model points in steps of 5 of 1000, one token each.
STEP = 5
NUMBERS = tuple(str(n) for n in range(0, SCALE + 1, STEP))


def snap(value: float) -> int:
    """A normalised coordinate as the nearest number the shipped model can say."""
    return int(min(max(round(value * SCALE / STEP), 0), SCALE // STEP)) * STEP


def _pair(point: Point) -> str:
    return f"{snap(point[0])},{snap(point[1])}"


def call_to_text(call: SkillCall) -> str:
    """One call as compact JSON."""
    match call:
        case Home():
            return '{"skill":"home"}'
        case Ask():
            return f'{{"skill":"ask","object":"{call.object}"}}'
        case Refuse():
            said = f',"object":"{call.object}"' if call.object else ""
            return f'{{"skill":"refuse","reason":"{call.reason}"{said}}}'
        case Place():
            top = f'],"top_2d":[{_pair(call.top)}' if call.top is not None else ""
            return (
                f'{{"skill":"place","relation":"{call.relation}","object":"{call.object}",'
                f'"point_2d":[{_pair(call.point)}{top}]}}'
            )
        case Push():
            return (
                f'{{"skill":"push","direction":"{call.direction}","object":"{call.object}",'
                f'"point_2d":[{_pair(call.point)}]}}'
            )
        case _:
            return f'{{"skill":"{call.skill}","object":"{call.object}","point_2d":[{_pair(call.point)}]}}'


def plan_to_text(plan: Plan) -> str:
    """A plan as compact JSON, points snapped to the model's numbers."""
    return "[" + ",".join(call_to_text(call) for call in plan.calls) + "]"


#: Pieces of that JSON which are one token each, longest first where they overlap.
FRAGMENTS = (
    *(f'{{"skill":"{s}","object":"' for s in ("reach", "pick", "open", "close", "press", "ask")),
    '{"skill":"place","relation":"',
    '{"skill":"push","direction":"',
    '{"skill":"refuse","reason":"',
    '{"skill":"home"}',
    '","object":"',
    '","point_2d":[',
    '],"top_2d":[',
    "]}",
    '"}',
)


def parse_plan(text: str, *, scale: float = SCALE) -> Plan:
    """Read a model's answer: a JSON list of calls, or an object with ``calls``; a code fence or prose around is dropped.

    ``scale`` is what a coordinate is divided by to fall into 0..1. Raises ``PlanError`` with the first thing wrong.
    """
    found = re.search(r"[\[{].*[\]}]", text, re.DOTALL)
    if found is None:
        raise PlanError(f"the planner did not answer with a plan but with {text.strip()[:80]!r}; try other words")
    try:
        data = json.loads(found.group())
    except json.JSONDecodeError as error:
        raise PlanError(
            f"the planner's answer is not valid JSON ({error.msg}); try again or use another model"
        ) from error
    if isinstance(data, dict):
        data = data.get("calls", [data])
    if not isinstance(data, list):
        raise PlanError("the planner's answer is not a list of skill calls; try again or use another model")
    try:
        return Plan.model_validate({"calls": [_normalised(item, scale) for item in data]})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"the planner's answer does not follow the plan language at {where}: {first['msg']}") from error


def _normalised(item: object, scale: float) -> object:
    if not isinstance(item, dict):
        return item
    renamed = {"point_2d": "point", "top_2d": "top"}
    out = {renamed.get(key, key): value for key, value in item.items()}
    for key in ("point", "top"):
        value = out.get(key)
        if isinstance(value, list) and all(isinstance(v, int | float) for v in value):
            out[key] = [v / scale for v in value]
    return out
