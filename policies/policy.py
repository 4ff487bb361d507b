"""The policy contract: what the runtime asks of any low-level policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hardware.robot import Observation
from policies.goal import Goal


@dataclass(frozen=True)
class Chunk:
    """What a policy wants next.

    ``targets`` (H, 6): joint vectors for the next H control steps, the first to be sent now; radians, gripper 0..1.
    ``done``: the policy's own belief (0..1) that the skill has been carried out.
    """

    targets: NDArray[np.float64]
    done: float


@runtime_checkable
class Policy(Protocol):
    """A low-level policy. It sees observations and goals, nothing else, and keeps its own history.

    ``act`` is called once per control step, in order, also when the chunk it returns is not executed: that is how a
    policy learns what happened. ``reset`` comes before the first step of each skill.
    """

    name: str
    control_hz: float

    @property
    def cameras(self) -> tuple[str, ...]:
        """The frames it wants in the next observation; may change from step to step."""
        ...

    def reset(self) -> None:
        """Forget everything; a new skill begins."""
        ...

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) for the situation now."""
        ...
