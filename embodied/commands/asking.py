"""Where the answers to a command's questions come from: the terminal, a file, or nowhere because defaults are taken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.asking import Ask, FromLines, take_defaults
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from rich.console import Console


def answers(console: Console, yes: bool, file: Path | None) -> Ask:
    """An ``Ask`` that shows each question. Raises ``EmbodiedError`` when nobody can answer."""
    if file is not None:
        if not file.exists():
            raise EmbodiedError(f"there is no file of answers {file}; make it, one answer a line")
        source: Ask = FromLines(_lines(file), str(file))
    elif yes:
        source = take_defaults
    elif sys.stdin.isatty():
        source = _at_terminal
    else:
        raise EmbodiedError("this command asks questions and there is no terminal; add --yes, or --answers FILE")

    def ask(question: str, default: str = "") -> str:
        console.print(question, markup=False, end=" " if source is _at_terminal else "\n")
        return source(question, default)

    return ask


def _lines(file: Path) -> Iterator[str]:
    """Opened at the first question, so that a pipe may be written to after it."""
    try:
        with file.open(encoding="utf-8") as lines:
            yield from lines
    except (OSError, UnicodeDecodeError) as error:
        raise EmbodiedError(f"cannot read the answers in {file}: {error}") from error


def _at_terminal(question: str, default: str = "") -> str:
    try:
        return input().strip() or default
    except EOFError as error:
        raise EmbodiedError("the terminal was closed before this question was answered") from error
