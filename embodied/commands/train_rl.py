"""``embodied train rl``: a skill learned from reward."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from hardware.errors import EmbodiedError
from policies.rl.config import RlConfig

DONE = 0


def run(words: Sequence[str]) -> int:
    """Train with the options in ``words``; returns the exit status. Raises ``EmbodiedError`` for wrong options."""
    try:
        config = tyro.cli(RlConfig, prog="embodied train rl", args=list(words))
    except ValueError as error:
        raise EmbodiedError(f"embodied train rl: {error}") from error
    import torch

    from policies.rl.train import train_rl

    torch.set_num_threads(1)  # small networks: more threads only wait for one another
    train_rl(config)
    return DONE
