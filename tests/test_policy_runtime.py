"""The runtime: how chunks become commands, and how a skill ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pytest
import torch

from embodied.video import FilmedRobot, VideoWriter
from hardware.arm_spec import SO101, ArmSpec
from hardware.emulator.chains import nominal
from hardware.emulator.emulator import Emulator
from hardware.rig import load_rig
from hardware.robot import Observation, Robot
from hardware.safety import Applied, Reason
from hardware.serial_arm import SerialArm
from policies.checkpoint import SHIPPED, load_policy
from policies.goal import Goal
from policies.images import Eyes, SeeingRobot
from policies.point import PointConfig, PointNetwork, PointPolicy
from policies.policy import Chunk, Policy
from policies.recorder import RecordedRobot, Recorder
from policies.runtime import ChunkBlender, PolicyRuntime, RuntimeOptions, SkillResult, Step
from policies.skills import Skill
from sim.robot import SimRobot
from sim.scene import Scene
from sim.twin import EmulatedRobot
from sim.world import World

GOAL = Goal("reach", np.array([0.2, 0.0, 0.0]), np.array([0.2, 0.0, 0.0]))


class StillRobot:
    """Obeys at once; refuses everything when told to."""

    spec: ArmSpec = SO101
    control_hz = 20.0
    camera_names: Sequence[str] = ()

    def __init__(self, refuse: bool = False) -> None:
        self.q = SO101.home.copy()
        self.refuse = refuse
        self.sent: list[np.ndarray] = []
        self.made: list[float | None] = []

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        return Observation(0.05 * len(self.sent), self.q.copy(), self.q.copy())

    def act(self, target: np.ndarray, *, made_s: float | None = None) -> Applied:
        self.sent.append(target)
        self.made.append(made_s)
        if self.refuse:
            return Applied(self.q.copy(), "reject", (Reason.LATCHED,))
        self.q = target.copy()
        return Applied(target, "pass")

    def reset_fault(self) -> None: ...

    def close(self) -> None: ...


class CountingPolicy:
    """Chunk t holds t, t + 0.1, t + 0.2, ... for every joint; done as scripted."""

    name = "counting"
    control_hz = 20.0
    cameras: tuple[str, ...] = ()

    def __init__(self, done: Callable[[int], float] = lambda step: 0.0, horizon: int = 6) -> None:
        self.done, self.horizon, self.step, self.resets = done, horizon, -1, 0

    def reset(self) -> None:
        self.step, self.resets = -1, self.resets + 1

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        self.step += 1
        column = self.step + 0.1 * np.arange(self.horizon)
        return Chunk(np.repeat(column[:, None], 6, axis=1), self.done(self.step))


def test_the_stand_ins_fulfil_the_protocols() -> None:
    assert isinstance(StillRobot(), Robot)
    assert isinstance(CountingPolicy(), Policy)
    assert isinstance(PointPolicy(PointNetwork(PointConfig(width=8, layers=1))), Policy)


@pytest.mark.parametrize(
    ("execute", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 0.1, 2, 2.1, 4]), (3, [0, 0.1, 0.2, 3, 3.1])]
)
def test_receding_horizon_executes_the_first_steps_of_a_chunk(execute: int, expected: list[float]) -> None:
    robot = StillRobot()
    options = RuntimeOptions(mode="receding", execute=execute)
    PolicyRuntime(CountingPolicy(), options).run(robot, GOAL, timeout_s=0.25)
    assert [sent[0] for sent in robot.sent] == pytest.approx(expected)


def test_ensembling_is_the_weighted_mean_of_what_chunks_say_about_now() -> None:
    options = RuntimeOptions(mode="ensemble", decay=0.5)
    blender, policy = ChunkBlender(options), CountingPolicy(horizon=3)
    got = [blender.next(policy.act(StillRobot().observe(), GOAL))[0] for _ in range(5)]
    votes = np.array([4.0, 3.1, 2.2])  # the newest chunk's first entry, last step's second, the third of the one before
    weights = np.exp(-0.5 * np.arange(3))
    assert got[0] == 0.0
    assert got[4] == pytest.approx(votes @ weights / weights.sum())


def test_done_must_last() -> None:
    flickering = CountingPolicy(lambda step: 0.9 if step in (2, 3, 7, 8, 9) else 0.1)
    robot = StillRobot()
    result = PolicyRuntime(flickering, RuntimeOptions(done_steps=3)).run(robot, GOAL)
    assert (result.done, result.reason, result.steps) == (True, "done", 9)
    assert len(robot.sent) == 9


def test_timeout_counts_control_steps() -> None:
    robot = StillRobot()
    result = PolicyRuntime(CountingPolicy()).run(robot, GOAL, timeout_s=1.0)
    assert (result.done, result.reason, result.steps) == (False, "timeout", 20)
    assert "20 steps" in result.detail


def test_the_watcher_sees_every_step_and_may_stop_it() -> None:
    seen: list[Step] = []

    def watch(step: Step) -> bool:
        seen.append(step)
        return len(seen) < 4

    result = PolicyRuntime(CountingPolicy()).run(StillRobot(), GOAL, on_step=watch)
    assert (result.reason, result.steps, [step.index for step in seen]) == ("interrupted", 4, [0, 1, 2, 3])


@pytest.mark.parametrize("mode", ["receding", "ensemble"])
def test_a_command_is_as_old_as_the_observation_of_its_step(mode: Literal["receding", "ensemble"]) -> None:
    """What is left of an earlier chunk as well: it is meant for this step."""
    robot = StillRobot()
    PolicyRuntime(CountingPolicy(), RuntimeOptions(mode=mode, execute=3)).run(robot, GOAL, timeout_s=0.25)
    assert robot.made == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def _stalled(control_hz: float, pauses: dict[int, float]) -> tuple[list[Step], SkillResult, str | None]:
    """Ten steps on an emulated arm in real time, with a policy that thinks for so long (s) at these steps."""
    with Emulator("so101") as servos:
        rig = nominal(load_rig("so101"), servos.port)
        patient = rig.bus.model_copy(update={"silence_s": 2.0, "rate_hz": 50.0})
        with SerialArm.open(rig.model_copy(update={"bus": patient}), control_hz=control_hz) as arm:
            arm.act(arm.read())
            seen: list[Step] = []

            class Slow(CountingPolicy):
                def act(self, observation: Observation, goal: Goal) -> Chunk:
                    chunk = super().act(observation, goal)
                    time.sleep(pauses.get(self.step, 0.0))
                    return Chunk(observation.command + 0.01 + 0.0 * chunk.targets, 0.0)

            options = RuntimeOptions(mode="receding", execute=1)
            result = PolicyRuntime(Slow(), options).run(arm, GOAL, timeout_s=10 / control_hz, on_step=seen.append)
            return seen, result, arm.fault


def _stale(step: Step) -> bool:
    return Reason.STALE in step.applied.reasons


def test_a_real_arm_does_not_obey_an_answer_that_took_too_long() -> None:
    """At 20 Hz 0.1 s are the limit; 0.2 s cost one command, and the next one is obeyed. Half a second latches."""
    seen, result, fault = _stalled(20.0, {4: 0.2})
    assert _stale(seen[4]) and seen[4].applied.verdict == "reject" and fault is None
    assert np.array_equal(seen[4].applied.q, seen[3].applied.q)
    assert any(step.applied.verdict != "reject" for step in seen[5:])
    assert result.reason == "timeout"
    seen, result, fault = _stalled(20.0, {4: 0.6})
    assert seen[4].applied.reasons == (Reason.LATCHED, Reason.STALE) and fault == Reason.STALE.value
    assert all(step.applied.verdict == "reject" for step in seen[4:])


def test_robots_around_a_robot_pass_the_time_on() -> None:
    inner = StillRobot()
    outer: list[Robot] = [
        FilmedRobot(inner, cast(VideoWriter, None), lambda: ("", "", None)),
        SeeingRobot(cast(SimRobot, inner), cast(Eyes, None)),
        RecordedRobot(inner, cast(Recorder, SimpleNamespace(recording=False))),
    ]
    cast(FilmedRobot, outer[0]).shoot = lambda repeat=1: None  # type: ignore[method-assign]
    for robot in outer:
        robot.act(inner.q, made_s=7.0)
        robot.act(inner.q)
    assert inner.made == [7.0, None] * 3


@pytest.mark.parametrize("make", [SimRobot, EmulatedRobot])
def test_in_simulation_thinking_takes_no_time(make: Callable[[World], Robot]) -> None:
    """The control clock stands still between two commands, so an answer has the age zero and is obeyed."""
    with closing(World(Scene())) as world, closing(make(world)) as robot:

        class Thinking(CountingPolicy):
            def act(self, observation: Observation, goal: Goal) -> Chunk:
                super().act(observation, goal)
                if self.step == 2:
                    time.sleep(0.6)
                return Chunk(np.tile(observation.command + 0.01, (1, 1)), 0.0)

        steps: list[Step] = []
        PolicyRuntime(Thinking()).run(robot, GOAL, timeout_s=0.3, on_step=steps.append)
        assert len(steps) == 6 and not any(step.applied.verdict == "reject" for step in steps)


def test_a_latched_fault_ends_the_skill_with_its_reason() -> None:
    result = PolicyRuntime(CountingPolicy()).run(StillRobot(refuse=True), GOAL)
    assert result.reason == "fault" and not result.done
    assert Reason.LATCHED.value in result.detail


def test_each_skill_begins_afresh() -> None:
    policy = CountingPolicy()
    runtime = PolicyRuntime(policy)
    for _ in range(2):
        runtime.run(StillRobot(), GOAL, timeout_s=0.2)
    assert policy.resets == 2


@pytest.mark.parametrize("options", [{"execute": 0}, {"done_steps": 0}, {"done_threshold": 1.0}, {"decay": -1.0}])
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RuntimeOptions(**options)  # type: ignore[arg-type]


def test_the_point_policy_answers_absolute_targets_in_range() -> None:
    torch.manual_seed(0)
    network = PointNetwork(PointConfig())
    network.chunk_std.fill_(0.02)
    robot = StillRobot()
    chunk = PointPolicy(network).act(robot.observe(), GOAL)
    assert chunk.targets.shape == (10, 6)
    assert np.all(np.abs(chunk.targets[:, :5] - robot.q[:5]) < 0.2)  # relative to the measured joints
    assert np.all((chunk.targets[:, 5] >= 0) & (chunk.targets[:, 5] <= 1))
    assert 0.0 <= chunk.done <= 1.0


def test_the_point_policy_remembers_until_it_is_reset() -> None:
    torch.manual_seed(0)
    policy = PointPolicy(PointNetwork(PointConfig(width=32, layers=1)))
    still = StillRobot().observe()
    moved = Observation(0.05, still.q + 0.1, still.command)
    fresh = policy.act(moved, GOAL).targets
    policy.reset()
    policy.act(still, GOAL)
    assert not np.allclose(policy.act(moved, GOAL).targets, fresh)
    policy.reset()
    np.testing.assert_allclose(policy.act(moved, GOAL).targets, fresh)


def test_inference_is_quick() -> None:
    policy = PointPolicy(PointNetwork(PointConfig()))
    observation = StillRobot().observe()
    used = []
    for _ in range(30):
        before = time.thread_time()
        policy.act(observation, GOAL)
        used.append(time.thread_time() - before)
    assert np.median(used) < 0.005


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no weights are shipped yet")
@pytest.mark.parametrize("skill", ["pick", "place", "press"])
def test_shipped_weights_do_their_skills(skill: Skill) -> None:
    from policies.evaluation import EvalConfig, run_episode
    from sim.rollout import Stage

    stage = Stage()
    runtime = PolicyRuntime(load_policy())
    outcomes = [run_episode(stage, runtime, skill, index, EvalConfig(seed=99)) for index in range(3)]
    stage.close()
    assert sum(outcome.success for outcome in outcomes) >= 2
