"""The scripted experts as a policy, for demonstrations and upper bounds; named *scripted* in every report.

The experts see measured joints and the goal, as a learned policy does. What makes them scripted is that a person wrote
down how each skill is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.arm_spec import SO101, ArmSpec
from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk

if TYPE_CHECKING:
    from sim.experts import Expert


class ScriptedPolicy:
    """One expert per goal, one step per chunk."""

    name = "scripted"
    cameras: tuple[str, ...] = ()

    def __init__(self, spec: ArmSpec = SO101, control_hz: float = 20.0) -> None:
        self.control_hz = control_hz
        self._spec = spec
        self._expert: Expert | None = None

    def reset(self) -> None:
        """A new skill begins."""
        self._expert = None

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The expert's next target as a chunk (1, 6)."""
        from sim.experts import SkillGoal, make_expert

        if self._expert is None:
            goal = goal.to_move()
            self._expert = make_expert(self._spec, SkillGoal(goal.skill, goal.point, goal.to))
        move = self._expert.act(observation)
        return Chunk(targets=move.target[None], done=1.0 if move.done else 0.0)
