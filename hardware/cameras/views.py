"""Views of the board: pictures from a folder, with what the arm did meanwhile, and what they lack.

    views/
      view_000.png ...
      views.json      {"schema": 1,
                       "board": {"columns": 7, "rows": 5, "square_mm": 35, "marker_mm": 26},
                       "joints": {"view_000.png": [6 numbers], ...},         a camera on the wrist: joint vectors
                       "corners_mm": {"A": [120, -80], "B": [365, -80]},     a fixed one: measured from the arm's base ...
                       "touches": {"A": [6 numbers], ...}}                   ... or touched with the tool: joint vectors

Everything in ``views.json`` may be left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware.cameras.charuco import Board, Sighting, find_board
from hardware.cameras.errors import CameraError
from hardware.cameras.picture_checks import Picture
from hardware.cameras.sources import picture_files, read_picture

Float = NDArray[np.float64]

#: The picture is divided into so many cells; a cell counts as covered when a corner of the board was seen in it.
GRID = (5, 4)

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Joints = Annotated[list[_Number], Field(min_length=6, max_length=6)]
_Letter = Literal["A", "B", "C", "D"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _BoardTable(_Table):
    columns: int = 7
    rows: int = 5
    square_mm: float = 35.0
    marker_mm: float = 26.0


class _ViewsTable(_Table):
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    board: _BoardTable | None = None
    joints: dict[str, _Joints] = Field(default_factory=dict)
    corners_mm: dict[_Letter, Annotated[list[_Number], Field(min_length=2, max_length=2)]] = Field(default_factory=dict)
    touches: dict[_Letter, _Joints] = Field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """The board in one picture, and the joint vector (6,) at that moment if it was noted."""

    name: str
    sighting: Sighting
    q: Float | None = None


@dataclass(frozen=True)
class ViewSet:
    """The views of one calibration."""

    board: Board
    views: tuple[View, ...]
    unseen: tuple[str, ...] = ()  # pictures in which the board was not found
    corners_m: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # measured in the base frame, by letter
    touches: Mapping[str, Float] = field(default_factory=dict)  # joint vectors (6,) of touching, by letter


def load_views(folder: Path, board: Board | None = None) -> ViewSet:
    """Read a folder; ``board`` goes before the one that its ``views.json`` names. Raises ``CameraError``."""
    if not folder.is_dir():
        raise CameraError(f"there is no folder {folder} with views of the board")
    table = _read_table(folder / "views.json")
    if board is None:
        b = table.board or _BoardTable()
        board = Board(b.columns, b.rows, b.square_mm / 1000.0, b.marker_mm / 1000.0)
    files = picture_files(folder)
    if not files:
        raise CameraError(f"{folder} holds no pictures")
    strangers = sorted(set(table.joints) - {file.name for file in files})
    if strangers:
        raise CameraError(f"{folder / 'views.json'} has joints for {strangers[0]}, which is not there")
    views, unseen = [], []
    for file in files:
        sighting = find_board(board, read_picture(file))
        q = table.joints.get(file.name)
        if sighting is None:
            unseen.append(file.name)
        else:
            views.append(View(file.name, sighting, None if q is None else np.array(q)))
    corners: dict[str, tuple[float, float]] = {
        letter: (xy[0] / 1000.0, xy[1] / 1000.0) for letter, xy in table.corners_mm.items()
    }
    touches: dict[str, Float] = {letter: np.array(q) for letter, q in table.touches.items()}
    return ViewSet(board, tuple(views), tuple(unseen), corners, touches)


def save_views(
    folder: Path,
    board: Board,
    pictures: Sequence[tuple[Picture, Float | None]],
    touches: Mapping[str, Float] | None = None,
) -> None:
    """Write pictures (H, W, 3) BGR with their joint vectors as a folder that ``load_views`` reads. Raises ``CameraError``."""
    names = [f"view_{k:03d}.png" for k in range(len(pictures))]
    table = {
        "schema": 1,
        "board": {
            "columns": board.columns,
            "rows": board.rows,
            "square_mm": 1000.0 * board.square_m,
            "marker_mm": 1000.0 * board.marker_m,
        },
        "joints": {name: q.tolist() for name, (_, q) in zip(names, pictures, strict=True) if q is not None},
        "touches": {letter: q.tolist() for letter, q in (touches or {}).items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (picture, _) in zip(names, pictures, strict=True):
            (folder / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        temporary = folder / ".views.json.new"
        temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "views.json")
    except OSError as error:
        raise CameraError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error


@dataclass(frozen=True)
class Coverage:
    """How much of the picture the board has been in, and how differently it was tilted."""

    cells: NDArray[np.bool_]  # (rows, columns) of the grid
    tilts_deg: tuple[float, float]  # range of the board's tilt about the upright and the level axis of the picture

    @property
    def share(self) -> float:
        """Covered share of the picture."""
        return float(np.mean(self.cells))

    @property
    def missing(self) -> list[str]:
        """Where the picture is emptiest, in words: upper left, right, ..."""
        rows, columns = self.cells.shape
        empty = []
        for i, upright in enumerate(("upper", "", "lower")):
            for j, level in enumerate(("left", "", "right")):
                part = self.cells[
                    i * rows // 3 : max((i + 1) * rows // 3, i * rows // 3 + 1),
                    j * columns // 3 : max((j + 1) * columns // 3, j * columns // 3 + 1),
                ]
                if np.mean(part) < 0.6:
                    empty.append(" ".join(filter(None, (upright, level))) or "middle")
        return empty


def coverage(sightings: Sequence[Sighting], normals: Sequence[Float]) -> Coverage:
    """Coverage of sightings whose boards have these normals (3,) in the camera frame, pointing away from the camera."""
    cells = np.zeros((GRID[1], GRID[0]), bool)
    for sighting in sightings:
        place = np.floor(sighting.corners / sighting.size * GRID).astype(int)
        place = np.clip(place, 0, np.array(GRID) - 1)
        cells[place[:, 1], place[:, 0]] = True
    if not normals:
        return Coverage(cells, (0.0, 0.0))
    n = np.array(normals)
    about_upright, about_level = np.degrees(np.arctan2(n[:, 0], n[:, 2])), np.degrees(np.arctan2(n[:, 1], n[:, 2]))
    return Coverage(cells, (float(np.ptp(about_upright)), float(np.ptp(about_level))))


def _read_table(path: Path) -> _ViewsTable:
    if not path.exists():
        return _ViewsTable.model_validate({"schema": 1})
    try:
        return _ViewsTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CameraError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CameraError(f"{path} is wrong at {where}: {first['msg']}") from error
