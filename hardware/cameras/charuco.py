"""The calibration board: a chessboard with markers in its white squares, so that a part of it is enough.

Its frame, as in OpenCV: origin in the outer corner A, x along the upper edge to B, y down the left edge to D, z into the
paper. The letters are printed beside the corners.

    A ------------- B
    |   the board   |
    D ------------- C
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hardware.cameras.errors import CameraError
from hardware.cameras.picture_checks import Picture

Float = NDArray[np.float64]

#: Corners that a view must show. Eight say as much as a pose has unknowns, twice over.
MIN_CORNERS = 8
_MM_PER_INCH = 25.4


@dataclass(frozen=True)
class Board:
    """A board; the default fits an A4 and a US letter page."""

    columns: int = 7
    rows: int = 5
    square_m: float = 0.035
    """Side of a square: measure it on the print."""
    marker_m: float = 0.026
    """Side of a marker, its black border included."""

    def __post_init__(self) -> None:
        markers = self.columns * self.rows // 2
        if min(self.columns, self.rows) < 4 or markers > 50:
            raise CameraError("a board needs at least 4 x 4 squares, and at most 50 markers")
        if not 0.0 < self.marker_m < 0.9 * self.square_m < 0.9:
            raise CameraError("a marker must be smaller than 0.9 of its square, and both larger than nothing")

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def corners(self) -> Float:
        """Where the squares meet, (N, 3) in the board's frame, by id."""
        x, y = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        return self.square_m * np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1, dtype=np.float64)

    @property
    def letters(self) -> dict[str, tuple[float, float]]:
        """The four outer corners in the board's frame."""
        width, height = self.size_m
        return {"A": (0.0, 0.0), "B": (width, 0.0), "C": (width, height), "D": (0.0, height)}


@dataclass(frozen=True)
class Sighting:
    """What was found of a board in one picture."""

    ids: NDArray[np.int64]  # (N,)
    corners: Float  # (N, 2) OpenCV pixels
    size: tuple[int, int]  # of the picture: width, height


def find_board(board: Board, picture: Picture) -> Sighting | None:
    """The board in a picture (H, W, 3) or (H, W); None when fewer than ``MIN_CORNERS`` of its corners are seen."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if picture.ndim == 3 else picture
    corners, ids, _, _ = _detector(board).detectBoard(grey)
    if ids is None or len(ids) < MIN_CORNERS:
        return None
    places = np.ravel(ids).astype(np.int64)
    found, certain = _refined(board, grey, places, np.asarray(corners, np.float64).reshape(-1, 2))
    places, found = places[certain], found[certain]
    inner = board.corners[places]
    if len(places) < MIN_CORNERS or min(len(np.unique(inner[:, 0])), len(np.unique(inner[:, 1]))) < 2:
        return None  # too few, or all on one line
    height, width = grey.shape
    return Sighting(places, found, (width, height))


def _refined(board: Board, grey: Picture, ids: NDArray[np.int64], corners: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Corners (N, 2) to a few hundredths of a pixel, and which of them (N,) stayed where they were found.

    OpenCV refines in windows that reach into the markers where the board is tilted, which pulls corners by up to 0.8
    pixels. Here the window ends before the nearest marker; measured, the RMS error falls from 0.14 to 0.04 pixels.
    """
    inner, margin = board.corners[ids], 0.5 * (1.0 - board.marker_m / board.square_m)  # share of a square
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
    refined, certain = corners.copy(), np.zeros(len(ids), bool)
    for k, corner in enumerate(corners):
        apart = np.linalg.norm(inner - inner[k], axis=1)
        beside = (apart > 0.0) & (apart < 1.1 * board.square_m)
        if not np.any(beside):  # nothing tells how large a square is here
            continue
        square_px = float(np.min(np.linalg.norm(corners[beside] - corner, axis=1)))
        half = int(np.clip(0.7 * margin * square_px, 2, 10))
        start = corner.astype(np.float32).reshape(1, 1, 2)
        refined[k] = np.ravel(cv2.cornerSubPix(grey, start, (half, half), (-1, -1), criteria))
        certain[k] = np.linalg.norm(refined[k] - corner) <= half
    return refined, certain


def board_picture(board: Board, pixels_per_square: int) -> Picture:
    """The board alone, (rows * p, columns * p) grey."""
    p = pixels_per_square
    x, y = np.meshgrid(np.arange(board.columns), np.arange(board.rows))
    picture = np.kron(np.where((x + y) % 2 == 0, 0, 255), np.ones((p, p))).astype(np.uint8)
    side = round(p * board.marker_m / board.square_m)
    margin = (p - side) // 2
    for number, (row, column) in enumerate(np.argwhere((x + y) % 2 == 1)):
        marker = cv2.aruco.generateImageMarker(_dictionary(), number, side)
        top, left = row * p + margin, column * p + margin
        picture[top : top + side, left : left + side] = marker
    return picture


def board_page(board: Board, page_mm: tuple[float, float] = (297.0, 210.0), dpi: int = 300) -> Picture:
    """A page (H, W) grey to print at 100 %: the board, its letters, its sizes and a line of 100 mm to measure.

    Raises ``CameraError`` when the board does not fit.
    """
    per_mm = dpi / _MM_PER_INCH
    width, height = (round(side * per_mm) for side in page_mm)
    across, down = (1000.0 * side for side in board.size_m)
    # Whole pixels for a square would make the board a tenth of a percent too small; nearest pixels keep its edges sharp.
    exact = (round(across * per_mm), round(down * per_mm))
    drawn = board_picture(board, round(1000.0 * board.square_m * per_mm))
    picture = np.asarray(cv2.resize(drawn, exact, interpolation=cv2.INTER_NEAREST), np.uint8)
    if picture.shape[1] + 16 * per_mm > width or picture.shape[0] + 24 * per_mm > height:
        raise CameraError(
            f"a board of {across:.0f} x {down:.0f} mm needs a page of {across + 16:.0f} x {down + 24:.0f} mm; choose smaller "
            "squares or a larger page"
        )
    page = np.full((height, width), 255, np.uint8)
    top, left = round(8 * per_mm), (width - picture.shape[1]) // 2
    bottom, right = top + picture.shape[0], left + picture.shape[1]
    page[top:bottom, left:right] = picture

    def write(text: str, x: float, y: float, height_mm: float = 3.0) -> None:
        # OpenCV's capitals are 22 pixels high at scale 1.
        scale = height_mm * per_mm / 22.0
        cv2.putText(page, text, (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, 0, max(1, round(2 * scale)))

    outside = 5.5 * per_mm
    for text, x, y in (("A", left - outside, top + 3 * per_mm), ("B", right + 2 * per_mm, top + 3 * per_mm),
                       ("C", right + 2 * per_mm, bottom), ("D", left - outside, bottom)):  # fmt: skip
        write(text, x, y)
    line = bottom + 5 * per_mm
    cv2.line(page, (left, round(line)), (left + round(100 * per_mm), round(line)), 0, max(1, round(0.3 * per_mm)))
    write("100 mm", left + 102 * per_mm, line + 1 * per_mm, 2.5)
    sizes = (
        f"{board.columns} x {board.rows} squares of {1000 * board.square_m:g} mm, markers {1000 * board.marker_m:g} mm"
    )
    write(f"{sizes}. Print at 100 %, measure, glue onto something flat.", left, bottom + 11 * per_mm, 2.5)
    return page


def save_board(board: Board, path: Path, page_mm: tuple[float, float] = (297.0, 210.0), dpi: int = 300) -> None:
    """Write the page as PNG or PDF; both know their size on paper. Raises ``CameraError``."""
    from PIL import Image

    if path.suffix.lower() not in (".png", ".pdf"):
        raise CameraError(f"the board can be written as .png or .pdf, not as {path.name}")
    # Black and white only: a PDF would keep grey as JPEG, whose ripples move corners.
    page = Image.fromarray(board_page(board, page_mm, dpi)).convert("1", dither=Image.Dither.NONE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".pdf":
            page.save(path, resolution=dpi)
        else:
            page.save(path, dpi=(dpi, dpi))
    except OSError as error:
        raise CameraError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def _dictionary() -> Any:
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)


@lru_cache(maxsize=4)
def _detector(board: Board) -> Any:
    size = (board.columns, board.rows)
    return cv2.aruco.CharucoDetector(cv2.aruco.CharucoBoard(size, board.square_m, board.marker_m, _dictionary()))
