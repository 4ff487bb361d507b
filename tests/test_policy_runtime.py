"""The runtime: how chunks become commands, and how a skill ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from hardware.arm_spec import SO101, ArmSpec
from hardware.robot import Observation, Robot
from hardware.safety import Applied, Reason
from policies.checkpoint import SHIPPED, load_policy
from policies.goal import Goal, Skill
from policies.point import PointConfig, PointNetwork, PointPolicy
from policies.policy import Chunk, Policy
from policies.runtime import ChunkBlender, PolicyRuntime, RuntimeOptions, Step

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

    def observe(self, cameras: Sequence[str] = ()) -> Observation:
        return Observation(0.05 * len(self.sent), self.q.copy(), self.q.copy())

    def act(self, target: np.ndarray) -> Applied:
        self.sent.append(target)
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
