"""``step``: the stages of the safety core in their order, and those that judge a command before anything is computed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hardware.safety import shorten
from hardware.safety.limits import Applied, Limits, Reason, SafetyState, is_joint_vector

Float = NDArray[np.float64]

#: Share of the speed at which an arm that began outside its limits comes back.
RETURN_SPEED = 0.2


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
    if _is_jump(state, wanted, limits):
        return _rejected(state, Reason.JUMP)
    sent, reasons = state.sent, list[Reason]()
    # An arm that began outside may stay, or come back; these are the limits that it has then.
    lower, upper = np.minimum(limits.spec.lower, sent), np.maximum(limits.spec.upper, sent)
    max_step = limits.velocity * dt
    if np.any((sent < limits.spec.lower - 1e-9) | (sent > limits.spec.upper + 1e-9)):
        max_step *= RETURN_SPEED
    target = accepted = _apply(wanted, shorten.inside(wanted, lower, upper), Reason.POSITION, reasons)
    bound = limits.following + max_step
    lag = 0.0 if np.all(np.abs(sent - present) <= bound + 1e-9) else state.lagging_s + dt
    if lag > limits.following_latch_s:
        return _rejected(replace(state, fault=Reason.LAGGING, lagging_s=lag), Reason.LATCHED, Reason.LAGGING)
    near = shorten.inside(shorten.inside(target, present - bound, present + bound), lower, upper)
    target = _apply(target, near, Reason.FOLLOWING, reasons)
    target = _apply(target, shorten.slowed(sent, target, max_step), Reason.VELOCITY, reasons)
    target = _apply(target, shorten.above_table(sent, target, limits), Reason.TABLE, reasons)
    target = _apply(target, shorten.tip_slowed(sent, target, limits, dt), Reason.TIP_SPEED, reasons)
    target = _apply(target, shorten.links_apart(sent, target, limits, dt), Reason.COLLISION, reasons)
    target = shorten.inside(target, lower, upper)  # rounding may have left them by one unit in the last place
    if not shorten.is_safe(sent, target, limits, dt):
        return _rejected(state, Reason.FINAL)
    state = SafetyState(target, accepted, lagging_s=lag)
    return Applied(state.sent, "clamp" if reasons else "pass", tuple(reasons)), state


def _as_vector(values: Float) -> Float:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # text, None, ragged lists: not the right shape, whatever it is
        return np.empty(0)


def _rejected(state: SafetyState, *reasons: Reason) -> tuple[Applied, SafetyState]:
    return Applied(state.sent, "reject", reasons), state


def _apply(before: Float, after: Float, reason: Reason, reasons: list[Reason]) -> Float:
    if after is before or np.all(np.abs(after - before) <= 1e-12):
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
    if is_joint_vector(wanted) and is_joint_vector(present):
        return None, replace(state, bad_inputs=0) if state.bad_inputs else state
    bad = Reason.PRESENT_INVALID if is_joint_vector(wanted) else Reason.NOT_FINITE
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
