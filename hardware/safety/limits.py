"""The data of the safety core: what it enforces, what it remembers, what it answers."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.errors import RobotError
from hardware.profile import Profile

Float = NDArray[np.float64]

_ABSURD = 1.0  # rad or openings outside the limits


class Reason(enum.Enum):
    """Why a command was changed or refused."""

    SHAPE = "the command is not a joint vector"
    NOT_FINITE = "the command holds NaN or infinity"
    PRESENT_INVALID = "the measured joint vector is not six finite numbers"
    BAD_TIME = "the time step is not a positive number"
    STALE = "the command is too old"
    LATCHED = "a fault is latched; reset it deliberately"
    JUMP = "the command is a jump, many times what the arm may do in one step"
    POSITION = "outside the joint limits"
    FOLLOWING = "too far from where the arm is"
    LAGGING = "the arm has been far from where it was sent for too long"
    VELOCITY = "faster than the joint limits"
    TABLE = "the gripper would go below the table margin"
    TIP_SPEED = "the tool would move too fast"
    COLLISION = "a part of the arm would come too near to another or to the table"
    FINAL = "the result failed the last check"


@dataclass(frozen=True)
class Applied:
    """What was really sent: ``q`` (6,), and why it differs from what was wanted."""

    q: Float
    verdict: Literal["pass", "clamp", "reject"]
    reasons: tuple[Reason, ...] = ()


#: name: (joint speeds rad/s and openings/s, tool speed m/s, following error rad, slow zone m). "default" holds a 0.35 m
#: reach to the 0.25 m/s that ISO 10218 calls reduced speed. "sim" is for simulation, where nobody can be hurt: a working
#: speed of these servos, a following error with room for simulated latency and soft servos, and a short slow zone.
_PROFILES: dict[str, tuple[tuple[float, ...], float, float, float]] = {
    "default": ((0.7, 0.7, 0.7, 1.5, 1.5, 1.5), 0.25, 0.1, 0.02),
    "sim": ((2.0, 2.0, 2.0, 3.0, 3.0, 2.5), 1.0, 0.3, 0.0025),
}


@dataclass(frozen=True, eq=False)
class Limits:
    """What the core enforces; data. Velocities may not exceed what ``spec.max_velocity`` says the servos can do."""

    spec: ArmSpec
    velocity: Float  # (6,) rad/s, openings/s
    tip_speed_m_s: float = 0.25
    following: Float | float = 0.1  # (6,) rad of |goal - present| beyond one step; one number: gripper free
    following_latch_s: float = 0.5  # how long the last goal may be further from present than that before it is a fault
    table_margin_m: float = 0.002  # lowest height of the tool point
    link_margin_m: float = 0.008  # least free space between links' capsules, and under wrist and hand
    slow_zone_m: float = 0.02  # within this of the link margin, ..
    slow_s: float = 0.1  # .. what is left of it is used up no faster than in this time
    reject_s: float = 0.4  # a command that takes longer than this at full speed is refused: 8 steps at 20 Hz
    latch_after: int = 3  # consecutive non-finite commands or readings
    hold_age_s: float = 0.1
    latch_age_s: float = 0.5
    max_dt_s: float = 0.1  # a late loop earns no longer step than this

    def __post_init__(self) -> None:
        velocity = np.array(self.velocity, dtype=np.float64)
        following = np.array(self.following, dtype=np.float64)
        if following.ndim == 0:  # a gripper holds things by aiming past them; its servo's torque limit bounds the grip
            following = np.array([float(following)] * 5 + [1.0])
        positive = (
            self.tip_speed_m_s, self.following_latch_s, self.reject_s, self.hold_age_s, self.latch_age_s, self.max_dt_s,
            self.slow_zone_m, self.slow_s,
        )  # fmt: skip
        if velocity.shape != (6,) or not np.all((velocity > 0) & (velocity <= self.spec.max_velocity)):
            raise RobotError(f"velocity must be six numbers in (0, {self.spec.max_velocity.round(3).tolist()}]")
        if not is_joint_vector(following) or not np.all(following > 0):
            raise RobotError("following must be a positive number of radians, or six of them")
        if not all(0.0 < value < math.inf for value in positive):
            raise RobotError("speeds, times and slow_zone_m in Limits must be positive and finite")
        if not math.isfinite(self.table_margin_m) or not 0.0 <= self.link_margin_m < math.inf:
            raise RobotError("table_margin_m in Limits must be finite, link_margin_m also not negative")
        if self.latch_after < 1 or self.latch_age_s < self.hold_age_s:
            raise RobotError("Limits needs latch_after >= 1 and latch_age_s >= hold_age_s")
        for name, values in (("velocity", velocity), ("following", following)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def profile(cls, spec: ArmSpec, name: Profile = "default") -> Limits:
        """The named profile for an arm. Raises ``RobotError`` listing the names."""
        if name not in _PROFILES:
            raise RobotError(f"no safety profile is named {name!r}; choose one of: {', '.join(_PROFILES)}")
        velocity, tip_speed, following, slow_zone = _PROFILES[name]
        return cls(spec, np.array(velocity), tip_speed, following, slow_zone_m=slow_zone)

    def age(self, elapsed_s: float, period_s: float) -> float:
        """How old (s) a command counts that was made ``elapsed_s`` ago, where one is due every ``period_s``.

        At low rates two periods are no age: one to make it, one to send it. What is no age, NaN or the future, stays none:
        the core knows what to do.
        """
        if not elapsed_s > 0.0:
            return elapsed_s
        return max(0.0, elapsed_s - max(0.0, 2.0 * period_s - self.hold_age_s))

    def slowed(self, share: float) -> Limits:
        """The same limits with joint and tool speeds times ``share``, which is in (0, 1]. Raises ``RobotError``."""
        if not 0.0 < share <= 1.0:
            raise RobotError(f"a share of the speed must be in (0, 1], not {share}")
        return replace(self, velocity=self.velocity * share, tip_speed_m_s=self.tip_speed_m_s * share)


@dataclass(frozen=True, eq=False)
class SafetyState:
    """What the core remembers between two commands. Begin with ``SafetyState.start``."""

    sent: Float  # (6,) sent last: the reference of the speed limits
    accepted: Float  # (6,) wanted last and not refused: the reference of the reject band
    fault: Reason | None = None  # latched
    bad_inputs: int = 0  # consecutive non-finite commands or readings
    lagging_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sent", "accepted"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if not is_joint_vector(values):
                raise RobotError(f"{name} must be six finite numbers, got {values.tolist()}; read the arm again")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def start(cls, present: Float, limits: Limits) -> SafetyState:
        """Begin from the measured joint vector (6,), wherever that is: outside its limits, an arm may only move back.

        Raises ``RobotError`` where no arm can be: more than a radian outside.
        """
        state = cls(present, present)
        spec = limits.spec
        over = np.maximum(spec.lower - state.sent, state.sent - spec.upper)
        if over.max() > _ABSURD:
            raise RobotError(
                f"{spec.joints[int(over.argmax())]} is measured {over.max():.2f} outside its limits, where it cannot be; "
                "check the calibration"
            )
        return state


def is_joint_vector(values: Float) -> bool:
    """Six finite numbers."""
    return values.shape == (6,) and bool(np.isfinite(values).all())
