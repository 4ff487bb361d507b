"""Whether a step did what it should, from what the robot itself can feel, and from a picture.

What this does not protect against: what neither is asked. A drawer pulled half open, the wrong object in the hand: for these
the answer is ``None``, and the policy's word has to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.plan import Pick, Place, Plan, SkillCall
from hardware.camera_model import Frame
from hardware.errors import EmbodiedError
from hardware.robot import Observation

#: A picture speaks against a step when its answer is yes with less than this probability: a needless repetition costs more
#: than a missed one, for it moves what already lies well.
DOUBT = 0.1
#: A gripper told to close that stays open by more than this (0..1) has something between its fingers. The thinnest
#: object, 22 mm, keeps it open by more than 0.1.
HOLDING_OPENING = 0.06
#: A gripper whose command is above this is not trying to hold anything.
OPEN_COMMAND = 0.5


@dataclass(frozen=True)
class Verdict:
    """``ok`` is None when the robot cannot tell."""

    ok: bool | None
    why: str = ""


def is_holding(observation: Observation) -> bool:
    """Whether something keeps the closing gripper open."""
    opening, wanted = float(observation.q[5]), float(observation.command[5])
    return wanted < OPEN_COMMAND and opening > HOLDING_OPENING and opening - wanted > 0.5 * HOLDING_OPENING


def question_about(pick: Pick, place: Place) -> str:
    """What to ask a picture after ``place``: ``is the red cube in the blue bowl?``"""
    return f"is the {pick.object} {place.where} the {place.object}?"


def looks_so(planner: object, question: str, frame: Frame) -> float | None:
    """The probability that a picture shows it, from a planner that answers questions; None from one that does not."""
    verify = getattr(planner, "verify", None)
    if verify is None:
        return None
    try:
        return float(verify(question, frame))
    except EmbodiedError:
        return None


def felt(call: SkillCall, observation: Observation) -> Verdict:
    """The verdict on ``call`` from the observation after it."""
    match call:
        case Pick():
            if is_holding(observation):
                return Verdict(True)
            return Verdict(False, f"the gripper closed on nothing: it does not hold the {call.object}")
        case Place():
            if is_holding(observation):
                return Verdict(False, "the gripper still holds the object")
            return Verdict(None)
        case _:
            return Verdict(None)


def unseen(planner: object, plan: Plan, frame: Frame) -> tuple[str, ...] | None:
    """What should be so after a plan, and the planner does not see in the picture; None when it cannot be asked.

    Asked about are the places where things were put in or on something.
    """
    ends: dict[str, Place] = {}
    held: Pick | None = None
    questions: dict[str, str] = {}
    for call in plan.calls:
        if isinstance(call, Pick):
            held = call
            ends.pop(held.object, None)
        elif isinstance(call, Place) and held is not None and call.relation in ("in", "on"):
            ends[held.object] = call
            questions[held.object] = question_about(held, call)
    answers = {name: looks_so(planner, questions[name], frame) for name in ends}
    if not answers or None in answers.values():
        return None
    return tuple(
        f"the {name} {ends[name].relation} the {ends[name].object}"
        for name, yes in answers.items()
        if yes is not None and yes < 0.5
    )
