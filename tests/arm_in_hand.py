"""A person at an emulated arm whose time stands still between packets: answers questions with hands on the joints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hardware.calibration.ranges import Sweep
from hardware.calibration.session import Calibrator, Options
from hardware.emulator.emulator import Emulator
from hardware.rig import Rig, load_rig
from hardware.servo.bus import Bus

RISEN = dict.fromkeys(("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"), 0.8) | {
    "gripper": 1.5
}
JAW_MIDDLE = 0.78


def rig_on(arm: Emulator, **port: object) -> Rig:
    rig = load_rig(arm.chain.name)
    return rig.model_copy(update={"bus": rig.bus.model_copy(update={"port": arm.port, **port})})


def bus_of(arm: Emulator) -> Bus:
    rig = rig_on(arm)
    return Bus.open(arm.port, {joint.id: joint.model for joint in rig.joints.values()}, baud=rig.bus.baud)


class Person:
    """Holds the middle pose, moves joints to both ends, holds the third pose; ``answers`` to what is asked besides."""

    def __init__(self, arm: Emulator, **answers: str) -> None:
        self.arm = arm
        self.middle: dict[str, float] = dict.fromkeys(arm.servos, 0.0) | {"gripper": JAW_MIDDLE}
        self.risen = dict(RISEN)
        self.ends: dict[str, tuple[float, float]] = dict.fromkeys(arm.servos, (-4.0, 4.0))
        self.answers = answers
        self.questions: list[str] = []
        self.said: list[str] = []
        self.during: Callable[[str], None] = lambda joint: None  # called when a joint's sweep begins
        self._moves: Iterator[None] | None = None

    def ask(self, question: str, default: str = "") -> str:
        self.questions.append(question)
        if "middle of its range" in question:
            self._hold(self.middle)
        elif question.startswith("Hold this pose"):
            self._hold(self.risen)
        return next((answer for words, answer in self.answers.items() if words in question.replace(" ", "_")), default)

    def watch(self, sweep: Sweep) -> bool:
        if self._moves is None:
            self._moves = self._swing(list(sweep.tracks))
        if next(self._moves, StopIteration) is StopIteration:
            self._moves = None
            return True
        self.arm.advance(0.2)
        return False

    def calibrate(self, folder: Path, rig: Rig | None = None, usb_serial: str = "", **options: object) -> Rig:
        with bus_of(self.arm) as bus:
            chosen = Options(**options)  # type: ignore[arg-type]  # by name, as a test says
            calibrator = Calibrator(
                bus, rig or rig_on(self.arm), ask=self.ask, watch=self.watch, say=self.said.append,
                partial=folder / "unfinished.json", usb_serial=usb_serial, options=chosen, sleep=lambda seconds: None,
            )  # fmt: skip
            self._moves = None
            calibrated = calibrator.run()
            self.written = calibrator.written
            calibrator.done()
        return calibrated

    def _hold(self, pose: Mapping[str, float]) -> None:
        self.arm.hold(pose)
        self.arm.advance(1.0)

    def _swing(self, joints: list[str]) -> Iterator[None]:
        for joint in joints:
            self.during(joint)
            low, high = self.ends[joint]
            for angle in (low, high, self.middle[joint]):
                self.arm.hold({joint: angle})
                yield from [None] * 5
