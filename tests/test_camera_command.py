"""`embodied camera`: what is printed, written and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tyro
from board_scenes import (
    BOARD,
    CORNERS_M,
    LENS,
    SMALL,
    T_BASE_BOARD,
    T_TOOL_CAMERA,
    apart,
    lens_pictures,
    looking_at,
    render,
    wrist_scene,
    write_pictures,
)

from embodied.commands.camera import Camera, run
from hardware import cameras
from hardware.cameras import Device, find_board, save_views
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.errors import EmbodiedError
from hardware.rig import CameraConfig, load_rig, save_rig

POSE = looking_at((0.2, 0.0, 0.0), (0.6, 0.05, 0.45), 0.05)
K = LENS.intrinsics
CALIBRATED: dict[str, Any] = {
    "intrinsics": [K.fx, K.fy, K.cx, K.cy], "distortion": list(LENS.distortion), "pose": POSE.tolist()
}  # fmt: skip
CORNERS = [f"{letter}={1000 * x:.1f},{1000 * y:.1f}" for letter, (x, y) in CORNERS_M.items()]


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    status = run(tyro.cli(Camera, args=[str(word) for word in words]))
    return status, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    status, out = call(capsys, *words, "--json")
    return status, json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def table() -> list[np.ndarray]:  # type: ignore[type-arg]
    """The board on the table, as the fixed camera sees it, with the noise of nine moments."""
    rng = np.random.default_rng(21)
    clean = render(np.linalg.inv(POSE) @ T_BASE_BOARD, rng, noise=0.0).astype(float)
    return [np.clip(clean + rng.normal(0, 2, clean.shape), 0, 255).astype(np.uint8) for _ in range(9)]


def video(path: Path, pictures: list[Any]) -> str:
    """A video file, which is a camera as well."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (640, 480))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return str(path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, table: list[Any]) -> str:
    return video(tmp_path_factory.mktemp("film") / "table.avi", table * 25)


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    path = tmp_path / "rig.toml"
    save_rig(load_rig("so101"), path)
    return path


def add(path: Path, name: str = "front", **fields: Any) -> Path:
    save_rig(load_rig(path).with_camera(name, CameraConfig(**({"source": "/dev/video9"} | fields))), path)
    return path


# ---- find, board


def test_find(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cameras, "find_devices", list)
    assert "no cameras" in call(capsys, "find")[1]
    device = Device("/dev/video9", "C270", "046d:0825:A1", "1-2", "/dev/v4l/by-id/usb-C270", "/dev/v4l/by-path/pci-1")
    monkeypatch.setattr(cameras, "find_devices", lambda: [device])
    status, out = call(capsys, "find")
    assert status == 0 and "source = '/dev/v4l/by-id/usb-C270'" in out and "usb_id = '046d:0825:A1'" in out
    _, found = as_json(capsys, "find", "--pictures", tmp_path)
    assert found["cameras"][0]["source"] == "/dev/v4l/by-id/usb-C270"
    assert "there is no camera at" in found["cameras"][0]["error"]


def test_board(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out = call(capsys, "board", "--out", tmp_path / "board.png", "--page", "letter")
    assert status == 0 and "measure a square (35 mm)" in out
    assert find_board(BOARD, cv2.imread(str(tmp_path / "board.png"))) is not None
    _, facts = as_json(capsys, "board", "--out", tmp_path / "small.pdf", "--square-mm", "20")
    assert facts["square_mm"] == 20.0 and facts["marker_mm"] == pytest.approx(20 * 26 / 35)
    assert (tmp_path / "small.pdf").stat().st_size > 1000
    with pytest.raises(EmbodiedError, match="choose smaller squares or a larger page"):
        call(capsys, "board", "--out", tmp_path / "b.png", "--square-mm", "50")


# ---- calibrate


def test_a_fixed_camera_from_folders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, table: list[Any]
) -> None:
    views = write_pictures(tmp_path / "views", lens_pictures(0))
    (views / "extra.png").write_bytes(cv2.imencode(".png", np.full((480, 640, 3), 99, np.uint8))[1].tobytes())
    status, out = call(capsys, "calibrate", "lens", "front", "--rig", rig, "--views", views, "--source", "/dev/video9")
    assert status == 0 and "not used: extra.png: the board was not found" in out and "reprojection error 0.0" in out
    config = load_rig(rig).cameras["front"]
    assert config.intrinsics is not None and config.intrinsics[0] == pytest.approx(K.fx, rel=0.002)
    assert config.lens_error_px is not None and config.lens_error_px < 0.1 and config.lens_calibrated is not None
    assert config.pose is None and config.source == "/dev/video9"

    seen = write_pictures(tmp_path / "table", table[:2])
    status, figures = as_json(
        capsys, "calibrate", "pose", "front", "--rig", rig, "--views", seen, "--corner", *CORNERS[:2]
    )
    assert status == 0 and figures["table_error_mm"] < 0.5 and figures["mount"] == "fixed"
    config = load_rig(rig).cameras["front"]
    assert apart(np.array(config.pose), POSE)[0] < 1.5 and config.pose_error_mm is not None
    assert config.pose_calibrated is not None and config.pose_calibrated.endswith("+00:00")

    # A new lens makes the pose void.
    call(capsys, "calibrate", "lens", "front", "--rig", rig, "--views", views)
    assert load_rig(rig).cameras["front"].pose is None


def test_a_camera_on_the_wrist_from_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path) -> None:
    joints, pictures = wrist_scene(0)
    save_views(tmp_path / "views", SMALL, list(zip(pictures, joints, strict=True)))
    add(rig, "wrist", **(CALIBRATED | {"pose": None}))
    status, figures = as_json(
        capsys, "calibrate", "pose", "wrist", "--mount", "wrist", "--rig", rig, "--views", tmp_path / "views"
    )
    assert status == 0 and figures["mount"] == "wrist" and figures["joint_error_deg"] < 0.05
    config = load_rig(rig).cameras["wrist"]
    assert config.mount == "wrist" and apart(np.array(config.pose), T_TOOL_CAMERA)[0] < 0.3


def test_corners_and_touches_of_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, table: list[Any]
) -> None:
    add(rig, **(CALIBRATED | {"pose": None}))
    views = write_pictures(tmp_path / "views", table[:1])
    corners = {letter: [1000 * x, 1000 * y] for letter, (x, y) in CORNERS_M.items()}
    (views / "views.json").write_text(json.dumps({"schema": 1, "corners_mm": corners}))
    _, figures = as_json(capsys, "calibrate", "pose", "front", "--rig", rig, "--views", views)
    assert apart(np.array(figures["pose"]), POSE)[0] < 1.5
    (views / "views.json").write_text(json.dumps({"schema": 1, "touches": {"A": [0.0] * 6, "B": [0.1] * 6}}))
    with pytest.raises(EmbodiedError, match="mm above the board"):
        call(capsys, "calibrate", "pose", "front", "--rig", rig, "--views", views)


def test_taking_views_with_the_user(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(rig, source=film, **(CALIBRATED | {"pose": None}))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\nq\n"))
    kept = tmp_path / "kept"
    status, out = call(capsys, "calibrate", "pose", "front", "--rig", rig, "--save", kept, "--corner", *CORNERS)
    assert status == 0 and "[0] ENTER takes a picture" in out and "2 views" in out
    assert sorted(path.name for path in kept.iterdir()) == ["view_000.png", "view_001.png", "views.json"]
    assert apart(np.array(load_rig(rig).cameras["front"].pose), POSE)[0] < 1.5


def test_touching_the_board_with_the_limp_arm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, table: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joints really come from the arm: where the emulated one rests the tool is not on the table."""
    views = write_pictures(tmp_path / "views", table[:1])
    with Emulator("so101") as emulator:
        save_rig(nominal(load_rig("so101"), emulator.port), rig)
        add(rig, **(CALIBRATED | {"pose": None}))
        monkeypatch.setattr("sys.stdin", io.StringIO("\n\nq\nq\n"))
        with pytest.raises(EmbodiedError, match="when corner A was touched the tool was"):
            call(capsys, "calibrate", "pose", "front", "--rig", rig, "--views", views)
    assert load_rig(rig).cameras["front"].pose is None


def test_a_refused_calibration_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, table: list[Any]
) -> None:
    add(rig, **CALIBRATED)
    before = rig.read_bytes()
    views = write_pictures(tmp_path / "views", table)
    with pytest.raises(EmbodiedError, match="not good enough|do not fit|no lens fits"):
        call(capsys, "calibrate", "lens", "front", "--rig", rig, "--views", views)
    with pytest.raises(EmbodiedError, match="mm from where a board of this size has them"):
        call(capsys, "calibrate", "pose", "front", "--rig", rig, "--views", views, "--corner", "A=0,0", "B=0,99")
    with pytest.raises(EmbodiedError, match="is no corner; write, in mm"):
        call(capsys, "calibrate", "pose", "front", "--rig", rig, "--views", views, "--corner", "A=0")
    assert rig.read_bytes() == before


def test_what_must_come_first(capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path) -> None:
    with pytest.raises(EmbodiedError, match="there is no rig file"):
        call(capsys, "check", "front", "--rig", tmp_path / "none.toml")
    with pytest.raises(EmbodiedError, match="has no camera 'front', it has: none; add one with"):
        call(capsys, "calibrate", "lens", "front", "--rig", rig)
    add(rig)
    with pytest.raises(EmbodiedError, match="calibrate the lens first"):
        call(capsys, "calibrate", "pose", "front", "--rig", rig)
    with pytest.raises(EmbodiedError, match="there is no camera at /dev/video9"):
        call(capsys, "show", "front", "--rig", rig)


def test_views_of_another_size_than_the_cameras(capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path) -> None:
    add(rig, width=320, height=240, intrinsics=[300.0, 300.0, 160.0, 120.0])
    views = write_pictures(tmp_path / "views", lens_pictures(0))
    with pytest.raises(EmbodiedError, match="the views are 640 x 480, but the camera is set to 320 x 240"):
        call(capsys, "calibrate", "lens", "front", "--rig", rig, "--views", views)


# ---- show, check


def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, film: str) -> None:
    add(rig, source=film, **CALIBRATED)
    _, facts = as_json(capsys, "show", "front", "--rig", rig, "--out", tmp_path / "a.png")
    assert facts["rectified"] and (facts["width"], facts["height"]) == (640, 480)
    plain = cv2.imread(str(tmp_path / "a.png"))
    call(capsys, "show", "front", "--rig", rig, "--grid", "--out", tmp_path / "b.png")
    drawn = cv2.imread(str(tmp_path / "b.png"))
    model = load_rig(rig).cameras["front"].model()
    assert model is not None
    u, v = np.round(model.project(np.array([0.20, 0.05, 0.0])) - 0.5).astype(int)
    assert np.max(np.abs(drawn[v, u].astype(int) - plain[v, u])) > 40  # a crossing of the grid
    add(rig, source=film)
    with pytest.raises(EmbodiedError, match="a grid needs a fixed, calibrated camera"):
        call(capsys, "show", "front", "--rig", rig, "--grid", "--out", tmp_path / "c.png")


def test_check(capsys: pytest.CaptureFixture[str], rig: Path, film: str) -> None:
    add(rig, source=film, fps=30.0, **CALIBRATED)
    status, facts = as_json(capsys, "check", "front", "--rig", rig, "--seconds", "0.5")
    assert facts["problems"] == [] and status == 0
    assert facts["board_error_px"] < 0.2 and facts["refused_share"] == 0.0
    for letter, (x, y) in CORNERS_M.items():
        assert facts["corners_mm"][letter] == pytest.approx([1000 * x, 1000 * y, 0.0], abs=1.5)
    moved = np.array(POSE)
    moved[2, 3] += 0.03
    add(rig, source=film, **(CALIBRATED | {"pose": moved.tolist()}))
    status, out = call(capsys, "check", "front", "--rig", rig, "--seconds", "0.3")
    assert status == 1 and "above the table; unless it is, the camera was moved" in out


def test_check_tells_of_a_frozen_camera(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rig: Path, table: list[Any]
) -> None:
    add(rig, source=video(tmp_path / "frozen.avi", table[:1] * 60), fps=60.0)
    status, facts = as_json(capsys, "check", "front", "--rig", rig, "--seconds", "0.4")
    assert status == 1 and "is frozen" in facts["fault"] and facts["refused_share"] > 0.05
