"""The safety core: one pure function between every wanted joint vector and the arm, simulated or real.

No I/O, no clock. ``step`` returns what may be sent and why, in three bands: *pass*, *clamp* (made smaller), *reject*
(the last sent vector is repeated: HOLD). Stages, in order::

    shape -> finite -> age -> latch -> reject band                         may reject
    position -> following error -> velocity -> table margin -> tip speed   only shorten the way to the target
    final check                                                            may only reject

The shortening stages keep each joint between what was sent last and the target, so a bound that both ends meet survives
all later stages: hence following error before velocity. Faults latch: nothing moves until ``reset``, a deliberate act.

What this does not protect against: collisions, but for the tool point's with the table; a wrong calibration; servos that
do not obey. It is no certified safety function: the emergency stop of an arm is a switch in its power supply.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.errors import RobotError
from hardware.kinematics import tool_position

Float = NDArray[np.float64]
Profile = Literal["default", "sim"]


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
    TABLE = "the tool would go below the table margin"
    TIP_SPEED = "the tool would move too fast"
    FINAL = "the result failed the last check"


@dataclass(frozen=True)
class Applied:
    """What was really sent: ``q`` (6,), and why it differs from what was wanted."""

    q: Float
    verdict: Literal["pass", "clamp", "reject"]
    reasons: tuple[Reason, ...] = ()


#: name: (joint speeds rad/s and openings/s, tool speed m/s, following error rad). "default" holds a 0.35 m reach to the
#: 0.25 m/s that ISO 10218 calls reduced speed. "sim" is for simulation, where nobody can be hurt: a working speed of
#: these servos, and a following error with room for simulated latency and soft servos.
_PROFILES: dict[str, tuple[tuple[float, ...], float, float]] = {
    "default": ((0.7, 0.7, 0.7, 1.5, 1.5, 1.5), 0.25, 0.1),
    "sim": ((2.0, 2.0, 2.0, 3.0, 3.0, 2.5), 1.0, 0.3),
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
        times = (self.following_latch_s, self.reject_s, self.hold_age_s, self.latch_age_s, self.max_dt_s)
        if velocity.shape != (6,) or not np.all((velocity > 0) & (velocity <= self.spec.max_velocity)):
            raise RobotError(f"velocity must be six numbers in (0, {self.spec.max_velocity.round(3).tolist()}]")
        if not _is_joint_vector(following) or not np.all(following > 0):
            raise RobotError("following must be a positive number of radians, or six of them")
        if not all(0.0 < v < math.inf for v in (self.tip_speed_m_s, *times)) or not math.isfinite(self.table_margin_m):
            raise RobotError("speeds and times in Limits must be positive and finite, table_margin_m finite")
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
        velocity, tip_speed, following = _PROFILES[name]
        return cls(spec, np.array(velocity), tip_speed, following)


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
            if not _is_joint_vector(values):
                raise RobotError(f"{name} must be six finite numbers, got {values.tolist()}; read the arm again")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def start(cls, present: Float, limits: Limits) -> SafetyState:
        """Begin from the measured joint vector (6,), so that the first command starts from where the arm is."""
        here = limits.spec.clip(np.asarray(present, float))
        return cls(here, here)


def reset(state: SafetyState) -> SafetyState:
    """Release a latched fault. If the arm was moved or went limp since, use ``SafetyState.start`` instead."""
    return SafetyState(state.sent, state.sent)


def step(
    state: SafetyState, present: Float, wanted: Float, limits: Limits, dt: float, age: float = 0.0
) -> tuple[Applied, SafetyState]:
    """Judge one command: joint vectors (6,), ``dt`` s since the last call, ``age`` s since the command was made."""
    wanted, present = _as_vector(wanted), _as_vector(present)
    bad, state = _input_fault(state, present, wanted, dt, limits)
    if bad is None:
        bad, state = _age_fault(state, age, limits)
    if state.fault is not None:
        return _rejected(state, Reason.LATCHED, state.fault)
    if bad is not None:
        return _rejected(state, bad)
    dt = min(dt, limits.max_dt_s)
    max_step = limits.velocity * dt
    if _is_jump(state, wanted, limits):
        return _rejected(state, Reason.JUMP)
    reasons: list[Reason] = []
    target = accepted = _apply(wanted, limits.spec.clip(wanted), Reason.POSITION, reasons)
    bound = limits.following + max_step
    lag = 0.0 if np.all(np.abs(state.sent - present) <= bound + 1e-9) else state.lagging_s + dt
    if lag > limits.following_latch_s:
        return _rejected(replace(state, fault=Reason.LAGGING, lagging_s=lag), Reason.LATCHED, Reason.LAGGING)
    near = limits.spec.clip(np.clip(target, present - bound, present + bound))
    target = _apply(target, near, Reason.FOLLOWING, reasons)
    target = _apply(target, _slowed(state.sent, target, max_step), Reason.VELOCITY, reasons)
    target = _apply(target, _above_table(state.sent, target, limits), Reason.TABLE, reasons)
    target = _apply(target, _tip_slowed(state.sent, target, limits, dt), Reason.TIP_SPEED, reasons)
    target = limits.spec.clip(target)  # rounding may have left the limits by one unit in the last place
    if not _is_safe(state.sent, target, limits, dt):
        return _rejected(state, Reason.FINAL)
    state = SafetyState(target, accepted, lagging_s=lag)
    return Applied(state.sent, "clamp" if reasons else "pass", tuple(reasons)), state


def _as_vector(values: Float) -> Float:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # text, None, ragged lists: not the right shape, whatever it is
        return np.empty(0)


def _is_joint_vector(values: Float) -> bool:
    return values.shape == (6,) and bool(np.isfinite(values).all())


def _rejected(state: SafetyState, *reasons: Reason) -> tuple[Applied, SafetyState]:
    return Applied(state.sent, "reject", reasons), state


def _apply(before: Float, after: Float, reason: Reason, reasons: list[Reason]) -> Float:
    if np.all(np.abs(after - before) <= 1e-12):
        return before  # the very numbers that were wanted, free of rounding
    reasons.append(reason)
    return after


def _input_fault(
    state: SafetyState, present: Float, wanted: Float, dt: float, limits: Limits
) -> tuple[Reason | None, SafetyState]:
    """Shape and finiteness, before anything else: min and max let NaN through, or turn it into a full move."""
    if wanted.shape != (6,):
        return Reason.SHAPE, state
    if not (0.0 < dt < math.inf):
        return Reason.BAD_TIME, state
    if _is_joint_vector(wanted) and _is_joint_vector(present):
        return None, replace(state, bad_inputs=0) if state.bad_inputs else state
    bad = Reason.PRESENT_INVALID if _is_joint_vector(wanted) else Reason.NOT_FINITE
    fault = bad if state.bad_inputs + 1 >= limits.latch_after else None
    return bad, replace(state, bad_inputs=state.bad_inputs + 1, fault=state.fault or fault)


def _age_fault(state: SafetyState, age: float, limits: Limits) -> tuple[Reason | None, SafetyState]:
    if 0.0 <= age <= limits.hold_age_s:
        return None, state
    # A negative age only holds, NaN latches: a command from the future means a broken clock, not an old command.
    return Reason.STALE, state if age <= limits.latch_age_s else replace(state, fault=state.fault or Reason.STALE)


def _is_jump(state: SafetyState, wanted: Float, limits: Limits) -> bool:
    """A stream that goes on from the last accepted command, or comes back to what was sent, is no jump."""
    band = limits.velocity * limits.reject_s
    band[5] = max(band[5], 1.0)  # open and close are ordinary commands; a percentage is not
    return bool(np.any(np.abs(wanted - state.accepted) > band) and np.any(np.abs(wanted - state.sent) > band))


def _slowed(sent: Float, target: Float, max_step: Float) -> Float:
    """All five arm joints slowed alike, so that the arm keeps its direction; the gripper on its own."""
    way = target - sent
    way[:5] /= max(1.0, float(np.max(np.abs(way[:5]) / max_step[:5])))
    way[5] = min(max(way[5], -max_step[5]), max_step[5])
    return np.asarray(sent + way)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share in [0, 1) that fits, to one part in 4096; 0 if none does. Share 1 is known not to fit."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _above_table(sent: Float, target: Float, limits: Limits) -> Float:
    """Refuse what takes the tool below the margin (or further below, if it is there already), and nothing else.

    Only joints that lower the tool are held back, so that the arm slides along the margin instead of sticking to it.
    """
    spec, joint = limits.spec, np.arange(6)
    way = np.where(joint > 0, target - sent, 0.0)  # the pan axis is vertical, but for its rounded table entry
    height = tool_position(spec, sent)[2]
    floor = min(limits.table_margin_m, height)

    def clear(share: Float) -> bool:
        return all(tool_position(spec, sent + k * share * way)[2] >= floor for k in (1.0, 0.75, 0.5, 0.25))

    if height - _travel_m(spec, way) >= floor or clear(np.ones(6)):  # most commands are far from the table
        return target
    lowering = np.array([tool_position(spec, sent + way * (joint == i))[2] < height for i in joint])
    held = np.where(lowering, _largest(lambda s: clear(np.where(lowering, s, 1.0))), 1.0)
    if not clear(held):  # the other joints lower the tool together, or through the arm's curvature
        held = np.where((joint > 0) & (joint < 5), _largest(lambda s: clear(np.full(6, s))), 1.0)
    return np.asarray(sent + held * (target - sent))


def _tip_slowed(sent: Float, target: Float, limits: Limits, dt: float) -> Float:
    """The tool's way along the segment, measured in four pieces, is at most the tip speed times dt."""
    allowed, way = limits.tip_speed_m_s * dt, np.where(np.arange(6) < 5, target - sent, 0.0)

    def length(share: float) -> float:
        points = [tool_position(limits.spec, sent + share * k * way) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return sum(math.dist(a, b) for a, b in itertools.pairwise(points))

    share = 1.0  # shrinks by a thousandth or more in each round, so rounds end; one or two in practice
    while _travel_m(limits.spec, share * way) > allowed and (covered := length(share)) > allowed:
        share *= 0.999 * allowed / covered
    return np.append((sent + share * way)[:5], target[5])


def _travel_m(spec: ArmSpec, way: Float) -> float:
    """At most this far does the tool travel: it is never further from a joint than the whole arm is long."""
    reach = sum(math.hypot(*origin.xyz) for origin in (*spec.arm_origins[1:], spec.tool_origin))
    return reach * float(np.abs(way[:5]).sum())


def _is_safe(sent: Float, target: Float, limits: Limits, dt: float) -> bool:
    """The last word, independent of the stages above: finite, inside the limits, slow enough, above the table."""
    before, after = tool_position(limits.spec, sent), tool_position(limits.spec, target)
    return bool(
        _is_joint_vector(target)
        and np.all((target >= limits.spec.lower) & (target <= limits.spec.upper))
        and np.all(np.abs(target - sent) <= limits.velocity * dt + 1e-9)
        and math.dist(before, after) <= limits.tip_speed_m_s * dt + 1e-9
        and after[2] >= min(limits.table_margin_m, before[2]) - 1e-4
    )
