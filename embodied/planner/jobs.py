"""What else the planner answers: where things are, whether something is so, and what there is to see.

    point: the red cube              [{"label":"red cube","point_2d":[430,615],"bbox_2d":[400,540,460,640]}]
    verify: is the cube in the bowl? {"answer":"yes"}
    describe: list the objects       [{"label":"red cube","point_2d":[430,615]},…]   from left to right

The word before the colon tells the model which kind of answer is wanted, because the same words may ask for a motion:
"find the red cube" is an instruction, ``point: find the red cube`` is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embodied.plan import Point
from embodied.planner.grammar import LABELS, STEPS_OF_FIVE, any_of
from embodied.planner.plan_text import SCALE, snap
from hardware.errors import PlanError

Job = Literal["point", "verify", "describe"]
Box = tuple[float, float, float, float]
#: More objects than this are not listed.
MOST_LOCATED = 16
#: Pieces of the answers that are one token each; added to the vocabulary after the plan language's.
JOB_FRAGMENTS = ('{"label":"', '],"bbox_2d":[', '{"answer":"yes"}', '{"answer":"no"}', "[]")
YES, NO = '{"answer":"yes"}', '{"answer":"no"}'


@dataclass(frozen=True)
class Located:
    """An object in the picture: its name, its foot, and the box around it (left, top, right, bottom), all in 0..1."""

    label: str
    point: Point
    box: Box | None = None


def prompt_for(job: Job, words: str) -> str:
    """The words for a job as the model is asked."""
    words = " ".join(words.split())
    return f"{job}: {words or 'list the objects'}"


def located_to_text(found: Sequence[Located]) -> str:
    """An answer as compact JSON."""
    return "[" + ",".join(_one_to_text(item) for item in found) + "]"


def _one_to_text(item: Located) -> str:
    numbers = ",".join(str(snap(v)) for v in item.point)
    box = "" if item.box is None else '],"bbox_2d":[' + ",".join(str(snap(v)) for v in item.box)
    return f'{{"label":"{item.label}","point_2d":[{numbers}{box}]}}'


def parse_located(text: str, *, scale: float = SCALE) -> tuple[Located, ...]:
    """Read an answer; prose and code fences around the list are dropped. Raises ``PlanError`` when it is none."""
    found = re.search(r"\[.*\]", text, re.DOTALL)
    try:
        data = json.loads(found.group()) if found else None
    except json.JSONDecodeError as error:
        raise PlanError(f"the answer is not valid JSON ({error.msg}); ask again or use another model") from error
    if not isinstance(data, list):
        raise PlanError("the answer is not a list of objects; ask again or use another model")
    return tuple(_one(item, scale) for item in data[:MOST_LOCATED])


def _one(item: object, scale: float) -> Located:
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        raise PlanError("an object in the answer has no label; ask again or use another model")
    point, box = _numbers(item.get("point_2d"), 2, scale), _numbers(item.get("bbox_2d"), 4, scale)
    if point is None and box is not None:
        point = [(box[0] + box[2]) / 2, box[3]]
    if point is None:
        raise PlanError(f"the answer does not say where the {item['label'][:40]} is; ask again or use another model")
    return Located(item["label"][:60], (point[0], point[1]), None if box is None else (box[0], box[1], box[2], box[3]))


def _numbers(value: object, count: int, scale: float) -> list[float] | None:
    if not isinstance(value, list) or len(value) != count or not all(isinstance(v, int | float) for v in value):
        return None
    return [min(max(float(v) / scale, 0.0), 1.0) for v in value]


def job_grammar(job: Job) -> str:
    """A Lark grammar of the answers to a job, for objects of the scene language."""
    if job == "verify":
        return r'start: "{\"answer\":\"yes\"}" | "{\"answer\":\"no\"}"'
    box = r' ("],\"bbox_2d\":[" NUMBER "," NUMBER "," NUMBER "," NUMBER)?' if job == "point" else ""
    return "\n".join(
        (
            f'start: "[]" | "[" item ("," item)~0..{MOST_LOCATED - 1} "]"',
            rf'item: "{{\"label\":\"" LABEL "\",\"point_2d\":[" NUMBER "," NUMBER{box} "]}}"',
            f"LABEL: {any_of(LABELS)}",
            f"NUMBER: {STEPS_OF_FIVE.first}",
        )
    )
