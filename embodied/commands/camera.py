"""``embodied camera``: find cameras, look through them, check them, and calibrate them with a printed board.

Each command is a dataclass and a function; ``run`` knows which belong together. Heavy libraries are imported inside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, subcommand

from embodied.commands.output import print_json, save
from hardware.errors import EmbodiedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hardware.cameras import Board
    from hardware.rig import CameraConfig, Rig

DONE, FAILED = 0, 1
PAGES_MM = {"a4": (297.0, 210.0), "letter": (279.4, 215.9), "a3": (420.0, 297.0)}
Name = Annotated[str, tyro.conf.arg(metavar="NAME")]
_RIG = Path("rig.toml")


@dataclass(frozen=True)
class BoardOptions:
    """The printed board."""

    square_mm: float | None = None
    """Side of a square, measured on the print; 35 when left out."""
    marker_mm: float | None = None
    """Side of a marker, its black border included; 26, or in proportion to the squares."""
    columns: int = 7
    """Squares across."""
    rows: int = 5
    """Squares down."""

    def board(self) -> Board | None:
        """The board, or None when nothing was said about it."""
        from hardware.cameras import Board

        if self == BoardOptions():
            return None
        square = 35.0 if self.square_mm is None else self.square_mm
        marker = square * 26.0 / 35.0 if self.marker_mm is None else self.marker_mm
        return Board(self.columns, self.rows, square / 1000.0, marker / 1000.0)


@dataclass(frozen=True)
class Find:
    """List the cameras that are plugged in, with the names to put into a rig file."""

    pictures: Path | None = None
    """Take a picture with each and write it into this folder, to see which is which."""
    json: bool = False
    """Print the list as one JSON object on the last line."""


@dataclass(frozen=True)
class PrintBoard:
    """Write the calibration board as a page to print."""

    out: Path = Path("board.pdf")
    """Where to: .pdf or .png."""
    page: Literal["a4", "letter", "a3"] = "a4"
    """Paper, lengthwise."""
    options: tyro.conf.OmitArgPrefixes[BoardOptions] = BoardOptions()
    json: bool = False
    """Print the sizes as one JSON object on the last line."""


@dataclass(frozen=True)
class Show:
    """Take a picture with a camera of a rig file."""

    name: Positional[Name]
    """The camera's name in the rig file."""
    rig: Path = _RIG
    """Rig file (TOML)."""
    out: Path = Path("picture.png")
    """Where to write the picture (PNG)."""
    grid: bool = False
    """Draw a grid of 5 cm onto the table, as the calibration has it."""
    json: bool = False
    """Print size, age and warnings as one JSON object on the last line."""


@dataclass(frozen=True)
class Check:
    """Watch a camera for some seconds: rate, age, frozen or black pictures, and, with the board in view, its calibration."""

    name: Positional[Name]
    """The camera's name in the rig file."""
    rig: Path = _RIG
    """Rig file (TOML)."""
    seconds: float = 3.0
    """How long to watch."""
    options: tyro.conf.OmitArgPrefixes[BoardOptions] = BoardOptions()
    json: bool = False
    """Print the findings as one JSON object on the last line."""


@dataclass(frozen=True)
class Calibrate:
    """Calibrate a camera with the board: first its lens, then where it is. What is not accurate enough is refused.

    lens: hold the board still in front of the camera, all over the picture and tilted in all directions.
    pose, fixed camera: lay the board flat on the table in view; say where its corners are with --corner, or touch them.
    pose, camera on the wrist (mount = "wrist" in the rig file): leave the board on the table and move the arm by hand.
    """

    what: Positional[Literal["lens", "pose"]]
    """lens (focal length, distortion), or pose (where the camera is)."""
    name: Positional[Name]
    """The camera's name in the rig file."""
    rig: Path = _RIG
    """Rig file (TOML); the result is written into it."""
    views: Path | None = None
    """Use the pictures of this folder instead of the camera; its views.json may hold joint vectors and corners."""
    save: Path | None = None
    """Keep the pictures taken in this folder, for --views."""
    source: str | None = None
    """Add the camera to the rig file first, with this device, file or folder."""
    mount: Literal["fixed", "wrist"] | None = None
    """Write into the rig file whether the camera stands still or rides on the gripper."""
    corner: tuple[str, ...] = ()
    """pose: where corners of the board are, in mm from the arm's base, x away from the arm and y to its left:
    A=120,-80 B=120,165."""
    board_height_mm: float = 0.0
    """pose: how far the board's print lies above the table."""
    port: str | None = None
    """pose: the arm's port, when its joints are read; the rig file's when left out."""
    options: tyro.conf.OmitArgPrefixes[BoardOptions] = BoardOptions()
    json: bool = False
    """Print the result as one JSON object on the last line."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Camera:
    """Cameras: find, print a board, calibrate, look, check."""

    action: (
        Annotated[Find, subcommand("find")]
        | Annotated[PrintBoard, subcommand("board")]
        | Annotated[Calibrate, subcommand("calibrate")]
        | Annotated[Show, subcommand("show")]
        | Annotated[Check, subcommand("check")]
    )


def run(command: Camera) -> int:
    """Carry out one of the commands; returns the exit status."""
    return _ACTIONS[type(command.action)](command.action)


def say(text: str, *, as_json: bool) -> None:
    """A line for people; out of the way of the JSON line."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def camera_of(path: Path, name: str) -> tuple[Rig, CameraConfig]:
    """A rig and its camera of that name. Raises ``EmbodiedError`` that tells what to write into the file."""
    from hardware.rig import load_rig

    if not path.is_file():
        raise EmbodiedError(f"there is no rig file {path}; name yours with --rig")
    rig = load_rig(path)
    if name not in rig.cameras:
        known = ", ".join(rig.cameras) or "none"
        raise EmbodiedError(
            f"{path} has no camera {name!r}, it has: {known}; add one with: embodied camera calibrate lens {name} --source "
            "DEVICE --rig FILE (see: embodied camera find)"
        )
    return rig, rig.cameras[name]


def _find(command: Find) -> int:
    from hardware.cameras import CameraError, find_devices
    from hardware.cameras.devices import stable_path
    from hardware.rig import CameraConfig

    devices = find_devices()
    found: list[dict[str, Any]] = []
    if not devices:
        say("no cameras; are they plugged in? In a virtual machine, pass them through", as_json=command.json)
    for device in devices:
        path = stable_path(device, devices)
        entry = asdict(device) | {"source": path}
        say(f"{device.node}  {device.name}\n  source = {path!r}", as_json=command.json)
        if device.usb_id:
            say(f"  usb_id = {device.usb_id!r}", as_json=command.json)
        if command.pictures is not None:
            picture = command.pictures / f"{Path(device.node).name}.png"
            try:
                _take_one(CameraConfig(source=path), picture)
                entry["picture"] = str(picture)
                say(f"  {picture}", as_json=command.json)
            except CameraError as error:
                entry["error"] = str(error)
                say(f"  no picture: {error}", as_json=command.json)
        found.append(entry)
    if command.json:
        print_json({"cameras": found})
    return DONE


def _take_one(config: CameraConfig, path: Path) -> None:
    from hardware.cameras import open_camera

    with open_camera("camera", config) as camera:
        save(path, png(camera.shot().picture))


def _board(command: PrintBoard) -> int:
    from hardware.cameras import Board, save_board

    board = command.options.board() or Board()
    save_board(board, command.out, PAGES_MM[command.page])
    square, marker = 1000.0 * board.square_m, 1000.0 * board.marker_m
    say(
        f"board: {command.out}; print it at 100 %, measure a square ({square:g} mm) and the line of 100 mm, and glue it onto "
        "something flat",
        as_json=command.json,
    )
    if command.json:
        print_json(
            {
                "board": str(command.out),
                "columns": board.columns,
                "rows": board.rows,
                "square_mm": square,
                "marker_mm": marker,
            }
        )
    return DONE


def _show(command: Show) -> int:
    from embodied.commands.camera_look import show

    return show(command)


def _check(command: Check) -> int:
    from embodied.commands.camera_look import check

    return check(command)


def _calibrate(command: Calibrate) -> int:
    from embodied.commands.camera_calibration import calibrate

    return calibrate(command)


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) BGR as a PNG file."""
    import cv2

    return bytes(cv2.imencode(".png", picture)[1].tobytes())


_ACTIONS: dict[type, Callable[[Any], int]] = {
    Find: _find, PrintBoard: _board, Show: _show, Check: _check, Calibrate: _calibrate,
}  # fmt: skip
