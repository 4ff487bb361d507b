"""What ACT and flow share: an eye, tokens of pictures and state, and layers in which tokens and steps look around.

pictures ── eye (policies/sight.py) ─┬─ shift
                                     │    v
                                     │  told point + shift ── features ── state token
                                     └─ grid tokens ────────────┬──────────────┘
                                                    tokens (B, T, D)  ->  act.py / flow.py  ->  chunk, done
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from hardware.errors import RobotError
from hardware.robot import Observation
from policies.features import HISTORY, Normalised, raw_row
from policies.goal import Goal
from policies.images import VIEWS, View
from policies.point import RAW
from policies.policy import Chunk
from policies.sight import Eye, Seen, ShiftAverage, corrected, pictures_of
from policies.sight_batch import PICTURE
from policies.skills import SKILLS

#: A grid of so many tokens a side is made of each picture.
GRID = 4


@dataclass(frozen=True)
class SeeingConfig:
    """What seeing policies have in common; stored as ``config.json`` beside the weights."""

    width: int = 128
    """Width of the tokens."""
    heads: int = 4
    """Attention heads."""
    encoder_layers: int = 2
    """Layers in which the tokens look at one another."""
    decoder_layers: int = 2
    """Layers in which the steps of the chunk look at the tokens."""
    horizon: int = 10
    """Steps per chunk; 10 at 20 Hz is half a second."""
    control_hz: float = 20.0
    """The control rate of the demonstrations."""
    backbone: str = "small"
    """What looks at pictures, see policies/backbones.py."""
    views: tuple[View, ...] = VIEWS
    """The pictures."""
    skills: tuple[str, ...] = SKILLS
    """Names of the skills in one-hot order."""

    def to_json(self) -> dict[str, object]:
        """Plain data for ``config.json``."""
        return asdict(self)


class SeeingTransformer(Normalised):
    """Raw rows and pictures -> ``Seen``; raw rows with the corrected goal and ``Seen`` -> tokens."""

    def __init__(self, config: SeeingConfig, spec: ArmSpec = SO101) -> None:
        super().__init__(spec)
        self.config = config
        width, heads = config.width, config.heads
        self.eye = Eye(config.backbone, config.views, spec)
        self.grid = nn.ModuleList(nn.Linear(channels, width) for channels in self.eye.channels)
        self.where = nn.Parameter(0.02 * torch.randn(len(config.views), GRID * GRID, width))
        self.state = nn.Sequential(
            nn.Linear(self.features.width, width), nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)
        )
        layer = {"d_model": width, "nhead": heads, "dim_feedforward": 2 * width, "dropout": 0.0, "batch_first": True}
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(**layer, norm_first=True) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(**layer, norm_first=True) for _ in range(config.decoder_layers)
        )

    def see(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures."""
        seen: Seen = self.eye(raw, pictures)
        return seen

    def see_batch(self, batch: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures of a training batch."""
        return self.see(batch[RAW], {view.camera: batch[PICTURE + view.camera] for view in self.config.views})

    def normalised(self, raw: Tensor) -> Tensor:
        """Features of raw rows, about -1..1 each."""
        # Kinematics in half precision would be off by millimetres.
        with torch.autocast(raw.device.type, enabled=False):
            features = (self.features(raw) - self.feature_mean) / self.feature_std
            return features.clamp(-8.0, 8.0)  # an outlier must not shout

    def context(self, raw: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """The state token (B, 1, D) of raw rows with the corrected goal, and all tokens (B, T, D) after they looked around."""
        state: Tensor = self.state(self.normalised(raw))[:, None]
        parts = [state]
        for linear, where, mapped in zip(self.grid, self.where, seen.maps, strict=True):
            cells = functional.adaptive_avg_pool2d(mapped, GRID).flatten(2).transpose(1, 2)  # (B, G*G, C)
            parts.append(linear(cells) + where)
        tokens = torch.cat(parts, dim=1)
        for layer in self.encoder:
            tokens = layer(tokens)
        return state, tokens


def planned_shift(seen: Seen, given: Tensor) -> Tensor:
    """The shift to plan with: the one given, and where that is NaN the network's own (which the motion does not train)."""
    return torch.where(torch.isnan(given), seen.shift.detach(), given)


class SeeingNetwork(Protocol):
    """What ``SeeingPolicy`` needs of a network."""

    config: SeeingConfig

    def see(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures."""
        ...

    def plan(self, raw: Tensor, seen: Seen, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chunk (B, H, 6) and done logit (B,) for raw rows with the corrected goal."""
        ...


class SeeingPolicy:
    """A trained network as a ``Policy``: keeps the joint history, crops the frames, averages the shift over time."""

    def __init__(self, network: SeeingNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.control_hz = network.config.control_hz
        self.views = network.config.views
        self.cameras = tuple(view.camera for view in self.views)
        self._skill_index = {skill: index for index, skill in enumerate(network.config.skills)}
        self._history: deque[NDArray[np.float64]] = deque(maxlen=max(HISTORY) + 1)
        self._average = ShiftAverage()
        self.reset()

    def reset(self) -> None:
        """Forget joints and pictures; a new skill begins."""
        self._history.clear()
        self._average.reset()
        # One noise for the whole skill: chunks of a flow that start alike agree with one another.
        self._noise = torch.zeros(1, self.network.config.horizon, 6)

    @property
    def shift(self) -> NDArray[np.float64]:
        """(3,) m: how far the goal point is believed to be off, from all pictures since ``reset``."""
        return self._average.shift

    @torch.inference_mode()
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) of absolute joint targets and the done belief. Raises ``RobotError`` without any frame."""
        if not any(name in observation.frames for name in self.cameras):
            raise RobotError(
                f"the policy looks through {' and '.join(self.cameras)}, and none of them gave a frame; check the cameras"
            )
        q = np.asarray(observation.q, dtype=np.float64)
        self._history.append(q)
        past = [self._history[max(0, len(self._history) - 1 - steps)] for steps in HISTORY]
        moving = goal.to_move()
        row = raw_row(q, observation.command, past, self._skill_index[goal.skill], moving.point, moving.to)
        raw = torch.from_numpy(row)[None]
        seen = self.network.see(raw, pictures_of(observation, self.views, goal.point))
        self._average.add(seen)
        shift = torch.from_numpy(self.shift.astype(np.float32))[None]
        chunk, done_logit = self.network.plan(corrected(raw, shift), seen, self._noise)
        targets = chunk[0].double().numpy()
        targets[:, :5] += q[:5]
        targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
        return Chunk(targets=targets, done=float(torch.sigmoid(done_logit[0])))
