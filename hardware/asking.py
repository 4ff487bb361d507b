"""Questions to the person at the arm, so that the same procedure runs at a terminal, from a file and in a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from hardware.errors import RobotError


class Ask(Protocol):
    """Ask a question and wait for the answer."""

    def __call__(self, question: str, default: str = "") -> str:
        """The answer, or ``default`` when it is empty. Raises ``RobotError`` when nobody can answer."""
        ...


def confirmed(ask: Ask, question: str) -> bool:
    """A yes or no; no is what happens when nobody says yes."""
    return ask(f"{question} (yes/no)", "no").strip().lower() in ("y", "yes")


def take_defaults(question: str, default: str = "") -> str:
    """An ``Ask`` that goes on at once and takes every default."""
    return default


class FromLines:
    """An ``Ask`` that reads the answers, one a line; an empty line takes the default."""

    def __init__(self, lines: Iterable[str], name: str = "the answers") -> None:
        self._lines: Iterator[str] = iter(lines)
        self._name = name

    def __call__(self, question: str, default: str = "") -> str:
        for line in self._lines:
            return line.strip() or default
        raise RobotError(f"{self._name} ended before this question: {question}")
