"""What a planner is, and the planners there are by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from embodied.plan import Plan
from hardware.camera_model import Frame
from hardware.errors import CheckpointError

if TYPE_CHECKING:
    from sim.world import World


@runtime_checkable
class Planner(Protocol):
    """Turns words and one picture into a plan."""

    name: str
    scripted: bool  # True when it looks at the true scene instead of the picture; every report says so

    def plan(self, instruction: str, frame: Frame) -> Plan:
        """A plan for ``instruction`` in the situation of ``frame``. Raises ``PlanError`` when no plan comes out."""
        ...


#: Makes a planner. The world is there for scripted planners only; a learned planner must not touch it.
Factory = Callable[["World | None"], Planner]


def _local(world: World | None) -> Planner:
    return _from_folder(None)


def _scripted(world: World | None) -> Planner:
    from embodied.scripted_planner import ScriptedPlanner

    if world is None:
        raise CheckpointError(
            "the scripted planner reads the true scene, so it needs a simulation; use --planner local"
        )
    return ScriptedPlanner(world)


def _from_folder(folder: Path | str | None) -> Planner:
    try:
        from embodied.planner.local import LocalPlanner
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"the local planner cannot be loaded because the module {error.name} is missing; reinstall "
            "with `make setup`, or use --planner scripted"
        ) from error
    planner: Planner = LocalPlanner() if folder is None else LocalPlanner(folder)
    return planner


#: "owner/model" on the Hugging Face hub; a path that does not exist has more slashes, or begins or ends with one.
_HUB_NAME = re.compile(r"[\w-]+(\.[\w-]+)*/[\w-]+(\.[\w-]+)*")

#: The registry: add a planner here and nowhere else.
PLANNERS: dict[str, Factory] = {"local": _local, "scripted": _scripted}


def make_planner(name: str, world: World | None = None) -> Planner:
    """The planner called ``name``, or the local planner with the weights in the folder ``name``.

    Raises ``CheckpointError`` when there is neither, or when the weights are damaged.
    """
    from embodied.remote.choose import is_remote, make_remote

    if name in PLANNERS:
        return PLANNERS[name](world)
    if is_remote(name):
        return make_remote(name, world)
    if Path(name).is_dir() or _HUB_NAME.fullmatch(name):
        return _from_folder(name)
    raise CheckpointError(
        f"there is no planner and no folder called {name!r}; the planners are {', '.join(PLANNERS)}, or give the "
        "folder of one trained with `embodied train planner`, a model's name on the hub, or an endpoint (remote, https://...)"
    )
