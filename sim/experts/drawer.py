"""Open and close a drawer by the handle, which faces the arm and slides towards it.

Both end where they finish, low and beside the handle: were the tool to go up again, the last moments would look like the
first and nothing but memory could tell whether the drawer has been moved.
"""

from __future__ import annotations

import math
from functools import cached_property

from hardware.kinematics import tool_position
from sim.bodies import DRAWER_TRAVEL_M, HANDLE_WIDTH_M
from sim.experts.expert import Expert, Move, Point, apart
from sim.urdf_so101 import FIXED_FACE_M

#: Tool height (m) while at the handle, which reaches from 10 to 46 mm: the tips stay clear of the strut behind it (32 mm).
HANDLE_Z = 0.0405
#: Gripper opening around the handle: the moving jaw must fit between handle and drawer front, which are 26 mm apart.
HANDLE_OPENING = 0.17
#: Distance (m) at which the fixed finger comes down before the handle; closing brings the other jaw up from behind.
_GAP_M = 0.006
#: Where the outer side of the closed fingers lies on the tool's x axis, which points back to the arm.
_PUSHER_M = 0.012
#: How far (m) short of the handle the closed fingers come down before they push.
_RUN_UP_M = 0.022


class _DrawerExpert(Expert):
    def radius(self, point: Point) -> float:
        """Distance from the pan axis, along which drawers slide."""
        px, py = self.spec.arm_origins[0].xyz[:2]
        return math.hypot(point[0] - px, point[1] - py)

    def moved_m(self, q: list[float]) -> float:
        """How far the tool has come in the last control step."""
        return math.dist(tool_position(self.spec, q), tool_position(self.spec, self.previous))

    def along(self, distance_m: float) -> Point:
        """The point at the handle's height that lies so far outwards from the handle."""
        px, py = self.spec.arm_origins[0].xyz[:2]
        x, y, z = (float(v) for v in self.goal.point)
        scale = 1.0 + distance_m / math.hypot(x - px, y - py)
        return px + (x - px) * scale, py + (y - py) * scale, z + HANDLE_Z


class OpenExpert(_DrawerExpert):
    """Grips the handle, pulls, lets go; ends beside the handle of the open drawer."""

    shift_m = FIXED_FACE_M - 0.5 * HANDLE_WIDTH_M - _GAP_M

    @cached_property
    def grip(self) -> Point:
        return self.beside_jaws(self.along(0.0), self.shift_m)

    @cached_property
    def end(self) -> Point:
        return self.beside_jaws(self.along(-DRAWER_TRAVEL_M), self.shift_m)

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        pulled = self.radius(self.grip) - self.radius(tool)
        opened = pulled > DRAWER_TRAVEL_M - 0.006
        if self.closing and self.missed(q):
            self.closing = False
        if self.closing:
            if opened:
                self.closing, self.let_loose = False, True
                return self.go(q, self.end, HANDLE_OPENING)
            return self.go(q, self.end if pulled > 0.004 or self.still(q) else self.grip, 0.0)
        side, height = apart(tool, self.grip)
        if height < 0.012 and opened and apart(tool, self.end)[0] < 0.02:
            return self.go(q, self.end, HANDLE_OPENING, done=q[5] > HANDLE_OPENING - 0.03)
        if self.let_loose:  # knocked away from where it had finished
            return self.go(q, self.hover(tool, self.end), HANDLE_OPENING)
        if side < 0.004 and abs(height) < 0.005 and abs(q[5] - HANDLE_OPENING) < 0.03:
            return self.close(q, self.grip)
        return self.go(q, self.hover(tool, self.grip), HANDLE_OPENING)


class CloseExpert(_DrawerExpert):
    """Pushes the handle outwards with the closed fingers; ends touching it."""

    @cached_property
    def before(self) -> Point:
        return self.beside_jaws(self.along(0.0), _PUSHER_M - 0.5 * HANDLE_WIDTH_M - _RUN_UP_M)

    @cached_property
    def end(self) -> Point:
        return self.beside_jaws(self.along(DRAWER_TRAVEL_M + 0.004), _PUSHER_M - 0.5 * HANDLE_WIDTH_M)

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        gone = self.radius(tool) - self.radius(self.before)
        whole = self.radius(self.end) - self.radius(self.before)
        # Distance from the line along which the fingers push.
        (bx, by, bz), (ex, ey, _) = self.before, self.end
        length = math.hypot(ex - bx, ey - by)
        aside = abs((tool[0] - bx) * (ey - by) - (tool[1] - by) * (ex - bx)) / length
        low = tool[2] - bz < 0.012
        stalled = bool(self.previous) and gone > _RUN_UP_M and self.moved_m(q) < 0.0005
        if low and aside < 0.010 and gone > -0.006 and q[5] < 0.1:
            return self.go(q, self.end, 0.0, done=stalled or gone > whole - 0.008)
        return self.go(q, self.hover(tool, self.before), 0.0)
