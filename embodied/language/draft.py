"""What the builders of the instruction kinds hand over: words as segments, and the skill calls they mean."""

from __future__ import annotations

from dataclasses import dataclass

from embodied.language.patterns import Segment
from embodied.language.view import View
from embodied.language.words import Voice
from embodied.plan import Ask, Refuse, SkillCall


@dataclass(frozen=True, slots=True)
class Draft:
    """An instruction before politeness, capitals and punctuation. ``raw``: to be left exactly as it is."""

    segments: list[Segment]
    calls: tuple[SkillCall, ...]
    statement: bool = False
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What a builder works with. ``careful``: spots beside objects must be free and in reach."""

    view: View
    voice: Voice
    careful: bool
    forbidden: frozenset[str]  # labels that must not be mentioned


def ask(what: str) -> tuple[SkillCall, ...]:
    """A plan that asks for ``what``: a description, ``object``, ``container``, ``destination`` or ``direction``."""
    return (Ask(object=what),)


def refuse(reason: str, what: str = "") -> tuple[SkillCall, ...]:
    """A plan that refuses; ``what`` is a description made of plan words, or empty."""
    return (Refuse(reason=reason, object=what),)  # type: ignore[arg-type]
