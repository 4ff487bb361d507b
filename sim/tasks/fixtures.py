"""Tasks about things that stand fast: open and close a drawer, press a button."""

from __future__ import annotations

from hardware.errors import SceneError
from sim.conditions import Closed, Opened, Pressed
from sim.scene import ObjectSpec
from sim.tasks.layout import Layout
from sim.tasks.task import Part, Step, put_new


def _drawer(layout: Layout, opening: float) -> ObjectSpec:
    if any(spec.kind == "drawer" for spec in layout.specs):
        raise SceneError("there is a drawer already")
    return put_new(layout, "drawer", opening=opening)


def open_drawer(layout: Layout) -> Part:
    """Open a shut drawer."""
    spec = _drawer(layout, 0.0)
    return Part(f"open the {spec.label}", Opened(spec.name), (Step("open", spec.name),))


def close_drawer(layout: Layout) -> Part:
    """Shut an open drawer."""
    spec = _drawer(layout, 1.0)
    return Part(f"close the {spec.label}", Closed(spec.name), (Step("close", spec.name),))


def press_button(layout: Layout) -> Part:
    """Press a button."""
    if any(spec.kind == "button" for spec in layout.specs):
        raise SceneError("there is a button already")
    spec = put_new(layout, "button")
    return Part(f"press the {spec.label}", Pressed(spec.name), (Step("press", spec.name),))
