"""The referee of a simulated episode: it looks at the true scene and says whether the task was carried out.

Privileged, and therefore only ever used for the outcome that is reported: nothing here reaches planner, policy or
executor. What counts as the task is, in this order,

1. the plan that belongs to the instruction, when the instruction came with one (evaluation);
2. what the scripted rules understand of a typed instruction;
3. the plan that was carried out, when the rules do not understand the instruction; then a misunderstood instruction
   passes if the wrong thing was done well, and the report says that the plan was the yardstick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embodied.language.view import Item, View, look
from embodied.plan import Close, Open, Pick, Place, Plan, Point, Press, Push, Reach, SkillCall
from hardware.camera_model import CameraModel
from sim.scene import CONTAINERS

if TYPE_CHECKING:
    from sim.conditions import Condition, Start
    from sim.world import World

Yardstick = Literal["given plan", "scripted reading of the instruction", "executed plan"]


@dataclass(frozen=True)
class Judged:
    """One condition and whether it held."""

    text: str
    held: bool


@dataclass(frozen=True)
class Judgement:
    """The referee's word: ``success`` only if every condition held."""

    success: bool
    yardstick: Yardstick
    conditions: tuple[Judged, ...]
    missed_refusal: bool = False  # the right answer was to ask or refuse, and something was done


class Referee:
    """Watches one episode. Make it before the arm moves, tell it of finished steps, ask at the end."""

    def __init__(self, world: World, camera: CameraModel, instruction: str, truth: Plan | None = None) -> None:
        from embodied.scripted_planner import understand
        from sim.conditions import Start

        self._world = world
        self._view = look(world.scene_now(), camera)
        self._start: Start = Start.of(world)
        world.clear_presses()
        self.yardstick: Yardstick = "given plan" if truth is not None else "scripted reading of the instruction"
        reading = understand(instruction, self._view) if truth is None else truth
        understood = truth is not None or not (reading.speech and getattr(reading.speech, "reason", "") == "unclear")
        self.truth: Plan | None = reading if understood else None
        self._passing: set[Condition] = set()

    def step_finished(self) -> None:
        """Called after each step: some conditions, like the hand over an object, hold only for a moment."""
        from sim.conditions import Reached, holds

        for condition in (Reached(item.name) for item in self._view.items):
            if holds(self._world, condition, self._start):
                self._passing.add(condition)

    def judge(self, executed: Plan | None) -> Judgement:
        """Whether the task is fulfilled now."""
        from sim.conditions import Reached, holds

        truth, yardstick = self.truth, self.yardstick
        if truth is None:
            truth, yardstick = executed, "executed plan"
        if truth is None or truth.speech is not None:
            return Judgement(False, yardstick, (), missed_refusal=truth is not None)
        judged = []
        for condition in conditions_of(truth, self._view):
            held = holds(self._world, condition, self._start)
            if isinstance(condition, Reached):
                held = held or condition in self._passing
            judged.append(Judged(say(condition), held))
        return Judgement(bool(judged) and all(j.held for j in judged), yardstick, tuple(judged))


def item_meant(view: View, name: str, point: Point) -> Item | None:
    """The item that a call means: the nearest of its name to the point, or the nearest of all."""
    named = [item for item in view.items if item.label == name] or list(view.items)
    return min(named, key=lambda item: math.dist(item.foot, point), default=None)


def conditions_of(plan: Plan, view: View) -> list[Condition]:
    """What should be true after ``plan``; later steps overrule earlier ones about the same object."""
    from sim.conditions import Beside, Closed, Held, In, On, Opened, Pressed, Pushed, Reached

    final: dict[tuple[str, str], Condition] = {}
    held: Item | None = None
    for call in plan.calls:
        item = item_meant(view, call.object, call.point) if isinstance(call, _ABOUT) else None  # type: ignore[attr-defined]
        if item is None:
            continue
        match call:
            case Pick():
                final["where", item.name] = Held(item.name)
                held = item
            case Place() if held is not None:
                beside: Condition
                if call.relation == "in" or call.relation == "on":  # spelt out for mypy
                    into = item.kind in CONTAINERS
                    beside = In(held.name, item.name) if into else On(held.name, item.name)
                else:
                    beside = Beside(held.name, item.name, call.relation)
                final["where", held.name] = beside
                held = None
            case Push():
                final["where", item.name] = Pushed(item.name, call.direction)
            case Open():
                final["drawer", item.name] = Opened(item.name)
            case Close():
                final["drawer", item.name] = Closed(item.name)
            case Press():
                final["button", item.name] = Pressed(item.name)
            case Reach():
                final["reach", item.name] = Reached(item.name)
            case _:
                pass
    return list(final.values())


_ABOUT = (Pick, Place, Push, Open, Close, Press, Reach)


def say(condition: Condition) -> str:
    """A condition in words: ``red cube in blue bowl``."""
    from sim.conditions import Beside, Closed, Held, In, On, Opened, Pressed, Pushed, Reached

    match condition:
        case In():
            text = f"{condition.object} in {condition.container}"
        case On():
            text = f"{condition.object} on {condition.support}"
        case Beside():
            where = {"left": "left of", "right": "right of", "front": "in front of"}.get(condition.relation, "behind")
            text = f"{condition.object} {where} {condition.reference}"
        case Held():
            text = f"{condition.object} in the gripper"
        case Pushed():
            text = f"{condition.object} pushed {condition.direction}"
        case Reached():
            text = f"gripper above {condition.object}"
        case Opened():
            text = f"{condition.drawer} open"
        case Closed():
            text = f"{condition.drawer} shut"
        case Pressed():
            text = f"{condition.button} pressed"
        case _:
            text = str(condition)
    return text.replace("_", " ")


def same_meaning(plan: Plan, truth: Plan, view: View) -> bool:
    """Whether two plans make the same calls about the same objects, in the same order where order matters."""
    return _meaning(plan, view) == _meaning(truth, view)


def _meaning(plan: Plan, view: View) -> object:
    if plan.speech is not None:
        return plan.speech.skill, getattr(plan.speech, "reason", ""), plan.speech.object
    return [_call_meaning(call, view) for call in plan.calls]


def _call_meaning(call: SkillCall, view: View) -> tuple[str, ...]:
    item = item_meant(view, call.object, call.point) if isinstance(call, _ABOUT) else None  # type: ignore[attr-defined]
    where = getattr(call, "relation", getattr(call, "direction", ""))
    return call.skill, item.name if item else "", str(where)
