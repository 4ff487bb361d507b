"""How policies see that a point is wrong: pictures in, the correction of the goal point out. For all policies that look.

A planner's point and a rig's calibration are off by centimetres; grasps miss by millimetres. The eye looks at two maps of
the table around the point it was told (``policies/images.py``) and says how far the point is off, and how sure it is:

    front map ── backbone ── fitted to skill and arm ── votes ─┐
                                                               ├─ mean of the votes = shift ── its scale
    wrist map ── backbone ── fitted to skill and arm ── votes ─┘

Every cell of both maps votes for a place (Hough 1962; with learned votes, Gall & Lempitsky 2009), and says how much its
vote should weigh: the rim of a plate knows where its middle is. A cell that shows the gripper keeps silent.

On the robot the shift is averaged over time, by how sure each look was: one look jitters by millimetres, and once the arm
covers the object the pictures know less than before.

The eye is not told where the gripper is relative to the point: in training the gripper goes to the true place, so that would
give the answer away, and on the robot the eye would believe whatever it had said first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from hardware.robot import Observation
from policies.backbones import make_backbone
from policies.features import GOAL_SLICE, PAST_SLICE, PointFeatures
from policies.images import PIXEL_M, View, look_at
from policies.randomization import VISIBLE
from policies.skills import SKILLS

#: The shift is predicted in centimetres; a look is never believed to be better than a millimetre.
CM = 0.01
_LOG_SCALE = (math.log(0.1), math.log(5.0))
#: How quickly earlier looks are forgotten, per look.
FORGET = 0.92
_SKILL_SLICE = slice(PAST_SLICE.stop, GOAL_SLICE.start)


@dataclass(frozen=True)
class Seen:
    """What the eye makes of the pictures."""

    shift: Tensor  # (B, 3) m
    log_scale: Tensor  # (B, 3) of the error of the shift, in centimetres
    maps: Sequence[Tensor]  # of each view (B, C, p, p)


class Eye(nn.Module):
    """Raw rows (B, RAW_WIDTH) and pictures of the table around the told point -> ``Seen``."""

    visible: Tensor

    def __init__(self, backbone: str, views: Sequence[View], spec: ArmSpec = SO101, width: int = 64) -> None:
        super().__init__()
        self.views = tuple(views)
        self.kinematics = PointFeatures(spec)
        self.register_buffer("visible", torch.tensor([float(skill in VISIBLE) for skill in SKILLS]), persistent=False)
        self.situation = nn.Sequential(
            nn.Linear(len(SKILLS) + 15, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.backbones = nn.ModuleDict({view.camera: make_backbone(backbone) for view in views})
        #: Channels of each view's map.
        self.channels = tuple(int(cast(int, self.backbones[view.camera].channels)) for view in views)
        named = [(view.camera, count) for view, count in zip(views, self.channels, strict=True)]
        self.fit = nn.ModuleDict({camera: nn.Linear(width, 2 * count) for camera, count in named})
        self.around = nn.ModuleDict(
            {camera: nn.Sequential(nn.Conv2d(count, count, 3, 1, 1), nn.SiLU()) for camera, count in named}
        )
        # What is as large as a bowl needs a wider look. It starts as nothing, so that small things are learned first.
        self.wide = nn.ModuleDict({camera: _silent(nn.Conv2d(count, count, 3, 1, 2, 2)) for camera, count in named})
        self.votes = nn.ModuleDict({camera: nn.Conv2d(count, 3, 1) for camera, count in named})
        self.judge = nn.Sequential(nn.Linear(width + sum(self.channels) + 3, width), nn.SiLU(), nn.Linear(width, 4))

    def _situation(self, raw: Tensor) -> Tensor:
        """Skill, joints and the tool's pose in the base frame."""
        # Kinematics in half precision would be off by millimetres.
        with torch.autocast(raw.device.type, enabled=False):
            q = raw[:, :6]
            position, rotation = self.kinematics.tool_pose(q[:, :5])
            parts = [raw[:, _SKILL_SLICE], q, 5.0 * position, rotation[:, :, 2], rotation[:, :, 0]]
        described: Tensor = self.situation(torch.cat(parts, dim=1))
        return described

    def forward(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """``pictures`` by camera (B, 3, P, P), -1..1."""
        situation = self._situation(raw)
        maps, logits, places = [], [], []
        for view in self.views:
            scale, bias = self.fit[view.camera](situation)[:, :, None, None].chunk(2, dim=1)
            mapped = self.backbones[view.camera](pictures[view.camera])
            mapped = self.around[view.camera](functional.silu(mapped * (1.0 + scale) + bias))
            mapped = mapped + functional.silu(self.wide[view.camera](mapped))
            vote = self.votes[view.camera](mapped).float()  # (B, 3, p, p): how much it weighs, and x and y in cm
            maps.append(mapped)
            logits.append(vote[:, 0].flatten(1))
            places.append((vote[:, 1:] + _cells(vote, view)).flatten(2))
        weight = torch.softmax(torch.cat(logits, dim=1), dim=1)  # (B, N) over the cells of all views
        place = torch.cat(places, dim=2)  # (B, 2, N) cm
        middle = (weight[:, None] * place).sum(dim=2)
        spread = (weight[:, None] * (place - middle[:, :, None]).abs()).sum(dim=2)
        cells = [mapped.shape[-1] * mapped.shape[-2] for mapped in maps]
        shares = weight.split(cells, dim=1)
        looked = [(m.flatten(2) * share[:, None]).sum(dim=2) for m, share in zip(maps, shares, strict=True)]
        judged = self.judge(torch.cat([situation, *looked, spread, shares[0].sum(dim=1, keepdim=True)], dim=1)).float()
        visible = (raw[:, _SKILL_SLICE] @ self.visible)[:, None]
        shift = CM * torch.cat([middle, judged[:, :1]], dim=1) * visible
        return Seen(shift, judged[:, 1:].clamp(*_LOG_SCALE), maps)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that answers zero until it has learned something."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _cells(vote: Tensor, view: View) -> Tensor:
    """Where the cells of a map lie relative to the told point, (2, p, p) cm along x and y."""
    rows, columns = vote.shape[-2:]
    side = view.pixels * PIXEL_M / CM
    x = (torch.arange(rows, device=vote.device) + 0.5) * (side / rows) - side / 2
    y = (torch.arange(columns, device=vote.device) + 0.5) * (side / columns) - side / 2
    return torch.stack(torch.meshgrid(x, y, indexing="ij"))


def corrected(raw: Tensor, shift: Tensor) -> Tensor:
    """Raw rows (B, RAW_WIDTH) with point and to moved by ``shift`` (B, 3)."""
    moved = raw.clone()
    moved[:, GOAL_SLICE] += shift.repeat(1, 2)
    return moved


def shift_loss(seen: Seen, shift: Tensor) -> Tensor:
    """Negative log-likelihood of the true shift (B, 3) under a Laplace distribution, in centimetres: size and certainty."""
    off = (seen.shift - shift).abs() / CM
    return (off * torch.exp(-seen.log_scale) + seen.log_scale).mean()


def shift_error_mm(seen: Seen, shift: Tensor) -> Tensor:
    """Mean distance on the table between the predicted and the true shift (B, 3), mm; trains nothing."""
    return (seen.shift - shift).detach()[:, :2].norm(dim=1).mean() / CM * 10.0


# Running -------------------------------------------------------------------------------------------------------------


class ShiftAverage:
    """The shift from all looks since ``reset``, each by how sure it was; zero before the first."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every look."""
        self._weight, self._weighted = np.zeros(3), np.zeros(3)

    def add(self, seen: Seen) -> None:
        """Take in one look (a batch of one)."""
        certainty = np.exp(-2.0 * seen.log_scale[0].double().numpy())
        self._weight = FORGET * self._weight + certainty
        self._weighted = FORGET * self._weighted + certainty * seen.shift[0].double().numpy()

    @property
    def shift(self) -> NDArray[np.float64]:
        """(3,) m."""
        return np.asarray(self._weighted / np.maximum(self._weight, 1e-9))


def pictures_of(observation: Observation, views: Sequence[View], point: NDArray[np.float64]) -> dict[str, Tensor]:
    """What the views show of an observation's frames around a point (3,), by camera (1, 3, P, P), -1..1.

    Black for a camera that gave no frame; training showed black pictures now and then.
    """
    pictures = {}
    for view in views:
        if view.camera not in observation.frames:
            pictures[view.camera] = torch.full((1, 3, view.pixels, view.pixels), -1.0)
            continue
        pixels = torch.from_numpy(np.ascontiguousarray(look_at(observation.frames[view.camera], view, point)))
        pictures[view.camera] = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
    return pictures
