"""The way out for an arm that was put away folded up, where a straight line would push the hand into the column.

::

    column | forearm            wrist and elbow open together, until the links are clear of each other;
           |/                   from there straight on. Straight at once, with the wrist folded as in the
           |\\__ hand            rest pose, the hand would be pressed against the column by the elbow.

The safety core lets a folded arm do whatever brings overlapping links no nearer, and never turns a joint another way than
it was told: so whoever moves such an arm must find the way. What is returned here is a suggestion, and goes through the
safety core as every command does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.robot import Robot
from hardware.safety import Limits
from hardware.safety.collision import LINK_PAIRS, capsules, gaps
from hardware.safety.shorten import EDGE_M

Float = NDArray[np.float64]

_WRIST = 3
_AHEAD = 0.1  # rad or openings that a command is ahead of the arm, as any following error allows
_STILL = 1e-6  # the same, in one control period


def is_folded(spec: ArmSpec, q: Float, margin_m: float = Limits.link_margin_m) -> bool:
    """Are links nearer to each other than the safety core's margin (m) for a joint vector (6,)?"""
    return min(gaps(capsules(spec, q))[:LINK_PAIRS]) < margin_m - EDGE_M


def way_out(spec: ArmSpec, q: Float, goal: Float, margin_m: float = Limits.link_margin_m) -> Float:
    """Where to send an arm (6,) that is at ``q`` in order to come to ``goal``: there, unless it is folded.

    While it is folded, to the same pose with the wrist in line with the forearm, which takes the hand out of the bend.
    """
    if not is_folded(spec, q, margin_m):
        return goal
    opened = goal.copy()
    opened[_WRIST] = min(max(0.0, float(spec.lower[_WRIST])), float(spec.upper[_WRIST]))
    return opened


def unfold(robot: Robot, goal: Float, *, timeout_s: float = 30.0) -> bool:
    """Move a folded arm on its way to ``goal`` (6,) until its links are clear of each other; others do not move.

    False when it is still folded: after ``timeout_s`` of the robot's control clock, or a second without motion.
    """
    spec, still = robot.spec, 0
    for _ in range(round(timeout_s * robot.control_hz)):
        command = robot.observe().command
        if not is_folded(spec, command):
            return True
        way = way_out(spec, command, goal) - command
        applied = robot.act(command + way * min(1.0, _AHEAD / float(np.abs(way).max())))
        moved = float(np.abs(applied.q - command).max())
        still = still + 1 if moved < _STILL else 0
        if still >= robot.control_hz:
            return False
    return not is_folded(spec, robot.observe().command)
