"""Reach: bring the open gripper above an object."""

from __future__ import annotations

from hardware.kinematics import tool_position
from sim.experts.expert import OPEN, Expert, Move, apart, raised

REACH_Z = 0.065


class ReachExpert(Expert):
    """Ends with the tool 6.5 cm over the object's foot."""

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        over = raised(self.goal.point, REACH_Z)
        side, _ = apart(tool, over)
        near = side < 0.008 and abs(tool[2] - over[2]) < 0.008
        return self.go(q, self.hover(tool, over, top_m=0.05), OPEN, done=near)
