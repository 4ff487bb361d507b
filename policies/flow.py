"""Flow matching (Lipman et al. 2023; as in pi0, Black et al. 2024), made small: network, loss and policy in one file.

A chunk is drawn by following a learned velocity from noise to data:

    training    x_t = (1 - t) noise + t chunk,  t in 0..1;     loss = |velocity(x_t, t, tokens) - (chunk - noise)|^2
    inference   x <- noise;  x <- x + velocity(x, t, tokens) / n   for t = 0, 1/n, ... (n = 5)

The tokens are computed once; only the small decoder runs n times. The policy starts every chunk of a skill from the same
noise (zero, the middle of the distribution), so that overlapping chunks agree and can be averaged.

When to prefer it over ACT: demonstrations by people, who do the same thing in different ways, whose average is none of
them. The scripted experts do not, so here it is slower and no better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from policies.point import CHUNK, DONE, RAW
from policies.seeing import SeeingConfig, SeeingPolicy, SeeingTransformer, planned_shift
from policies.sight import Seen, corrected, shift_error_mm, shift_loss
from policies.sight_batch import GIVEN, SHIFT


@dataclass(frozen=True)
class FlowConfig(SeeingConfig):
    """Everything needed to rebuild the network."""

    flow_steps: int = 5
    """Steps from noise to a chunk."""


class FlowNetwork(SeeingTransformer):
    """Tokens, a noisy chunk (B, H, 6) and its time (B,) -> velocity (B, H, 6)."""

    config: FlowConfig

    def __init__(self, config: FlowConfig, spec: ArmSpec = SO101) -> None:
        super().__init__(config, spec)
        width = config.width
        self.chunk_in = nn.Linear(6, width)
        self.time_in = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.places = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.norm = nn.LayerNorm(width)
        self.velocity_head = nn.Linear(width, 6)
        self.done_head = nn.Linear(width, 1)

    def velocity(self, chunk: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        """Where a noisy normalised chunk (B, H, 6) at ``time`` (B,) has to go."""
        wave = time[:, None] * torch.exp(torch.linspace(0.0, math.log(100.0), 16, device=time.device))
        clock = self.time_in(torch.cat([torch.sin(wave), torch.cos(wave)], dim=1))[:, None]
        steps = self.chunk_in(chunk) + self.places + clock + tokens[:, :1]
        for layer in self.decoder:
            steps = layer(steps, tokens)
        out: Tensor = self.velocity_head(self.norm(steps)).float()
        return out

    def plan(self, raw: Tensor, seen: Seen, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chunk in physical units and done logit for raw rows with the corrected goal, starting from ``noise`` (B, H, 6)."""
        _, tokens = self.context(raw, seen)
        chunk = torch.zeros(len(raw), self.config.horizon, 6, device=raw.device) if noise is None else noise
        n = self.config.flow_steps
        for step in range(n):
            time = torch.full((len(raw),), step / n, device=raw.device)
            chunk = chunk + self.velocity(chunk, time, tokens) / n
        return chunk * self.chunk_std + self.chunk_mean, self.done_head(tokens[:, 0]).squeeze(1).float()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Seen]:
        """For a training batch: the velocity's error (B, H, 6), done logit and what was seen.

        Time and noise come from the batch (``TIME``, ``NOISE``), so that a resumed training sees the same.
        """
        seen = self.see_batch(batch)
        _, tokens = self.context(corrected(batch[RAW], planned_shift(seen, batch[GIVEN])), seen)
        wanted = (batch[CHUNK] - self.chunk_mean) / self.chunk_std
        time, noise = batch[TIME], batch[NOISE]
        along = time[:, None, None]
        error = self.velocity((1.0 - along) * noise + along * wanted, time, tokens) - (wanted - noise)
        return error, self.done_head(tokens[:, 0]).squeeze(1).float(), seen


TIME = "time"  # (B,) 0 noise .. 1 chunk
NOISE = "noise"  # (B, H, 6)


def add_noise(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The batch with times and noise to learn from."""
    # More often near the noise, where the direction is decided (Black et al. 2024 draw from such a beta distribution).
    time = 1.0 - torch.rand(len(batch[CHUNK]), generator=generator) ** (2.0 / 3.0)
    return {**batch, TIME: time, NOISE: torch.randn(batch[CHUNK].shape, generator=generator)}


def flow_loss(
    network: FlowNetwork, batch: Mapping[str, Tensor], done_weight: float = 0.1, shift_weight: float = 0.1
) -> dict[str, Tensor]:
    """Squared error of the velocity, cross-entropy on done, likelihood of the shift. Also ``shift_mm``, its mean error."""
    error, done_logit, seen = network(batch)
    off = error.square().mean()
    done = functional.binary_cross_entropy_with_logits(done_logit, batch[DONE])
    shift = shift_loss(seen, batch[SHIFT])
    return {
        "loss": off + done_weight * done + shift_weight * shift, "chunk": off, "done": done, "shift": shift,
        "shift_mm": shift_error_mm(seen, batch[SHIFT]),
    }  # fmt: skip


class FlowPolicy(SeeingPolicy):
    """A trained flow network as a ``Policy``."""

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__(network.eval(), "flow")
