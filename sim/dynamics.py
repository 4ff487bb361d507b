"""How the simulated arm and the things it touches behave; the nominal values, and the fields that randomisation varies."""

from __future__ import annotations

from dataclasses import dataclass

#: Physics rate: 240 Hz with 150 solver iterations held 98 % of shaken grasps, 50 iterations 68-80 %.
PHYSICS_HZ = 240
SOLVER_ITERATIONS = 150
#: Grip torque (N m). More is worse: 1.5 N m squeezes objects out of the fingers (40 % held against 99 %).
GRIPPER_TORQUE_NM = 0.5
PAD_FRICTION = 1.0
PAD_SPINNING_FRICTION = 0.003
TABLE_FRICTION = 0.7


@dataclass(frozen=True)
class Dynamics:
    """Everything about the simulated hardware that differs from one arm to the next."""

    latency_s: float = 0.0  # from a command being sent to the servos obeying it
    joint_offset: tuple[float, ...] = (0.0,) * 6  # measured minus true (rad; gripper: opening): calibration error
    position_gain: float = 0.15  # share of the error a servo removes per physics step
    dead_band_rad: float = 0.0  # a servo stops this far short of its target
    friction: float = 0.8  # lateral friction coefficient of objects
    mass_scale: float = 1.0  # on the nominal masses of loose objects and containers
