"""A refiner: an eye that corrects the goal point, and a point policy that moves there. Network, loss and policy in one file.

    pictures ── eye (policies/sight.py) ── shift, averaged over time
                                             v
    told point ──────────────────────────── (+) ── point policy (policies/point.py) ── chunk, done

What seeing and moving have in common is the goal point, so they are learned apart: the eye from scenes in which nothing
moves, whose labels cost nothing, and from episodes of its own; the point policy, which is given, learns nothing here.
Without any camera it is the point policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardware.arm_spec import SO101, ArmSpec
from hardware.robot import Observation
from policies.features import HISTORY, raw_row
from policies.goal import Goal
from policies.images import VIEWS, View
from policies.point import RAW, PointConfig, PointNetwork, PointPolicy
from policies.policy import Chunk
from policies.sight import Eye, Seen, ShiftAverage, pictures_of, shift_error_mm, shift_loss
from policies.sight_batch import PICTURE, SHIFT
from policies.skills import SKILLS

#: Control steps from one look to the next, a fifth of a second: drawing, cropping and looking cost more than moving.
LOOK_EVERY = 4


@dataclass(frozen=True)
class RefinerConfig:
    """Everything needed to rebuild the network; stored as ``config.json`` beside the weights."""

    backbone: str = "small"
    """What looks at pictures, see policies/backbones.py."""
    views: tuple[View, ...] = VIEWS
    """The pictures."""
    point: PointConfig = field(default_factory=PointConfig)
    """The network that moves."""
    skills: tuple[str, ...] = SKILLS
    """Names of the skills in one-hot order."""

    @property
    def horizon(self) -> int:
        """Steps per chunk."""
        return self.point.horizon

    def to_json(self) -> dict[str, object]:
        """Plain data for ``config.json``."""
        return asdict(self)


class RefinerNetwork(nn.Module):
    """An eye, which is trained, and a point network, which is not."""

    def __init__(self, config: RefinerConfig, spec: ArmSpec = SO101) -> None:
        super().__init__()
        self.config = config
        self.eye = Eye(config.backbone, config.views, spec)
        self.point = PointNetwork(config.point, spec).requires_grad_(False)

    def fit_statistics(self, raw: Tensor, chunk: Tensor) -> None:
        """Nothing to fit: the eye's inputs have fixed scales, and the point network keeps those of its own training."""

    def see(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures by camera (B, 3, P, P), -1..1."""
        seen: Seen = self.eye(raw, pictures)
        return seen


def new_refiner(mover: Path | None, backbone: str, views: tuple[View, ...]) -> RefinerNetwork:
    """A fresh eye for the point policy in a folder (None: the shipped one). Raises ``CheckpointError``."""
    from policies.checkpoint import SHIPPED_POINT, load_point_network

    point = load_point_network(mover or SHIPPED_POINT)
    network = RefinerNetwork(RefinerConfig(backbone, views, point.config))
    network.point.load_state_dict(point.state_dict())
    return network


def refiner_loss(network: RefinerNetwork, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Likelihood of the shift. Also ``shift_mm``, its mean error."""
    seen = network.see(batch[RAW], {view.camera: batch[PICTURE + view.camera] for view in network.config.views})
    return {"loss": shift_loss(seen, batch[SHIFT]), "shift_mm": shift_error_mm(seen, batch[SHIFT])}


class RefinerPolicy:
    """A trained network as a ``Policy``: looks at every fourth step and moves for the point it sees."""

    name = "refiner"

    def __init__(self, network: RefinerNetwork) -> None:
        self.network = network.eval()
        self.views = network.config.views
        self.control_hz = network.config.point.control_hz
        self._mover = PointPolicy(network.point)
        self._average = ShiftAverage()
        self._steps = 0
        self._skill_index = {skill: index for index, skill in enumerate(network.config.skills)}

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras it wants to look through at the next step: all of them, or none."""
        return tuple(view.camera for view in self.views) if self._steps % LOOK_EVERY == 0 else ()

    @property
    def shift(self) -> NDArray[np.float64]:
        """(3,) m: how far the goal point is believed to be off, from all looks since ``reset``."""
        return self._average.shift

    def reset(self) -> None:
        """Forget joints and looks; a new skill begins."""
        self._mover.reset()
        self._average.reset()
        self._steps = 0

    @torch.inference_mode()
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) of absolute joint targets and the done belief."""
        if any(name in observation.frames for name in self.cameras):
            q = observation.q
            row = raw_row(q, q, [q] * len(HISTORY), self._skill_index[goal.skill], goal.point, goal.to)
            pictures = pictures_of(observation, self.views, goal.point)
            self._average.add(self.network.see(torch.from_numpy(row)[None], pictures))
        self._steps += 1
        return self._mover.act(observation, Goal(goal.skill, goal.point + self.shift, goal.to + self.shift))
