"""A scene is data: robot, cameras, table and objects, as JSON that people read and write by hand.

    {"objects": [{"kind": "cube", "color": "red", "position": [0.20, 0.05]},
                 {"kind": "bowl", "color": "blue", "position": [0.22, -0.10]}]}

is a complete scene: everything else has a default. Metres and degrees (a person writes degrees), base frame of the arm:
x away from the arm's front, y to its left, z up, the table top at z = 0.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardware.errors import SceneError

Kind = Literal["cube", "cylinder", "ball", "bowl", "tray", "plate", "drawer", "button"]
Color = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLORS: tuple[Color, ...] = get_args(Color)
GRASPABLE: tuple[Kind, ...] = ("cube", "cylinder", "ball")
CONTAINERS: tuple[Kind, ...] = ("bowl", "tray", "plate")

#: size_m is the cube's edge, the cylinder's and the ball's diameter, the bowl's and the plate's outer diameter, the
#: tray's side, the drawer cabinet's width, the button base's side: (smallest, default, largest).
SIZES_M: dict[Kind, tuple[float, float, float]] = {
    "cube": (0.022, 0.028, 0.034),
    "cylinder": (0.022, 0.027, 0.034),
    "ball": (0.024, 0.030, 0.034),
    "bowl": (0.090, 0.100, 0.110),
    "tray": (0.090, 0.100, 0.120),
    "plate": (0.090, 0.100, 0.120),
    "drawer": (0.080, 0.090, 0.100),
    "button": (0.040, 0.045, 0.050),
}
#: Height over size. A tray's and a plate's height is that of the rim.
ASPECT: dict[Kind, float] = {
    "cube": 1.0,
    "cylinder": 1.15,
    "ball": 1.0,
    "bowl": 0.36,
    "tray": 0.12,
    "plate": 0.10,
    "drawer": 0.60,
    "button": 0.45,
}
COLOR_RGB: dict[Color, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.97, 0.87, 0.10),
    "green": (0.10, 0.60, 0.15),
    "cyan": (0.20, 0.80, 0.85),
    "blue": (0.10, 0.20, 0.85),
    "purple": (0.50, 0.15, 0.65),
    "pink": (0.98, 0.50, 0.70),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
}
Metres = Annotated[float, Field(ge=-2.0, le=2.0, allow_inf_nan=False)]
Channel = Annotated[float, Field(ge=0.0, le=1.0)]
Rgb = tuple[Channel, Channel, Channel]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectSpec(_Data):
    """One thing on the table. ``position`` is its foot; ``z`` the height of the surface under it."""

    name: Annotated[str, Field(max_length=40)] = ""  # unique; made from colour and kind when empty
    kind: Kind
    color: Color
    position: tuple[Metres, Metres]
    z: Metres = 0.0
    yaw_deg: Annotated[float, Field(ge=-360, le=360)] = 0.0
    size_m: Annotated[float, Field(gt=0.005, le=0.3)] = 0.0
    opening: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # drawer: 0 shut, 1 fully open

    @model_validator(mode="before")
    @classmethod
    def _default_size(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("size_m") and data.get("kind") in SIZES_M:
            return {**data, "size_m": SIZES_M[data["kind"]][1]}
        return data

    @property
    def label(self) -> str:
        """How people and the planner call it: ``red cube``."""
        return f"{self.color} {self.kind}"

    @property
    def height_m(self) -> float:
        """Height of its highest point over its foot."""
        return self.size_m * ASPECT[self.kind]


class CameraSpec(_Data):
    """A camera that stands still and looks at a point, or one that rides on the wrist."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,20}$")] = "front"
    mount: Literal["fixed", "wrist"] = "fixed"
    width: Annotated[int, Field(ge=16, le=1920)] = 512
    height: Annotated[int, Field(ge=16, le=1080)] = 384
    fov_y_deg: Annotated[float, Field(ge=10, le=120)] = 33.5
    position: tuple[Metres, Metres, Metres] = (0.60, 0.0, 0.50)
    target: tuple[Metres, Metres, Metres] = (0.18, 0.0, 0.0)


class Look(_Data):
    """Colours and light; varied by randomisation, harmless to physics."""

    table_rgb: Rgb = (0.72, 0.66, 0.58)
    floor_rgb: Rgb = (0.85, 0.86, 0.88)
    arm_rgb: Rgb = (0.95, 0.78, 0.25)
    light_direction: tuple[float, float, float] = (0.4, 0.3, 1.0)
    light_ambient: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6
    shadow: bool = False


def _default_cameras() -> tuple[CameraSpec, ...]:
    # Position and target of a wrist camera are in the tool's frame: beside the gripper, looking past its fingers.
    wrist = CameraSpec(
        name="wrist",
        mount="wrist",
        width=128,
        height=128,
        fov_y_deg=70.0,
        position=(0.0, 0.06, -0.09),
        target=(0.0, 0.0, 0.02),
    )
    return (CameraSpec(), wrist)


class Scene(_Data):
    """Everything needed to build the world."""

    version: Literal[1] = 1
    robot: Literal["so101"] = "so101"
    cameras: tuple[CameraSpec, ...] = Field(default_factory=_default_cameras, min_length=1)
    look: Look = Look()
    objects: Annotated[tuple[ObjectSpec, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _unique_names(self) -> Scene:
        seen: dict[str, int] = {}
        named = []
        for spec in self.objects:
            name = spec.name or spec.label.replace(" ", "_")
            count = seen.get(name, 0)
            if count and spec.name:
                raise ValueError(f"two objects are named {name!r}; give each its own name")
            seen[name] = count + 1
            named.append(spec.model_copy(update={"name": name if not count else f"{name}_{count + 1}"}))
        object.__setattr__(self, "objects", tuple(named))
        return self

    def find(self, name: str) -> ObjectSpec:
        """The object of that name. Raises ``SceneError`` listing the names there are."""
        for spec in self.objects:
            if spec.name == name:
                return spec
        raise SceneError(f"no object is named {name!r} in the scene; it has: {', '.join(o.name for o in self.objects)}")

    def save(self, path: Path | str) -> None:
        """Write as JSON for people: indented, defaults left out."""
        Path(path).write_text(self.model_dump_json(indent=2, exclude_defaults=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Scene:
        """Read a scene file. Raises ``SceneError`` that names the field and the line."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SceneError(f"cannot read the scene file {path}: {error}") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SceneError(_explain(path, text, error)) from error


def _explain(path: Path, text: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "(file)"
    line = _line_of(text, first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    at = f", line {line}" if line else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}{at}: field {where}: {message}{more}"


def _line_of(text: str, loc: tuple[int | str, ...]) -> int | None:
    """The line of a field, by walking the JSON text: good enough for files written by people."""
    position, last = 0, 0
    for part in loc:
        if isinstance(part, str):
            found = re.compile(rf'"{re.escape(part)}"\s*:').search(text, position)
            if found is None:
                break
            last, position = found.start(), found.end()
        else:
            opening = re.compile(r"[\[{]").search(text, position)
            if opening is None:
                break
            position = opening.end()
            depth, index = 1, 0
            while index < part and position < len(text):
                ch = text[position]
                depth += ch in "[{"
                depth -= ch in "]}"
                index += ch == "," and depth == 1
                position += 1
            while position < len(text) and text[position] in " \t\r\n":
                position += 1
            last = position
    return text.count("\n", 0, last) + 1 if loc else None


def foot_height(scene: Scene, name: str) -> float:
    """Height (m) of the surface under an object."""
    return scene.find(name).z


def distance_from_pan_axis(position: tuple[float, float]) -> float:
    """Horizontal distance (m) of a table position from the arm's first axis, which decides what it can reach."""
    return math.hypot(position[0] - 0.0388353, position[1])
