"""The kinds of learned policy there are, each with its config, network, loss and policy; the trainer knows no more of them.

Adding one: a file like ``act.py`` and one entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hardware.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from policies.data import DemoSet
    from policies.images import View
    from policies.policy import Policy
    from policies.train import TrainConfig

    Batch = dict[str, Tensor]

#: Those that are trained by imitation.
KindName = Literal["point", "refiner", "act", "flow"]


@dataclass(frozen=True)
class Kind:
    """One kind of policy."""

    name: KindName | Literal["actor"]
    title: str  # of the model card
    sees: str  # one sentence for the model card
    limits: str
    new_network: Callable[[TrainConfig], nn.Module]  # for a training
    load_network: Callable[[Mapping[str, Any]], nn.Module]  # from the "network" part of config.json
    loss: Callable[[Any, Batch], Batch]
    batch: Callable[[TrainConfig, DemoSet, np.random.Generator], Batch]
    policy: Callable[[Any], Policy]
    views: Callable[[TrainConfig], tuple[View, ...]]
    #: Whether it learns how to move; if not, its first data are looks at still scenes instead of demonstrations.
    moves: bool = True


def kind(name: str) -> Kind:
    """A kind by its name. Raises ``CheckpointError`` listing those there are."""
    if name not in KINDS:
        raise CheckpointError(f"there is no kind of policy {name!r}; there are: {', '.join(KINDS)}")
    return KINDS[name]()


def _point() -> Kind:
    from policies.point import PointConfig, PointNetwork, PointPolicy, point_loss
    from policies.train import noisy_batch

    return Kind(
        "point", "Point policy",
        "It sees joint states, their short history, a skill name and goal points; no image, and nothing of the simulator.",
        "It never sees the objects: where the goal point is wrong by a centimetre, grasps miss.",
        lambda config: PointNetwork(PointConfig(width=config.width, layers=config.layers)),
        lambda fields: PointNetwork(PointConfig(**fields)),
        point_loss, noisy_batch, PointPolicy, lambda config: (),
    )  # fmt: skip


_SEES = (
    "It sees joint states, their short history, a skill name, goal points, and the table around the point through the front "
    "and the wrist camera; nothing of the simulator."
)
_SEEING_LIMITS = (
    "A bare spot on the table looks like any other: an error of the point there cannot be seen, and nor can one of more than "
    "about 4 cm anywhere."
)


def _refiner() -> Kind:
    from policies.point import PointConfig
    from policies.refiner import RefinerConfig, RefinerNetwork, RefinerPolicy, new_refiner, refiner_loss
    from policies.sight_batch import seeing_batch

    def batch(config: TrainConfig, data: DemoSet, rng: np.random.Generator) -> Batch:
        return seeing_batch(data, rng, config.batch, config.views, config.randomized)

    def load_network(fields: Mapping[str, Any]) -> nn.Module:
        point = PointConfig(**{**fields["point"], "skills": tuple(fields["point"]["skills"])})
        return RefinerNetwork(RefinerConfig(**{**_views(fields), "point": point}))

    return Kind(
        "refiner", "Refiner policy", _SEES, _SEEING_LIMITS,
        lambda config: new_refiner(config.mover, config.backbone, config.views), load_network, refiner_loss, batch,
        RefinerPolicy, lambda config: config.views, moves=False,
    )  # fmt: skip


def _act() -> Kind:
    from policies.act import ActConfig, ActNetwork, ActPolicy, act_loss
    from policies.sight_batch import seeing_batch

    def new_network(config: TrainConfig) -> nn.Module:
        return ActNetwork(ActConfig(backbone=config.backbone, views=config.views))

    def batch(config: TrainConfig, data: DemoSet, rng: np.random.Generator) -> Batch:
        return seeing_batch(
            data,
            rng,
            config.batch,
            config.views,
            config.randomized,
            joint_noise_rad=config.joint_noise_rad,
        )

    return Kind(
        "act", "ACT policy", _SEES, _SEEING_LIMITS, new_network, lambda fields: ActNetwork(ActConfig(**_views(fields))),
        act_loss, batch, ActPolicy, lambda config: config.views,
    )  # fmt: skip


def _flow() -> Kind:
    import torch

    from policies.flow import FlowConfig, FlowNetwork, FlowPolicy, add_noise, flow_loss
    from policies.sight_batch import seeing_batch

    def new_network(config: TrainConfig) -> nn.Module:
        return FlowNetwork(FlowConfig(backbone=config.backbone, views=config.views))

    def batch(config: TrainConfig, data: DemoSet, rng: np.random.Generator) -> Batch:
        drawn = seeing_batch(
            data,
            rng,
            config.batch,
            config.views,
            config.randomized,
            joint_noise_rad=config.joint_noise_rad,
        )
        return add_noise(drawn, torch.Generator().manual_seed(int(rng.integers(2**62))))

    return Kind(
        "flow", "Flow-matching policy", _SEES, _SEEING_LIMITS, new_network,
        lambda fields: FlowNetwork(FlowConfig(**_views(fields))), flow_loss, batch, FlowPolicy,
        lambda config: config.views,
    )  # fmt: skip


def _views(fields: Mapping[str, Any]) -> dict[str, Any]:
    from policies.images import View

    return {**fields, "views": tuple(View(**view) for view in fields["views"])}


def _actor() -> Kind:
    from policies.rl.actor import actor_kind

    return actor_kind()


#: Made when asked for: the networks need torch.
KINDS: dict[str, Callable[[], Kind]] = {
    "point": _point,
    "refiner": _refiner,
    "act": _act,
    "flow": _flow,
    "actor": _actor,
}
