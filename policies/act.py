"""ACT, action chunks by a transformer (Zhao et al. 2023), made small: network, loss and policy in one file.

Tokens of the pictures and one of the state (``policies/sight.py``) look at one another; ten learned queries, one for each
step of the chunk, look at the tokens. L1 loss. What differs from the paper: 0.7 million parameters instead of 52, a small
network from scratch instead of a ResNet, the planner's point instead of nothing, its correction by sight, a *done* output,
and no variational encoder: the experts here answer the same to the same situation, so there is no style to encode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hardware.arm_spec import SO101, ArmSpec
from policies.point import CHUNK, DONE, RAW
from policies.sight import (
    CM,
    GIVEN,
    PICTURE,
    SHIFT,
    SeeingConfig,
    SeeingPolicy,
    Seen,
    Sight,
    corrected,
    planned_shift,
    shift_loss,
)


@dataclass(frozen=True)
class ActConfig(SeeingConfig):
    """Everything needed to rebuild the network."""


class ActNetwork(nn.Module):
    """Raw rows (B, RAW_WIDTH) and pictures -> chunk (B, H, 6), done logit (B,), and what was seen."""

    chunk_mean: Tensor
    chunk_std: Tensor

    def __init__(self, config: ActConfig, spec: ArmSpec = SO101) -> None:
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
        self.queries = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.norm = nn.LayerNorm(width)
        self.chunk_head = nn.Linear(width, 6)
        self.done_head = nn.Linear(width, 1)

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

    def plan(self, raw: Tensor, seen: Seen, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chunk in physical units and done logit for raw rows with the corrected goal; ``noise`` is not used."""
        state = self.sight.state_token(raw)
        tokens = torch.cat([state, seen.tokens], dim=1)
        for layer in self.encoder:
            tokens = layer(tokens)
        # The state goes straight into the queries too: a step of the chunk is above all a function of where the arm is.
        steps = self.queries + state
        for layer in self.decoder:
            steps = layer(steps, tokens)
        steps = self.norm(steps)
        chunk = self.chunk_head(steps).float() * self.chunk_std + self.chunk_mean
        return chunk, self.done_head(steps[:, 0]).squeeze(1).float()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Seen]:
        """Chunk, done logit and what was seen, for a training batch."""
        seen = self.see(batch[RAW], {view.camera: batch[PICTURE + view.camera] for view in self.config.views})
        chunk, done = self.plan(corrected(batch[RAW], planned_shift(seen, batch[GIVEN])), seen)
        return chunk, done, seen


def act_loss(
    network: ActNetwork, batch: Mapping[str, Tensor], done_weight: float = 0.1, shift_weight: float = 0.1
) -> dict[str, Tensor]:
    """L1 on the chunk, cross-entropy on done, likelihood of the shift. Also ``shift_mm``, its mean error."""
    chunk, done_logit, seen = network(batch)
    off = ((chunk - batch[CHUNK]) / network.chunk_std).abs().mean()
    done = functional.binary_cross_entropy_with_logits(done_logit, batch[DONE])
    shift = shift_loss(seen, batch[SHIFT])
    error = (seen.shift - batch[SHIFT]).detach()[:, :2].norm(dim=1).mean() / CM * 10.0
    return {
        "loss": off + done_weight * done + shift_weight * shift, "chunk": off, "done": done, "shift": shift,
        "shift_mm": error,
    }  # fmt: skip


class ActPolicy(SeeingPolicy):
    """A trained ACT network as a ``Policy``."""

    def __init__(self, network: ActNetwork) -> None:
        super().__init__(network.eval(), "act")
