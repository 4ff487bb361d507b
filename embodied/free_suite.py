"""The suite ``free``: instructions written by hand in everyday language, in ``suites/free.json``.

    {"scenes": {"breakfast": {"objects": [...]}},
     "cases": [{"scene": "breakfast", "instruction": "red cube goes in the bowl", "category": "put_in",
                "plans": ["pick red_cube; place in blue_bowl"]}]}

A plan is written with the names of objects, so that its points follow from the scene; several plans are alternatives that
are all right. ``place beside X`` stands for any of the four sides. ``any_order``: the moves may come in any order.
``comment`` says why a reading was chosen where people could differ. Nothing in this file may be trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from embodied.language.holdout import HELD_OUT_LABELS
from embodied.plan import Plan, SkillCall
from embodied.score import Question, front_camera
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from embodied.language.view import View
    from sim.scene import Scene

FREE = Path(__file__).resolve().parent / "suites" / "free.json"
_CALL: TypeAdapter[SkillCall] = TypeAdapter(SkillCall)
#: Tag of cases about a colour and kind pair that training never shows: two difficulties at once.
NEW_PAIR = "new pair"
_SIDES = ("left", "right", "front", "behind")


@dataclass(frozen=True)
class Case:
    """One entry of the file, as it is written."""

    scene: str
    instruction: str
    category: str
    plans: tuple[str, ...]
    any_order: bool = False
    tags: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Suite:
    """The scenes by name, and the cases about them."""

    scenes: dict[str, Scene]
    cases: tuple[Case, ...]

    def question(self, index: int) -> Question:
        """Case ``index`` with its plans as data. Raises ``EmbodiedError`` when a plan does not fit its scene."""
        case = self.cases[index]
        scene = self.scenes[case.scene]
        plans = [plan for text in case.plans for plan in plans_from_text(text, scene)]
        new = any(getattr(call, "object", "") in HELD_OUT_LABELS for call in plans[0].calls)
        tags = (*case.tags, NEW_PAIR) if new else case.tags
        return Question(
            index, (0, index), scene, case.instruction, plans[0], case.category, tuple(plans[1:]), case.any_order, tags
        )  # fmt: skip


@lru_cache(maxsize=4)
def load_suite(path: Path = FREE) -> Suite:
    """Read a file of cases. Raises ``EmbodiedError`` that names the entry which cannot be used."""
    from sim.scene import Scene

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        scenes = {name: Scene.model_validate(scene) for name, scene in data["scenes"].items()}
        cases = tuple(_case(entry, index) for index, entry in enumerate(data["cases"]))
    except (OSError, json.JSONDecodeError, KeyError, ValidationError) as error:
        raise EmbodiedError(f"the suite {path.name} cannot be read: {error}; restore it from the repository") from error
    for index, case in enumerate(cases):
        if case.scene not in scenes:
            raise EmbodiedError(f"the suite {path.name}, case {index}: there is no scene {case.scene!r}")
    return Suite(scenes, cases)


def _case(entry: dict[str, Any], index: int) -> Case:
    fields: dict[str, Any] = entry | {key: tuple(entry[key]) for key in ("plans", "tags") if key in entry}
    try:
        return Case(**fields)
    except TypeError as error:
        raise EmbodiedError(f"case {index} of the suite has a wrong or a missing field: {error}") from error


def plans_from_text(text: str, scene: Scene) -> list[Plan]:
    """The plans that ``pick red_cube; place in blue_bowl`` stands for. Raises ``EmbodiedError`` on what is none."""
    from embodied.language.view import look

    if " beside " in text:
        return [plan for side in _SIDES for plan in plans_from_text(text.replace(" beside ", f" {side} ", 1), scene)]
    view = look(scene, front_camera(scene))
    try:
        return [Plan(calls=tuple(_CALL.validate_python(_fields(part.split(), view)) for part in text.split(";")))]
    except (ValidationError, ValueError) as error:
        raise EmbodiedError(f"{text!r} is no plan for this scene: {error}") from error


def _fields(words: list[str], view: View) -> dict[str, Any]:
    """The fields of one call."""
    match words:
        case ["home"]:
            return {"skill": "home"}
        case ["ask"]:
            return {"skill": "ask", "object": "object"}
        case ["refuse", reason]:
            return {"skill": "refuse", "reason": reason}
        case ["place", relation, name]:
            more = _about(name, view, with_top=relation == "on")
            return {"skill": "place", "relation": relation, **more}
        case ["push", name, direction]:
            return {"skill": "push", "direction": direction, **_about(name, view)}
        case [skill, name]:
            return {"skill": skill, **_about(name, view)}
        case _:
            raise ValueError(f"{' '.join(words)!r} is no call")


def _about(name: str, view: View, *, with_top: bool = False) -> dict[str, Any]:
    item = next((i for i in view.items if i.name == name), None)
    if item is None:
        raise ValueError(f"there is no {name!r} in view; there are {', '.join(i.name for i in view.items)}")
    about: dict[str, Any] = {"object": item.label, "point": item.foot}
    return {**about, "top": item.top} if with_top else about
