"""Whether a step did what it should, from what the robot itself can feel.

What this does not protect against: anything the arm cannot feel. An object put down beside its place, a drawer pulled
half open, the wrong object in the hand: for these the answer is ``None``, and the policy's word has to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from embodied.plan import Pick, Place, SkillCall
from hardware.robot import Observation

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
