"""What an arm is, as data: joints, limits, kinematics, masses. Nothing here knows a bus or a simulator.

Transforms follow the URDF convention: ``T(parent, child) = translate(xyz) · Rz(yaw) · Ry(pitch) · Rx(roll) · Rz(q)``;
every joint turns about the z axis of its own frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class JointOrigin:
    """A joint's frame in its parent link's frame at zero angle: metres, and roll-pitch-yaw in radians."""

    name: str
    parent: str
    child: str
    xyz: Vector3
    rpy: Vector3


@dataclass(frozen=True)
class LinkMass:
    """Mass (kg), centre of mass (m, link frame) and the diagonal of the inertia tensor at it (kg m²)."""

    link: str
    mass_kg: float
    com_m: Vector3
    inertia_kg_m2: Vector3


@dataclass(frozen=True)
class LinkRadii:
    """How thick (m) links are for the check for self-collision: radii of the capsules of ``hardware.safety.collision``."""

    base: float
    column: float  # what turns with the pan joint, up to the lift axis
    upper_arm: float
    forearm: float
    wrist: float  # from the wrist flex axis to the wrist roll joint
    hand: float  # from there to the palm, with the fixed finger
    jaw: float


@dataclass(frozen=True, eq=False)
class ArmSpec:
    """A five-joint arm with a gripper. Joint vectors are (6,): five angles in radians, then the opening 0..1.

    Arrays are read-only. Two specs are equal only if they are the same object, so a spec can be a dictionary key.
    """

    name: str
    joints: tuple[str, ...]  # (6,) names, the gripper last
    lower: Float  # (6,) rad, gripper 0
    upper: Float  # (6,) rad, gripper 1
    max_velocity: Float  # (6,) all the servos can do, rad/s and openings/s; profiles are slower
    home: Float  # (6,) resting pose, out of the front camera's view of the table
    arm_origins: tuple[JointOrigin, ...]  # pan, lift, elbow, wrist flex, wrist roll
    jaw_origin: JointOrigin  # the moving jaw, child of the last arm link
    tool_origin: JointOrigin  # fixed: the point between the finger tips, child of the last arm link
    jaw_range_rad: tuple[float, float]  # jaw angle when closed and when open
    masses: tuple[LinkMass, ...]  # base first
    radii: LinkRadii
    max_effort_nm: float  # peak torque of one joint, N m

    def __post_init__(self) -> None:
        for field in ("lower", "upper", "max_velocity", "home"):
            values = np.array(getattr(self, field), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, field, values)

    def jaw_angle(self, opening: float) -> float:
        """The jaw joint's angle (rad) for an opening 0..1; linear, as the servo turns the jaw directly."""
        closed, opened = self.jaw_range_rad
        return closed + opening * (opened - closed)

    def jaw_opening(self, angle_rad: float) -> float:
        """Inverse of ``jaw_angle``; not clipped."""
        closed, opened = self.jaw_range_rad
        return (angle_rad - closed) / (opened - closed)

    def clip(self, q: Float) -> Float:
        """Joint vectors (..., 6) clipped into the joint limits."""
        return np.clip(q, self.lower, self.upper)


#: Joint table, limits and masses: SO-ARM100 repository, Simulation/SO101/so101_new_calib.urdf (Apache-2.0), digits as
#: published. Its effort and velocity entries are placeholders; ours are the STS3215 servo's: about 1.9 N m stall and
#: 276 degrees per second without load on 7.4 V.
_SERVO_RAD_S = math.radians(276.0)
_JAW_RANGE = (-0.174533, 1.74533)

SO101 = ArmSpec(
    name="so101",
    joints=("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"),
    lower=np.array([-1.91986, -1.74533, -1.69, -1.65806, -2.74385, 0.0]),
    upper=np.array([1.91986, 1.74533, 1.69, 1.65806, 2.84121, 1.0]),
    max_velocity=np.array([_SERVO_RAD_S] * 5 + [_SERVO_RAD_S / (_JAW_RANGE[1] - _JAW_RANGE[0])]),
    # Upper arm laid back, forearm up, gripper hanging in front of the base at 16 cm: for the front camera it covers
    # no part of the table that lies in the workspace, and it is one short move from any straight-down grasp.
    home=np.array([0.0, -1.7, 0.7, 1.5, 0.0, 0.6]),
    arm_origins=(
        JointOrigin("shoulder_pan", "base_link", "shoulder_link",
                    (0.0388353, -8.97657e-09, 0.0624), (3.14159, 4.18253e-17, -3.14159)),
        JointOrigin("shoulder_lift", "shoulder_link", "upper_arm_link",
                    (-0.0303992, -0.0182778, -0.0542), (-1.5708, -1.5708, 0.0)),
        JointOrigin("elbow_flex", "upper_arm_link", "lower_arm_link", (-0.11257, -0.028, 0.0), (0.0, 0.0, 1.5708)),
        JointOrigin("wrist_flex", "lower_arm_link", "wrist_link", (-0.1349, 0.0052, 0.0), (0.0, 0.0, -1.5708)),
        JointOrigin("wrist_roll", "wrist_link", "gripper_link",
                    (0.0, -0.0611, 0.0181), (1.5708, 0.0486795, 3.14159)),
    ),
    jaw_origin=JointOrigin("gripper", "gripper_link", "moving_jaw_so101_v1_link",
                           (0.0202, 0.0188, -0.0234), (1.5708, 0.0, 0.0)),
    tool_origin=JointOrigin("gripper_frame_joint", "gripper_link", "gripper_frame_link",
                            (-0.0079, -0.000218121, -0.0981274), (0.0, 3.14159, 0.0)),
    jaw_range_rad=_JAW_RANGE,
    masses=(
        LinkMass("base_link", 0.147, (0.0137, 0.0, 0.0335), (1.147e-4, 1.361e-4, 1.304e-4)),
        LinkMass("shoulder_link", 0.100006, (-0.0308, 0.0, -0.0253), (8.38e-5, 8.10e-5, 2.40e-5)),
        LinkMass("upper_arm_link", 0.103, (-0.0898, -0.0084, 0.0184), (4.08e-5, 1.473e-4, 1.425e-4)),
        LinkMass("lower_arm_link", 0.104, (-0.0981, 0.0032, 0.0183), (2.87e-5, 1.598e-4, 1.453e-4)),
        LinkMass("wrist_link", 0.079, (0.0, -0.0386, 0.0281), (3.68e-5, 2.54e-5, 2.10e-5)),
        LinkMass("gripper_link", 0.087, (0.0, 0.0, -0.0252), (2.75e-5, 4.34e-5, 3.45e-5)),
        LinkMass("moving_jaw_so101_v1_link", 0.012, (-0.0016, -0.0300, 0.0193), (6.6e-6, 1.9e-6, 5.3e-6)),
    ),
    # Servos and printed parts, a little more rather than less: what they call free is free for the simulation's boxes.
    radii=LinkRadii(base=0.050, column=0.032, upper_arm=0.024, forearm=0.022, wrist=0.024, hand=0.036, jaw=0.022),
    max_effort_nm=1.9,
)  # fmt: skip
