"""``embodied plan``: the plan for a picture and an instruction; nothing moves."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from embodied.commands.output import people_console, print_json, save
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from embodied.grounding import GroundedCall
    from embodied.plan import Plan
    from hardware.camera_model import Frame
    from sim.scene import Scene


@dataclass(frozen=True)
class PlanImage:
    """Print the plan for a picture and an instruction, and draw it into the picture; nothing moves."""

    image: Positional[Annotated[Path, arg(metavar="IMAGE")]]
    """A picture of the table: PNG, JPEG or another usual format, of any size."""
    instruction: Positional[Annotated[str, arg(metavar="WORDS")]]
    """What to do."""
    planner: str = "local"
    """As for run; scripted only together with --scene."""
    scene: str = ""
    """The scene (file or seed) whose front camera took the picture: targets are then given in centimetres too."""
    save: Path | None = None
    """Write the picture with the plan drawn in here; IMAGE-plan.png in the current folder when left out."""
    json: bool = False
    """Print the plan as one JSON object on the last line."""


def run(command: PlanImage) -> int:
    """Plan, print, draw. Exit status 0 for a plan with steps, 1 for a question or a refusal."""
    from embodied.drawing import png
    from embodied.plan_picture import annotated
    from embodied.show import plan_table
    from embodied.speech import sentence

    words = " ".join(command.instruction.split())
    if not words:
        raise EmbodiedError("the instruction is empty; say what to do, for example: put the red cube in the blue bowl")
    scene = _scene(command.scene)
    frame = _frame(command.image, scene)
    plan, seconds = _planned(command, words, frame, scene)
    console = people_console(command.json)
    grounded, trouble = _grounded(plan, frame) if scene is not None else ((), "")
    console.print(plan_table(plan, seconds, grounded))
    if plan.speech is not None:
        console.print(sentence(plan.speech), markup=False)
    if trouble:
        console.print(f"not possible here: {trouble}", markup=False)
    elif scene is None and plan.speech is None:
        console.print(
            "the camera of this picture is unknown: points are places in the picture, and whether the arm reaches them "
            "cannot be said; name the scene with --scene if it comes from the simulation",
            style="dim",
        )
    target = _target(command)
    picture = png(annotated(frame.rgb, words, plan, grounded, frame.model))
    save(target, picture, "choose another place with --save")
    console.print(f"picture: {target}", markup=False)
    if command.json:
        data: dict[str, Any] = {
            "success": plan.speech is None and not trouble,
            **plan.model_dump(mode="json", exclude_none=True),
            "planner": command.planner,
            "camera": "unknown" if scene is None else "scene",
            "latency_ms": round(1000 * seconds, 1),
            "picture": str(target),
        }
        if scene is not None:
            data["targets_m"] = [None if g.goal is None else [round(float(v), 4) for v in g.goal.to] for g in grounded]
            data["trouble"] = trouble
        print_json(data)
    return 0 if plan.speech is None and not trouble else 1


def _scene(source: str) -> Scene | None:
    from embodied.agent import load_scene

    return load_scene(source)[0] if source else None


def _frame(path: Path, scene: Scene | None) -> Frame:
    from embodied.picture_file import read_picture

    if scene is None:
        return read_picture(path)
    fixed = next((c for c in scene.cameras if c.mount == "fixed"), None)
    if fixed is None:
        raise EmbodiedError("the scene has no fixed camera that could have taken the picture; leave --scene out")
    return read_picture(path, fixed)


def _planned(command: PlanImage, words: str, frame: Frame, scene: Scene | None) -> tuple[Plan, float]:
    """The plan and the seconds it took. A world is built only for planners that look at the true scene."""
    from embodied.planners import make_planner

    with ExitStack() as stack:
        world = None
        if scene is not None and "scripted" in command.planner.split("+"):
            from sim.world import World

            world = World(scene)
            stack.callback(world.close)
        planner = make_planner(command.planner, world)
        began = time.perf_counter()
        return planner.plan(words, frame), time.perf_counter() - began


def _grounded(plan: Plan, frame: Frame) -> tuple[tuple[GroundedCall, ...], str]:
    """The calls with their targets, or why they cannot be carried out."""
    from embodied.grounding import Grounder
    from hardware.errors import PlanError, UnreachableError

    if plan.speech is not None:
        return (), ""
    try:
        return tuple(Grounder(frame.model).check(plan)), ""
    except (PlanError, UnreachableError) as error:
        return (), str(error)


def _target(command: PlanImage) -> Path:
    target = command.save if command.save is not None else Path(f"{command.image.stem}-plan.png")
    if target.is_dir():
        target = target / f"{command.image.stem}-plan.png"
    if target.resolve() == command.image.resolve():
        raise EmbodiedError(
            f"{target} is the picture itself and would be overwritten; choose another place with --save"
        )
    return target
