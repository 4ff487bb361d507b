"""The plan language: the one model from which grammar, tools and schemas are made.

A plan is a list of skill calls. Every ``point`` marks the *foot* of an object: the centre of the area where it touches
the table, in normalised picture coordinates (0..1, x to the right, y down). ``top`` marks the centre of its upper face;
foot and top together give a height without a depth camera. Directions (left, right, front, behind) are as seen in the
picture: ``left`` is the left of the picture, ``front`` is towards the viewer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Point = tuple[Unit, Unit]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Direction = Literal["left", "right", "front", "behind"]
Relation = Literal["in", "on", "left", "right", "front", "behind"]
RefuseReason = Literal["absent", "unclear", "unsafe", "impossible", "out_of_reach"]


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reach(_Call):
    """Bring the open gripper above an object."""

    skill: Literal["reach"] = "reach"
    object: Name
    point: Point


class Pick(_Call):
    """Grasp an object and lift it."""

    skill: Literal["pick"] = "pick"
    object: Name
    point: Point


class Place(_Call):
    """Put down what is held: in a container, on something, or beside something."""

    skill: Literal["place"] = "place"
    relation: Relation
    object: Name
    point: Point
    top: Point | None = None  # wanted for relation "on"

    @property
    def where(self) -> str:
        """The relation in words: ``in``, ``on``, ``behind``, ``in front of``, ``to the left of``."""
        words = {"left": "to the left of", "right": "to the right of", "front": "in front of"}
        return words.get(self.relation, self.relation)


class Push(_Call):
    """Slide an object over the table by about 8 cm."""

    skill: Literal["push"] = "push"
    object: Name
    point: Point
    direction: Direction


class Open(_Call):
    """Pull a drawer open by its handle; ``point`` is the foot of the handle's front."""

    skill: Literal["open"] = "open"
    object: Name
    point: Point


class Close(_Call):
    """Push a drawer shut."""

    skill: Literal["close"] = "close"
    object: Name
    point: Point


class Press(_Call):
    """Press a button down."""

    skill: Literal["press"] = "press"
    object: Name
    point: Point


class Home(_Call):
    """Go back to the rest pose."""

    skill: Literal["home"] = "home"


class Ask(_Call):
    """Ask the user which of several objects is meant."""

    skill: Literal["ask"] = "ask"
    object: Name
    question: Annotated[str, Field(max_length=300)] = ""


class Refuse(_Call):
    """Say why nothing will be done."""

    skill: Literal["refuse"] = "refuse"
    reason: RefuseReason
    object: Annotated[str, Field(max_length=60)] = ""
    text: Annotated[str, Field(max_length=300)] = ""


SkillCall = Annotated[
    Reach | Pick | Place | Push | Open | Close | Press | Home | Ask | Refuse, Field(discriminator="skill")
]
MAX_CALLS = 12


class Plan(BaseModel):
    """What a planner answers: at most ``MAX_CALLS`` calls, or a single speech act."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    calls: Annotated[tuple[SkillCall, ...], Field(min_length=1, max_length=MAX_CALLS)]

    @property
    def speech(self) -> Ask | Refuse | None:
        """The question or the refusal when this plan is one, else None."""
        first = self.calls[0]
        return first if isinstance(first, Ask | Refuse) else None
