"""Push: slide an object over the table, held between the jaws so that it goes where the tool goes.

A finger pushing from behind would need to see where the object slips to; between the jaws its place is known, which lets a
policy without eyes on the object learn the skill, and balls can be slid as well.
"""

from __future__ import annotations

from functools import cached_property

from hardware.kinematics import tool_position
from sim.experts.expert import GRIP_Z, OPEN, Expert, Move, Point, apart, raised
from sim.experts.pick import PICK_SHIFT_M

#: Tool height (m) while sliding: a hair more than while gripping, so that the object is not pressed onto the table.
SLIDE_Z = GRIP_Z + 0.002


class PushExpert(Expert):
    """Slides the object from ``goal.point`` to ``goal.to``; ends there, still low, with the gripper open."""

    _end: Point | None = None
    _end_for = -1.0

    @cached_property
    def grip(self) -> Point:
        """The tool position at which the gripper is closed."""
        return self.beside_jaws(raised(self.goal.point, GRIP_Z), PICK_SHIFT_M)

    def end(self, opening: float) -> Point:
        """Where the tool lets go of an object of that width."""
        if self._end is None or abs(opening - self._end_for) > 0.004:
            self._end = self.beside_jaws(raised(self.goal.to, SLIDE_Z), self.held_shift_m(opening))
            self._end_for = opening
        return self._end

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        if self.closing and self.missed(q):
            self.closing = False
        if self.closing:
            end = self.end(q[5])
            if not self.still(q):
                return self.go(q, self.grip if apart(tool, self.grip)[0] < 0.01 else tool, 0.0)
            return self.let_go(q, end) if apart(tool, end)[0] < 0.005 else self.go(q, end, 0.0)
        # Let go near the end and still low: the work is done. Nothing else brings the tool down there.
        near = apart(tool, raised(self.goal.to, GRIP_Z))[0] < 0.03 and tool[2] - self.goal.to[2] < GRIP_Z + 0.012
        if near:
            return self.go(q, tool, self.released, done=q[5] > self.released - 0.05)
        if self.let_loose and self._end is not None:  # knocked away from where it had finished
            return self.go(q, self.hover(tool, self._end), self.released)
        side, height = apart(tool, self.grip)
        if side < 0.005 and height < 0.004 and q[5] > OPEN - 0.03:
            return self.close(q, self.grip)
        return self.go(q, self.hover(tool, self.grip), OPEN)
