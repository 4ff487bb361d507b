"""Recording what an agent or a person makes a robot do, as episodes of a LeRobot dataset.

``policies.recorder`` writes the rows; here is what a run on a robot adds: an episode around each instruction, the goal of
each skill, the verdict at the end, and what happens when the disk is full. Then the error leaves ``act`` after the command was
sent: nothing more is sent, so the arm holds, and whoever runs the robot says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embodied.executor import SkillRunner
from hardware.robot import Observation, Robot
from hardware.safety import Applied
from policies.dataset.layout import DatasetError
from policies.dataset.writer import DatasetWriter, WriterOptions
from policies.goal import Goal
from policies.recorder import RecordedRobot, Recorder, open_recording
from policies.runtime import SkillResult, Step

Float = NDArray[np.float64]

#: A camera that misses a picture must not end an episode on a real arm: the one before is repeated, and marked.
_PATIENT = WriterOptions(missing="repeat")


def open_dataset(root: Path | str, robot: Robot, *, fps: float | None = None) -> DatasetWriter:
    """As ``open_recording`` with all cameras; a picture that does not come is the one before again."""
    return open_recording(root, robot, fps=fps, options=_PATIENT)


class AgentRecording:
    """The dataset into which an agent's episodes go, one per instruction that leads to motion."""

    def __init__(self, root: Path | str) -> None:
        """The dataset is opened with the first episode, when the robot is known."""
        self.root = Path(root)
        self.saved = 0  # episodes, by this object
        self._writer: DatasetWriter | None = None
        self._recorder: Recorder | None = None

    def open(self, robot: Robot) -> None:
        """Make or open the dataset now, so that what prevents it is told before anything moves. Raises ``DatasetError``."""
        if self._writer is None:
            self._writer = open_dataset(self.root, robot)

    def begin(self, robot: Robot, task: str, stack: ExitStack) -> tuple[Robot, Recorder]:
        """A robot whose every ``act`` becomes a row of a new episode. What ends the stack early keeps the rows so far.

        Raises ``DatasetError``, as when the disk is full.
        """
        self.open(robot)
        if self._writer is None:
            raise DatasetError(f"the dataset {self.root} is not open")
        self._recorder = Recorder(self._writer)
        self._recorder.begin(task)
        return stack.enter_context(RecordedRobot(robot, self._recorder)), self._recorder

    def end(self, success: bool | None) -> None:
        """Keep the episode with the verdict on it; an episode without a motion is none. Raises ``DatasetError``."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        if not recorder.rows:
            recorder.discard()
            return
        recorder.save(success)
        self.saved += 1

    def drop(self) -> None:
        """Forget the open episode."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.discard()

    def close(self) -> None:
        """Release the dataset; safe to call twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class AimedRunner:
    """A runner that tells the recorder which goal the robot acts for."""

    def __init__(self, runner: SkillRunner, recorder: Recorder) -> None:
        self._runner = runner
        self._recorder = recorder

    def run(
        self,
        robot: Robot,
        goal: Goal,
        *,
        timeout_s: float | None = None,
        on_step: Callable[[Step], bool | None] | None = None,
    ) -> SkillResult:
        """As the runner's inside."""
        self._recorder.aim(goal)
        try:
            return self._runner.run(robot, goal, timeout_s=timeout_s, on_step=on_step)
        finally:
            self._recorder.aim(None)


class Takes:
    """A person's recordings: begin a take, end it, then keep or discard it.

    Commands may come at a higher rate than rows: a row holds the observation at its beginning and the last command before
    the next row's, so a policy at the dataset's rate learns what leads from one row to the next.
    """

    def __init__(self, writer: DatasetWriter, task: str, control_hz: float) -> None:
        """Raises ``DatasetError`` when the control rate is no multiple of the dataset's."""
        self.every = round(control_hz / writer.info.fps)
        if abs(self.every * writer.info.fps - control_hz) > 1e-6:
            raise DatasetError(
                f"commands at {control_hz:g} Hz cannot be recorded at {writer.info.fps:g} rows per second; choose a rate "
                f"that is a multiple, such as {3 * writer.info.fps:g}"
            )
        self.recorder = Recorder(writer)
        self.task = task
        self.running = False  # rows are being added
        self.kept = self.discarded = 0

    @property
    def cameras(self) -> Sequence[str]:
        """The cameras that belong to a row."""
        return self.recorder.cameras

    @property
    def pending(self) -> bool:
        """A take has ended and waits for a decision."""
        return self.recorder.recording and not self.running

    def toggle(self) -> str:
        """Begin a take, or end the one that runs; says what happened. Raises ``DatasetError``."""
        if self.running:
            self.running = False
            if not self.recorder.rows:
                self.recorder.discard()
                return "an empty take; nothing to keep"
            return f"take of {self.recorder.rows} rows ended: k keeps it, n keeps it as a failure, d discards it"
        if self.pending:
            return "decide about the last take first: k keeps it, n keeps it as a failure, d discards it"
        self.recorder.begin(self.task)
        self.running = True
        return f"recording: {self.task}"

    def add(self, seen: Observation, wanted: Float, applied: Applied) -> None:
        """A row of the take that runs. Raises ``DatasetError``; the take has ended then, and is lost on a full disk."""
        try:
            self.recorder.add(seen, wanted, applied)
        except DatasetError:
            self.running = False
            if self.recorder.writer.current is None:
                self.recorder.discard()
            raise

    def decide(self, keep: bool, success: bool | None = None) -> str:
        """Keep or discard the take that runs or has ended; says what happened. Raises ``DatasetError``."""
        self.running = False
        if not self.recorder.recording:
            return "there is no take; s begins one"
        rows = self.recorder.rows
        if not keep or not rows:
            self.recorder.discard()
            self.discarded += 1
            return "take discarded"
        number = self.recorder.save(success)
        self.kept += 1
        return f"take kept as episode {number}, {rows} rows"

    def close(self) -> None:
        """A take that nobody decided about is kept, as one that nobody judged. Raises ``DatasetError``."""
        if self.recorder.recording:
            self.decide(keep=True)
