"""What the point policy looks at, computed from joints and goal points by forward kinematics.

Raw joint angles make a network learn trigonometry from demonstrations; where the tool is *relative to the goal*, seen in a
frame that turns with the first joint, is the same for every azimuth, so fewer demonstrations go further (measured with 50
per skill: pick .78 on raw joints, .96 on these features).

Everything is batched torch, so that training can recompute features with fresh goal noise and inference shares the code.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardware.arm_spec import ArmSpec, JointOrigin
from policies.skills import SKILLS

#: How many control steps back the policy remembers its joints (0.05, 0.2 and 0.5 s at 20 Hz): the first shows whether the
#: gripper has stopped moving, the others where the arm comes from.
HISTORY: tuple[int, ...] = (1, 4, 10)
#: Raw observation row: q (6), command sent last (6), q HISTORY steps ago (6 each), skill one-hot, goal point (3), to (3).
RAW_WIDTH = 6 * (2 + len(HISTORY)) + len(SKILLS) + 6
GOAL_SLICE = slice(RAW_WIDTH - 6, RAW_WIDTH)
PAST_SLICE = slice(12, 12 + 6 * len(HISTORY))


def raw_row(
    q: NDArray[np.float64],
    command: NDArray[np.float64],
    past: list[NDArray[np.float64]],
    skill_index: int,
    point: NDArray[np.float64],
    to: NDArray[np.float64],
) -> NDArray[np.float32]:
    """One raw observation (RAW_WIDTH,); ``past`` holds q (6,) as of each entry of ``HISTORY``."""
    one_hot = np.zeros(len(SKILLS))
    one_hot[skill_index] = 1.0
    return np.concatenate([q, command, *past, one_hot, point, to]).astype(np.float32)


class PointFeatures(nn.Module):
    """Raw rows (B, RAW_WIDTH) -> features (B, ``width``). Holds the arm's kinematic table, nothing learned."""

    origins: Tensor
    pan_xy: Tensor

    def __init__(self, spec: ArmSpec) -> None:
        super().__init__()
        origins = np.stack([_matrix(origin) for origin in (*spec.arm_origins, spec.tool_origin)])
        # Not persistent: they belong to the arm, not to the weights.
        self.register_buffer("origins", torch.as_tensor(origins, dtype=torch.float32), persistent=False)
        # The first joint turns about a vertical axis through this point; the sign is -1 where that axis points down.
        self.register_buffer("pan_xy", self.origins[0, :2, 3].clone(), persistent=False)
        self.pan_sign = math.copysign(1.0, float(origins[0, 2, 2]))
        self.width = self.forward(torch.zeros(1, RAW_WIDTH)).shape[1]

    def tool_pose(self, arm: Tensor) -> tuple[Tensor, Tensor]:
        """Joint angles (B, 5) rad -> tool position (B, 3) m and rotation (B, 3, 3), base frame."""
        rotation = self.origins[0, :3, :3].expand(arm.shape[0], 3, 3)
        position = self.origins[0, :3, 3].expand(arm.shape[0], 3)
        cos, sin = torch.cos(arm), torch.sin(arm)
        for joint in range(arm.shape[1]):
            c, s = cos[:, joint, None], sin[:, joint, None]
            x, y = rotation[:, :, 0], rotation[:, :, 1]
            rotation = torch.stack([c * x + s * y, c * y - s * x, rotation[:, :, 2]], dim=2)
            after = self.origins[joint + 1]
            position = position + rotation @ after[:3, 3]
            rotation = rotation @ after[:3, :3]
        return position, rotation

    def forward(self, raw: Tensor) -> Tensor:
        q, command = raw[:, 0:6], raw[:, 6:12]
        past = [raw[:, 12 + 6 * i : 18 + 6 * i] for i in range(len(HISTORY))]
        skill = raw[:, 12 + 6 * len(HISTORY) : GOAL_SLICE.start]
        point, to = raw[:, -6:-3], raw[:, -3:]

        batch = raw.shape[0]
        positions, rotations = self.tool_pose(torch.cat([p[:, :5] for p in (q, command, *past)]))
        tcp, commanded, *before = positions.split(batch)
        rotation = rotations[:batch]

        pan = self.pan_sign * q[:, 0]
        turn = (torch.cos(pan), torch.sin(pan))
        radius = torch.linalg.vector_norm(tcp[:, :2] - self.pan_xy, dim=1, keepdim=True)
        parts = [
            skill,
            q,
            10.0 * (command - q),  # where the arm is going and how far it lags
            *(5.0 * (q - p) for p in past),
            10.0 * _turned(commanded - tcp, turn),
            *(5.0 * _turned(tcp - p, turn) for p in before),
            5.0 * radius,
            5.0 * tcp[:, 2:],
            torch.tanh(50.0 * tcp[:, 2:]),
            _turned(rotation[:, :, 2], turn),  # where the tool points
            _turned(rotation[:, :, 0], turn),  # how the jaws are turned
        ]
        for goal in (point, to):
            offset = _turned(goal - tcp, turn)
            from_pan = goal[:, :2] - self.pan_xy
            azimuth = torch.atan2(from_pan[:, 1], from_pan[:, 0]) - pan
            azimuth = torch.atan2(torch.sin(azimuth), torch.cos(azimuth))[:, None]
            parts += [
                5.0 * offset,
                torch.tanh(50.0 * offset),
                azimuth,
                torch.tanh(10.0 * azimuth),
                5.0 * torch.linalg.vector_norm(from_pan, dim=1, keepdim=True),
                10.0 * goal[:, 2:],
            ]
        along = to - point
        parts += [10.0 * _turned(along, turn)]
        return torch.cat(parts, dim=1)


def _matrix(origin: JointOrigin) -> NDArray[np.float64]:
    """A URDF joint origin as a homogeneous matrix (4, 4)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(origin.rpy), np.sin(origin.rpy)
    pose = np.eye(4)
    pose[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    pose[:3, 3] = origin.xyz
    return pose


def _turned(vector: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Base-frame vectors (B, 3) as seen in the frame that turns with the first joint."""
    c, s = turn
    x, y, z = vector.unbind(dim=1)
    return torch.stack([c * x + s * y, c * y - s * x, z], dim=1)


class Normalised(nn.Module):
    """A network with features of raw rows and the statistics of its training data, which travel with the weights."""

    feature_mean: Tensor
    feature_std: Tensor
    chunk_mean: Tensor
    chunk_std: Tensor

    def __init__(self, spec: ArmSpec) -> None:
        super().__init__()
        self.features = PointFeatures(spec)
        self.register_buffer("feature_mean", torch.zeros(self.features.width))
        self.register_buffer("feature_std", torch.ones(self.features.width))
        self.register_buffer("chunk_mean", torch.zeros(6))
        self.register_buffer("chunk_std", torch.ones(6))

    @torch.no_grad()
    def fit_statistics(self, raw: Tensor, chunk: Tensor) -> None:
        """Take normalisation from a sample of the data: raw (N, RAW_WIDTH), chunk (N, H, 6)."""
        features = self.features(raw)
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(features.std(dim=0).clamp_min(0.02))
        self.chunk_mean.copy_(chunk.mean(dim=(0, 1)))
        self.chunk_std.copy_(chunk.flatten(0, 1).std(dim=0).clamp_min(0.01))
