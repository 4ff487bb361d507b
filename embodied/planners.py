"""What a planner is, and the planners there are by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import parse_qsl

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


def _from_folder(folder: Path | str | None, **options: str) -> Planner:
    try:
        from embodied.planner.local import LocalPlanner
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"the local planner cannot be loaded because the module {error.name} is missing; reinstall "
            "with `make setup`, or use --planner scripted"
        ) from error
    planner: Planner = LocalPlanner(**options) if folder is None else LocalPlanner(folder, **options)  # type: ignore[arg-type]
    return planner


#: What may stand behind a local model's name; ``LocalPlanner`` says which values there are.
LOCAL_OPTIONS = ("device", "dtype", "coordinates")


def _with_options(name: str) -> tuple[str, dict[str, str]]:
    """``"folder?device=cuda&dtype=bfloat16"`` taken apart. Raises ``CheckpointError`` for options there are not."""
    plain, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - set(LOCAL_OPTIONS)) or query.count("=") != len(options):
        named = ", ".join(unknown) if isinstance(unknown, list) else query
        raise CheckpointError(
            f"--planner {plain} does not understand ?{named}; a local model takes {', '.join(LOCAL_OPTIONS)}, "
            f"for example {plain}?device=cpu&dtype=float32"
        )
    return plain, options


#: "owner/model" on the Hugging Face hub; a path that does not exist has more slashes, or begins or ends with one.
_HUB_NAME = re.compile(r"[\w-]+(\.[\w-]+)*/[\w-]+(\.[\w-]+)*")

#: The registry: add a planner here and nowhere else.
PLANNERS: dict[str, Factory] = {"local": _local, "scripted": _scripted}


def make_planner(name: str, world: World | None = None) -> Planner:
    """The planner called ``name``, or the local planner with the weights in the folder ``name``.

    Behind a local model's name may stand ``?device=cuda&dtype=bfloat16&coordinates=unit``, see ``LocalPlanner``.

    Raises ``CheckpointError`` when there is neither, or when the weights are damaged.
    """
    from embodied.remote.choose import is_remote, make_remote

    if name in PLANNERS:
        return PLANNERS[name](world)
    if is_remote(name):
        return make_remote(name, world)
    plain, options = _with_options(name) if "?" in name and not Path(name).is_dir() else (name, {})
    if plain == "local":
        return _from_folder(None, **options)
    if Path(plain).is_dir() or _HUB_NAME.fullmatch(plain):
        return _from_folder(plain, **options)
    raise CheckpointError(
        f"there is no planner and no folder called {name!r}; the planners are {', '.join(PLANNERS)}, or give the "
        "folder of one trained with `embodied train planner`, a model's name on the hub, or an endpoint (remote, https://...)"
    )
