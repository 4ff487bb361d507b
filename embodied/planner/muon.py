"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

``torch.optim.Muon`` computes in bfloat16 whatever it is given, which on a processor without bfloat16 units takes as long
as the gradients themselves. This one computes in the parameters' own precision, matrices of one shape together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

#: Coefficients of the quintic Newton-Schulz iteration: fast towards singular values near 1, not exact.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly: singular values between 0.7 and 1.2. (N, rows, columns), same shape."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(b * square, square, square, alpha=c) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For matrices only. Updates have the size of AdamW's (0.2 root mean square), so both can share a learning rate."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update. Raises ``ValueError`` for a closure, which is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure; call backward first")
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.shape)].append(p)
            for (rows, columns), same in by_shape.items():
                pushes = []
                for p in same:
                    buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    pushes.append(p.grad.lerp(buffer, group["momentum"]))  # Nesterov
                scale = 0.2 * max(rows, columns) ** 0.5
                for p, update in zip(same, orthogonal(torch.stack(pushes)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
