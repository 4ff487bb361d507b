"""What the commands about one arm share: the rig that was named, on the port that was named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embodied.commands.output import people_console
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from rich.console import Console

    from hardware.rig import Rig

_FILE_WIDTH = 140  # columns, where no terminal says how many there are


def rig_at(source: str, port: str) -> Rig:
    """The rig by name or file, on another port if one is given. Raises ``EmbodiedError`` when there is no port."""
    from hardware.rig import load_rig

    rig = load_rig(source)
    if port:
        rig = rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": port})})
    if not rig.bus.port:
        raise EmbodiedError(f"{source} names no port; add --port (find it with: embodied robot find)")
    return rig


def wide_console(as_json: bool) -> Console:
    """As ``people_console``, wide enough for the tables about an arm where no terminal says how wide it is."""
    console = people_console(as_json)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console
