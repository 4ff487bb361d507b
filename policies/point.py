"""The point policy in one file: data keys, network, loss, and the policy object that runs on a robot.

It sees joint states, its own short history, a skill name and one or two goal points. It answers with half a second of joint
targets (arm joints relative to where they are now, the gripper absolute) and its belief that the skill has been done.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from hardware.robot import Observation
from policies.features import HISTORY, Normalised, raw_row
from policies.goal import Goal
from policies.policy import Chunk
from policies.skills import SKILLS

# Keys of a training batch.
RAW = "raw"  # (B, RAW_WIDTH) raw observation rows, see policies/features.py
CHUNK = "chunk"  # (B, H, 6) expert targets: arm minus measured q (rad), gripper 0..1
DONE = "done"  # (B,) 1.0 where the expert has finished


@dataclass(frozen=True)
class PointConfig:
    """Everything needed to rebuild the network; stored as ``config.json`` beside the weights."""

    width: int = 384
    """Hidden units per layer."""
    layers: int = 3
    """Hidden layers."""
    horizon: int = 10
    """Steps per chunk; 10 at 20 Hz is half a second."""
    control_hz: float = 20.0
    """The control rate of the demonstrations."""
    skills: tuple[str, ...] = SKILLS
    """Names of the skills in one-hot order."""

    def to_json(self) -> dict[str, object]:
        """Plain data for ``config.json``."""
        return asdict(self)


class PointNetwork(Normalised):
    """Raw rows (B, RAW_WIDTH) -> chunk (B, H, 6) and done logit (B,)."""

    def __init__(self, config: PointConfig, spec: ArmSpec = SO101) -> None:
        super().__init__(spec)
        self.config = config
        layers: list[nn.Module] = []
        width = self.features.width
        for _ in range(config.layers):
            layers += [nn.Linear(width, config.width), nn.LayerNorm(config.width), nn.SiLU()]
            width = config.width
        self.trunk = nn.Sequential(*layers)
        self.chunk_head = nn.Linear(width, config.horizon * 6)
        self.done_head = nn.Linear(width, 1)

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Chunk (B, H, 6) in physical units and done logit (B,)."""
        features = (self.features(raw) - self.feature_mean) / self.feature_std
        hidden = self.trunk(features.clamp(-8.0, 8.0))  # an outlier must not shout
        chunk = self.chunk_head(hidden).unflatten(1, (self.config.horizon, 6))
        return chunk * self.chunk_std + self.chunk_mean, self.done_head(hidden).squeeze(1)


def point_loss(network: PointNetwork, batch: dict[str, Tensor], done_weight: float = 0.1) -> dict[str, Tensor]:
    """L1 on the chunk in normalised units plus cross-entropy on done. Returns ``loss``, ``chunk`` and ``done``."""
    chunk, done_logit = network(batch[RAW])
    off = ((chunk - batch[CHUNK]) / network.chunk_std).abs().mean()
    done = functional.binary_cross_entropy_with_logits(done_logit, batch[DONE])
    return {"loss": off + done_weight * done, "chunk": off, "done": done}


class PointPolicy:
    """A trained network as a ``Policy``: keeps the joint history and turns chunks into absolute targets."""

    name = "point"
    cameras: tuple[str, ...] = ()

    def __init__(self, network: PointNetwork) -> None:
        self.network = network.eval()
        self.control_hz = network.config.control_hz
        self._history: deque[NDArray[np.float64]] = deque(maxlen=max(HISTORY) + 1)
        self._skill_index = {skill: index for index, skill in enumerate(network.config.skills)}

    def reset(self) -> None:
        """Forget the joint history; before the first step the arm is taken to have stood still."""
        self._history.clear()

    @torch.inference_mode()
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) of absolute joint targets and the done belief for the situation now."""
        q = np.asarray(observation.q, dtype=np.float64)
        self._history.append(q)
        past = [self._history[max(0, len(self._history) - 1 - steps)] for steps in HISTORY]
        goal = goal.to_move()
        row = raw_row(q, observation.command, past, self._skill_index[goal.skill], goal.point, goal.to)
        chunk, done_logit = self.network(torch.from_numpy(row)[None])
        targets = chunk[0].double().numpy()
        targets[:, :5] += q[:5]
        targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
        return Chunk(targets=targets, done=float(torch.sigmoid(done_logit[0])))
