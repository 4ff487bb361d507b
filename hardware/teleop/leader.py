"""A leader arm: a second arm that a hand moves, and whose pose the follower takes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.errors import RobotError
from hardware.rig import Rig, RigError, load_rig
from hardware.serial_arm import SerialArm
from hardware.teleop.device import DeviceLost, Reading

Float = NDArray[np.float64]

#: A leader has no torque, so its silence is no danger before the follower's session thinks so; a fault of the arm itself
#: would have to be reset after every pause of this computer.
_SILENCE_S = 0.5


class LeaderArm:
    """A ``Device`` over a rig file whose role is leader. Its torque stays off; it is only read."""

    def __init__(self, rig: Rig, *, port: str | None = None) -> None:
        """Opens it; ``port`` overrides the file's. Raises what ``SerialArm.open`` raises, ``RigError`` for a follower."""
        if rig.role != "leader":
            raise RigError(
                f"{rig.name} is a follower, which is commanded and not moved by hand; name a leader's rig file"
            )
        self.name = f"leader {rig.name}"
        patient = {"silence_s": max(_SILENCE_S, rig.bus.silence_s)}
        self._rig, self._port = rig.model_copy(update={"bus": rig.bus.model_copy(update=patient)}), port
        self._arm: SerialArm | None = SerialArm.open(self._rig, port=port)

    @property
    def arm(self) -> SerialArm:
        """The arm that is read. Raises ``DeviceLost`` while it is unplugged."""
        if self._arm is None:
            raise DeviceLost(f"{self.name} is gone; plug it in again")
        return self._arm

    def read(self) -> Reading:
        """Its pose and the age of that."""
        fault = self.arm.fault
        if fault is not None:
            raise DeviceLost(f"{self.name}: {fault}")
        try:
            states = self.arm.joint_states()
        except RobotError as error:
            raise DeviceLost(f"{self.name}: {error}") from error
        q = np.array([states[joint].q for joint in self.arm.spec.joints])
        return Reading(pose=q, age_s=max(state.age_s for state in states.values()))

    def reopen(self) -> None:
        """Open it again after its cable was pulled, or forget that a servo did not answer."""
        if self._arm is not None:
            if self._arm.fault is None:
                return
            with contextlib.suppress(RobotError):
                self._arm.reset_fault()
                return
            self._release()
        self._arm = SerialArm.open(self._rig, port=self._port)

    def close(self) -> None:
        """Release its port."""
        self._release()

    def _release(self) -> None:
        arm, self._arm = self._arm, None
        if arm is not None:
            with contextlib.suppress(RobotError):  # it had no torque; there is nothing that may still hold
                arm.close()


class EmulatedLeader(LeaderArm):
    """An emulated leader and an emulated hand that moves it to and fro: to try teleoperation without a second arm.

    ``hand`` gives the pose (6,) at a time in s; by default slow waves of all joints around the arm's middle.
    """

    def __init__(
        self,
        rig: str = "so101_leader",
        *,
        hand: Callable[[float], Float] | None = None,
        emulator: Emulator | None = None,
    ) -> None:
        """``emulator``: another one that is running already. Raises ``RobotError`` for an unknown rig."""
        template = load_rig(rig)
        self.emulator = emulator if emulator is not None else Emulator(rig).start()
        self._begun_s = self.emulator.time_s
        self._hand = hand if hand is not None else self._waves
        self._spec = template.spec
        try:
            self.emulator.follow(self._angles)
            super().__init__(nominal(template, self.emulator.port))
        except BaseException:
            self.emulator.close()
            raise

    def close(self) -> None:
        """Release port and emulator."""
        super().close()
        self.emulator.close()

    def _angles(self, time_s: float) -> dict[str, float]:
        q = self._spec.clip(self._hand(time_s - self._begun_s))
        angles = dict(zip(self._spec.joints, map(float, q), strict=True))
        angles[self._spec.joints[-1]] = self._spec.jaw_angle(float(q[5]))
        return angles

    def _waves(self, at_s: float) -> Float:
        middle = 0.5 * (self._spec.home + 0.5 * (self._spec.lower + self._spec.upper))
        phase = 2.0 * math.pi * 0.25 * at_s + np.arange(6)
        return np.asarray(middle + 0.2 * np.sin(phase))
