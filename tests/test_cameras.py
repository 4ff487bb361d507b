"""Cameras: a picture that is old, frozen, black, or another camera's never reaches whoever asked for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_webcam import CALIBRATED, SIZE, Computer, Webcam, noise, wait_for

from hardware.cameras import (
    BadPictureError,
    CameraError,
    FrozenCameraError,
    StaleFrameError,
    StreamCamera,
    UnpluggedError,
    Viewpoint,
    WrongCameraError,
    find_devices,
)
from hardware.cameras.devices import device_at, same_camera, stable_path
from hardware.cameras.picture_checks import defect_of
from hardware.cameras.sources import DeviceOpener, DeviceSource
from hardware.cameras.watch import MAX_BAD, MAX_IDENTICAL, Watch
from hardware.rig import CameraConfig
from hardware.robot import Camera

# ---- what a picture shows


def test_an_ordinary_picture_has_no_defect() -> None:
    assert defect_of(noise()) is None
    dim = (noise().astype(float) * 0.3).astype(np.uint8)
    assert defect_of(dim) is None


def test_defects_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    assert defect_of(rng.integers(0, 9, (48, 64, 3)).astype(np.uint8)) == "black"
    assert defect_of(rng.integers(251, 256, (48, 64, 3)).astype(np.uint8)) == "overexposed"
    assert defect_of(np.full((48, 64, 3), (0, 135, 0), np.uint8)) == "of one colour"
    torn = noise()
    torn[30:] = 128
    assert defect_of(torn) == "torn"


def test_a_plain_table_at_the_bottom_is_not_torn() -> None:
    picture = noise()
    picture[30:] = (90, 140, 180)
    assert defect_of(picture) is None


# ---- what a series of pictures shows


def test_the_newest_picture_is_given_while_it_is_fresh() -> None:
    watch = Watch("front")
    with pytest.raises(StaleFrameError, match="no good picture yet"):
        watch.newest(0.0, 0.2)
    watch.feed(noise(1), 10.0)
    watch.feed(noise(2), 10.1)
    shot = watch.newest(10.25, 0.2)
    assert (shot.number, shot.stamp_s) == (2, 10.1) and np.array_equal(shot.picture, noise(2))
    with pytest.raises(StaleFrameError, match=r"0\.35 s old, 0\.20 s are allowed"):
        watch.newest(10.45, 0.2)


def test_a_frozen_camera_is_refused_although_its_stamps_advance() -> None:
    watch = Watch("front")
    for k in range(MAX_IDENTICAL):
        watch.feed(noise(), k / 30)
    assert watch.newest(MAX_IDENTICAL / 30, 0.2).number == MAX_IDENTICAL
    watch.feed(noise(), MAX_IDENTICAL / 30)
    with pytest.raises(FrozenCameraError, match="its last 6 pictures are identical"):
        watch.newest(MAX_IDENTICAL / 30, 0.2)
    watch.feed(noise(9), 0.3)  # it moves again
    assert watch.newest(0.3, 0.2).stamp_s == 0.3


def test_one_changed_pixel_is_not_frozen() -> None:
    watch = Watch("front")
    for k in range(40):
        picture = noise()
        picture[5, 5, 0] = k
        watch.feed(picture, k / 30)
    assert watch.newest(39 / 30, 0.2).number == 40


def test_a_bad_picture_leaves_the_good_one_and_many_are_a_fault() -> None:
    watch, black = Watch("front"), np.zeros((48, 64, 3), np.uint8)
    watch.feed(noise(), 1.0)
    for k in range(MAX_BAD):
        watch.feed(black, 1.0 + 0.01 * k)
    assert watch.newest(1.1, 0.2).stamp_s == 1.0
    assert watch.health(1.1).bad == {"black": MAX_BAD}
    watch.feed(black, 1.06)
    with pytest.raises(BadPictureError, match="pictures that are black"):
        watch.newest(1.1, 0.2)
    watch.feed(noise(2), 1.2)
    assert watch.newest(1.2, 0.2).stamp_s == 1.2
    assert watch.health(1.2).warnings == ["6 pictures were black"]


def test_nothing_from_before_a_lost_connection_is_given_after_it() -> None:
    watch = Watch("front")
    for k in range(MAX_IDENTICAL):
        watch.feed(noise(), 1.0 + k / 100)
    watch.forget()
    with pytest.raises(StaleFrameError, match="no good picture yet"):
        watch.newest(1.06, 0.2)
    watch.feed(noise(), 1.07)  # the first picture of a new connection repeats nothing
    assert watch.newest(1.07, 0.2).stamp_s == 1.07


# ---- which camera is which


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    return Computer(tmp_path / "root")


def test_cameras_are_found_with_their_stable_names(computer: Computer) -> None:
    assert find_devices(computer.root) == []
    computer.plug(0, socket="1-2", serial="A1", name="C270")
    computer.plug(10, socket="1-3", serial="", name="NoSerial")
    computer.plug(2, socket="1-4.1", serial="A2", name="C270")
    found = find_devices(computer.root)
    assert [(d.node, d.name, d.usb_id, d.usb_socket) for d in found] == [
        ("/dev/video0", "C270", "046d:0825:A1", "1-2"),
        ("/dev/video2", "C270", "046d:0825:A2", "1-4.1"),
        ("/dev/video10", "NoSerial", "046d:0825:", "1-3"),
    ]
    assert [stable_path(d, found) for d in found] == [
        "/dev/v4l/by-id/usb-C270_A1-index0",
        "/dev/v4l/by-id/usb-C270_A2-index0",
        "/dev/v4l/by-path/pci-usb-0:1-3-video-index0",
    ]
    assert device_at("/dev/v4l/by-id/usb-C270_A2-index0", computer.root) == found[1]
    assert device_at("/dev/video10", computer.root) == found[2]
    assert device_at("/dev/video7", computer.root) is None


def test_twins_with_one_serial_number_are_told_apart_by_their_socket(computer: Computer) -> None:
    computer.plug(0, socket="1-2", serial="SAME")
    computer.plug(2, socket="1-3", serial="SAME")
    one, other = found = find_devices(computer.root)
    assert stable_path(one, found) == "/dev/v4l/by-path/pci-usb-0:1-2-video-index0"
    assert same_camera(one, one, found) and not same_camera(one, other, found)
    assert same_camera(one, other, [other])  # alone, and with its serial number: it was moved to another socket


# ---- devices


@pytest.fixture
def webcam() -> Webcam:
    return Webcam()


@pytest.fixture
def opener(computer: Computer, webcam: Webcam) -> DeviceOpener:
    computer.plug(0, socket="1-2", serial="A1", name="C270")
    config = CameraConfig(source="/dev/video0", **SIZE)
    return DeviceOpener(config, open_capture=webcam.capture, root=computer.root)


@pytest.fixture
def camera(opener: DeviceOpener) -> Iterator[StreamCamera]:
    viewpoint = Viewpoint("front", CameraConfig(source="/dev/video0", **SIZE, **CALIBRATED))
    with StreamCamera("front", opener, viewpoint, backoff_s=(0.01, 0.05)) as opened:
        yield opened
    assert not [thread for thread in threading.enumerate() if thread.name == "camera front"]


def test_a_frame_is_rgb_with_model_and_monotonic_stamp(camera: StreamCamera) -> None:
    assert isinstance(camera, Camera)
    frame = camera.read()
    assert 0.0 <= time.monotonic() - frame.stamp_s <= 0.2
    assert frame.rgb.shape == (48, 64, 3) and frame.rgb.dtype == np.uint8
    assert frame.model.intrinsics.fx == 60.0 and np.array_equal(frame.model.T_base_camera, np.eye(4))
    shot = camera.shot()
    assert np.array_equal(shot.picture, noise(shot.number))  # every picture of the fake has the number of its seed
    later = camera.next_shot(shot.number)
    assert later.number > shot.number and later.stamp_s > shot.stamp_s
    assert camera.health().fault is None and camera.health().warnings == []


def test_the_device_is_asked_for_format_size_rate_in_this_order(opener: DeviceOpener, webcam: Webcam) -> None:
    opener().close()
    mjpg = cv2.VideoWriter.fourcc(*"MJPG")
    assert webcam.settings == [
        (cv2.CAP_PROP_FOURCC, mjpg), (cv2.CAP_PROP_FRAME_WIDTH, 64), (cv2.CAP_PROP_FRAME_HEIGHT, 48),
        (cv2.CAP_PROP_FPS, 30.0), (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]  # fmt: skip
    assert webcam.released == 1 and webcam.opened[0].endswith("dev/video0")


@pytest.mark.parametrize(("stamp_s", "expected"), [(99.97, 99.97), (0.0, 100.0), (100.5, 100.0), (1.7e9, 100.0)])
def test_the_kernels_stamp_is_used_when_it_is_of_the_same_clock(
    webcam: Webcam, stamp_s: float, expected: float
) -> None:
    webcam.stamp_ms = 1000.0 * stamp_s
    taken = DeviceSource(CameraConfig(source="0", **SIZE), webcam.capture(""), clock=lambda: 100.0).read()
    assert taken is not None and taken[1] == pytest.approx(expected)


def test_another_size_than_asked_for_is_refused(opener: DeviceOpener, webcam: Webcam) -> None:
    webcam.size = (80, 60)
    with pytest.raises(CameraError, match="gives pictures of 80 x 60, not 64 x 48"):
        opener().read()


def test_freezing_is_noticed(camera: StreamCamera, webcam: Webcam) -> None:
    webcam.mode = "frozen"
    wait_for(lambda: camera.health().fault is not None)
    with pytest.raises(FrozenCameraError):
        camera.read()
    webcam.mode = "good"
    wait_for(lambda: camera.health().fault is None)
    camera.read()


def test_black_pictures_are_noticed(camera: StreamCamera, webcam: Webcam) -> None:
    webcam.mode = "black"
    wait_for(lambda: camera.health().fault is not None)
    with pytest.raises(BadPictureError, match="black"):
        camera.read()


def test_a_slow_camera_is_stale(camera: StreamCamera, webcam: Webcam) -> None:
    webcam.period_s = 0.5
    with pytest.raises(StaleFrameError):
        wait_for(lambda: camera.read() is None, 0.6)
    assert camera.read(max_age_s=2.0) is not None  # whoever asks for less gets it


def test_unplugged_and_plugged_in_again(camera: StreamCamera, webcam: Webcam, computer: Computer) -> None:
    webcam.mode = "unplugged"
    computer.unplug(0)
    wait_for(lambda: camera.health().fault is not None)
    with pytest.raises(UnpluggedError):
        camera.read()
    webcam.mode = "good"
    computer.plug(0, socket="1-3", serial="A1", name="C270")  # another socket, the same serial number
    wait_for(lambda: camera.health().fault is None)
    camera.read()
    assert camera.health().reconnects == 1
    assert camera.health().warnings == ["the connection was lost 1 times"]


def test_another_camera_never_takes_its_place(camera: StreamCamera, webcam: Webcam, computer: Computer) -> None:
    webcam.mode = "unplugged"
    computer.unplug(0)
    wait_for(lambda: camera.health().fault is not None)
    webcam.mode = "good"
    computer.plug(0, socket="1-2", serial="B7", name="C920")
    opened = len(webcam.opened)
    wait_for(lambda: "another camera now" in (camera.health().fault or ""))
    with pytest.raises(WrongCameraError, match=r"C920 \(046d:0825:B7"):
        camera.read()
    assert len(webcam.opened) == opened


def test_a_failing_driver_is_a_fault_and_tried_again(camera: StreamCamera, webcam: Webcam) -> None:
    webcam.mode = "broken"
    wait_for(lambda: camera.health().fault is not None)
    with pytest.raises(UnpluggedError, match="select failed"):
        camera.read()
    webcam.mode = "good"
    wait_for(lambda: camera.health().fault is None)


def test_the_camera_of_the_rig_file_and_no_other(computer: Computer, webcam: Webcam) -> None:
    computer.plug(0, socket="1-2", serial="B7")
    config = CameraConfig(source="0", usb_id="046d:0825:A1", **SIZE)
    with pytest.raises(WrongCameraError, match="not the camera 046d:0825:A1 of the rig file"):
        DeviceOpener(config, open_capture=webcam.capture, root=computer.root)()
    assert webcam.opened == []
    right = config.model_copy(update={"usb_id": "046d:0825:B7"})
    DeviceOpener(right, open_capture=webcam.capture, root=computer.root)().close()
    assert len(webcam.opened) == 1


def test_starting_says_at_once_what_is_wrong(
    computer: Computer, opener: DeviceOpener, webcam: Webcam, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewpoint = Viewpoint("front", CameraConfig(source="0"))
    absent = DeviceOpener(CameraConfig(source="/dev/v4l/by-id/none"), open_capture=webcam.capture, root=computer.root)
    with pytest.raises(UnpluggedError, match="there is no camera at /dev/v4l/by-id/none"):
        StreamCamera("front", absent, viewpoint).start()
    webcam.mode = "busy"
    with pytest.raises(CameraError, match="is another program using it"):
        StreamCamera("front", opener, viewpoint).start()
    webcam.mode = "black"
    with pytest.raises(BadPictureError):
        StreamCamera("front", opener, viewpoint).start(timeout_s=0.3)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CameraError, match="usermod -aG video"):
        StreamCamera("front", opener, viewpoint).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "camera front"]


def test_closing_twice_and_reading_after_it(opener: DeviceOpener, webcam: Webcam) -> None:
    camera = StreamCamera("front", opener, Viewpoint("front", CameraConfig(source="0", **SIZE, **CALIBRATED))).start()
    assert camera.start() is camera
    camera.close()
    camera.close()
    assert webcam.released == 1
    with pytest.raises(CameraError, match="is closed"):
        camera.read()


def test_a_hanging_driver_does_not_hold_the_program(opener: DeviceOpener, webcam: Webcam) -> None:
    camera = StreamCamera("front", opener, Viewpoint("front", CameraConfig(source="0", **SIZE))).start()
    webcam.mode = "hang"
    time.sleep(0.05)
    begun = time.monotonic()
    with pytest.raises(CameraError, match="hangs; unplug the camera"):
        camera.close()
    assert time.monotonic() - begun < 2.5
    webcam.hang.set()
    wait_for(lambda: webcam.released == 1)
