"""Rig files: one TOML file that says which arm hangs on which port, its servos, its calibration and its cameras.

``load_rig`` takes a path or the name of a file in ``hardware/rigs``. Those are templates: copy one, name your port,
calibrate. A joint turns counts into radians so::

    q = direction * (count - zero) * 2 pi / 4096          arm joints; without ``zero``: the middle of min and max
    opening = (count - closed) / (open - closed)          gripper: closed is min and open max, with direction -1 reversed

A rig file is data: nothing in it can name code, and unknown keys are errors.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardware.arm_spec import ArmSpec
from hardware.arms import ARMS, find_arm
from hardware.calibration.stamp import STAMP_SCHEMA, checksum
from hardware.camera_model import CameraModel, Intrinsics
from hardware.errors import RobotError
from hardware.servo.registers import MODELS, ServoModel, find_model

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same library under its older name
    import tomli as tomllib

SCHEMA = 1
RIG_FOLDER = Path(__file__).parent / "rigs"

Float = NDArray[np.float64]
Role = Literal["follower", "leader"]


class RigError(RobotError):
    """A rig file cannot be read or describes something that cannot be."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(_Table):
    """What calibrating a joint found, in counts."""

    min: Annotated[int, Field(ge=0, le=4095)]
    """Lowest count the joint may go to."""
    max: Annotated[int, Field(ge=0, le=4095)]
    """Highest count."""
    zero: Annotated[float, Field(ge=0, le=4095)] | None = None
    """Count at angle zero; the middle of min and max when left out. The gripper has none."""
    direction: Literal[1, -1] = 1
    """-1 where counts rise as the angle falls."""
    homing_offset: Annotated[int, Field(ge=-1_044_479, le=1_044_479)] | None = None
    """What the servo's register must hold for these counts to be right; checked whenever the arm is opened."""

    @model_validator(mode="after")
    def _ordered(self) -> Calibration:
        if self.max - self.min < 16:
            raise ValueError(
                f"min {self.min} must be at least 16 counts below max {self.max}; a range across the end of the encoder "
                "(4095 to 0) cannot be used: calibrate with the joint in its middle first"
            )
        if self.zero is not None and not self.min <= self.zero <= self.max:
            raise ValueError(f"zero {self.zero:g} must lie between min {self.min} and max {self.max}")
        return self


class Joint(_Table):
    """One servo and what it moves."""

    id: Annotated[int, Field(ge=0, le=252)]
    servo: str
    gear: Annotated[float, Field(gt=0)] | None = None
    """Reduction where a servo comes in several, as the STS3215 does: 345, 191, 147. The count is always of the output."""
    settings: dict[str, int] = Field(default_factory=dict)
    """Registers that must hold these raw values; written when the arm is opened, and only where they differ."""
    calibration: Calibration | None = None

    @property
    def model(self) -> ServoModel:
        """The servo's type."""
        return find_model(self.servo)

    @property
    def max_velocity(self) -> float:
        """rad/s without load, the gear considered."""
        return self.model.max_velocity * (_GEAR / self.gear if self.gear else 1.0)

    @model_validator(mode="after")
    def _servo_can_do_it(self) -> Joint:
        if self.servo not in MODELS:
            raise ValueError(f"no servo is named {self.servo!r}; choose one of: {', '.join(MODELS)}")
        for name, value in self.settings.items():
            try:
                register = self.model[name]
                register.encode(value)
            except RobotError as error:
                raise ValueError(str(error)) from error
            if register.access == "r" or name in _NOT_SETTINGS:
                raise ValueError(f"{name} cannot be a setting; the program sets it itself, or only the servo does")
        if self.calibration is not None and self.calibration.homing_offset is not None:
            try:
                self.model["homing_offset"].encode(self.calibration.homing_offset)
            except RobotError as error:
                raise ValueError(str(error)) from error
        return self


class Port(_Table):
    """Where the servos hang."""

    port: str = ""
    """A device such as /dev/ttyACM0 (better: its name in /dev/serial/by-id), or socket://host:port, rfc2217://host:port."""
    baud: Annotated[int, Field(ge=9_600, le=4_500_000)] = 1_000_000
    rate_hz: Annotated[float, Field(ge=1, le=200)] = 100.0
    """Telemetry and goals per second."""
    silence_s: Annotated[float, Field(ge=0.02, le=2)] = 0.1
    """A servo that does not answer for longer is a fault; the arm holds before that. More for a wireless port."""
    usb_serial: str = ""
    """Serial number of the USB adapter; a device with another one is refused."""


class Calibrated(_Table):
    """For which arm the calibration was made; ``Rig.stamped`` writes it, and every reading checks it."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    usb_serial: str = ""
    """Serial number of the USB adapter; empty where it has none."""
    servos: dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]]
    """Id and model number of each joint's servo."""
    checksum: str
    """Over all of the above and the calibration of every joint."""


class CameraConfig(_Table):
    """A camera. Intrinsics and pose are there once it is calibrated."""

    source: str
    """A device path (better: its name in /dev/v4l/by-id), its number, a video file or a folder of pictures."""
    usb_id: str | None = None
    """vendor:product:serial of the USB camera, as ``embodied camera find`` prints it; another camera is refused."""
    mount: Literal["fixed", "wrist"] = "fixed"
    """Whether it stands still or rides on the gripper."""
    width: Annotated[int, Field(ge=16, le=8192)] = 640
    height: Annotated[int, Field(ge=16, le=8192)] = 480
    fps: Annotated[float, Field(gt=0, le=240)] = 30.0
    fourcc: Annotated[str, Field(min_length=4, max_length=4)] = "MJPG"
    max_age_s: Annotated[float, Field(gt=0, le=5)] = 0.2
    """A picture older than this is refused; more for a camera that gives fewer than ten a second."""
    intrinsics: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    """fx, fy, cx, cy in pixels; cx and cy from the corner of the first pixel, so half a pixel more than OpenCV's."""
    distortion: list[float] = Field(default_factory=list)
    """OpenCV's k1, k2, p1, p2, k3."""
    lens_error_px: float | None = None
    """Reprojection error (RMS) that calibrating the lens ended with."""
    lens_calibrated: str | None = None
    """When the lens was calibrated."""
    pose: (
        Annotated[list[Annotated[list[float], Field(min_length=4, max_length=4)]], Field(min_length=4, max_length=4)]
        | None
    ) = None
    """T_base_camera, on the wrist T_tool_camera: four rows of four numbers; metres, OpenCV's camera axes."""
    pose_error_mm: float | None = None
    """Error that calibrating the pose ended with."""
    pose_calibrated: str | None = None
    """When the pose was calibrated."""

    def model(self, T_base_tool: Float | None = None) -> CameraModel | None:
        """The camera model, or None before calibration, and without ``T_base_tool`` (4, 4) for one on the wrist."""
        if self.intrinsics is None or self.pose is None:
            return None
        pose = np.array(self.pose)
        if self.mount == "wrist":
            if T_base_tool is None:
                return None
            pose = T_base_tool @ pose
        return CameraModel(Intrinsics(self.width, self.height, *self.intrinsics), pose)


class Rig(_Table):
    """A whole rig."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    arm: str
    role: Role = "follower"
    """A leader is moved by hand: it is read, and its torque stays off."""
    bus: Port = Field(default_factory=Port)
    calibrated: Calibrated | None = None
    """Absent where calibrations were written by hand."""
    joints: dict[str, Joint]
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)

    @property
    def spec(self) -> ArmSpec:
        """The arm's specification."""
        return find_arm(self.arm)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Joints without a calibration."""
        return tuple(name for name, joint in self.joints.items() if joint.calibration is None)

    @model_validator(mode="before")
    @classmethod
    def _in_order(cls, data: Any) -> Any:
        """Joints in the order of the arm, however the file has them."""
        if not isinstance(data, dict) or not isinstance(data.get("joints"), dict) or data.get("arm") not in list(ARMS):
            return data
        order = {name: k for k, name in enumerate(find_arm(data["arm"]).joints)}
        joints = dict(sorted(data["joints"].items(), key=lambda item: order.get(item[0], len(order))))
        return {**data, "joints": joints}

    @model_validator(mode="after")
    def _one_arm(self) -> Rig:
        if self.arm not in ARMS:
            raise ValueError(f"no arm is named {self.arm!r}; choose one of: {', '.join(ARMS)}")
        if set(self.joints) != set(self.spec.joints):
            wrong = sorted(set(self.joints) ^ set(self.spec.joints))
            raise ValueError(f"a {self.arm} has the joints {', '.join(self.spec.joints)}; missing or unknown: {wrong}")
        ids = [joint.id for joint in self.joints.values()]
        twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if twice:
            raise ValueError(f"id {twice[0]} is used by two joints; every servo needs its own")
        protocols = {joint.model.protocol for joint in self.joints.values()}
        if len(protocols) > 1:
            raise ValueError(f"servos on one port must speak one protocol, not {' and '.join(sorted(protocols))}")
        return self

    @model_validator(mode="after")
    def _calibration_as_made(self) -> Rig:
        made = self.calibrated
        if made is None:
            return self
        again = f"calibrate again: embodied robot calibrate, or take the table [calibrated] out of {self.name}'s file"
        if {name: list(servo) for name, servo in self._servos().items()} != made.servos:
            raise ValueError(f"the calibration was made for another arm, with other servos or ids; {again}")
        if made.usb_serial and self.bus.usb_serial and made.usb_serial != self.bus.usb_serial:
            raise ValueError(
                f"the calibration was made for the arm on adapter {made.usb_serial}, not {self.bus.usb_serial}; {again}"
            )
        if self._checksum(made.usb_serial) != made.checksum:
            raise ValueError(f"the calibration is not whole, or was changed after it was made; {again}")
        return self

    def _servos(self) -> dict[str, tuple[int, int]]:
        return {name: (joint.id, joint.model.number) for name, joint in self.joints.items()}

    def _checksum(self, usb_serial: str) -> str:
        found = {
            name: None if (c := joint.calibration) is None else c.model_dump() for name, joint in self.joints.items()
        }
        return checksum(usb_serial, self._servos(), found)

    def stamped(self, usb_serial: str = "") -> Rig:
        """A copy that says for which arm its calibration was made: the one at this adapter, with these servos."""
        servos = {name: list(servo) for name, servo in self._servos().items()}
        made = {
            "schema": STAMP_SCHEMA, "usb_serial": usb_serial, "servos": servos, "checksum": self._checksum(usb_serial)
        }  # fmt: skip
        return self.model_copy(update={"calibrated": Calibrated.model_validate(made)})

    def with_calibration(self, calibrations: dict[str, Calibration]) -> Rig:
        """A copy with new calibrations of the joints named, not ``stamped``. Raises ``RigError`` for an unknown joint."""
        unknown = sorted(set(calibrations) - set(self.joints))
        if unknown:
            raise RigError(f"{self.name} has no joint {unknown[0]!r}; it has: {', '.join(self.joints)}")
        changed = {name: self.joints[name].model_copy(update={"calibration": c}) for name, c in calibrations.items()}
        return self.model_copy(update={"joints": {**self.joints, **changed}, "calibrated": None})

    def with_camera(self, name: str, camera: CameraConfig) -> Rig:
        """A copy with this camera, new or in place of the one of that name."""
        return self.model_copy(update={"cameras": {**self.cameras, name: camera}})


_GEAR = 345.0  # of the STS3215 whose speed ``registers.py`` gives
_NOT_SETTINGS = frozenset(
    ("id", "baud_rate", "torque_enable", "goal_position", "homing_offset", "min_position", "max_position", "lock")
) | {"bus_watchdog"}


def rig_names() -> list[str]:
    """Names of the rigs that ship with the project."""
    return sorted(path.stem for path in RIG_FOLDER.glob("*.toml"))


def load_rig(source: str | Path) -> Rig:
    """A rig from a file, or a shipped one by name. Raises ``RigError`` naming field and line."""
    path = Path(source)
    if not path.suffix and not path.exists():
        path = RIG_FOLDER / f"{source}.toml"
        if str(source) not in rig_names():
            raise RigError(f"{source!r} is no rig file; name a .toml file, or one of: {', '.join(rig_names())}")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RigError(f"cannot read the rig file {path}: {error}") from error
    return parse_rig(text, str(path))


def parse_rig(text: str, name: str = "rig") -> Rig:
    """A rig from TOML text; ``name`` is what errors call it. Raises ``RigError`` naming field and line."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RigError(f"{name} is no valid TOML: {error}") from error
    except RecursionError as error:
        raise RigError(f"{name} is nested too deeply to be a rig file") from error
    version = data.get("schema")
    if version != SCHEMA:
        told = "has no schema number" if version is None else f"has schema {version!r}"
        raise RigError(f"{name} {told}; this program reads schema {SCHEMA}: begin the file with 'schema = {SCHEMA}'")
    try:
        return Rig.model_validate(data)
    except ValidationError as error:
        lines = [_explained(text, tuple(e["loc"]), e["msg"]) for e in error.errors()]
        raise RigError(f"{name} is no valid rig file:\n  " + "\n  ".join(lines)) from error


def save_rig(rig: Rig, path: str | Path) -> None:
    """Write a rig file: whole or not at all, so that a crash leaves the old one. Raises ``RigError``."""
    try:
        write_whole(Path(path), format_rig(rig))
    except OSError as error:
        raise RigError(f"cannot write the rig file {path}: {error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file: whole or not at all, on the disk when this returns. Raises ``OSError``."""
    temporary = ""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise


def format_rig(rig: Rig) -> str:
    """The TOML text of a rig; ``parse_rig`` is its inverse. Comments of the file it came from are not kept."""
    data = rig.model_dump(by_alias=True, exclude_none=True)
    lines = [f"{key} = {_value(data[key])}" for key in ("schema", "name", "arm", "role")]
    lines += ["", "[bus]", *(f"{key} = {_value(value)}" for key, value in data["bus"].items())]
    if "calibrated" in data:  # before the joints: a file that was cut off then has no whole calibration
        lines += ["", "[calibrated]", *(f"{key} = {_value(value)}" for key, value in data["calibrated"].items())]
    for section in ("joints", "cameras"):
        for name, table in data[section].items():
            lines += ["", f"[{section}.{_key(name)}]"]
            lines += [f"{key} = {_value(value)}" for key, value in table.items() if value != {} and value != []]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    bare = name and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    return name if bare else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    return repr(value)


def _explained(text: str, loc: tuple[str | int, ...], message: str) -> str:
    """One error as 'line 12, joints.elbow_flex.id: ...'."""
    message = message.removeprefix("Value error, ")
    where = ".".join(str(part) for part in loc) or "the file"
    line = _line_of(text, loc)
    return f"line {line}, {where}: {message}" if line else f"{where}: {message}"


def _line_of(text: str, loc: tuple[str | int, ...]) -> int:
    """The line on which the innermost part of ``loc`` that can be found is written; 0 if none is."""
    wanted = [str(part) for part in loc]
    best, best_depth, table = 0, 0, []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("["):
            table = [part.strip().strip("\"'") for part in line.strip("[]").split("#")[0].strip("[] ").split(".")]
            path = table
        elif "=" in line and not line.startswith("#"):
            path = table + [part.strip().strip("\"'") for part in line.split("=")[0].split(".")]
        else:
            continue
        depth = len(path)
        if depth > best_depth and wanted[:depth] == path:
            best, best_depth = number, depth
    return best
