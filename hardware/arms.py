"""The arms the project knows, by the names that rig files use: ``ARMS`` and ``find_arm``.

All follow the angles of ``hardware/kinematics.py``: at zero the upper arm points up, forearm and gripper point forwards;
positive pan turns clockwise seen from above, positive lift, elbow and wrist flex lower the tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from hardware.arm_spec import SO101, ArmSpec, JointOrigin, LinkMass, LinkRadii
from hardware.errors import RobotError

_PI = math.pi

#: SO-ARM100 repository, Simulation/SO100/so100.urdf (Apache-2.0), with its zero moved to the pose above. It differs from
#: the SO-101 in the base and the wrist; arm and jaw are the same parts, so the tool point is taken from there.
SO100 = replace(
    SO101,
    name="so100",
    lower=np.array([-2.0, -1.75, -1.57, -1.93, -_PI, 0.0]),
    upper=np.array([2.0, 1.75, 1.57, 1.77, _PI, 1.0]),
    arm_origins=(
        replace(SO101.arm_origins[0], xyz=(0.0452, 0.0, 0.0165), rpy=(_PI, 0.0, -_PI)),
        replace(SO101.arm_origins[1], xyz=(-0.0306, 0.0, -0.1025), rpy=(-_PI / 2, -_PI / 2, 0.0)),
        replace(SO101.arm_origins[2], rpy=(0.0, 0.0, _PI / 2)),
        replace(SO101.arm_origins[3], rpy=(0.0, 0.0, -_PI / 2)),
        replace(SO101.arm_origins[4], xyz=(0.0, -0.0601, 0.0), rpy=(_PI / 2, 0.0, _PI)),
    ),
    masses=(
        LinkMass("base_link", 0.147, (0.0137, 0.0, 0.0335), (1.147e-4, 1.361e-4, 1.304e-4)),
        LinkMass("shoulder_link", 0.119226, (-0.0311, 0.0, -0.0591), (3.137e-5, 5.900e-5, 5.943e-5)),
        LinkMass("upper_arm_link", 0.162409, (-0.0702, -0.0031, 0.0), (7.015e-5, 2.133e-4, 1.672e-4)),
        LinkMass("lower_arm_link", 0.147968, (-0.0768, 0.0014, 0.0034), (4.842e-5, 1.077e-4, 1.388e-4)),
        LinkMass("wrist_link", 0.066132, (0.0, -0.0352, 0.0085), (3.454e-5, 2.390e-5, 1.947e-5)),
        LinkMass("gripper_link", 0.092986, (0.0, 0.0055, -0.0280), (5.031e-5, 4.641e-5, 2.730e-5)),
        LinkMass("moving_jaw_so101_v1_link", 0.020244, (-0.0016, -0.0303, 0.0004), (1.113e-5, 9.00e-6, 3.00e-6)),
    ),
)  # fmt: skip

_XL430_RAD_S = 61.0 * 2.0 * _PI / 60.0  # no-load speed at 12 V
_XL330_RAD_S = 103.0 * 2.0 * _PI / 60.0  # XL330-M288 at 5 V
_KOCH_JAW = (-0.032, 1.60)

#: Koch v1.1. Link lengths and limits: mujoco_menagerie low_cost_robot_arm (Apache-2.0); phosphobot's URDF of v1.1 (MIT)
#: has the same links to a tenth of a millimetre. The tool point lies between the finger pads. Its jaw opens sideways
#: at roll 0. Moments of inertia are the principal ones, the base's of a 6 cm cube. Peak torque: XL430 at 11.1 V.
KOCH = ArmSpec(
    name="koch",
    joints=SO101.joints,
    lower=np.array([-2.2, -0.6, -1.57, -2.0, -3.14, 0.0]),
    upper=np.array([2.2, 1.57, 1.45, 2.0, 3.14, 1.0]),
    max_velocity=np.array([_XL430_RAD_S] * 2 + [_XL330_RAD_S] * 3 + [_XL330_RAD_S / (_KOCH_JAW[1] - _KOCH_JAW[0])]),
    home=np.array([0.0, -0.55, 0.2, 1.2, 0.0, 0.6]),
    arm_origins=(
        JointOrigin("shoulder_pan", "base_link", "shoulder_link", (0.0, 0.0, 0.0409), (_PI, 0.0, -_PI)),
        JointOrigin("shoulder_lift", "shoulder_link", "upper_arm_link", (0.0, 0.0209, -0.0154), (-_PI / 2, -_PI / 2, 0.0)),
        JointOrigin("elbow_flex", "upper_arm_link", "lower_arm_link", (-0.1083, -0.0148, -0.0065), (0.0, 0.0, _PI / 2)),
        JointOrigin("wrist_flex", "lower_arm_link", "wrist_link", (-0.10048, 0.0027, -0.00005), (0.0, 0.0, -_PI / 2)),
        JointOrigin("wrist_roll", "wrist_link", "gripper_link", (0.0, -0.045, -0.013097), (_PI / 2, 0.0, _PI)),
    ),
    jaw_origin=JointOrigin("gripper", "gripper_link", "moving_jaw_link", (0.0145, 0.0075, -0.01315), (0.0, _PI / 2, 0.0)),
    tool_origin=JointOrigin("gripper_frame_joint", "gripper_link", "gripper_frame_link",
                            (0.0, -0.007, -0.065), (_PI, 0.0, _PI / 2)),
    jaw_range_rad=_KOCH_JAW,
    masses=(
        LinkMass("base_link", 0.0805, (0.0, 0.0, 0.02), (4.8e-5, 4.8e-5, 4.8e-5)),
        LinkMass("shoulder_link", 0.05014, (0.0119, 0.0005, -0.0134), (1.449e-5, 1.237e-5, 7.59e-6)),
        LinkMass("upper_arm_link", 0.050177, (-0.0715, 0.0012, -0.0210), (7.95e-6, 3.731e-5, 3.377e-5)),
        LinkMass("lower_arm_link", 0.06379, (-0.0554, 0.0029, -0.0145), (7.34e-6, 2.451e-5, 2.222e-5)),
        LinkMass("wrist_link", 0.019805, (0.0, -0.0265, -0.0192), (2.96e-6, 1.08e-6, 2.88e-6)),
        LinkMass("gripper_link", 0.029277, (0.0002, -0.0053, -0.0191), (8.11e-6, 7.15e-6, 3.27e-6)),
        LinkMass("moving_jaw_link", 0.012831, (0.0251, -0.0011, -0.0141), (3.50e-6, 2.46e-6, 1.46e-6)),
    ),
    # From the meshes of printed parts and servos in low_cost_robot_arm: forearm, hand and jaw hold all of theirs, the wrist
    # all but corners. The upper arm's corners beyond the elbow axis (33 mm) and the shoulder servo behind the pan axis
    # (43 mm) stick out where no link that is checked can come: in 4,000 random poses, no capsules of two links were further
    # apart than the parts are (2.6 mm less at the closest). The base plate, 9 mm high and 9 cm to the sides, counts as table.
    radii=LinkRadii(base=0.050, column=0.026, upper_arm=0.028, forearm=0.023, wrist=0.024, hand=0.035, jaw=0.024),
    max_effort_nm=1.4,
)  # fmt: skip

ARMS: Mapping[str, ArmSpec] = MappingProxyType({spec.name: spec for spec in (SO100, SO101, KOCH)})


def find_arm(name: str) -> ArmSpec:
    """An arm by name. Raises ``RobotError`` listing the names."""
    if name not in ARMS:
        raise RobotError(f"no arm is named {name!r}; choose one of: {', '.join(ARMS)}")
    return ARMS[name]
