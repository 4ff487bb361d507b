"""Recordings as cameras, and frames that fit their camera model."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_scenes import BOARD, CORNERS_M, LENS, T_BASE_BOARD, looking_at, render, write_pictures
from fake_webcam import CALIBRATED, SIZE, Picture, noise, wait_for

from hardware.arms import SO101
from hardware.camera_model import CameraModel
from hardware.cameras import (
    CameraError,
    FrozenCameraError,
    Lens,
    RecordingEndedError,
    StreamCamera,
    Viewpoint,
    find_board,
    open_camera,
    open_cameras,
)
from hardware.cameras.sources import RecordingSource
from hardware.cameras.watch import MAX_IDENTICAL
from hardware.kinematics import forward
from hardware.rig import CameraConfig, format_rig, load_rig, parse_rig
from hardware.robot import Camera

# ---- recordings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures", [noise(k) for k in range(4)])


def test_a_folder_step_by_step(folder: Path) -> None:
    config = CameraConfig(source=str(folder), **SIZE, **CALIBRATED)
    with open_camera("front", config, speed=0.0) as camera:
        assert isinstance(camera, Camera)
        for k in range(4):
            assert np.array_equal(camera.read().rgb, noise(k)[..., ::-1])
        with pytest.raises(RecordingEndedError, match="has no further pictures"):
            camera.read()
        assert camera.health().pictures == 4


def test_a_folder_again_and_again(folder: Path) -> None:
    config = CameraConfig(source=str(folder), **SIZE, **CALIBRATED)
    with open_camera("front", config, speed=0.0, loop=True) as camera:
        assert [np.array_equal(camera.read().rgb, noise(k % 4)[..., ::-1]) for k in range(9)] == [True] * 9


def test_a_recording_is_checked_like_a_camera(tmp_path: Path) -> None:
    frozen = write_pictures(tmp_path / "frozen", [noise()] * 7)
    with open_camera("front", CameraConfig(source=str(frozen), **SIZE, **CALIBRATED), speed=0.0) as camera:
        for _ in range(MAX_IDENTICAL):
            camera.read()
        with pytest.raises(FrozenCameraError):
            camera.read()


def test_a_recording_in_real_time_ends(folder: Path) -> None:
    config = CameraConfig(source=str(folder), fps=20.0, **SIZE, **CALIBRATED)
    begun = time.monotonic()
    with open_camera("front", config) as camera:
        assert isinstance(camera, StreamCamera)
        assert np.array_equal(camera.read().rgb, noise(0)[..., ::-1]) or time.monotonic() - begun > 0.05
        wait_for(lambda: "no further pictures" in (camera.health().fault or ""))
        assert time.monotonic() - begun > 0.14
        with pytest.raises(RecordingEndedError):
            camera.read()


def test_the_pace_of_a_recording(folder: Path) -> None:
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    config = CameraConfig(source=str(folder), fps=10.0, **SIZE)
    source = RecordingSource(config, speed=2.0, clock=lambda: now[0], sleep=sleep)
    stamps = [source.read()[1] for _ in range(4)]
    assert stamps == pytest.approx([0.0, 0.05, 0.10, 0.15]) and slept == pytest.approx([0.0, 0.05, 0.05, 0.05])
    with pytest.raises(CameraError, match="at least one picture a second"):
        RecordingSource(config, speed=0.05)


def test_a_video_file_is_a_camera(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    smooth = [cv2.GaussianBlur(noise(k), (0, 0), 4.0) for k in range(5)]
    for picture in smooth:
        writer.write(picture)
    writer.release()
    with open_camera("front", CameraConfig(source=str(path), **SIZE, **CALIBRATED), speed=0.0) as camera:
        for picture in smooth:
            assert np.mean(np.abs(camera.read().rgb.astype(float) - picture[..., ::-1])) < 4.0
        with pytest.raises(RecordingEndedError):
            camera.read()


def test_what_is_no_recording(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("no video")
    for source, message in (("empty", "holds no pictures"), ("text.avi", "holds no pictures"), ("none", "there is no")):
        with pytest.raises(CameraError, match=message):
            open_camera("front", CameraConfig(source=str(tmp_path / source), **SIZE), speed=0.0).read()
    with pytest.raises(CameraError, match="64 x 48, not 640 x 480"):
        open_camera("front", CameraConfig(source=str(folder)), speed=0.0).read()
    (folder / "view_001.png").write_bytes(b"torn")
    camera = open_camera("front", CameraConfig(source=str(folder), **SIZE, **CALIBRATED), speed=0.0)
    camera.read()
    with pytest.raises(CameraError, match=r"view_001\.png is no picture"):
        camera.read()


def test_all_cameras_or_none(folder: Path, tmp_path: Path) -> None:
    good = CameraConfig(source=str(folder), fps=5.0, **SIZE, **CALIBRATED)
    cameras = open_cameras({"front": good, "side": good})
    assert {name: camera.read().rgb.shape for name, camera in cameras.items()} == {
        "front": (48, 64, 3),
        "side": (48, 64, 3),
    }
    for camera in cameras.values():
        camera.close()
    with pytest.raises(CameraError):
        open_cameras({"front": good, "side": CameraConfig(source=str(tmp_path / "none"))})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camera")]


# ---- frames for those above


def test_before_calibration_a_frame_says_what_to_do(folder: Path) -> None:
    with open_camera("front", CameraConfig(source=str(folder), **SIZE), speed=0.0) as camera:
        with pytest.raises(CameraError, match="embodied camera calibrate lens front"):
            camera.read()
        assert camera.shot().picture.shape == (48, 64, 3)
    half = CameraConfig(source=str(folder), **SIZE, intrinsics=CALIBRATED["intrinsics"])
    with (
        open_camera("front", half, speed=0.0) as camera,
        pytest.raises(CameraError, match="embodied camera calibrate pose front"),
    ):
        camera.read()


def test_a_camera_on_the_wrist_moves_with_the_arm(folder: Path) -> None:
    T_tool_camera = looking_at((0.0, 0.0, 0.1), (0.05, 0.0, -0.05))
    config = CameraConfig(source=str(folder), mount="wrist", **SIZE, **(CALIBRATED | {"pose": T_tool_camera.tolist()}))
    q = [0.0]
    with open_camera("wrist", config, tool_pose=lambda: forward(SO101, [q[0], 0, 0, 0, 0]), speed=0.0) as camera:
        first = camera.read().model.T_base_camera
        q[0] = 0.7
        second = camera.read().model.T_base_camera
    assert first == pytest.approx(forward(SO101, [0.0] * 5) @ T_tool_camera)
    assert second == pytest.approx(forward(SO101, [0.7, 0, 0, 0, 0]) @ T_tool_camera)
    with open_camera("wrist", config, speed=0.0) as camera, pytest.raises(CameraError, match="together with its arm"):
        camera.read()
    assert config.model() is None
    model = config.model(forward(SO101, [0.7, 0, 0, 0, 0]))
    assert model is not None and model.T_base_camera == pytest.approx(second)


def test_impossible_calibrations_are_refused() -> None:
    mirrored = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
    with pytest.raises(CameraError, match="is no rotation and translation"):
        Viewpoint("front", CameraConfig(source="0", intrinsics=[600.0, 600.0, 320.0, 240.0], pose=mirrored))
    for intrinsics, distortion in (([0.0, 600.0, 320.0, 240.0], []), ([600.0, 600.0, np.nan, 0.0], []),
                                   ([600.0, 600.0, 320.0, 240.0], [0.1])):  # fmt: skip
        with pytest.raises(CameraError, match="a lens needs"):
            Lens.from_config(CameraConfig(source="0", intrinsics=intrinsics, distortion=distortion))


def test_a_rectified_frame_fits_the_camera_model(tmp_path: Path) -> None:
    """Corners seen in the delivered frame lie where ``CameraModel`` projects them; in the raw picture they do not."""
    pose = looking_at((0.2, 0.0, 0.0), (0.42, 0.05, 0.36))
    picture = render(np.linalg.inv(pose) @ T_BASE_BOARD, np.random.default_rng(0))
    k = LENS.intrinsics
    config = CameraConfig(
        source=str(write_pictures(tmp_path, [picture])), intrinsics=[k.fx, k.fy, k.cx, k.cy],
        distortion=list(LENS.distortion), pose=pose.tolist(),
    )  # fmt: skip
    with open_camera("front", config, speed=0.0) as camera:
        frame = camera.read()
    places = BOARD.corners @ T_BASE_BOARD[:3, :3].T + T_BASE_BOARD[:3, 3]

    def off(seen: Picture) -> float:
        sighting = find_board(BOARD, seen)
        assert sighting is not None and len(sighting.ids) >= 16
        # CameraModel counts pixels from the corner of the first, OpenCV from its middle.
        return float(np.max(np.abs(sighting.corners + 0.5 - frame.model.project(places[sighting.ids]))))

    assert off(frame.rgb) < 0.15
    assert off(picture) > 1.0
    assert frame.model.on_plane(frame.model.project(np.array([*CORNERS_M["C"], 0.0]))) == pytest.approx(
        [*CORNERS_M["C"], 0.0], abs=1e-9
    )


@pytest.mark.parametrize("distortion", [LENS.distortion, (-0.38, 0.17, 0.001, -0.002, -0.03), (0.2, 0.1), ()])
def test_straightening_undoes_what_the_lens_does(distortion: tuple[float, ...]) -> None:
    lens = Lens(LENS.intrinsics, (*distortion, 0.0, 0.0) if len(distortion) == 2 else distortion)
    wanted = np.stack(np.meshgrid(np.linspace(0, 639, 9), np.linspace(0, 479, 7)), -1).reshape(-1, 2)
    rays = np.column_stack([(wanted - lens.matrix[:2, 2]) / np.diag(lens.matrix)[:2], np.ones(len(wanted))])
    seen = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), lens.matrix, lens.coefficients)[0].reshape(-1, 2)
    assert lens.straightened(seen) == pytest.approx(wanted, abs=1e-4)


def test_a_picture_without_distortion_stays_as_it_is() -> None:
    picture = noise(width=640, height=480)
    assert Lens(LENS.intrinsics).rectified(picture) is picture
    assert isinstance(CameraModel(LENS.intrinsics, np.eye(4)).project(np.array([0.0, 0.0, 1.0])), np.ndarray)


def test_cameras_survive_the_text_of_a_rig_file() -> None:
    config = CameraConfig(
        source="/dev/v4l/by-id/x", usb_id="046d:0825:A1", mount="wrist", max_age_s=0.4, lens_error_px=0.12,
        lens_calibrated="2026-01-02T03:04:05+00:00", pose_error_mm=1.5, distortion=[0.1, 0.0, 0.0, 0.0, 0.0], **CALIBRATED,
    )  # fmt: skip
    rig = load_rig("so101").with_camera("wrist", config)
    assert parse_rig(format_rig(rig)) == rig and rig.cameras["wrist"] == config
