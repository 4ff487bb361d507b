"""From speeds to commands: moves joints one by one, or the tool along the axes of the base, keeping pitch and roll.

Each command goes on from what was sent last and not from what was wanted, so nothing piles up while the safety core or
an obstacle holds the arm back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.errors import UnreachableError
from hardware.kinematics import inverse, tool_pitch, tool_position
from hardware.teleop.device import Rate

Float = NDArray[np.float64]

_RACE = 4.0  # times the speed of a single joint's jog
_STUCK = "the tool cannot go on in that direction; jog single joints here"


@dataclass(frozen=True)
class JogSpeeds:
    """What a rate of 1 means. Within the default speed profile."""

    joint_rad_s: float = 0.5
    gripper_per_s: float = 0.8
    tool_m_s: float = 0.08
    pitch_rad_s: float = 0.5


def jog(spec: ArmSpec, sent: Float, rate: Rate, speeds: JogSpeeds, dt: float) -> tuple[Float, str]:
    """The command (6,) that follows ``sent`` (6,) after ``dt`` s, and why the tool does not move although it should.

    A tool motion that leaves the reach is left out; joint motions are still made.
    """
    q = np.array(sent, dtype=np.float64)
    why = ""
    if np.any(rate.tool) or rate.pitch:
        goal = np.array(tool_position(spec, q)) + rate.tool * speeds.tool_m_s * dt
        pitch = tool_pitch(spec, q) + rate.pitch * speeds.pitch_rad_s * dt
        try:
            q[:5] = inverse(spec, goal, pitch, float(q[4]), near=q)
        except UnreachableError:
            why = _STUCK
        # Where the arm is stretched out, or the tool near its axis, joints would have to race.
        if np.abs(q - sent).max() > speeds.joint_rad_s * _RACE * dt + 1e-9:
            q, why = np.array(sent, dtype=np.float64), _STUCK
    q += rate.joints * np.array([speeds.joint_rad_s] * 5 + [speeds.gripper_per_s]) * dt
    return spec.clip(q), why
