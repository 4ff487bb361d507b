from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from dataset_samples import instant_disk  # noqa: F401

from hardware.arm_spec import SO101
from hardware.camera_model import CameraModel, Frame, Intrinsics
from hardware.errors import RobotError
from hardware.robot import Observation, Robot
from hardware.safety import Applied, Limits, SafetyState, step
from policies.dataset.checks import check
from policies.dataset.layout import DatasetError
from policies.dataset.reader import Dataset
from policies.dataset.writer import WriterOptions
from policies.goal import Goal
from policies.policy import Chunk
from policies.recorder import RecordedRobot, Recorder, open_recording
from policies.runtime import PolicyRuntime
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

GOAL = Goal("pick", np.array([0.2, 0.05, 0.0]), np.array([0.2, 0.05, 0.0]))


class PlainRobot:
    """Joints that follow at once, through the real safety core, and cameras that show the step number and may fail."""

    spec = SO101
    control_hz = 20.0
    camera_names: Sequence[str] = ("front", "wrist")

    def __init__(self) -> None:
        self._limits = Limits.profile(SO101, "sim")
        self._safety = SafetyState.start(SO101.home, self._limits)
        self._model = CameraModel.look_at(
            Intrinsics.from_fov_y(64, 32, 0.8), np.array([0.5, 0.0, 0.5]), np.array([0.2, 0.0, 0.0])
        )
        self.steps = 0
        self.blind: set[str] = set()
        self.looks = 0

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        for name in cameras:
            if name in self.blind:
                raise RobotError(f"no frame of the camera {name!r}; is it plugged in?")
        self.looks += bool(cameras)
        now = 50.0 + self.steps / self.control_hz
        level = np.uint8(20 + 10 * self.steps)
        frames = {n: Frame(np.full((32, 64, 3), level, np.uint8), self._model, now - 0.01) for n in cameras}
        return Observation(now, self._safety.sent.copy(), self._safety.sent.copy(), frames)

    def act(self, target: np.ndarray, *, made_s: float | None = None) -> Applied:
        applied, self._safety = step(self._safety, self._safety.sent, target, self._limits, 1.0 / self.control_hz)
        self.steps += 1
        return applied

    def reset_fault(self) -> None:
        pass

    def close(self) -> None:
        pass


class Reaching:
    """Asks for more than the safety core lets through, then says that it is done."""

    name, control_hz = "reaching", 20.0

    def __init__(self, cameras: tuple[str, ...] = (), steps: int = 6) -> None:
        self.cameras = cameras
        self._steps, self._count = steps, 0

    def reset(self) -> None:
        self._count = 0

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        self._count += 1
        target = observation.q + np.array([0.25, 0, 0, 0, 0, 0.05])
        return Chunk(np.tile(target, (4, 1)), 1.0 if self._count > self._steps else 0.0)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[RecordedRobot]:
    robot = PlainRobot()
    with open_recording(tmp_path / "d", robot, options=WriterOptions(min_free_mb=0.0)) as writer:
        yield RecordedRobot(robot, Recorder(writer))


def test_it_is_a_robot(recorded: RecordedRobot) -> None:
    assert isinstance(recorded, Robot)
    assert recorded.camera_names == ("front", "wrist") and recorded.spec is SO101


@pytest.mark.parametrize("cameras", [(), ("front", "wrist")])
def test_wanted_and_sent_are_both_kept(recorded: RecordedRobot, tmp_path: Path, cameras: tuple[str, ...]) -> None:
    recorder = recorded.recorder
    recorded.act(SO101.home)  # between episodes nothing is recorded
    recorder.begin("lift the cube")
    recorded.act(SO101.home)
    recorder.aim(GOAL)
    result = PolicyRuntime(Reaching(cameras)).run(recorded, GOAL)
    recorder.aim(None)
    recorded.act(recorded.observe().command)
    assert recorder.save(result.done) == 0
    rows_expected = result.steps + 2
    with Dataset(tmp_path / "d") as dataset:
        rows = dataset.episode(0)
        assert dataset.info.robot_type == "so101" and dataset.episodes[0].success is True
    assert len(rows["action"]) == rows_expected and set(rows["task"]) == {"lift the cube"}
    assert rows["skill"].tolist() == ["", *["pick"] * result.steps, ""]
    assert np.allclose(rows["goal.point"][1:-1], GOAL.point) and not rows["goal.point"][[0, -1]].any()
    wanted, sent, q = rows["requested_action"], rows["action"], rows["observation.state"]
    assert np.all(wanted[1:-1, 0] > sent[1:-1, 0] + 0.02)  # the safety core held it back
    assert np.allclose(q[1:], sent[:-1], atol=1e-6)  # this robot follows at once
    stamps = rows["time.monotonic"]
    assert np.allclose(np.diff(stamps), 0.05) and stamps[0] == pytest.approx(50.05)
    assert np.allclose(rows["time.front"], stamps - 0.01)
    for camera in ("front", "wrist"):  # each picture is the one before the command of its row
        levels = rows[f"observation.images.{camera}"].mean(axis=(1, 2, 3))
        assert np.allclose(levels, 20 + 10 * np.arange(1, rows_expected + 1), atol=3)


def test_the_policys_own_look_is_used(recorded: RecordedRobot) -> None:
    recorded.recorder.begin("look once")
    before = recorded._robot.looks
    PolicyRuntime(Reaching(("front", "wrist"), steps=4)).run(recorded, GOAL)
    assert recorded._robot.looks - before == recorded.recorder.rows + 1  # the last look led to no command
    recorded.recorder.discard()


def test_listening_to_the_runtime(recorded: RecordedRobot, tmp_path: Path) -> None:
    """Without a wrapped robot, when the policy looks through all cameras."""
    recorded.recorder.begin("listen")
    PolicyRuntime(Reaching(("front", "wrist"))).run(recorded._robot, GOAL, on_step=recorded.recorder.on_step)
    recorded.recorder.save()
    with Dataset(tmp_path / "d") as dataset:
        assert set(dataset.episode(0, cameras=())["skill"]) == {"pick"} and dataset.episodes[0].success is None


def test_a_camera_that_fails_ends_the_recording_and_keeps_it(recorded: RecordedRobot, tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="'wrist'"), recorded:
        recorded.recorder.begin("go blind")
        for number in range(5):
            if number == 3:
                recorded._robot.blind = {"wrist"}
            recorded.act(SO101.home)
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset) == 3 and dataset.episodes[0].success is None
    assert check(tmp_path / "d").sound


def test_or_its_picture_is_repeated_and_marked(tmp_path: Path) -> None:
    robot = PlainRobot()
    options = WriterOptions(missing="repeat", min_free_mb=0.0)
    with (
        open_recording(tmp_path / "d", robot, options=options) as writer,
        RecordedRobot(robot, Recorder(writer)) as seen,
    ):
        seen.recorder.begin("go blind for a moment")
        for number in range(5):
            robot.blind = {"wrist"} if number in (2, 3) else set()
            seen.act(SO101.home)
    with Dataset(tmp_path / "d") as dataset:
        rows = dataset.episode(0)
    assert rows["repeated.wrist"].tolist() == [False, False, True, True, False] and not rows["repeated.front"].any()
    assert np.allclose(rows["time.wrist"], [49.99, 50.04, 50.04, 50.04, 50.19])  # of the picture that is shown
    assert np.allclose(rows["time.front"], 49.99 + 0.05 * np.arange(5))


def test_a_policy_that_asks_for_nan(recorded: RecordedRobot, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="requested_action is not finite"), recorded:
        recorded.recorder.begin("break")
        for number in range(4):
            recorded.act(SO101.home if number < 2 else np.full(6, np.nan))
    with Dataset(tmp_path / "d") as dataset:
        assert len(dataset) == 2


def test_needs_an_episode(recorded: RecordedRobot) -> None:
    with pytest.raises(DatasetError, match="begin one first"):
        recorded.recorder.save()
    recorded.recorder.discard()
    robot = PlainRobot()
    robot.control_hz = 12.5
    with pytest.raises(DatasetError, match="whole frame rates"):
        open_recording("unused", robot)


def test_in_simulation(tmp_path: Path) -> None:
    robot = SimRobot(World(Scene()))
    try:
        with (
            open_recording(tmp_path / "d", robot, cameras=("wrist",)) as writer,
            RecordedRobot(robot, Recorder(writer)) as recorded,
        ):
            recorded.recorder.begin("wave")
            start = robot.observe().command
            for number in range(6):
                recorded.act(start + np.array([0.02 * number, 0, 0, 0, 0, 0]))
            recorded.recorder.save(True)
            shown = robot.observe(("wrist",)).frames["wrist"].rgb
    finally:
        robot.close()
    with Dataset(tmp_path / "d") as dataset:
        rows = dataset.episode(0)
        assert dataset.episodes[0].measured_fps == pytest.approx(20.0)
    assert rows["observation.images.wrist"].shape == (6, *shown.shape)
    error = np.abs(rows["observation.images.wrist"][-1].astype(int) - shown.astype(int)).mean()
    assert error < 6.0
    assert check(tmp_path / "d").sound
