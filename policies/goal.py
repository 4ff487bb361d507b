"""The typed seam between planner and policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.skills import Skill


@dataclass(frozen=True)
class Goal:
    """What one skill should achieve.

    ``point`` (3,) m, base frame: the foot of the object acted on (z = height of the surface it stands on); for the
    placing skills (place, bowl, stack) the surface point where the held object's foot should come to rest (bowl: the
    foot of the container). ``to`` (3,): where a pushed object should end; for a bowl the spot under which it is let go,
    beside the container's middle where that is taken; equal to ``point`` for the other skills.
    """

    skill: Skill
    point: NDArray[np.float64]
    to: NDArray[np.float64]

    def to_move(self) -> Goal:
        """The goal for who only moves: of a bowl, where to let go is all that matters, and what looks keeps ``point``."""
        return Goal(self.skill, self.to, self.to) if self.skill == "bowl" else self
