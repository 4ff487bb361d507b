"""Rows 38 to 46: policies, cameras and clocks that are late, frozen or gone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from lab import STEP, Lab, goals, row, torques, walk

from hardware.cameras import sources
from hardware.cameras.camera import StreamCamera, Viewpoint
from hardware.cameras.devices import Device
from hardware.cameras.errors import CameraError, FrozenCameraError, StaleFrameError, WrongCameraError
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.errors import RobotError
from hardware.rig import CameraConfig, load_rig
from hardware.robot import Observation
from hardware.safety import Applied, Reason
from hardware.serial_arm import SerialArm
from policies.goal import Goal
from policies.policy import Chunk
from policies.runtime import PolicyRuntime, RuntimeOptions
from sim.robot import SimRobot
from sim.scene import Scene
from sim.world import World

GOAL = Goal("reach", np.array([0.2, 0.0, 0.0]), np.array([0.2, 0.0, 0.0]))


class Creeping:
    """A policy that wants a small step more at every step; ``before`` is called first and may do anything."""

    name = "creeping"
    control_hz = 20.0

    def __init__(
        self, before: Callable[[int], None] = lambda step: None, horizon: int = 1, cameras: tuple[str, ...] = ()
    ) -> None:
        self.before, self.horizon, self.cameras, self.steps = before, horizon, cameras, 0

    def reset(self) -> None:
        self.steps = 0

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        self.before(self.steps)
        self.steps += 1
        return Chunk(observation.command + STEP * np.arange(1, self.horizon + 1)[:, None], 0.0)


@row(38, "the policy stalls")
def policy_stalls(lab: Lab, on: bool) -> None:
    """In real time: the goals on the bus come to rest when no command comes, and the answer that took too long is latched."""
    with Emulator("so101") as servos:
        rig = nominal(load_rig("so101"), servos.port)
        patient = rig.bus.model_copy(update={"silence_s": 2.0, "rate_hz": 50.0})
        with SerialArm.open(rig.model_copy(update={"bus": patient}), control_hz=10.0) as arm:
            resting: list[bool] = []

            def stall(step: int) -> None:
                if step == 4 and on:
                    time.sleep(0.5)
                    before = goals(servos)
                    time.sleep(0.3)
                    resting.append(goals(servos) == before)

            before = goals(servos)
            result = PolicyRuntime(Creeping(stall)).run(arm, GOAL, timeout_s=0.8)
            assert goals(servos) != before and set(torques(servos).values()) == {1}  # HOLD: it did not fall
            assert resting == ([True] if on else [])
            assert result.steps == 8 and arm.fault == (Reason.STALE.value if on else None)
            assert arm.observe().command[:5] == pytest.approx((4 if on else 8) * STEP[:5], abs=0.03)  # no catching up
            if on:
                arm.reset_fault()
                held = arm.observe().command
                assert arm.act(held + STEP).verdict == "pass"
    _policy_beside_the_loop_stalls(lab, on)


def _policy_beside_the_loop_stalls(lab: Lab, on: bool) -> None:
    """A policy that thinks while the control loop goes on: its newest command is sent in every period, with its age."""
    with lab.arm(control_hz=25.0) as (servos, arm):

        def drive(*, without_news: int) -> list[Applied]:
            seen, applied = arm.observe(), []
            for _ in range(without_news + 1):
                if not on:
                    seen = arm.observe()
                applied.append(arm.act(seen.command + STEP, made_s=seen.stamp_s))
            return applied

        def stale(applied: list[Applied]) -> int:
            return sum(Reason.STALE in one.reasons for one in applied)

        assert stale(drive(without_news=0)) == 0
        before = goals(servos)
        assert stale(drive(without_news=2)) == 0 and goals(servos) != before  # 0.08 s old at the end: still obeyed
        assert stale(drive(without_news=10)) == (8 if on else 0)  # HOLD from 0.12 to 0.4 s ..
        assert arm.fault is None and drive(without_news=0)[0].verdict == "pass"  # .. until there is news
        assert stale(drive(without_news=13)) == (11 if on else 0)  # the last one is 0.52 s old
        assert (arm.fault == Reason.STALE.value) == on and set(torques(servos).values()) == {1}
        held = goals(servos)
        assert (drive(without_news=0)[0].verdict == "reject") == on and (goals(servos) == held) == on
        if on:
            arm.reset_fault()
        for _ in range(100):
            arm.refresh()  # someone thinks for four seconds and sends nothing: no old command, and no fault
        assert arm.act(arm.observe().command + STEP).verdict == "pass" and arm.fault is None


class PolicyBrokeError(Exception):
    """What a policy of the tests raises."""


@row(39, "the policy raises an error")
def policy_raises(lab: Lab, on: bool) -> None:
    def fail(step: int) -> None:
        if on and step == 4:
            raise PolicyBrokeError("weights are gone")

    with lab.arm() as (servos, arm):
        policy = Creeping(fail)
        if on:
            with pytest.raises(PolicyBrokeError):
                PolicyRuntime(policy).run(arm, GOAL, timeout_s=0.5)
        else:
            assert PolicyRuntime(policy).run(arm, GOAL, timeout_s=0.5).reason == "timeout"
        assert set(torques(servos).values()) == {1}  # HOLD: the arm does not fall
        held, angles = goals(servos), servos.angles()
        servos.advance(1.0)
        assert goals(servos) == held
        assert servos.angles() == pytest.approx(angles, abs=0.05)  # the rest of one step


@row(40, "a chunk of actions goes on after its observation is out of date")
def stale_chunk(lab: Lab, on: bool) -> None:
    class Cut(PolicyBrokeError):
        """The connection to the policy is lost."""

    def cut(step: int) -> None:
        if on and step == 3:
            raise Cut

    for mode in ("ensemble", "receding"):
        with lab.arm() as (servos, arm):
            policy = Creeping(cut, horizon=50)  # two and a half seconds of motion are in every chunk
            runtime = PolicyRuntime(policy, RuntimeOptions(mode=mode, execute=2))  # type: ignore[arg-type]
            if on:
                with pytest.raises(Cut):
                    runtime.run(arm, GOAL, timeout_s=0.5)
                assert policy.steps == 3
                cycle, held = arm.snapshot.cycle, goals(servos)
                servos.advance(1.0)
                assert arm.snapshot.cycle == cycle and goals(servos) == held  # nothing plays the rest of the chunk
            else:
                assert runtime.run(arm, GOAL, timeout_s=0.5).steps == policy.steps == 10


class Pictures:
    """A camera at the level of its driver, a hundred noisy pictures a second. ``trouble`` says what it does wrong."""

    def __init__(self) -> None:
        self.trouble = ""
        self._rng = np.random.default_rng(0)
        self._base = self._rng.integers(60, 200, (48, 64, 3))
        self._last = self._base.astype(np.uint8)

    def read(self) -> tuple[np.ndarray, float] | None:
        """The next picture, BGR, and when it was taken."""
        time.sleep(0.01)
        if self.trouble == "unplugged":
            return None
        if self.trouble == "stalled":
            time.sleep(0.4)
            return None
        if self.trouble != "frozen":
            self._last = np.clip(self._base + self._rng.integers(-3, 4, self._base.shape), 0, 255).astype(np.uint8)
        picture = self._last.copy()
        if self.trouble == "black":
            picture //= 40
        elif self.trouble == "white":
            picture[:] = 255
        elif self.trouble == "torn":
            picture[30:] = 128
        return picture, time.monotonic()

    def close(self) -> None:
        """Nothing to release."""


_SEEN = CameraConfig(source="none", width=64, height=48, intrinsics=[60.0, 60.0, 32.0, 24.0], pose=np.eye(4).tolist())


def _watched(lab: Lab, trouble: str, error: type[CameraError]) -> None:
    """A policy that looks through a camera which goes wrong: an exception instead of a picture, and the arm holds."""
    source = Pictures()
    front = StreamCamera("front", lambda: source, Viewpoint("front", _SEEN), max_age_s=0.2)
    with front as camera, lab.arm(cameras={"front": camera}) as (servos, arm):

        def go_wrong(step: int) -> None:
            if step == 3 and lab.on:
                source.trouble = trouble
                time.sleep(0.35)
            elif not lab.on:
                camera.next_shot(0)

        policy = Creeping(go_wrong, cameras=("front",))
        if not lab.on:
            camera.max_age_s = 2.0  # a busy machine is not a bad camera
            assert PolicyRuntime(policy).run(arm, GOAL, timeout_s=0.5).steps == 10
            return
        with pytest.raises(error, match="front"):
            PolicyRuntime(policy).run(arm, GOAL, timeout_s=5.0)
        assert policy.steps <= 5
        assert set(torques(servos).values()) == {1}
        held = goals(servos)
        servos.advance(0.5)
        assert goals(servos) == held
        source.trouble = ""  # it comes back by itself; the arm does not go on by itself
        assert goals(servos) == held


@row(41, "an observation is out of date")
def stale_observation(lab: Lab, on: bool) -> None:
    _watched(lab, "stalled", StaleFrameError)
    with lab.arm(latency_s=0.03) as (servos, arm):
        walk(arm, 2)
        if not on:
            assert arm.observe().stamp_s == pytest.approx(arm.snapshot.stamp_s, abs=0.001)
            return
        servos.inject("mute")
        with pytest.raises(RobotError, match="no answer|no fresh reading"):  # and not the old joint angles
            PolicyRuntime(Creeping()).run(arm, GOAL, timeout_s=5.0)


@row(42, "a camera freezes: the same picture with new time stamps")
def frozen(lab: Lab, on: bool) -> None:
    _watched(lab, "frozen", FrozenCameraError)


@row(43, "pictures are black, overexposed or torn")
def bad_pictures(lab: Lab, on: bool) -> None:
    for trouble in ("black", "white", "torn") if on else ("black",):
        _watched(lab, trouble, CameraError)


@row(44, "a camera is unplugged, or another one is in its place")
def no_camera(lab: Lab, on: bool) -> None:
    _watched(lab, "unplugged", CameraError)
    config = _SEEN.model_copy(update={"source": "/dev/video0", "usb_id": "046d:0825:9A32"})
    there = Device("/dev/video0", "Webcam", usb_id="1bcf:2c87:77" if on else "046d:0825:9A32")
    node = lab.tmp / "dev" / "video0"
    node.parent.mkdir()
    node.touch()
    lab.patch.setattr(sources, "device_at", lambda path, root: there)
    opened: list[str] = []

    def capture(path: str) -> _Capture:
        opened.append(path)
        return _Capture()

    open_device = sources.DeviceOpener(config, open_capture=capture, root=lab.tmp)
    if on:
        with pytest.raises(WrongCameraError, match="1bcf:2c87:77.*not the camera 046d:0825:9A32"):
            open_device()
    else:
        open_device()
    assert bool(opened) != on


class _Capture:
    """OpenCV's capture of a device that is there."""

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((48, 64, 3), np.uint8)

    def set(self, prop: int, value: float) -> bool:
        return True

    def get(self, prop: int) -> float:
        return 0.0

    def release(self) -> None: ...


@row(45, "the control loop runs late")
def late_loop(lab: Lab, on: bool) -> None:
    with Emulator("so101") as servos:
        rig = nominal(load_rig("so101"), servos.port)
        patient = rig.bus.model_copy(update={"silence_s": 2.0, "rate_hz": 50.0})
        with SerialArm.open(rig.model_copy(update={"bus": patient}), control_hz=4.0) as arm:
            walk(arm, 1)
            before = arm.overruns
            began = arm.observe().stamp_s
            for _ in range(3):
                if on:
                    time.sleep(0.6)
                walk(arm, 1)
            assert (arm.overruns - before >= 2) == on  # counted, and told by `snapshot` and `overruns`
            assert (arm.observe().stamp_s - began > 1.5) == on
            assert np.abs(arm.observe().q[:5] - arm.observe().command[:5]).max() < 0.1  # no catching up by a long step


@row(46, "the simulation diverges")
def diverged(lab: Lab, on: bool) -> None:
    world = World(Scene())
    try:
        robot = SimRobot(world)
        robot.act(robot.observe().command)

        def burst(step: int) -> None:
            if on and step == 3:
                world.reset_arm(np.full(6, np.nan))

        result = PolicyRuntime(Creeping(burst)).run(robot, GOAL, timeout_s=2.0)
        assert (result.reason == "fault") == on and not result.done
        assert (robot.fault is not None) == on
        assert np.all(np.isfinite(robot.observe().command)) and np.all(np.isfinite(world.arm_target))
        assert np.all(np.isfinite(robot.observe().q)) != on
    finally:
        world.close()
