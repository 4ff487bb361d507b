"""What turns a picture into a map of features, by name; trained from nothing, without torchvision or timm.

    small       four convolutions, 22 million multiply-adds for both default views: 1-2 ms on one core
    residual    eight, with skips, twice the channels: for a GPU or patient people

Adding one: a module that maps (B, 3, P, P), values -1..1, to (B, C, p, p) and has ``channels`` = C, registered under a name:

    @backbone("mine")
    class Mine(nn.Module): ...

The name is stored in the checkpoint; whoever loads it must have registered the same name before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from hardware.errors import CheckpointError

BACKBONES: dict[str, Callable[[], nn.Module]] = {}
T = TypeVar("T", bound=type[nn.Module])


def backbone(name: str) -> Callable[[T], T]:
    """Class decorator that registers a backbone. Raises ``ValueError`` if the name is taken."""

    def register(cls: T) -> T:
        if name in BACKBONES:
            raise ValueError(f"a backbone named {name!r} is registered already; choose another name")
        BACKBONES[name] = cls
        return cls

    return register


def make_backbone(name: str) -> nn.Module:
    """A new backbone. Raises ``CheckpointError`` listing the names there are."""
    if name not in BACKBONES:
        raise CheckpointError(
            f"there is no backbone {name!r}; there are: {', '.join(BACKBONES)}. Import the module that registers yours first"
        )
    return BACKBONES[name]()


def _block(inside: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    # Groups, not batches: an average over the batch would leak noise between rows and differ when one row is run.
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False), nn.GroupNorm(8, out), nn.SiLU(inplace=True)
    )


@backbone("small")
class SmallBackbone(nn.Module):
    """Picture to a quarter of its side; each feature sees 25 pixels, 6 cm of a patch."""

    channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(3, 24, 5, 2), _block(24, 48, 3, 2), _block(48, 48, 3, 1), _block(48, self.channels, 3, 1)
        )

    def forward(self, picture: Tensor) -> Tensor:
        mapped: Tensor = self.blocks(picture)
        return mapped


@backbone("residual")
class ResidualBackbone(nn.Module):
    """As ``small``, with skips and twice the channels."""

    channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 32, 5, 2), _block(32, 64, 3, 2))
        self.blocks = nn.ModuleList(
            nn.Sequential(_block(64, 64, 3, 1), nn.Conv2d(64, 64, 3, 1, 1), nn.GroupNorm(8, 64)) for _ in range(3)
        )

    def forward(self, picture: Tensor) -> Tensor:
        mapped: Tensor = self.stem(picture)
        for block in self.blocks:
            mapped = nn.functional.silu(mapped + block(mapped))
        return mapped


class Keypoints(nn.Module):
    """Spatial softmax (Levine et al. 2016): where in the picture each feature is strongest, (B, C, p, p) -> (B, 2 C) in -1..1.

    A pooled map knows *what* is there; this knows *where*, to a fraction of a pixel, which is what an error of a point is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(self, mapped: Tensor) -> Tensor:
        height, width = mapped.shape[-2:]
        weight = torch.softmax(mapped.flatten(2).float() * self.sharpness, dim=2).unflatten(2, (height, width))
        down = torch.linspace(-1.0, 1.0, height, device=mapped.device)
        right = torch.linspace(-1.0, 1.0, width, device=mapped.device)
        return torch.cat([(weight.sum(3) * down).sum(2), (weight.sum(2) * right).sum(2)], dim=1)
