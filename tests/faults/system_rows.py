"""Rows 51 to 54: disk, crash, clock and cleanup."""

from __future__ import annotations

import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import CAMERAS, NO_LIMIT, open_writer, record
from lab import STEP, Float, Lab, goals, row, torques, walk
from test_dataset_crash import nursery, record_and_kill

from embodied.teleop.pace import Pacer
from embodied.teleop.session import Session
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import RobotError
from hardware.servo.port import BusError, open_port
from hardware.teleop.device import DeviceLost, Reading
from policies.dataset.checks import check
from policies.dataset.layout import DatasetError
from policies.dataset.writer import DatasetWriter
from policies.recorder import RecordedRobot, Recorder, robot_features


@contextmanager
def _small_files(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes: the kernel says EFBIG, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@row(51, "the disk is full while an episode is recorded")
def disk_full(lab: Lab, on: bool) -> None:
    root = lab.tmp / "d"
    with lab.arm() as (servos, arm):
        features = robot_features(arm.spec, {})
        with DatasetWriter(root, fps=20, robot_type="so101", features=features, options=NO_LIMIT) as writer:
            recorder = Recorder(writer)
            recorded = RecordedRobot(arm, recorder)
            for episode in range(2):
                recorder.begin("creep")
                target = recorded.observe().command
                for k in range(4):
                    recorded.act(target + k * STEP)
                if episode == 0:
                    recorder.save(True)
            began = time.monotonic()
            if on:
                with _small_files(2_000), pytest.raises(DatasetError, match="disk is full.*all earlier ones are safe"):
                    recorder.save(True)
                assert time.monotonic() - began < 1.0
            else:
                recorder.save(True)
        assert set(torques(servos).values()) == {1}  # the arm holds
    report = check(root)
    assert report.sound and report.episodes == (1 if on else 2)
    with pytest.raises(DatasetError, match="free some space first"), open_writer(lab.tmp / "e", _greedy()) as more:
        more.begin("there is less space than this asks for")


def _greedy() -> Any:
    from policies.dataset.writer import WriterOptions

    return WriterOptions(min_free_mb=1e12)


@row(52, "the recording process is killed")
def killed(lab: Lab, on: bool) -> None:
    root = lab.tmp / "d"
    if not on:
        with open_writer(root) as writer:
            assert [record(writer, 3), record(writer, 4)] == [0, 1]
        assert check(root).sound and check(root).episodes == 2
        return
    with nursery() as process:
        for after_s in (0.05, 0.2, 0.4):
            before = check(root).episodes if root.exists() and (root / "meta/info.json").exists() else 0
            said = record_and_kill(process, root, after_s)  # episodes that the process said it had saved
            with open_writer(root) as writer:  # opening repairs
                there = writer.info.total_episodes
            assert there >= max(said, before)
            assert check(root).sound
    assert len(CAMERAS) == 2


@row(53, "the wall clock jumps")
def wall_clock(lab: Lab, on: bool) -> None:
    def run(jump: bool) -> list[dict[str, int]]:
        log = []
        wall = time.time
        with lab.arm() as (servos, arm), lab.patch.context() as patch:
            for k in range(12):
                if jump:
                    patch.setattr(time, "time", lambda k=k: wall() + (-1) ** k * 3600.0)
                    patch.setattr(time, "time_ns", lambda k=k: int(1e9 * (wall() + (-1) ** k * 3600.0)))
                assert walk(arm, 1)[0].verdict == "pass"
                log.append(goals(servos))
            assert arm.fault is None
        return log

    assert run(jump=on) == run(jump=False)
    for file in Path("hardware").rglob("*.py"):
        assert not re.search(r"\btime\.time(_ns)?\(|datetime\.now\(|utcnow\(", file.read_text(encoding="utf-8")), file


class _Broken:
    """A camera that cannot be closed."""

    def __init__(self, name: str, broken: bool) -> None:
        self.name, self._broken, self.closed = name, broken, False

    def read(self) -> Frame:
        model = CameraModel(Intrinsics.from_fov_y(4, 3, 1.0), np.eye(4))
        return Frame(np.zeros((3, 4, 3), np.uint8), model, 0.0)

    def close(self) -> None:
        self.closed = True
        if self._broken:
            raise OSError("the driver hangs")


@row(54, "cleanup is interrupted or fails")
def cleanup(lab: Lab, on: bool) -> None:
    for step in ("first camera", "second camera", "torque", "loop", "unplugged") if on else ("nothing",):
        cameras = {
            "front": _Broken("front", step == "first camera"),
            "wrist": _Broken("wrist", step == "second camera"),
        }
        with lab.arm(cameras=cameras) as (servos, arm):
            walk(arm, 2)
            port = servos.port
            if step == "torque":
                servos.inject("mute:shoulder_pan")
            elif step == "loop":
                lab.patch.setattr(arm._loop, "stop", _fails)
            elif step == "unplugged":
                servos.unplug()
            began = time.monotonic()
            with suppress(RobotError) if not on else pytest.raises(RobotError):
                arm.close()
            assert time.monotonic() - began < 4.0
            assert all(camera.closed for camera in cameras.values()), step
            if step != "unplugged":
                open_port(port, 1_000_000).close()  # it was let go
            if step not in ("unplugged", "loop"):
                assert not any(torques(servos).values()), step
            arm.close()  # twice is fine

    _leader_unplugged(lab, on)


class _Leader:
    """A leader arm whose cable may be pulled."""

    name = "leader"
    there = True

    def __init__(self, pose: Float) -> None:
        self.pose = pose

    def read(self) -> Reading:
        if not self.there:
            raise DeviceLost("the leader is gone")
        return Reading(pose=self.pose)

    def reopen(self) -> None: ...

    def close(self) -> None: ...


def _leader_unplugged(lab: Lab, on: bool) -> None:
    """The follower holds where it is, and does not go on when the leader is back."""
    with lab.arm() as (servos, arm):
        leader = _Leader(arm.read())
        session = Session(arm, leader, pacer=Pacer(20.0, clock=lambda: 0.0, sleep=lambda seconds: None))
        session.engage()
        for _ in range(4):
            leader.pose = leader.pose + STEP
            session.step()
        leader.there = not on
        session.step()
        before = goals(servos)
        for k in range(6):
            leader.there = leader.there or k == 3
            leader.pose = leader.pose + STEP
            session.step()
        assert session.state == ("holding" if on else "driving")
        assert (goals(servos) == before) == on and set(torques(servos).values()) == {1}


def _fails() -> None:
    raise BusError("the loop hangs")
