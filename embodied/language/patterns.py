"""Sentence patterns: a string with alternatives and slots, parsed once and expanded many times.

    "(put|place) {x} (in|into|) {y}"

Parentheses hold alternatives separated by ``|`` (they nest, and one may be empty); braces hold a slot that a phrase
fills; ``<put>`` is replaced by a named list of alternatives first. Expanding gives *segments*, so that it stays known
which characters refer to which objects.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embodied.language.words import invented

#: The slot that a word nobody knows fills.
INVENTED = "v"

#: A piece of text with the names of the objects it refers to; None when it refers to nothing.
Segment = tuple[str, tuple[str, ...] | None]
Phrase = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that a phrase fills."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several continuations."""

    options: tuple[tuple[str | Slot | Choice, ...], ...]


Parts = tuple[str | Slot | Choice, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern. ``statement``: not an imperative, so "could you" cannot stand before it."""

    source: str
    parts: Parts
    statement: bool

    def expand(self, dice: random.Random, slots: Mapping[str, Phrase]) -> list[Segment]:
        """One random expansion as segments."""
        out: list[Segment] = []
        _expand(self.parts, dice, slots, out)
        return out

    @property
    def count(self) -> int:
        """How many different texts it can give, slots not counted."""
        return _count(self.parts)


def compile_patterns(sources: Sequence[str], names: Mapping[str, str]) -> tuple[Pattern, ...]:
    """Parse patterns; a leading ``!`` marks a statement. Raises ``ValueError`` for unbalanced brackets."""
    return tuple(_compile(source, names) for source in sources)


def _compile(source: str, names: Mapping[str, str]) -> Pattern:
    text = source.removeprefix("!")
    for _ in range(3):  # named lists may use named lists
        text = re.sub(r"<(\w+)>", lambda match: f"({names[match[1]]})", text)
    parts, end = _parse(text, 0)
    if end != len(text):
        raise ValueError(f"unbalanced brackets in the pattern {source!r}")
    return Pattern(source, parts, source.startswith("!"))


def _parse(text: str, at: int) -> tuple[Parts, int]:
    """Parts from ``at`` up to the end or an unmatched ``|`` or ``)``."""
    parts: list[str | Slot | Choice] = []
    literal = ""
    while at < len(text) and text[at] not in "|)":
        if text[at] == "(":
            options: list[Parts] = []
            at += 1
            while True:
                option, at = _parse(text, at)
                options.append(option)
                if at >= len(text):
                    raise ValueError(f"a bracket is not closed in the pattern {text!r}")
                at += 1
                if text[at - 1] == ")":
                    break
            parts += [literal, Choice(tuple(options))]
            literal = ""
        elif text[at] == "{":
            end = text.index("}", at)
            parts += [literal, Slot(text[at + 1 : end])]
            literal, at = "", end + 1
        else:
            literal += text[at]
            at += 1
    return tuple(part for part in (*parts, literal) if part != ""), at


def _expand(parts: Parts, dice: random.Random, slots: Mapping[str, Phrase], out: list[Segment]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append((part, None))
        elif isinstance(part, Slot) and part.name == INVENTED:
            out.append((invented(dice), None))
        elif isinstance(part, Slot):
            out.extend(slots[part.name])
        else:
            _expand(part.options[int(dice.random() * len(part.options))], dice, slots, out)


def _count(parts: Parts) -> int:
    total = 1
    for part in parts:
        if isinstance(part, Choice):
            total *= sum(_count(option) for option in part.options)
    return total
