"""Place, bowl, stack: carry what is held over a spot, lower it, let go, move up.

The three differ in how far the object is lowered. Whether something is still held shows in the gripper: it is told to
close further than it can.
"""

from __future__ import annotations

from hardware.kinematics import tool_position
from sim.experts.expert import GRIP_Z, TRAVEL_Z, Expert, Move, Point, apart, raised


class PlaceExpert(Expert):
    """Puts the held object's foot on ``goal.point``; ends above it with the gripper open."""

    #: Tool height (m) over ``goal.point`` at which the gripper opens.
    release_z = GRIP_Z + 0.002
    #: Height (m) over ``goal.point`` at which it arrives and leaves.
    travel_z = TRAVEL_Z
    #: The object is let go when it is so near (m) to the vertical through the spot.
    precision_m = 0.004
    _spot: Point | None = None
    _spot_for = -1.0

    def spot(self, opening: float) -> Point:
        """Where the tool lets go, so that the middle of an object of that width comes to stand on the goal point."""
        if self._spot is None or abs(opening - self._spot_for) > 0.004:
            self._spot = self.beside_jaws(raised(self.goal.point, self.release_z), self.held_shift_m(opening))
            self._spot_for = opening
        return self._spot

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        if not self.closing:
            return self.leave(q, tool)
        spot = self.spot(q[5])
        side, height = apart(tool, spot)
        if side < self.precision_m and height < 0.003:
            return self.let_go(q, spot)
        return self.go(q, self.hover(tool, spot, slack_m=0.6 * self.precision_m, top_m=self.travel_z - GRIP_Z), 0.0)

    def leave(self, q: list[float], tool: Point) -> Move:
        """Open before moving, then straight up from where the tool is."""
        top = float(self.goal.point[2]) + self.travel_z
        if q[5] < self.released - 0.05:
            return self.go(q, tool, self.released)
        return self.go(q, (tool[0], tool[1], top), self.released, done=tool[2] > top - 0.012)


class BowlExpert(PlaceExpert):
    """Drops the held object into a container from just over the highest rim."""

    release_z = 0.062
    travel_z = 0.11
    precision_m = 0.008


class StackExpert(PlaceExpert):
    """Puts the held object on top of another, whose top is ``goal.point``."""

    release_z = GRIP_Z + 0.003
    travel_z = 0.09
    precision_m = 0.003
