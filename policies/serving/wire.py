"""Messages between a policy server and its clients: openpi's format, MessagePack with numpy arrays, over a websocket.

    server -> client   metadata, once:    embodied 1, policy, control_hz, cameras, views
    client -> server   an observation:    observation/state (6,), observation/command (6,), skill, point (3,), to (3,), prompt,
                                          reset, stamp; per camera NAME observation/image/NAME (H, W, 3) uint8 RGB,
                                          camera/NAME/intrinsics (6,), camera/NAME/pose (4, 4), camera/NAME/stamp
    server -> client   an answer:         actions (H, 6), done, cameras wanted next, server_timing {infer_ms}
                       or text, not bytes: an error in words; the connection is closed after it

An array is a map of byte strings: ``__ndarray__``, ``data``, ``dtype``, ``shape``. Only booleans, integers and floats of up to
eight bytes are packed or unpacked: nothing that is received can choose code, and no message may exceed ``MAX_BYTES``.

openpi's own clients and servers understand the frame of this; what keys a policy wants differs from policy to policy there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import EmbodiedError
from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk, Policy
from policies.skills import SKILLS

Float = NDArray[np.float64]

#: Two pictures of 640 x 480 (1.84 MB) or one of 1280 x 720 (2.76 MB) with room to spare, and not a byte more.
MAX_BYTES = 4 * 1024 * 1024
#: The version of the keys above.
DIALECT = 1
MAX_HORIZON = 1000
_MAX_ITEMS, _MAX_TEXT = 256, 4096
_DTYPE = re.compile(r"[<>|=]?[biuf][1248]|[<>|=]?\?")
#: Joint angles (rad), openings and metres in a message are refused beyond this: nothing here is that large.
_LARGEST = 100.0


class MessageError(EmbodiedError):
    """A message is not what it should be; the sentence may be told to whoever sent it."""


class MissingLibraryError(EmbodiedError):
    """The packages for serving policies are not installed."""


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise MissingLibraryError(
            "policies over a network need the packages websockets and msgpack; run: pip install 'embodied[serve]'"
        ) from error
    return msgpack


# Bytes ---------------------------------------------------------------------------------------------------------------


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes. Raises ``MessageError`` for what cannot be sent."""
    try:
        data: bytes = _msgpack().packb(dict(message), default=_packed_array)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"this cannot be sent: {error}") from error
    if len(data) > MAX_BYTES:
        raise MessageError(f"a message of {len(data)} bytes is too long; {MAX_BYTES} are allowed: use smaller pictures")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """A message from bytes; arrays are read-only. Raises ``MessageError``."""
    msgpack = _msgpack()
    if len(data) > MAX_BYTES:
        raise MessageError(f"a message of {len(data)} bytes is too long; {MAX_BYTES} are allowed")
    try:
        message = msgpack.unpackb(
            data, object_hook=_unpacked_array, strict_map_key=True, max_str_len=_MAX_TEXT, max_bin_len=MAX_BYTES,
            max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS, max_ext_len=0,
        )  # fmt: skip
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"this is no MessagePack message: {type(error).__name__}") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise MessageError("a message must be a map whose keys are text")
    return message


def _packed_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "biuf":
        raise TypeError(f"an array of type {value.dtype}")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__}")


def _unpacked_array(found: dict[Any, Any]) -> Any:
    if b"__npgeneric__" in found:
        value = found.get(b"data")
        if not isinstance(value, bool | int | float):
            raise MessageError("a packed number holds something else")
        return value
    if b"__ndarray__" not in found:
        return found
    data, dtype, shape = found.get(b"data"), found.get(b"dtype"), found.get(b"shape")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise MessageError("arrays may hold booleans, integers and floats only")
    if not isinstance(shape, list) or len(shape) > 4 or not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError("the shape of an array must be up to four whole numbers")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise MessageError("an array's bytes do not fit its shape")
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


# Meaning -------------------------------------------------------------------------------------------------------------


def metadata(policy: Policy) -> dict[str, Any]:
    """What a server says of itself first."""
    views = [view.to_json() for view in getattr(policy, "views", ())]
    return {
        "embodied": DIALECT, "policy": policy.name, "control_hz": float(policy.control_hz),
        "cameras": list(policy.cameras), "views": views,
    }  # fmt: skip


def observation_message(observation: Observation, goal: Goal, reset: bool) -> dict[str, Any]:
    """An observation and a goal as a message; numbers keep all their digits."""
    message: dict[str, Any] = {
        "observation/state": np.asarray(observation.q, float), "observation/command": np.asarray(observation.command, float),
        "skill": goal.skill, "point": np.asarray(goal.point, float), "to": np.asarray(goal.to, float),
        "prompt": goal.skill, "reset": reset, "stamp": float(observation.stamp_s),
    }  # fmt: skip
    for name, frame in observation.frames.items():
        k = frame.model.intrinsics
        message[f"observation/image/{name}"] = np.ascontiguousarray(frame.rgb)
        message[f"camera/{name}/intrinsics"] = np.array([k.width, k.height, k.fx, k.fy, k.cx, k.cy], float)
        message[f"camera/{name}/pose"] = np.asarray(frame.model.T_base_camera, float)
        message[f"camera/{name}/stamp"] = float(frame.stamp_s)
    return message


def wants_reset(message: Mapping[str, Any]) -> bool:
    """Whether a new skill begins with this observation."""
    return message.get("reset", False) is True


def read_observation(message: Mapping[str, Any], cameras: tuple[str, ...]) -> tuple[Observation, Goal]:
    """Inverse of ``observation_message``, with the pictures of those of ``cameras`` that it has. Raises ``MessageError``."""
    q = _numbers(message, "observation/state", (6,))
    command = _numbers(message, "observation/command", (6,)) if "observation/command" in message else q.copy()
    skill = message.get("skill")
    if skill not in SKILLS:
        raise MessageError(f"skill must be one of: {', '.join(SKILLS)}")
    point = _numbers(message, "point", (3,))
    to = _numbers(message, "to", (3,)) if "to" in message else point.copy()
    frames = {name: _frame(message, name) for name in cameras if f"observation/image/{name}" in message}
    return Observation(_number(message.get("stamp", 0.0), "stamp"), q, command, frames), Goal(skill, point, to)


def answer_message(chunk: Chunk, cameras: tuple[str, ...], infer_ms: float) -> dict[str, Any]:
    """A chunk as a message, with the cameras that the policy wants next."""
    targets = np.ascontiguousarray(chunk.targets, float)
    return {
        "actions": targets, "done": float(chunk.done), "cameras": list(cameras), "server_timing": {"infer_ms": infer_ms},
    }  # fmt: skip


def read_actions(message: Mapping[str, Any]) -> Float:
    """The actions (H, 6) of an answer, as numbers of the server's units. Raises ``MessageError``."""
    actions = message.get("actions")
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.shape[1] != 6:
        shape = getattr(actions, "shape", None)
        raise MessageError(
            f"actions must be an array (H, 6), not {shape if shape is not None else type(actions).__name__}"
        )
    if not 1 <= len(actions) <= MAX_HORIZON:
        raise MessageError(f"actions must have 1 to {MAX_HORIZON} rows, not {len(actions)}")
    if actions.dtype.kind not in "iuf" or not np.all(np.isfinite(actions)):
        raise MessageError("actions hold NaN or infinity")
    return actions.astype(float)


def read_cameras(message: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The cameras that the server wants next; None if it does not say. Raises ``MessageError``."""
    names = message.get("cameras")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > 8 or not all(isinstance(name, str) for name in names):
        raise MessageError("cameras must be up to eight names")
    return tuple(names)


def read_done(message: Mapping[str, Any]) -> float | None:
    """The server's belief that it is done, 0..1; None if it has none. Raises ``MessageError``."""
    if "done" not in message:
        return None
    done = _number(message["done"], "done")
    if not 0.0 <= done <= 1.0:
        raise MessageError(f"done must lie between 0 and 1, not {done}")
    return done


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MessageError(f"{key} must be a finite number")
    return float(value)


def _numbers(message: Mapping[str, Any], key: str, shape: tuple[int, ...], largest: float = _LARGEST) -> Float:
    value = message.get(key)
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "iuf":
        raise MessageError(f"{key} must be an array of numbers of the shape {shape}")
    if not np.all(np.isfinite(value)) or float(np.abs(value).max(initial=0.0)) > largest:
        raise MessageError(f"{key} must hold finite numbers of at most {largest:g}")
    return value.astype(float)


def _frame(message: Mapping[str, Any], name: str) -> Frame:
    rgb = message.get(f"observation/image/{name}")
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise MessageError(f"observation/image/{name} must be a picture (H, W, 3) of bytes")
    k = _numbers(message, f"camera/{name}/intrinsics", (6,), 1e6)
    if (int(k[1]), int(k[0])) != rgb.shape[:2] or not (k[2] > 0.0 and k[3] > 0.0):
        raise MessageError(f"camera/{name}/intrinsics do not fit the picture")
    pose = _numbers(message, f"camera/{name}/pose", (4, 4))
    intrinsics = Intrinsics(int(k[0]), int(k[1]), *(float(v) for v in k[2:]))
    return Frame(rgb, CameraModel(intrinsics, pose), _number(message.get(f"camera/{name}/stamp", 0.0), "stamp"))
