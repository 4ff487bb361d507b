"""Pick: come down over an object, close the gripper, lift."""

from __future__ import annotations

from functools import cached_property

from hardware.kinematics import tool_position
from sim.experts.expert import GRIP_Z, LIFT_Z, OPEN, Expert, Move, Point, apart, raised

#: Where the object's middle lies between the open jaws, on the tool's x axis: the fixed finger 27 mm away clears the
#: corners of every cube, and the closing jaw slides the object up to it.
PICK_SHIFT_M = -0.007


class PickExpert(Expert):
    """Ends with the object lifted. A gripper that closed on nothing is opened again, so a miss is tried once more."""

    @cached_property
    def grip(self) -> Point:
        """The tool position at which the gripper is closed."""
        return self.beside_jaws(raised(self.goal.point, GRIP_Z), PICK_SHIFT_M)

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        side, height = apart(tool, self.grip)
        if self.closing and self.missed(q):
            self.closing = False
        if self.closing:
            up = raised(self.grip, LIFT_Z - GRIP_Z)
            return self.go(q, up if self.still(q) else self.grip, 0.0, done=tool[2] > up[2] - 0.012)
        if side < 0.005 and height < 0.004 and q[5] > OPEN - 0.03:
            return self.close(q, self.grip)
        return self.go(q, self.hover(tool, self.grip), OPEN)
