"""``embodied camera calibrate``: takes views with the user, or reads them from a folder, and writes the rig file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodied.commands.camera import DONE, Calibrate, camera_of, say
from embodied.commands.output import print_json
from hardware.cameras import (
    Board,
    BoardPose,
    CalibrationRefusedError,
    CameraError,
    HandEye,
    Lens,
    LensLimits,
    StreamCamera,
    ViewSet,
    calibrate_lens,
    camera_pose,
    find_board,
    hand_eye,
    load_views,
    open_camera,
    place_board,
    save_views,
    touched_corners,
)
from hardware.cameras.devices import device_at, find_devices
from hardware.cameras.views import View, coverage
from hardware.errors import EmbodiedError
from hardware.rig import CameraConfig, Rig, load_rig, save_rig

Float = NDArray[np.float64]
Joints = Callable[[], Float]


def calibrate(command: Calibrate) -> int:
    """Carry it out; returns the exit status. Raises ``EmbodiedError``, and leaves the rig file as it is then."""
    if command.source is not None or command.mount is not None:
        _put(command)
    if command.what == "lens":
        return _calibrate_lens(command)
    return _calibrate_pose(command)


def _put(command: Calibrate) -> None:
    """Write the camera's source and mounting into the rig file."""
    if not command.rig.is_file():
        raise EmbodiedError(f"there is no rig file {command.rig}; name yours with --rig")
    rig = load_rig(command.rig)
    config = rig.cameras.get(command.name)
    if command.source is not None and (config is None or config.source != command.source):
        config = CameraConfig(source=command.source)
    if config is None:
        camera_of(command.rig, command.name)  # tells what to do
        return
    if command.mount is not None and command.mount != config.mount:
        config = config.model_copy(update={"mount": command.mount, **_NO_POSE})
    save_rig(rig.with_camera(command.name, config), command.rig)


def _calibrate_lens(command: Calibrate) -> int:
    _, config = camera_of(command.rig, command.name)
    views = _views(command, config, None)
    found = calibrate_lens(views.board, views.views)
    k = found.lens.intrinsics
    fresh = config.intrinsics is None and command.views is not None
    if (k.width, k.height) != (config.width, config.height) and not fresh:
        raise EmbodiedError(
            f"the views are {k.width} x {k.height}, but the camera is set to {config.width} x {config.height}; take views at "
            "that size, or change width and height in the rig file"
        )
    _store(
        command,
        {
            "width": k.width,
            "height": k.height,
            "intrinsics": [k.fx, k.fy, k.cx, k.cy],
            "distortion": list(found.lens.distortion),
            "lens_error_px": round(found.error_px, 4),
            "lens_calibrated": _now(),
            "usb_id": config.usb_id or _usb_id(config),
            **_NO_POSE,  # it was found with the old lens
        },
    )
    for name in views.unseen:
        say(f"not used: {name}: the board was not found", as_json=command.json)
    for name, why in found.left_out.items():
        say(f"not used: {name}: {why}", as_json=command.json)
    say(
        f"lens of {command.name}: focal length {k.fx:.1f} px (known to {100 * found.focal_std:.2f} %), reprojection error "
        f"{found.error_px:.3f} px over {len(found.used)} views, {100 * found.coverage.share:.0f} % of the picture covered\n"
        f"written to {command.rig}; next: embodied camera calibrate pose {command.name} --rig {command.rig}",
        as_json=command.json,
    )
    if command.json:
        print_json(
            {
                "camera": command.name, "intrinsics": [k.fx, k.fy, k.cx, k.cy], "distortion": list(found.lens.distortion),
                "error_px": found.error_px, "focal_std": found.focal_std, "coverage": found.coverage.share,
                "tilts_deg": list(found.coverage.tilts_deg), "views": found.view_errors_px, "left_out": found.left_out,
                "unseen": list(views.unseen),
            }
        )  # fmt: skip
    return DONE


def _calibrate_pose(command: Calibrate) -> int:
    rig, config = camera_of(command.rig, command.name)
    lens = Lens.from_config(config)
    if lens is None:
        raise EmbodiedError(
            f"calibrate the lens first: embodied camera calibrate lens {command.name} --rig {command.rig}"
        )
    corners = _corners(command.corner)
    found: BoardPose | HandEye
    if config.mount == "wrist":
        if command.views is not None:
            views = _views(command, config, None)
        else:
            with _arm(command, rig) as joints:
                views = _views(command, config, joints)
        found = hand_eye(views.board, views.views, lens, rig.spec)
        pose, error_m = found.T_tool_camera, found.camera_std_m
        told = (
            f"its place on the wrist is known to {1000 * found.camera_std_m:.1f} mm; joints seem to be off by "
            f"{found.joint_error_deg:.2f} degrees, the board jumps by {1000 * found.board_error_m:.1f} mm between views"
        )
        figures: dict[str, Any] = {
            "joint_error_deg": found.joint_error_deg, "board_error_mm": 1000 * found.board_error_m,
            "views": found.view_errors_deg,
        }  # fmt: skip
    else:
        views = _views(command, config, None)
        height_m = command.board_height_mm / 1000.0
        touches = dict(views.touches)
        if not corners and not views.corners_m and not touches:
            with _arm(command, rig) as joints:
                touches = _touch(command, joints)
        places = corners or dict(views.corners_m) or touched_corners(rig.spec, touches, height_m=height_m)
        placement = place_board(views.board, places, height_m=height_m)
        found = camera_pose(views.board, views.views, lens, placement)
        # Two independent errors: where the board lay, and what the camera makes of it.
        pose, error_m = found.T_base_camera, float(np.hypot(found.table_error_m, found.placement_error_m))
        told = (
            f"points on the table are {1000 * found.table_error_m:.2f} mm off, its own position is uncertain by "
            f"{1000 * found.camera_std_m:.1f} mm, the board's corners agreed to {1000 * found.placement_error_m:.1f} mm"
        )
        figures = {
            "table_error_mm": 1000 * found.table_error_m, "placement_error_mm": 1000 * found.placement_error_m,
        }  # fmt: skip
    _store(command, {"pose": pose.tolist(), "pose_error_mm": round(1000 * error_m, 3), "pose_calibrated": _now()})
    say(
        f"pose of {command.name}: {told}; reprojection error {found.error_px:.3f} px\nwritten to {command.rig}; look at it: "
        f"embodied camera show {command.name} --rig {command.rig} --grid",
        as_json=command.json,
    )
    if command.json:
        figures |= {"camera_std_mm": 1000 * found.camera_std_m, "error_px": found.error_px}
        print_json({"camera": command.name, "mount": config.mount, "pose": pose.tolist(), **figures})
    return DONE


# ---- views


def _views(command: Calibrate, config: CameraConfig, joints: Joints | None) -> ViewSet:
    """From the folder, or taken now."""
    board = command.options.board()
    if command.views is not None:
        return load_views(command.views, board)
    board = board or Board()
    taken: list[tuple[Any, Float | None]] = []
    views: list[View] = []
    with open_camera(command.name, config) as camera:
        if not isinstance(camera, StreamCamera):
            raise EmbodiedError("a recording is calibrated from with --views FOLDER")
        say(_GUIDE[command.what if config.mount == "fixed" else "wrist"], as_json=command.json)
        while _ask(f"[{len(views)}] ENTER takes a picture, q ends: ", command):
            try:
                shot = camera.next_shot(camera.shot().number)
            except CameraError as error:
                say(f"  {error}", as_json=command.json)
                continue
            q = None if joints is None else joints()
            sighting = find_board(board, shot.picture)
            if sighting is None:
                say("  the board is not seen: more light, nearer, no reflections", as_json=command.json)
                continue
            views.append(View(f"view_{len(views):03d}.png", sighting, q))
            taken.append((shot.picture, q))
            say(f"  {len(sighting.ids)} corners; {_progress(command.what, board, views)}", as_json=command.json)
    if command.save is not None:
        save_views(command.save, board, taken)
        say(f"views: {command.save}", as_json=command.json)
    return ViewSet(board, tuple(views))


def _progress(what: str, board: Board, views: list[View]) -> str:
    """What is still missing, in a few words."""
    if what != "lens":
        return f"{len(views)} views"
    if len(views) < LensLimits().views:
        missing = ", ".join(coverage([view.sighting for view in views], []).missing)
        return f"{LensLimits().views - len(views)} more at least" + (f"; not yet there: {missing}" if missing else "")
    try:
        found = calibrate_lens(board, views)
    except CalibrationRefusedError as error:
        return str(error)
    return f"good enough ({found.error_px:.2f} px); more views make it better"


def _touch(command: Calibrate, joints: Joints) -> dict[str, Float]:
    """Joint vectors of touching the board's corners."""
    touches: dict[str, Float] = {}
    say(
        "Close the jaws, and touch the board's corners with their tip, moving the limp arm by hand.",
        as_json=command.json,
    )
    for letter in Board().letters:
        if _ask(f"corner {letter}: ENTER when it is touched, q if it cannot be reached: ", command):
            touches[letter] = joints()
    return touches


@contextmanager
def _arm(command: Calibrate, rig: Rig) -> Iterator[Joints]:
    """The arm's joints, read while it is limp: nothing moves by itself."""
    from hardware.serial_arm import SerialArm

    limp = rig.model_copy(update={"role": "leader"})  # a leader's torque is never switched on
    with SerialArm.open(limp, port=command.port) as arm:
        yield arm.read


def _ask(prompt: str, command: Calibrate) -> bool:
    """Whether the user goes on; the end of a script's input is an end as well."""
    print(prompt, end="", file=sys.stderr if command.json else sys.stdout, flush=True)
    line = sys.stdin.readline()
    return bool(line) and not line.strip().lower().startswith("q")


def _corners(words: tuple[str, ...]) -> Mapping[str, tuple[float, float]]:
    """Corners in metres from words such as A=120,-80."""
    places: dict[str, tuple[float, float]] = {}
    for word in words:
        letter, _, numbers = word.partition("=")
        try:
            x, y = (float(number) / 1000.0 for number in numbers.split(","))
        except ValueError as error:
            raise EmbodiedError(f"--corner {word} is no corner; write, in mm: --corner A=120,-80 B=120,165") from error
        places[letter.strip().upper()] = (x, y)
    return places


# ---- the rig file


def _store(command: Calibrate, update: dict[str, Any]) -> None:
    """Into the rig file as it is now: it may have been changed while views were taken."""
    rig, config = camera_of(command.rig, command.name)
    save_rig(rig.with_camera(command.name, config.model_copy(update=update)), command.rig)


def _usb_id(config: CameraConfig) -> str | None:
    """The id that tells this camera from all others here, if it has one."""
    path = f"/dev/video{config.source}" if config.source.isdigit() else config.source
    device = device_at(path) if path.startswith("/dev/") else None
    if device is None or not device.usb_id or not device.has_serial:
        return None
    return device.usb_id if sum(other.usb_id == device.usb_id for other in find_devices()) == 1 else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


_NO_POSE: dict[str, Any] = {"pose": None, "pose_error_mm": None, "pose_calibrated": None}
_GUIDE = {
    "lens": "Hold the board still in front of the camera: near and far, in every corner of the picture, tilted all ways.",
    "pose": "Lay the board flat on the table, print up, and do not move it any more. One picture is enough.",
    "wrist": "Lay the board on the table and leave it. Move the limp arm by hand so that the camera sees the board, with the "
    "wrist rolled and bent differently each time; hold still for each picture.",
}
