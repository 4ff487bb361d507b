"""The jobs of ``jobs.py`` for models with a chat template: questions in words, and how their answers are read.

What such a model has been told about plans stays in front of the question, so that what it has read of the picture is
not read again: hence "this time no plan".
"""

from __future__ import annotations

import json
from typing import Any

from embodied.planner.adapters import number_rule, scale_of
from embodied.planner.jobs import MOST_LOCATED, Job, Located, parse_located
from embodied.planner.plan_text import Coordinates
from hardware.errors import PlanError

#: Tokens that a list of ``MOST_LOCATED`` objects may take in a tokenizer that knows only letters.
MOST_TOKENS = 100 * MOST_LOCATED
_NAME = "/[A-Za-z][A-Za-z0-9 '-]{0,30}/"
#: First words of an answer to a yes/no question, as models write them.
YES_WORDS, NO_WORDS = ("yes", "Yes"), ("no", "No")
_ITEM = '{"label":NAME,"point_2d":POINT,"bbox_2d":[LEFT,TOP,RIGHT,BOTTOM]}'
_LIST = f"a JSON list from left to right with one {_ITEM} for each, coordinates as in plans, or [] when there is none"


def job_text(job: Job, words: str) -> str:
    """The user's message that asks for a job."""
    match job:
        case "verify":
            return f"This time no plan. Look at the picture and answer with yes or no only: {words}"
        case "point":
            return f"This time no plan. Find in the picture: {words}. Answer with {_LIST}."
        case _:
            return f"This time no plan. List all objects on the table. Answer with {_LIST}."


def chat_job_grammar(job: Job, coordinates: Coordinates, size: tuple[int, int]) -> str:
    """A Lark grammar of the answers of a model that points in ``coordinates`` and sees a picture of ``size`` (w, h)."""
    if job == "verify":
        return 'start: "yes" | "no"'
    numbers = number_rule(coordinates, size)
    first, second = ("Y", "X") if coordinates == "rel1000_yx" else ("X", "Y")
    pair = f'{first} "," {second}'
    return "\n".join(
        (
            f'start: "[]" | "[" item ("," item)~0..{MOST_LOCATED - 1} "]"',
            rf'item: "{{\"label\":\"" NAME "\",\"point_2d\":[" {pair} "],\"bbox_2d\":[" {pair} "," {pair} "]}}"',
            f"NAME: {_NAME}",
            f"X: {numbers.first}",
            f"Y: {numbers.second}",
        )
    )


def read_located(text: str, coordinates: Coordinates, size: tuple[int, int]) -> tuple[Located, ...]:
    """The objects in an answer, brought from ``coordinates`` to 0..1. Raises ``PlanError``."""
    if coordinates == "rel1000_xy":
        return parse_located(text)
    try:
        data = json.loads(text[text.index("[") : text.rindex("]") + 1])
    except ValueError as error:
        raise PlanError("the answer is not a list of objects; ask again or use another model") from error
    scale = scale_of(coordinates, size)
    for item in data if isinstance(data, list) else []:
        for key in ("point_2d", "bbox_2d"):
            if isinstance(item, dict) and isinstance(item.get(key), list):
                item[key] = _scaled(item[key], scale, swapped=coordinates == "rel1000_yx")
    return parse_located(json.dumps(data), scale=1.0)


def _scaled(values: list[Any], scale: tuple[int, int], *, swapped: bool) -> list[Any]:
    if not all(isinstance(v, int | float) for v in values) or len(values) % 2:
        return values  # which ``parse_located`` refuses
    pairs = [(values[i], values[i + 1]) for i in range(0, len(values), 2)]
    pairs = [(x, y) if not swapped else (y, x) for x, y in pairs]
    return [v for x, y in pairs for v in (x / scale[0], y / scale[1])]
