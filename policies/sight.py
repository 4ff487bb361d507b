"""How policies see: pictures to tokens, and the correction of the goal point. Shared by ``act.py`` and ``flow.py``.

A planner's point and a rig's calibration are off by centimetres; grasps miss by millimetres. So the network says first how
far the point it was told is from where the picture has the object (``shift``) and how sure it is, and the motion is planned
for the corrected point:

    pictures ── backbone ─┬─ keypoints ──┐
                          │              ├── shift, its scale      <- trained with points moved on purpose
    joints, told point ── features ──────┘      │
                          │                     v
                          └─ grid tokens   told point + shift ── features ── state token
                                     └──────────┬──────────────────┘
                                          tokens (B, T, D)  ->  act.py / flow.py  ->  chunk, done

On the robot the shift is averaged over time, by how sure each picture was: one picture jitters by millimetres, and once the
arm covers the object the picture knows less than before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from hardware.errors import RobotError
from hardware.robot import Observation
from policies.backbones import Keypoints, make_backbone
from policies.features import GOAL_SLICE, HISTORY, PAST_SLICE, PointFeatures, raw_row
from policies.goal import SKILLS, Goal
from policies.images import MARGIN_PX, PIXEL_M, VIEWS, View, look_at
from policies.policy import Chunk
from policies.randomization import PICTURE_NOISE, VISIBLE, PictureNoise, Randomization, error_shape

if TYPE_CHECKING:
    from policies.data import DemoSet

# Keys of a training batch, besides RAW (its goal as told), CHUNK and DONE of policies/point.py.
SHIFT = "shift"  # (B, 3) m, true goal point minus told
GIVEN = "given"  # (B, 3) m, the shift to plan with; NaN: the network's own
PICTURE = "picture_"  # + camera: (B, 3, P, P), -1..1

#: A grid of so many tokens a side is made of each picture.
GRID = 4
#: The shift is predicted in centimetres; a picture is never believed to be better than a millimetre.
CM = 0.01
_LOG_SCALE = (math.log(0.1), math.log(5.0))
#: Share of training rows whose motion is planned for nearly the true point, as the average over time will be.
GIVEN_SHARE = 0.5
_GIVEN_NOISE_M = 0.0015
#: How quickly earlier pictures are forgotten, per step.
FORGET = 0.92


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


@dataclass(frozen=True)
class Seen:
    """What the network makes of the pictures."""

    tokens: Tensor  # (B, T, D)
    shift: Tensor  # (B, 3) m
    log_scale: Tensor  # (B, 3) of the error of the shift, in centimetres


class Sight(nn.Module):
    """Raw rows and pictures -> ``Seen``; raw rows with the corrected goal -> a state token."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: SeeingConfig, spec: ArmSpec = SO101) -> None:
        super().__init__()
        self.config = config
        self.features = PointFeatures(spec)
        self.register_buffer("feature_mean", torch.zeros(self.features.width))
        self.register_buffer("feature_std", torch.ones(self.features.width))
        self.backbones = nn.ModuleDict({view.camera: make_backbone(config.backbone) for view in config.views})
        self.keypoints = nn.ModuleDict({view.camera: Keypoints() for view in config.views})
        channels = [int(cast(int, self.backbones[view.camera].channels)) for view in config.views]
        self.grid = nn.ModuleList(nn.Linear(c, config.width) for c in channels)
        self.places = nn.ModuleList(nn.Linear(3 * c, config.width) for c in channels)
        self.where = nn.Parameter(0.02 * torch.randn(len(channels), GRID * GRID + 1, config.width))
        self.state = nn.Sequential(
            nn.Linear(self.features.width, config.width), nn.LayerNorm(config.width), nn.SiLU(),
            nn.Linear(config.width, config.width),
        )  # fmt: skip
        self.shift_head = nn.Sequential(
            nn.Linear(3 * sum(channels) + self.features.width, 192), nn.LayerNorm(192), nn.SiLU(),
            nn.Linear(192, 96), nn.SiLU(), nn.Linear(96, 6),
        )  # fmt: skip

    def _normalised(self, raw: Tensor) -> Tensor:
        # Kinematics in half precision would be off by millimetres.
        with torch.autocast(raw.device.type, enabled=False):
            features = (self.features(raw) - self.feature_mean) / self.feature_std
            return features.clamp(-8.0, 8.0)  # an outlier must not shout

    @torch.no_grad()
    def fit_statistics(self, raw: Tensor) -> None:
        """Take normalisation from a sample of raw rows (N, RAW_WIDTH)."""
        features = self.features(raw)
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(features.std(dim=0).clamp_min(0.02))

    def forward(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """``pictures`` by camera (B, 3, P, P), -1..1."""
        tokens, summaries = [], []
        for index, view in enumerate(self.config.views):
            mapped = self.backbones[view.camera](pictures[view.camera])
            summary = torch.cat([self.keypoints[view.camera](mapped), mapped.mean(dim=(2, 3))], dim=1)
            grid = functional.adaptive_avg_pool2d(mapped, GRID).flatten(2).transpose(1, 2)  # (B, G*G, C)
            own = torch.cat([self.grid[index](grid), self.places[index](summary)[:, None]], dim=1)
            tokens.append(own + self.where[index])
            summaries.append(summary)
        out = self.shift_head(torch.cat([*summaries, self._normalised(raw)], dim=1)).float()
        return Seen(torch.cat(tokens, dim=1), CM * out[:, :3], out[:, 3:].clamp(*_LOG_SCALE))

    def state_token(self, raw: Tensor) -> Tensor:
        """(B, 1, D) from raw rows whose goal has been corrected."""
        token: Tensor = self.state(self._normalised(raw))[:, None]
        return token


class SeeingTransformer(nn.Module):
    """What ACT and flow share: sight, the scale of chunks, and the layers in which tokens and steps look around."""

    chunk_mean: Tensor
    chunk_std: Tensor

    def __init__(self, config: SeeingConfig, spec: ArmSpec = SO101) -> None:
        super().__init__()
        self.config = config
        self.sight = Sight(config, spec)
        self.register_buffer("chunk_mean", torch.zeros(6))
        self.register_buffer("chunk_std", torch.ones(6))
        width, heads = config.width, config.heads
        layer = {"d_model": width, "nhead": heads, "dim_feedforward": 2 * width, "dropout": 0.0, "batch_first": True}
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(**layer, norm_first=True) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(**layer, norm_first=True) for _ in range(config.decoder_layers)
        )

    @torch.no_grad()
    def fit_statistics(self, raw: Tensor, chunk: Tensor) -> None:
        """Take normalisation from a sample of the data: raw (N, RAW_WIDTH), chunk (N, H, 6)."""
        self.sight.fit_statistics(raw)
        self.chunk_mean.copy_(chunk.mean(dim=(0, 1)))
        self.chunk_std.copy_(chunk.flatten(0, 1).std(dim=0).clamp_min(0.01))

    def see(self, raw: Tensor, pictures: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures."""
        seen: Seen = self.sight(raw, pictures)
        return seen

    def see_batch(self, batch: Mapping[str, Tensor]) -> Seen:
        """Look at the pictures of a training batch."""
        from policies.point import RAW

        return self.see(batch[RAW], {view.camera: batch[PICTURE + view.camera] for view in self.config.views})

    def context(self, raw: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """The state token (B, 1, D) of raw rows with the corrected goal, and all tokens (B, T, D) after they looked around."""
        state = self.sight.state_token(raw)
        tokens = torch.cat([state, seen.tokens], dim=1)
        for layer in self.encoder:
            tokens = layer(tokens)
        return state, tokens


def corrected(raw: Tensor, shift: Tensor) -> Tensor:
    """Raw rows (B, RAW_WIDTH) with point and to moved by ``shift`` (B, 3)."""
    moved = raw.clone()
    moved[:, GOAL_SLICE] += shift.repeat(1, 2)
    return moved


def planned_shift(seen: Seen, given: Tensor) -> Tensor:
    """The shift to plan with: the one given, and where that is NaN the network's own (which the motion does not train)."""
    return torch.where(torch.isnan(given), seen.shift.detach(), given)


def shift_loss(seen: Seen, shift: Tensor) -> Tensor:
    """Negative log-likelihood of the true shift (B, 3) under a Laplace distribution, in centimetres: size and certainty."""
    off = (seen.shift - shift).abs() / CM
    return (off * torch.exp(-seen.log_scale) + seen.log_scale).mean()


def shift_error_mm(seen: Seen, shift: Tensor) -> Tensor:
    """Mean distance on the table between the predicted and the true shift (B, 3), mm; trains nothing."""
    return (seen.shift - shift).detach()[:, :2].norm(dim=1).mean() / CM * 10.0


# Training rows -------------------------------------------------------------------------------------------------------


def seeing_batch(
    data: DemoSet,
    rng: np.random.Generator,
    size: int,
    config: SeeingConfig,
    randomization: Randomization,
    *,
    noise: PictureNoise = PICTURE_NOISE,
    joint_noise_rad: float = 0.002,
) -> dict[str, Tensor]:
    """A random batch whose told points are off by a planner's error, with the patches moved accordingly."""
    from policies.point import CHUNK, DONE, RAW

    rows = data.draw(rng, size)
    raw = data.raw[rows].copy()
    seen, eye = data.seen(rows)
    shape = np.stack([error_shape(skill) * (skill in VISIBLE) for skill in SKILLS])[data.skill[rows]]  # (B, 3)
    deviation = rng.uniform(randomization.point_noise_m.low, randomization.point_noise_m.high, (size, 1))
    error = (rng.normal(0.0, 1.0, (size, 3)) * deviation * shape).astype(np.float32)
    told = seen + error
    shift = raw[:, GOAL_SLICE][:, :3] - told
    raw[:, GOAL_SLICE] -= np.tile(shift, 2)
    raw[:, PAST_SLICE] += rng.normal(0.0, joint_noise_rad, raw[:, PAST_SLICE].shape)
    given = shift + rng.normal(0.0, _GIVEN_NOISE_M, shift.shape) * shape
    given[rng.random(size) >= GIVEN_SHARE] = np.nan
    batch = {
        RAW: torch.from_numpy(raw),
        CHUNK: torch.from_numpy(data.chunk[rows]),
        DONE: torch.from_numpy(data.done[rows]),
        SHIFT: torch.from_numpy(shift.astype(np.float32)),
        GIVEN: torch.from_numpy(given.astype(np.float32)),
    }
    # A patch around the told point, in the stored one around where the picture has it: along the camera's ray if the
    # told point is too high or too low.
    onto = eye + (told - eye) * ((seen[:, 2:] - eye[:, 2:]) / (told[:, 2:] - eye[:, 2:]))
    off = torch.from_numpy(((onto - seen)[:, :2] / PIXEL_M).astype(np.float32))  # (B, 2) pixels, down and right
    for view in config.views:
        picture = torch.from_numpy(data.images(rows, view.camera)).permute(0, 3, 1, 2).float() / 255.0
        if view.kind == "patch":
            picture = _moved(picture, off, view.pixels)
        batch[PICTURE + view.camera] = 2.0 * disturbed(picture, rng, noise) - 1.0
    return batch


def _moved(stored: Tensor, off: Tensor, pixels: int) -> Tensor:
    """Cut (B, 3, P, P) out of stored patches with margin, ``off`` (B, 2) pixels down and right of their middle."""
    side = stored.shape[-1]
    if side != pixels + 2 * MARGIN_PX:
        raise ValueError(f"stored patches must be {pixels + 2 * MARGIN_PX} pixels wide, not {side}; collect them anew")
    scale, move = pixels / side, 2.0 * off / side
    theta = torch.zeros(len(stored), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2], theta[:, 1, 2] = move[:, 1], move[:, 0]
    grid = functional.affine_grid(theta, [len(stored), 3, pixels, pixels], align_corners=False)
    return functional.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)


def disturbed(picture: Tensor, rng: np.random.Generator, noise: PictureNoise) -> Tensor:
    """Pictures (B, 3, P, P), 0..1, as another camera in another room would have taken them."""
    batch, _, height, width = picture.shape

    def per_picture(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).reshape(batch, -1, 1, 1)

    gain = per_picture(rng.uniform(noise.exposure.low, noise.exposure.high, batch))
    gain = gain * per_picture(rng.normal(1.0, noise.tint.deviation, (batch, 3)))
    coarse = torch.from_numpy(rng.normal(0.0, 1.0, (batch, 1, 9, 9)).astype(np.float32))
    weave = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    gain = gain * (1.0 + weave * per_picture(rng.uniform(noise.texture.low, noise.texture.high, batch)))
    picture = picture * gain + per_picture(rng.normal(0.0, noise.offset.deviation, batch))
    blurred = torch.from_numpy(rng.random(batch) < noise.blur.share)
    if bool(blurred.any()):
        picture = picture.clone()
        picture[blurred] = functional.avg_pool2d(picture[blurred], 3, 1, 1, count_include_pad=False)
    # One sheet of grain for the whole batch, rolled for each picture: a normal number per pixel would cost more than the rest.
    grain = torch.from_numpy(rng.standard_normal((3, 2 * height, 2 * width), dtype=np.float32))
    corners = rng.integers(0, [height, width], (batch, 2))
    sheets = torch.stack([grain[:, y : y + height, x : x + width] for y, x in corners.tolist()])
    picture = picture + sheets * per_picture(rng.uniform(noise.grain.low, noise.grain.high, batch))
    for index in np.flatnonzero(rng.random(batch) < noise.covered.share).tolist():
        tall, wide = rng.integers(height // 8, height // 2, 2).tolist()
        y, x = int(rng.integers(0, height - tall)), int(rng.integers(0, width - wide))
        picture[index, :, y : y + tall, x : x + wide] = float(rng.uniform(0.0, 1.0))
    picture[torch.from_numpy(rng.random(batch) < noise.blind.share)] = 0.0
    return picture.clamp(0.0, 1.0)


# Running -------------------------------------------------------------------------------------------------------------


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
        self.reset()

    def reset(self) -> None:
        """Forget joints and pictures; a new skill begins."""
        self._history.clear()
        self._weight, self._weighted = np.zeros(3), np.zeros(3)
        # One noise for the whole skill: chunks of a flow that start alike agree with one another.
        self._noise = torch.zeros(1, self.network.config.horizon, 6)

    @property
    def shift(self) -> NDArray[np.float64]:
        """(3,) m: how far the goal point is believed to be off, from all pictures since ``reset``."""
        return np.asarray(self._weighted / np.maximum(self._weight, 1e-9))

    @torch.inference_mode()
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) of absolute joint targets and the done belief. Raises ``RobotError`` without any frame."""
        q = np.asarray(observation.q, dtype=np.float64)
        self._history.append(q)
        past = [self._history[max(0, len(self._history) - 1 - steps)] for steps in HISTORY]
        row = raw_row(q, observation.command, past, self._skill_index[goal.skill], goal.point, goal.to)
        raw = torch.from_numpy(row)[None]
        seen = self.network.see(raw, self._pictures(observation, goal))
        certainty = np.exp(-2.0 * seen.log_scale[0].double().numpy())
        self._weight = FORGET * self._weight + certainty
        self._weighted = FORGET * self._weighted + certainty * seen.shift[0].double().numpy()
        shift = torch.from_numpy(self.shift.astype(np.float32))[None]
        chunk, done_logit = self.network.plan(corrected(raw, shift), seen, self._noise)
        targets = chunk[0].double().numpy()
        targets[:, :5] += q[:5]
        targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
        return Chunk(targets=targets, done=float(torch.sigmoid(done_logit[0])))

    def _pictures(self, observation: Observation, goal: Goal) -> dict[str, Tensor]:
        frames = observation.frames
        if not any(name in frames for name in self.cameras):
            raise RobotError(
                f"the policy looks through {' and '.join(self.cameras)}, and none of them gave a frame; check the cameras"
            )
        pictures = {}
        for view in self.views:
            if view.camera not in frames:  # a camera that drops out; training showed black pictures now and then
                pictures[view.camera] = torch.full((1, 3, view.pixels, view.pixels), -1.0)
                continue
            pixels = torch.from_numpy(np.ascontiguousarray(look_at(frames[view.camera], view, goal.point)))
            pictures[view.camera] = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
        return pictures
