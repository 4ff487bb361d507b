"""What every expert has in common: its goal, its answer, and the way the tool is moved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.errors import UnreachableError
from hardware.kinematics import forward, inverse_any_pitch, tool_position
from hardware.robot import Observation
from sim.urdf_so101 import FIXED_FACE_M, PARALLEL_JAW_RAD, PARALLEL_WIDTH_M

Float = NDArray[np.float64]
Point = tuple[float, float, float]

#: Tool heights (m) over the surface: while gripping a small object, while passing over others, and once lifted.
GRIP_Z = 0.012
TRAVEL_Z = 0.10
LIFT_Z = 0.10
#: Gripper openings: to go round an object, how much further to open for letting one go, and below which nothing is held.
OPEN = 0.41
RELEASE = 0.12
EMPTY = 0.06
#: A gripper that is told to close is told less than the first, and less than its opening by the second.
_CLOSE, _FURTHER = 0.15, 0.03
#: A gripper that has stood still for so many steps has gripped; a slow servo takes one or two to begin.
_HELD_STEPS = 4
#: The tool moves at most so far in one control step of 1/20 s: 0.25 m/s, the safety core's limit.
STEP_M = 0.0125
STEP_RAD = 0.09
#: Distance (m) from the jaw's axis to the middle of its pad, along the tool.
_JAW_ARM_M = 0.072


@dataclass(frozen=True)
class SkillGoal:
    """What one skill should achieve; field by field the policies' goal, which the simulation may not import.

    ``point`` (3,) m, base frame: the foot of the object acted on (z = height of the surface it stands on); for the
    placing skills (place, bowl, stack) the surface point where the held object's foot should come to rest (bowl: the
    foot of the container); for open and close the foot of the handle where it is at the start. ``to`` (3,): where a
    pushed object should end; equal to ``point`` for the other skills.
    """

    skill: str
    point: Float
    to: Float


@dataclass(frozen=True)
class Move:
    """What an expert wants now: joint target (6,), and whether the skill is carried out and the arm only waits."""

    target: Float
    done: bool


@dataclass
class Expert(ABC):
    """One skill's expert for one goal."""

    spec: ArmSpec
    goal: SkillGoal
    previous: list[float] = field(default_factory=list, init=False)  # q one step ago
    closing: bool = field(default=False, init=False)  # told the gripper to close, and have not let go since
    let_loose: bool = field(default=False, init=False)  # has held something and let it go
    released: float = field(default=OPEN, init=False)  # how far the gripper is opened after letting go
    _told: float = field(default=0.0, init=False)  # what the gripper was told one step ago
    _held_at: float = field(default=0.0, init=False)  # opening at which something was held last; 0: nothing was
    _held_for: int = field(default=0, init=False)  # steps in which something has kept the closing gripper open

    def act(self, observation: Observation) -> Move:
        """The joint target for the next control step, from measured joints and the last command."""
        q = observation.q.tolist()
        self._notice(float(observation.command[5]), q)
        move = self.decide(q)
        self.previous = q
        return move

    def _notice(self, told: float, q: list[float]) -> None:
        """Go by what the gripper was told, whoever told it.

        Where a policy acts and the expert only says what it would do, the gripper need not do what the expert said: an
        expert that believes its own word would lift what was never gripped, and let go of what the policy has gripped.
        """
        opening = q[5]
        # A command that is still on its way down, as where actions are small steps, is one to close as well.
        falls, rises = told < self._told - 0.005, told > self._told + 0.005
        closes = told < opening - _FURTHER or (bool(self.previous) and falls)
        self._told = told
        if not self.previous:  # the gripper may hold something already: it is told to close further than it can
            self.closing = closes
        elif self.closing and not closes and opening > EMPTY:  # not told to close, or told to open
            self.closing, self.let_loose = False, self.let_loose or self._held_at > 0.0
            self.released = self._held_at + RELEASE if self._held_at > 0.0 else self.released
        elif not self.closing and closes and not rises and told < _CLOSE and opening > EMPTY and self.still(q):
            self.closing = True
        self._held_for = self._held_for + 1 if self.closing and opening > EMPTY and self.still(q) else 0
        if self._held_for >= _HELD_STEPS:
            self._held_at = opening

    @abstractmethod
    def decide(self, q: list[float]) -> Move:
        """As ``act``, from the measured joints; ``closing`` says what the gripper was told."""

    # Moving ----------------------------------------------------------------------------------------------------------

    def go(self, q: list[float], to: Point, opening: float, *, roll: float = 0.0, done: bool = False) -> Move:
        """One step of the tool towards ``to``, at constant speed along radius, azimuth and height."""
        tool = tool_position(self.spec, q)
        step = _step_towards(self.spec, tool, to)
        # A commanded tilt follows from the position, so the tool straightens up by itself as it comes near the table.
        wanted = self._solve(step, roll, q) if step != to else None
        if wanted is None:
            wanted = self._solve(to, roll, q)
        if wanted is None:
            wanted = q[:5]
        change = [w - p for w, p in zip(wanted, q, strict=False)]
        largest = max(abs(c) for c in change)
        share = min(1.0, STEP_RAD / largest) if largest > 0.0 else 1.0
        return Move(np.array([*(p + share * c for p, c in zip(q, change, strict=False)), opening]), done)

    def _solve(self, position: Point, roll: float, near: list[float]) -> list[float] | None:
        try:
            found, _ = inverse_any_pitch(self.spec, position, roll, near=near)
        except UnreachableError:
            return None
        return [float(v) for v in found]

    def hover(self, tool: Point, over: Point, *, slack_m: float = 0.004, top_m: float = TRAVEL_Z) -> Point:
        """A funnel: the nearer the tool is to the vertical through ``over``, the lower it may go."""
        apart = math.hypot(tool[0] - over[0], tool[1] - over[1])
        height = min(max(2.5 * (apart - slack_m), 0.0), top_m)
        return over[0], over[1], over[2] + height

    def beside_jaws(self, point: Point, shift_m: float, roll: float = 0.0) -> Point:
        """Where the tool must be for ``point`` to lie ``shift_m`` along the tool's x axis, seen from above."""
        position = point
        for _ in range(3):
            q = self._solve(position, roll, [0.0] * 5)
            if q is None:
                return position
            x_axis = forward(self.spec, q)[:2, 0]
            norm = math.hypot(x_axis[0], x_axis[1])
            position = (
                point[0] - shift_m * float(x_axis[0]) / norm, point[1] - shift_m * float(x_axis[1]) / norm, point[2],
            )  # fmt: skip
        return position

    def held_width_m(self, opening: float) -> float:
        """Width of what is held, from the gripper's opening."""
        return PARALLEL_WIDTH_M + _JAW_ARM_M * math.sin(self.spec.jaw_angle(opening) - PARALLEL_JAW_RAD)

    def held_shift_m(self, opening: float) -> float:
        """Where the middle of what is held lies on the tool's x axis: it touches the fixed finger."""
        return FIXED_FACE_M - 0.5 * self.held_width_m(opening)

    def close(self, q: list[float], at: Point) -> Move:
        """Close the gripper where it is."""
        self.closing = True
        return self.go(q, at, 0.0)

    def let_go(self, q: list[float], at: Point) -> Move:
        """Open the gripper where it is, no wider than needed: neighbours may be near."""
        self.closing, self.let_loose = False, True
        self.released = q[5] + RELEASE
        return self.go(q, at, self.released)

    def missed(self, q: list[float]) -> bool:
        """Whether the gripper has closed on nothing."""
        return q[5] < EMPTY and self.still(q)

    def still(self, q: list[float]) -> bool:
        """Whether the gripper has stopped moving."""
        return bool(self.previous) and abs(q[5] - self.previous[5]) < 0.006


def raised(point: Float | Point, height_m: float) -> Point:
    """A point ``height_m`` higher."""
    return float(point[0]), float(point[1]), float(point[2]) + height_m


def apart(tool: Point, other: Point) -> tuple[float, float]:
    """Horizontal distance, and how much higher ``tool`` is (m)."""
    return math.hypot(tool[0] - other[0], tool[1] - other[1]), tool[2] - other[2]


def _step_towards(spec: ArmSpec, tool: Point, to: Point) -> Point:
    """The next point on the way: straight when near, else round the pan axis so as never to cross it."""
    px, py = spec.arm_origins[0].xyz[0], spec.arm_origins[0].xyz[1]
    x, y = tool[0] - px, tool[1] - py
    u, v = to[0] - px, to[1] - py
    here, there = math.hypot(x, y), math.hypot(u, v)
    turn = math.remainder(math.atan2(v, u) - math.atan2(y, x), math.tau)
    length = math.sqrt((there - here) ** 2 + (0.5 * (here + there) * turn) ** 2 + (to[2] - tool[2]) ** 2)
    if length <= STEP_M:
        return to
    share = STEP_M / length
    radius, azimuth = here + share * (there - here), math.atan2(y, x) + share * turn
    return px + radius * math.cos(azimuth), py + radius * math.sin(azimuth), tool[2] + share * (to[2] - tool[2])
