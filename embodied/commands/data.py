"""``embodied data``: look at, check, merge, repair and convert datasets of episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from embodied.commands.output import people_console, print_json
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from policies.dataset.copying import Copied, Progress
    from policies.dataset.lerobot_units import Units

DONE, FAILED = 0, 1
Action = Literal["info", "view", "check", "merge", "repair", "import", "export"]


@dataclass(frozen=True)
class Data:
    """Look at, check, merge and repair datasets of episodes (LeRobotDataset v3.0), ours and LeRobot's."""

    what: Positional[Action]
    """info: what is in it. view: an episode in Rerun. check: read everything. merge: several into one. repair: finish what a
    crash cut short. import, export: from and to LeRobot's units (degrees, gripper 0..100)."""
    folders: Positional[Annotated[tuple[Path, ...], arg(metavar="DIR")]]
    """The dataset's folder; several for merge."""
    out: Path | None = None
    """merge, import, export: the new dataset's folder. repair: put the sound episodes there and leave DIR alone."""
    episode: int = 0
    """view: which episode, counted from 0."""
    save: Path | None = None
    """view: write an .rrd file instead of opening the viewer."""
    quick: bool = False
    """check: count the videos' frames without decoding them."""
    units: Literal["so101_degrees"] = "so101_degrees"
    """import, export: LeRobot's units."""
    robot: str = ""
    """import, export: the robot's name in the new dataset; so101 and so101_follower when left out."""
    json: bool = False
    """Print the result as one JSON object on the last line."""


def run(command: Data) -> int:
    """Exit status: 0 done, 1 the check found problems or episodes could not be saved. Raises ``EmbodiedError``."""
    if command.what != "merge" and len(command.folders) != 1:
        raise EmbodiedError(f"data {command.what} takes one folder, not {len(command.folders)}")
    console = people_console(command.json)
    result, status = _ACTIONS[command.what](command, console)
    if command.json:
        print_json(result)
    return status


def _info(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from rich.table import Table

    from policies.dataset.reader import Dataset

    with Dataset(command.folders[0]) as dataset:
        judged = [episode.success for episode in dataset.episodes if episode.success is not None]
        size = sum(path.stat().st_size for path in dataset.root.rglob("*") if path.is_file())
        facts: dict[str, Any] = {
            "folder": str(dataset.root),
            "robot": dataset.info.robot_type,
            "units": dataset.stored_units or "as LeRobot wrote them",
            "episodes": len(dataset.episodes),
            "frames": len(dataset),
            "fps": dataset.fps,
            "seconds": round(len(dataset) / dataset.fps, 2),
            "succeeded": sum(judged),
            "judged": len(judged),
            "megabytes": round(size / 1e6, 2),
            "cameras": {
                key.removeprefix("observation.images."): list(dataset.features[key].shape)
                for key in dataset.info.picture_keys
            },
            "tasks": dataset.tasks,
            "features": {key: feature.to_json() for key, feature in dataset.features.items()},
        }
    table = Table(show_header=False, box=None)
    for key in ("folder", "robot", "units", "episodes", "frames", "fps", "seconds", "megabytes"):
        table.add_row(key, str(facts[key]))
    table.add_row("succeeded", f"{facts['succeeded']} of {facts['judged']} that were judged")
    for name, shape in facts["cameras"].items():
        table.add_row("camera", f"{name}, {shape[1]} x {shape[0]}")
    for task in facts["tasks"][:10]:
        table.add_row("task", task)
    if len(facts["tasks"]) > 10:
        table.add_row("", f"and {len(facts['tasks']) - 10} more")
    table.add_row(
        "columns", ", ".join(key for key, f in facts["features"].items() if f["dtype"] not in ("video", "image"))
    )
    console.print(table, markup=False)
    return facts, DONE


def _view(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from policies.dataset.reader import Dataset
    from policies.dataset.view import show

    with Dataset(command.folders[0]) as dataset:
        frames = show(dataset, command.episode, command.save)
    if command.save is not None:
        console.print(
            f"{frames} frames of episode {command.episode} in {command.save}; look at it with: rerun {command.save}"
        )
    return {"episode": command.episode, "frames": frames, "saved": command.save and str(command.save)}, DONE


def _check(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from policies.dataset.checks import check

    with console.status("checking") as status:
        found = check(
            command.folders[0],
            decode=not command.quick,
            progress=lambda done, total: status.update(f"checked {done} of {total} episodes"),
        )
    for sentence in found.problems:
        console.print(f"[red]problem[/red] {_plain(sentence)}")
    for sentence in found.remarks:
        console.print(f"[yellow]remark[/yellow]  {_plain(sentence)}")
    verdict = "sound" if found.sound else f"{len(found.problems)} problems"
    console.print(f"{found.episodes} episodes, {found.frames} frames: {verdict}")
    return {**asdict(found), "sound": found.sound}, DONE if found.sound else FAILED


def _repair(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    if command.out is not None:
        from policies.dataset.copying import salvage

        return _copied(command, console, lambda progress: salvage(command.folders[0], _out(command), progress=progress))
    from policies.dataset.checks import repair

    done = repair(command.folders[0])
    console.print(
        f"{done.episodes} episodes: {done.finished} put in place, {done.dropped} open ones dropped"
        + (", the index was counted again" if done.counted_again else "")
    )
    return asdict(done), DONE


def _merge(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from policies.dataset.copying import merge

    return _copied(command, console, lambda progress: merge(command.folders, _out(command), progress=progress))


def _import(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from policies.dataset.copying import from_lerobot

    return _copied(
        command,
        console,
        lambda progress: from_lerobot(
            command.folders[0], _out(command), _units(command), robot_type=command.robot or "so101", progress=progress
        ),
    )


def _export(command: Data, console: Console) -> tuple[dict[str, Any], int]:
    from policies.dataset.copying import to_lerobot

    return _copied(
        command,
        console,
        lambda progress: to_lerobot(
            command.folders[0],
            _out(command),
            _units(command),
            robot_type=command.robot or "so101_follower",
            progress=progress,
        ),
    )


def _copied(command: Data, console: Console, work: Callable[[Progress], Copied]) -> tuple[dict[str, Any], int]:
    with console.status("copying") as status:
        copied = work(lambda done, total: status.update(f"copied {done} of {total} episodes"))
    for sentence in copied.left_out:
        console.print(f"[red]left out[/red] {_plain(sentence)}")
    console.print(f"{copied.episodes} episodes, {copied.frames} frames in {command.out}")
    return {**asdict(copied), "out": str(command.out)}, FAILED if copied.left_out else DONE


def _out(command: Data) -> Path:
    if command.out is None:
        raise EmbodiedError(f"data {command.what} writes a new dataset; say where: --out DIR")
    return command.out


def _units(command: Data) -> Units:
    from policies.dataset.lerobot_units import UNITS

    return UNITS[command.units]


def _plain(sentence: str) -> str:
    """Brackets in a message are no markup."""
    return sentence.replace("[", r"\[")


_ACTIONS: dict[str, Callable[[Data, Console], tuple[dict[str, Any], int]]] = {
    "info": _info,
    "view": _view,
    "check": _check,
    "merge": _merge,
    "repair": _repair,
    "import": _import,
    "export": _export,
}
