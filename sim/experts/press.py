"""Press: push a button down with the closed gripper and hold it for half a second."""

from __future__ import annotations

import math
from functools import cached_property

from hardware.kinematics import tool_position
from sim.experts.expert import Expert, Move, Point, apart, raised
from sim.urdf_so101 import FIXED_FACE_M

#: Tool height (m) over the table at which the lowest and the highest button are both down; a taller one stops it before.
PRESS_Z = 0.0185
#: A button is down when the tool is so low: the tallest one leaves the finger tips at 16 mm.
DOWN_Z = 0.0235


class PressExpert(Expert):
    """Ends with the button down; going up again is the next skill's first move."""

    @cached_property
    def down(self) -> Point:
        """Where the tool presses: closed, the tips meet at the fixed finger, beside the tool point."""
        return self.beside_jaws(raised(self.goal.point, PRESS_Z), FIXED_FACE_M)

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        side, height = apart(tool, self.down)
        # Far out the tool tilts and touches the cap with its edge, a little higher: there it is down when nothing moves.
        stopped = bool(self.previous) and math.dist(tool, tool_position(self.spec, self.previous)) < 0.0005
        done = side < 0.012 and (height < DOWN_Z - PRESS_Z or (stopped and height < DOWN_Z - PRESS_Z + 0.006))
        return self.go(q, self.hover(tool, self.down, top_m=0.06), 0.0, done=done)
