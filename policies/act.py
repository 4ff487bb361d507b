"""ACT, action chunks by a transformer (Zhao et al. 2023), made small: network, loss and policy in one file.

Tokens of the pictures and one of the state (``policies/seeing.py``) look at one another; ten learned queries, one for each
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
from policies.seeing import SeeingConfig, SeeingPolicy, SeeingTransformer, planned_shift
from policies.sight import Seen, corrected, shift_error_mm, shift_loss
from policies.sight_batch import GIVEN, SHIFT


@dataclass(frozen=True)
class ActConfig(SeeingConfig):
    """Everything needed to rebuild the network."""


class ActNetwork(SeeingTransformer):
    """Raw rows (B, RAW_WIDTH) and pictures -> chunk (B, H, 6), done logit (B,), and what was seen."""

    config: ActConfig

    def __init__(self, config: ActConfig, spec: ArmSpec = SO101) -> None:
        super().__init__(config, spec)
        width = config.width
        self.queries = nn.Parameter(0.02 * torch.randn(config.horizon, width))
        self.norm = nn.LayerNorm(width)
        self.chunk_head = nn.Linear(width, 6)
        self.done_head = nn.Linear(width, 1)

    def plan(self, raw: Tensor, seen: Seen, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chunk in physical units and done logit for raw rows with the corrected goal; ``noise`` is not used."""
        state, tokens = self.context(raw, seen)
        # The state goes straight into the queries too: a step of the chunk is above all a function of where the arm is.
        steps = self.queries + state
        for layer in self.decoder:
            steps = layer(steps, tokens)
        steps = self.norm(steps)
        chunk = self.chunk_head(steps).float() * self.chunk_std + self.chunk_mean
        return chunk, self.done_head(steps[:, 0]).squeeze(1).float()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Seen]:
        """Chunk, done logit and what was seen, for a training batch."""
        seen = self.see_batch(batch)
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
    return {
        "loss": off + done_weight * done + shift_weight * shift, "chunk": off, "done": done, "shift": shift,
        "shift_mm": shift_error_mm(seen, batch[SHIFT]),
    }  # fmt: skip


class ActPolicy(SeeingPolicy):
    """A trained ACT network as a ``Policy``."""

    def __init__(self, network: ActNetwork) -> None:
        super().__init__(network.eval(), "act")
