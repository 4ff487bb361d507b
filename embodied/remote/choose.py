"""Remote planners by name: ``remote``, ``remote:PRESET/MODEL``, ``https://host/v1#model``, and chains with ``+``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embodied.remote.endpoint import resolve
from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from embodied.planners import Planner
    from sim.world import World


def is_remote(spec: str) -> bool:
    """Whether a planner's name is a remote one's, or that of a chain with one in it."""
    return any(_is_one(part) for part in spec.split("+"))


def _is_one(part: str) -> bool:
    return part == "remote" or part.startswith(("remote:", "http://", "https://"))


def make_remote(spec: str, world: World | None = None) -> Planner:
    """The planner that ``spec`` names.

    ``remote`` takes everything from environment and settings file; ``remote:dashscope``, ``remote:ollama/qwen3-vl:8b``
    and ``http://127.0.0.1:8000/v1#model`` say it themselves. ``remote+local`` is a chain: when the first fails, the next
    takes over; what comes after a ``+`` is any planner's name. ``world`` is handed to scripted planners in a chain.
    Raises ``CheckpointError`` when something is missing or wrong; nothing is sent yet.
    """
    from embodied.planners import make_planner
    from embodied.remote.fallback import FallbackPlanner
    from embodied.remote.planner import RemotePlanner

    parts = spec.split("+")
    if not all(parts):
        raise CheckpointError(f"{spec!r} is no chain of planners; one is written remote+local")
    made: list[Planner] = [
        RemotePlanner(resolve(part)) if _is_one(part) else make_planner(part, world) for part in parts
    ]
    return made[0] if len(made) == 1 else FallbackPlanner(made)
