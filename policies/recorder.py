"""Records what a robot does, as episodes of a dataset: what it saw and felt, what was wanted, what was really sent.

    writer = open_recording("data/picks", robot, cameras=("front", "wrist"))
    with writer, RecordedRobot(robot, Recorder(writer)) as recorded:      # a Robot like the one inside
        recorded.recorder.begin("put the red cube in the blue bowl")
        recorded.recorder.aim(goal)
        runtime.run(recorded, goal)
        recorded.recorder.save(success=True)

One row per ``act``. Beside LeRobot's columns stand:

    requested_action   what the policy wanted; ``action`` is what the safety core let through
    skill              the skill carried out, "" between skills
    goal.point, .to    the planner's points (3,) m, base frame; zero where ``skill`` is ""
    time.monotonic     the robot's own clock at the observation, s; ``timestamp`` is only frame_index / fps
    time.CAMERA        that clock at the picture's exposure
    repeated.CAMERA    whether the picture is the one before again, because none came
    success            1, 0, or -1 when nobody judged

What this does not protect against: a camera that delivers old pictures with new time stamps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.arm_spec import ArmSpec
from hardware.camera_model import Frame
from hardware.errors import RobotError
from hardware.robot import Observation, Robot
from hardware.safety import Applied
from policies.dataset.episode import REPEATED, SUCCESS, EpisodeWriter
from policies.dataset.layout import IMAGES, DatasetError, Feature, video_feature
from policies.dataset.writer import DatasetWriter, WriterOptions
from policies.goal import Goal
from policies.runtime import Step

Float = NDArray[np.float64]


def robot_features(spec: ArmSpec, cameras: Mapping[str, tuple[int, int]]) -> dict[str, Feature]:
    """The features of a recording: ``cameras`` gives each camera's (height, width)."""
    joints = [f"{joint}.pos" for joint in spec.joints]
    vector = Feature("float32", (len(joints),), joints)
    point = Feature("float32", (3,), ["x", "y", "z"])
    features = {"action": vector, "observation.state": vector}
    features |= {IMAGES + name: video_feature(*size) for name, size in cameras.items()}
    features |= {
        "requested_action": vector,
        "skill": Feature("string"),
        "goal.point": point,
        "goal.to": point,
        "time.monotonic": Feature("float64"),
        SUCCESS: Feature("int64"),
    }
    for name in cameras:
        features |= {f"time.{name}": Feature("float64"), REPEATED + name: Feature("bool")}
    return features


def open_recording(
    root: Path | str,
    robot: Robot,
    *,
    cameras: Sequence[str] | None = None,
    fps: float | None = None,
    options: WriterOptions | None = None,
) -> DatasetWriter:
    """A writer for this robot's episodes; ``cameras`` None: all it has; ``fps`` None: its control rate.

    Looks through each camera once, for its size. Raises ``DatasetError`` when the dataset there is another robot's, and
    ``RobotError`` when a camera gives no picture.
    """
    names = tuple(robot.camera_names if cameras is None else cameras)
    if "monotonic" in names:
        raise DatasetError("a camera cannot be called 'monotonic' in a recording; rename it")
    frames = robot.observe(names).frames
    sizes = {name: (frames[name].rgb.shape[0], frames[name].rgb.shape[1]) for name in names}
    return DatasetWriter(
        root,
        fps=robot.control_hz if fps is None else fps,
        robot_type=robot.spec.name,
        features=robot_features(robot.spec, sizes),
        options=options or WriterOptions(),
    )


class Recorder:
    """Turns control steps into rows of the open episode. Does nothing between episodes."""

    def __init__(self, writer: DatasetWriter) -> None:
        """``writer`` must have the features of ``robot_features``."""
        self.writer = writer
        self.cameras = tuple(key.removeprefix(IMAGES) for key in writer.info.video_keys)
        self._episode: EpisodeWriter | None = None
        self._goal: Goal | None = None
        self._stamps: dict[str, float] = {}

    @property
    def recording(self) -> bool:
        """Whether an episode is open."""
        return self._episode is not None

    @property
    def rows(self) -> int:
        """Rows of the open episode."""
        return 0 if self._episode is None else len(self._episode)

    def begin(self, task: str) -> None:
        """Open an episode; ``task`` is what was asked for, in words."""
        self._episode = self.writer.begin(task)
        self._goal = None
        self._stamps = {}

    def aim(self, goal: Goal | None) -> None:
        """From now on the robot acts for this goal; None: for none, as when it goes home."""
        self._goal = goal

    def add(self, observation: Observation, requested: Float, applied: Applied, goal: Goal | None = None) -> None:
        """Add one control step: the observation before it, what was wanted (6,), what was sent.

        Raises ``DatasetError``, and leaves the row out, for a missing picture or values that are not finite.
        """
        if self._episode is None:
            return
        goal = goal or self._goal
        stamps = {**self._stamps, **{name: frame.stamp_s for name, frame in observation.frames.items()}}
        values: dict[str, Any] = {
            "action": applied.q,
            "observation.state": observation.q,
            "requested_action": requested,
            "skill": "" if goal is None else goal.skill,
            "goal.point": np.zeros(3) if goal is None else goal.point,
            "goal.to": np.zeros(3) if goal is None else goal.to,
            "time.monotonic": observation.stamp_s,
            **{f"time.{name}": stamps.get(name, observation.stamp_s) for name in self.cameras},
        }
        frames = {name: frame.rgb for name, frame in observation.frames.items() if name in self.cameras}
        self._episode.add(values, frames)
        self._stamps = stamps

    def on_step(self, step: Step) -> None:
        """For ``PolicyRuntime.run(on_step=...)``, when the policy looks through all recorded cameras itself."""
        self.add(step.observation, step.target, step.applied, step.goal)

    def save(self, success: bool | None = None) -> int:
        """Close the episode and keep it; returns its number. None: nobody judged."""
        if self._episode is None:
            raise DatasetError("no episode is open; begin one first")
        episode, self._episode = self._episode, None
        return episode.save(success)

    def discard(self) -> None:
        """Forget the open episode; safe to call at any time."""
        if self._episode is not None:
            episode, self._episode = self._episode, None
            episode.discard()


class RecordedRobot:
    """A robot that behaves as the one inside while every ``act`` becomes a row.

    As a context manager it closes nothing but the episode: one still open at the end, also after an error, is kept up to
    its last row, as one that nobody judged.
    """

    def __init__(self, robot: Robot, recorder: Recorder) -> None:
        self._robot = robot
        self.recorder = recorder
        self.spec = robot.spec
        self.control_hz = robot.control_hz
        self._fresh: Observation | None = None  # since the last act

    @property
    def camera_names(self) -> Sequence[str]:
        """As the robot's."""
        return self._robot.camera_names

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        """As the robot's."""
        observation = self._robot.observe(cameras)
        if self._fresh is None or set(observation.frames) >= set(self._fresh.frames):
            self._fresh = observation
        return observation

    def act(self, target: Float, *, made_s: float | None = None) -> Applied:
        """As the robot's, and records. Raises ``DatasetError`` after the command was sent."""
        before = self._before() if self.recorder.recording else None
        self._fresh = None
        applied = self._robot.act(target, made_s=made_s)
        if before is not None:
            self.recorder.add(before, target, applied)
        return applied

    def reset_fault(self) -> None:
        """As the robot's."""
        self._robot.reset_fault()

    def close(self) -> None:
        """As the robot's."""
        self._robot.close()

    def _before(self) -> Observation:
        """The observation that the command follows, with the frames of all recorded cameras."""
        wanted, have = self.recorder.cameras, self._fresh
        if have is not None and set(wanted) <= set(have.frames):
            return have
        try:
            return self._robot.observe(wanted)
        except RobotError:
            if self.recorder.writer.options.missing == "error":
                raise
        frames: dict[str, Frame] = {}
        for name in wanted:
            try:
                frames.update(self._robot.observe((name,)).frames)
            except RobotError:  # left out: the writer repeats the picture before and marks it
                continue
        now = self._robot.observe()
        return Observation(now.stamp_s, now.q, now.command, frames)

    def __enter__(self) -> RecordedRobot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.recorder.rows:
            self.recorder.save(None)
        else:
            self.recorder.discard()
