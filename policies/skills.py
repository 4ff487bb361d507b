"""Names of the skills. Apart from ``Goal`` so that a command line can offer them without numpy."""

from __future__ import annotations

from typing import Literal, get_args

Skill = Literal["reach", "pick", "place", "bowl", "stack", "push", "open", "close", "press"]
SKILLS: tuple[Skill, ...] = get_args(Skill)
