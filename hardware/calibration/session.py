"""Calibrating an arm on its bus: three steps by hand, each of which survives a power cut.

1. *Pose*: every joint is held about in its middle; the servos get the homing offset that makes this count 2047.
2. *Sweep*: every joint is moved to both of its ends.
3. *Direction*: one pose in which every joint's angle has risen tells which way it counts.

Then the ranges become the servos' own limits and the calibration becomes part of the rig. Nothing here moves the arm:
torque is switched off first and stays off. EEPROM is written only where a value differs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware import handshake
from hardware.asking import Ask, confirmed
from hardware.calibration.partial import Partial, load_partial
from hardware.calibration.ranges import TURN, Sweep
from hardware.calibration.same_arm import check_servos
from hardware.calibration.solve import (
    HALF_TURN,
    POSITIVE,
    CalibrationError,
    Doubt,
    direction_of,
    doubt_offset,
    doubt_range,
    encoder,
    homing_offset,
    solve,
    swept_joints,
    told,
)
from hardware.rig import Calibration, Rig
from hardware.servo.bus import Bus
from hardware.servo.port import BusError

_STILL_COUNTS = 40  # a hand that holds a pose trembles less than this, 3.5 degrees
_SAMPLES = 5
_PAUSE_S = 0.02
_SILENT_S = 1.0
_SAVE_S = 1.0
_TRIES = 3  # how often a pose is asked for again
_MULTI_TURN_PHASE = 0x10  # STS: feedback over several turns, which no homing offset can tame

#: Called with the sweep in every cycle; True ends it.
Watch = Callable[[Sweep], bool]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How a calibration is done."""

    restart: bool = False  # forget an unfinished calibration
    mirrored: tuple[str, ...] = ()  # joints that are known to count backwards


class Calibrator:
    """One calibration of one arm. ``run`` returns the calibrated rig; the caller saves it and then calls ``done``."""

    def __init__(
        self, bus: Bus, rig: Rig, *, ask: Ask, watch: Watch, say: Say, partial: Path, usb_serial: str = "",
        options: Options | None = None, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.bus, self.rig = bus, rig
        self.written: list[str] = []  # 'joint.register' of what had to be written
        self._ask, self._watch, self._say = ask, watch, say
        self._path = partial
        self._usb_serial = usb_serial
        self._options = options or Options()
        self._sleep = sleep
        self._ids = {name: joint.id for name, joint in rig.joints.items()}
        self._names = {id_: name for name, id_ in self._ids.items()}

    def run(self) -> Rig:
        """All steps that are still to be done. Raises ``CalibrationError`` or ``BusError``; what was done is kept."""
        found = handshake.identify(self.bus, self.rig)
        servos = {name: (identity.id, identity.model_number) for name, identity in found.items()}
        try:
            self._state = self._resumed(servos)
            self._limp()
            self._pose()
            self._sweep()
            self._direction()
            return self._finished()
        except BusError as error:
            kept = f" What was done is kept in {self._path}: run the same command again." if self._path.exists() else ""
            raise type(error)(f"{error}.{kept}" if kept else str(error)) from error

    def done(self) -> None:
        """The result is safe: the unfinished calibration is not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    # ---- before the steps

    def _resumed(self, servos: dict[str, tuple[int, int]]) -> Partial:
        """The unfinished calibration of this arm, less what the servos have forgotten; or a new one."""
        new = Partial(self.rig.arm, self._usb_serial, servos)
        if self._options.restart:
            return new
        state = load_partial(self._path)
        if state is None:
            return new
        check_servos(self.rig, state.servos, f"the unfinished calibration {self._path}")
        if state.usb_serial != self._usb_serial:
            raise CalibrationError(
                f"the unfinished calibration {self._path} was begun with the arm on adapter {state.usb_serial or '(none)'}, "
                f"this is {self._usb_serial or '(none)'}; plug that one in, or begin anew with --restart"
            )
        for name, offset in list(state.offsets.items()):
            if self.bus.read(self._ids[name], "homing_offset") != offset:
                state.forget(name, "pose")
        self._say(f"Going on with the calibration begun in {self._path}; --restart begins anew.")
        return state

    def _limp(self) -> None:
        self._ask("Support the arm: its joints become limp now. Press Enter")
        failed = self.bus.torque_off()
        if failed:
            raise BusError(f"torque does not go off: {'; '.join(failed.values())}. Switch the arm's power off and on")
        for name, joint in self.rig.joints.items():
            if "operating_mode" in joint.settings:  # what an offset means depends on it
                self._ensure(name, "operating_mode", joint.settings["operating_mode"])
            if joint.model.protocol == "feetech":
                phase = self.bus.read(joint.id, "phase")
                self._ensure(name, "phase", phase & ~_MULTI_TURN_PHASE)
                if self.bus.read(joint.id, "min_position") == self.bus.read(joint.id, "max_position"):
                    self._ensure(name, "max_position", TURN - 1)  # both 0: several turns

    # ---- the steps

    def _pose(self) -> None:
        todo = [name for name in self.rig.joints if name not in self._state.offsets]
        if not todo:
            return
        counts, offsets = self._middle(todo)
        for name in todo:
            self._ensure(name, "homing_offset", offsets[name])
            now = self.bus.read(self._ids[name], "present_position")
            off = (now - HALF_TURN + TURN // 2) % TURN - TURN // 2
            if abs(off) > 2 * _STILL_COUNTS:
                raise CalibrationError(
                    f"{name} tells {now} after its homing offset was set, not about {HALF_TURN}; was it moved? Hold it in "
                    "its middle and run the same command again"
                )
            self._state.offsets[name] = offsets[name]
            self._save()
        self._say("Middle pose: " + ", ".join(f"{name} {counts[name]}" for name in todo))

    def _middle(self, todo: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Encoder counts in the middle pose, and the homing offsets that follow."""
        doubts: list[Doubt] = []
        for _ in range(_TRIES):
            self._ask(f"Hold every joint in the middle of its range ({', '.join(todo)}) and press Enter")
            present = self._still(todo)
            if present is None:
                continue
            raw, offsets = {}, {}
            for name in todo:
                joint = self.rig.joints[name]
                raw[name] = encoder(joint.model, present[name], self.bus.read(joint.id, "homing_offset"))
                offsets[name] = homing_offset(joint.model, raw[name])
            doubts = [d for name in todo if (d := doubt_offset(name, self.rig.joints[name], offsets[name]))]
            if not doubts:
                return raw, offsets
            self._say(told(doubts))
        raise CalibrationError(told(doubts) or "the arm was not held still; support it well and run the command again")

    def _sweep(self) -> None:
        todo = [name for name in swept_joints(self.rig) if name not in self._state.swept]
        if not todo:
            return
        self._say(f"Move these joints to both of their ends, one after the other: {', '.join(todo)}")
        sweep = Sweep(todo, {name: ends for name, ends in self._state.ends.items() if name in todo})
        try:
            for now in self._cycles(todo, sweep):
                if self._watch(sweep):
                    break
                if now:
                    self._keep(sweep)
        finally:
            self._keep(sweep)
        doubts = [d for name in todo if (d := doubt_range(self.rig.spec, name, sweep.ends.get(name)))]
        doubtful = {d.joint for d in doubts}
        self._state.swept += [name for name in todo if name not in doubtful]
        self._settle(doubts)

    def _cycles(self, todo: Sequence[str], sweep: Sweep) -> Iterator[bool]:
        """Read positions for ever; tells when it is time to save. Raises ``BusError`` when a servo stays silent."""
        ids = [self._ids[name] for name in todo]
        heard = dict.fromkeys(ids, time.monotonic())
        saved = sweep.news_s = time.monotonic()
        while True:
            positions = self.bus.read_all("present_position", ids)
            now = time.monotonic()
            heard.update(dict.fromkeys(positions, now))
            silent = [self._names[id_] for id_ in ids if now - heard[id_] > _SILENT_S]
            if silent:
                raise BusError(f"{', '.join(silent)}: no answer any more; check power and cables")
            sweep.add({self._names[id_]: count for id_, count in positions.items()}, now)
            due = now - saved > _SAVE_S and sweep.news_s > saved
            saved = now if due else saved
            yield due
            self._sleep(_PAUSE_S / 4)

    def _keep(self, sweep: Sweep) -> None:
        self._state.ends.update(sweep.ends)
        self._save()

    def _settle(self, doubts: Sequence[Doubt]) -> None:
        """Let the user confirm what may be meant so; forget what is wrong. Raises ``CalibrationError`` for that."""
        wrong = []
        for doubt in doubts:
            if not doubt.fatal and confirmed(self._ask, f"{doubt} Keep it?"):
                self._state.swept.append(doubt.joint)
            else:
                wrong.append(doubt)
                self._state.forget(doubt.joint, doubt.step)
        self._save()
        if wrong:
            raise CalibrationError(f"{told(wrong)}. The other joints are kept; run the same command again for these")

    def _direction(self) -> None:
        todo = [name for name in self.rig.joints if name not in self._state.directions]
        if not todo:
            return
        where = "; ".join(f"{name}: {POSITIVE.get(name, 'where its angle has risen')}" for name in todo)
        for _ in range(_TRIES):
            self._ask(f"Hold this pose, each joint at least 30 degrees from its middle, and press Enter. {where}")
            counts = self._still(todo)
            if counts is None:
                continue
            for name in todo:
                direction = direction_of(self.rig.spec, name, self._state.ends.get(name), counts[name])
                if direction is not None:
                    self._state.directions[name] = direction
            todo = [name for name in todo if name not in self._state.directions]
            if not todo:
                break
            self._say(f"Too near to the middle to tell: {', '.join(todo)}")
        if todo:
            raise CalibrationError(f"{', '.join(todo)}: not moved in the third step; run the same command again")
        self._confirm_directions()
        self._save()

    def _confirm_directions(self) -> None:
        """Arms built as their makers say count upwards; the gripper may be mounted either way."""
        for name, direction in list(self._state.directions.items()):
            if direction > 0 or name == "gripper" or name in self._options.mirrored:
                continue
            doubt = Doubt(
                name, "its count falls where it should rise: was the pose right, and is the motor the right way around?",
                fatal=False, step="direction",
            )  # fmt: skip
            if not confirmed(self._ask, f"{doubt} Is it mounted mirrored?"):
                self._state.forget(name, "direction")
                self._save()
                raise CalibrationError(f"{doubt} Correct it, or confirm it with --mirrored {name}")

    def _finished(self) -> Rig:
        found: dict[str, Calibration] = {}
        for name in self.rig.joints:
            direction: Literal[1, -1] = 1 if self._state.directions[name] > 0 else -1
            ends = self._state.ends.get(name)
            found[name] = solve(self.rig.spec, name, ends, direction, self._state.offsets[name])
        if self.rig.role == "follower":
            for name, c in found.items():
                self._ensure(name, "min_position", c.min)
                self._ensure(name, "max_position", c.max)
        update: dict[str, object] = {"port": self.rig.bus.port}
        if self._usb_serial:
            update["usb_serial"] = self._usb_serial
        rig = self.rig.model_copy(update={"bus": self.rig.bus.model_copy(update=update)})
        return rig.with_calibration(found).stamped(self._usb_serial)

    # ---- the bus

    def _still(self, todo: Sequence[str]) -> dict[str, int] | None:
        """Counts by joint while the arm is held; None, and a word about it, when it moves."""
        samples: list[dict[str, int]] = []
        for _ in range(_SAMPLES):
            samples.append({name: self.bus.read(self._ids[name], "present_position") for name in todo})
            self._sleep(_PAUSE_S)
        moving = [name for name in todo if _spread([sample[name] for sample in samples]) > _STILL_COUNTS]
        if moving:
            self._say(f"Still moving: {', '.join(moving)}")
            return None
        return samples[-1]

    def _ensure(self, name: str, register: str, value: int) -> None:
        if self.bus.ensure(self._ids[name], register, value):
            self.written.append(f"{name}.{register}")

    def _save(self) -> None:
        self._state.save(self._path)


def _spread(counts: Sequence[int]) -> int:
    """How far counts lie apart, over the encoder's end if need be."""
    away = [(count - counts[0] + TURN // 2) % TURN - TURN // 2 for count in counts]
    return max(away) - min(away)
