"""Our own SO-101 URDF: the published kinematics and masses, with shapes made of boxes and cylinders.

Meshes would cost fifty times the rendering time of primitives. The gripper's shape is ours to choose: the fixed finger's
face lies 20 mm from the tool point, so that a cube fits between the open fingers at any yaw, and the moving jaw's pad is
parallel to it when it holds something 28 mm wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware.arm_spec import ArmSpec, JointOrigin

Vector3 = tuple[float, float, float]
Rgba = tuple[float, float, float, float]

#: Distance (m) from the tool point to the face of the fixed finger, along the tool's x axis.
FIXED_FACE_M = 0.020
#: How far (m) the finger tips reach beyond the tool point.
TIP_BEYOND_TOOL_M = 0.006
#: Width (m) of the object at which the two pads are parallel.
PARALLEL_WIDTH_M = 0.028
#: The jaw angle (rad) at that width; chosen so that the tips meet exactly at the jaw's lower limit.
PARALLEL_JAW_RAD = 0.198
_PAD_M = 0.002  # thickness
_FINGER_M = 0.018  # width of both fingers across the closing direction

PAINT, SERVO, PAD = "paint", "servo", "pad"
MATERIALS: dict[str, Rgba] = {
    PAINT: (0.95, 0.78, 0.25, 1.0), SERVO: (0.16, 0.16, 0.18, 1.0), PAD: (0.30, 0.30, 0.33, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A box (x, y, z sizes) or a cylinder (radius, length, along z) in its link's frame."""

    kind: str
    size: tuple[float, ...]
    xyz: Vector3
    rpy: Vector3 = (0.0, 0.0, 0.0)
    material: str = PAINT
    collides: bool = True


def _bar(end: tuple[float, float], thickness: float, width: float, z: float) -> Shape:
    """A box along the line from the link's origin to ``end`` in its xy plane."""
    length, turn = math.hypot(*end), math.atan2(end[1], end[0])
    return Shape("box", (length, thickness, width), (end[0] / 2, end[1] / 2, z), (0.0, 0.0, turn))


def _axle(xyz: Vector3, radius: float, length: float, rpy: Vector3 = (0.0, 0.0, 0.0)) -> Shape:
    return Shape("cylinder", (radius, length), xyz, rpy, SERVO, collides=False)


def _jaw_shapes(spec: ArmSpec) -> list[Shape]:
    """Boxes laid out as they lie in the gripper's frame while the pads are parallel, then turned into the jaw's frame."""
    px, py, pz = spec.jaw_origin.xyz
    tool_x, _, tool_z = spec.tool_origin.xyz
    face = tool_x - FIXED_FACE_M + PARALLEL_WIDTH_M
    tip = tool_z - TIP_BEYOND_TOOL_M
    c, s = math.cos(-PARALLEL_JAW_RAD), math.sin(-PARALLEL_JAW_RAD)

    def box(x: tuple[float, float], z: tuple[float, float], width: float, material: str) -> Shape:
        u, v = 0.5 * (x[0] + x[1]) - px, 0.5 * (z[0] + z[1]) - pz
        return Shape("box", (x[1] - x[0], z[1] - z[0], width), (c * u - s * v, s * u + c * v, py),
                     (0.0, 0.0, -PARALLEL_JAW_RAD), material)  # fmt: skip

    back = face + _PAD_M
    return [
        box((face, back), (tip, tip + 0.034), _FINGER_M - 0.002, PAD),
        box((back, back + 0.006), (tip + 0.001, tip + 0.052), _FINGER_M, PAINT),
        box((back + 0.001, px + 0.010), (tip + 0.042, pz + 0.012), _FINGER_M + 0.006, PAINT),
        _axle((0.0, 0.0, py), 0.012, 0.034),
    ]


def _gripper_shapes(spec: ArmSpec) -> list[Shape]:
    tool_x, _, tool_z = spec.tool_origin.xyz
    face, tip = tool_x - FIXED_FACE_M, tool_z - TIP_BEYOND_TOOL_M
    back = face - _PAD_M

    def finger(x: tuple[float, float], z: tuple[float, float], width: float, material: str) -> Shape:
        size = (x[1] - x[0], width, z[1] - z[0])
        return Shape("box", size, (0.5 * (x[0] + x[1]), 0.0, 0.5 * (z[0] + z[1])), (0.0, 0.0, 0.0), material)

    return [
        finger((back, face), (tip, tip + 0.034), _FINGER_M - 0.002, PAD),
        finger((back - 0.004, back), (tip + 0.001, tip + 0.030), _FINGER_M, PAINT),
        finger((back - 0.007, back), (tip + 0.030, -0.030), _FINGER_M + 0.004, PAINT),
        finger((back - 0.007, 0.010), (-0.042, 0.004), 0.036, PAINT),
        Shape("box", (0.026, 0.040, 0.034), (0.020, 0.0, -0.018), material=SERVO),
    ]


def _shapes(spec: ArmSpec) -> dict[str, list[Shape]]:
    """Every link's shapes. Positions follow from the joint table: arms run from one joint's origin to the next."""
    _, lift, elbow, wrist, roll = spec.arm_origins
    mid = -lift.xyz[1]  # joint frames lie beside the arm's middle plane
    lying: Vector3 = (math.pi / 2, 0.0, 0.0)
    return {
        "base_link": [
            Shape("box", (0.100, 0.085, 0.012), (0.010, 0.0, 0.006)),
            Shape("box", (0.070, 0.056, 0.048), (0.024, 0.0, 0.034)),
            Shape("box", (0.030, 0.040, 0.036), (-0.022, 0.0, 0.030), material=SERVO, collides=False),
        ],
        "shoulder_link": [
            Shape("cylinder", (0.026, 0.010), (0.0, 0.0, -0.002), material=SERVO, collides=False),
            Shape("box", (0.050, 0.050, 0.056), (-0.016, 0.0, -0.034)),
            _axle((lift.xyz[0], 0.0, lift.xyz[2]), 0.016, 0.060, lying),
        ],
        "upper_arm_link": [
            _bar((elbow.xyz[0], elbow.xyz[1]), 0.026, 0.036, mid),
            _axle((elbow.xyz[0], elbow.xyz[1], mid), 0.0165, 0.050),
        ],
        "lower_arm_link": [
            _bar((wrist.xyz[0], wrist.xyz[1]), 0.024, 0.034, mid),
            _axle((wrist.xyz[0], wrist.xyz[1], mid), 0.0155, 0.048),
        ],
        "wrist_link": [
            Shape("box", (0.032, 0.052, 0.032), (0.0, -0.030, roll.xyz[2])),
            _axle((roll.xyz[0], roll.xyz[1] + 0.004, roll.xyz[2]), 0.017, 0.010, lying),
        ],
        "gripper_link": _gripper_shapes(spec),
        "moving_jaw_so101_v1_link": _jaw_shapes(spec),
    }  # fmt: skip


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(v)) for v in values)


def _shape_xml(shape: Shape) -> str:
    if shape.kind == "box":
        geometry = f'<box size="{_numbers(shape.size)}"/>'
    else:
        geometry = f'<cylinder radius="{shape.size[0]!r}" length="{shape.size[1]!r}"/>'
    body = f'<origin xyz="{_numbers(shape.xyz)}" rpy="{_numbers(shape.rpy)}"/><geometry>{geometry}</geometry>'
    visual = f'<visual>{body}<material name="{shape.material}"/></visual>'
    return visual + (f"<collision>{body}</collision>" if shape.collides else "")


def _joint_xml(origin: JointOrigin, kind: str, lower: float, upper: float, effort: float, velocity: float) -> str:
    limits = f'<limit lower="{lower!r}" upper="{upper!r}" effort="{effort!r}" velocity="{velocity!r}"/>'
    return (
        f'<joint name="{origin.name}" type="{kind}"><parent link="{origin.parent}"/><child link="{origin.child}"/>'
        f'<origin xyz="{_numbers(origin.xyz)}" rpy="{_numbers(origin.rpy)}"/><axis xyz="0 0 1"/>{limits}</joint>'
    )


def shape_materials(spec: ArmSpec) -> dict[str, tuple[str, ...]]:
    """Material names of each link's visual shapes, in the order PyBullet numbers them."""
    return {link: tuple(s.material for s in shapes) for link, shapes in _shapes(spec).items()}


def so101_urdf(spec: ArmSpec) -> str:
    """The URDF text of an SO-101-like ``spec``. Joint and link names are the spec's."""
    shapes = _shapes(spec)
    parts = [f'<robot name="{spec.name}">']
    parts += [f'<material name="{n}"><color rgba="{_numbers(c)}"/></material>' for n, c in MATERIALS.items()]
    for mass in spec.masses:
        ixx, iyy, izz = mass.inertia_kg_m2
        inertial = (
            f'<inertial><origin xyz="{_numbers(mass.com_m)}" rpy="0 0 0"/><mass value="{mass.mass_kg!r}"/>'
            f'<inertia ixx="{ixx!r}" iyy="{iyy!r}" izz="{izz!r}" ixy="0" ixz="0" iyz="0"/></inertial>'
        )
        parts.append(f'<link name="{mass.link}">{inertial}{"".join(map(_shape_xml, shapes[mass.link]))}</link>')
    velocity = [float(v) for v in spec.max_velocity]
    for i, origin in enumerate(spec.arm_origins):
        limits = float(spec.lower[i]), float(spec.upper[i])
        parts.append(_joint_xml(origin, "revolute", *limits, spec.max_effort_nm, velocity[i]))
    parts.append(_joint_xml(spec.jaw_origin, "revolute", *spec.jaw_range_rad, spec.max_effort_nm, velocity[0]))
    parts.append("</robot>")
    return "\n".join(parts)
