"""One thing that was noticed about an arm, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed. A problem keeps the arm from working well or safely; a remark is good to know."""

    kind: Literal["problem", "remark"]
    where: str  # a joint, "port" or "arm"
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" + (f". {self.remedy}" if self.remedy else "")


def problem(where: str, text: str, remedy: str = "") -> Finding:
    """Something that keeps the arm from working well or safely."""
    return Finding("problem", where, text, remedy)


def remark(where: str, text: str, remedy: str = "") -> Finding:
    """Something that is good to know."""
    return Finding("remark", where, text, remedy)
