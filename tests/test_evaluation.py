"""Evaluation measures something: doing nothing and doing the wrong thing both score zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from embodied.agent import Agent
from embodied.evaluation import AGENT_KINDS, agent_questions, evaluate_agent, same_plan
from embodied.language import example
from embodied.plan import Pick, Plan, Refuse
from hardware.camera_model import Frame
from hardware.errors import SceneError
from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk


class Idle:
    """A policy that claims to be done and never moves."""

    name = "idle"
    control_hz = 20.0
    cameras: tuple[str, ...] = ()

    def reset(self) -> None: ...

    def act(self, observation: Observation, goal: Goal) -> Chunk:
        return Chunk(observation.command[None], 1.0)


class Told:
    """A planner that answers what the test says."""

    name = "told"
    scripted = True
    answer: Plan = Plan(calls=(Refuse(reason="unclear"),))

    def plan(self, instruction: str, frame: Frame) -> Plan:
        return self.answer


@pytest.fixture(scope="module")
def planner() -> Told:
    return Told()


@pytest.fixture(scope="module")
def agent(planner: Told) -> Iterator[Agent]:
    with Agent.simulated(planner=planner, policy="scripted") as agent:
        yield agent


@pytest.mark.parametrize("suite", sorted(AGENT_KINDS))
def test_doing_nothing_never_counts_as_success(suite: str, agent: Agent, planner: Told) -> None:
    assert agent.world is not None
    idle = Agent(agent.robot, planner, Idle(), world=agent.world)
    for asked in agent_questions(suite, len(AGENT_KINDS[suite]), 0, agent.world):
        idle.load(asked.scene)
        planner.answer = asked.truth
        assert not idle.run(asked.instruction, truth=asked.truth).success, asked.instruction


def test_the_right_thing_counts_and_the_wrong_thing_well_done_does_not(agent: Agent, planner: Told) -> None:
    assert agent.world is not None
    right = wrong = tried = 0
    for asked in agent_questions("single", 3, 3, agent.world):
        other = _other(asked.scene, asked.truth, asked.kind)
        agent.load(asked.scene)
        planner.answer = asked.truth
        right += agent.run(asked.instruction, truth=asked.truth).success
        if other is not None:
            agent.load(asked.scene)
            planner.answer, tried = other, tried + 1
            wrong += agent.run(asked.instruction, truth=asked.truth).success
    assert right >= 2
    assert tried >= 2
    assert wrong == 0


def _other(scene: object, truth: Plan, kind: str) -> Plan | None:
    from embodied.score import front_camera

    for draw in range(30):
        rng = np.random.default_rng([5, draw])
        try:
            plan = example(scene, front_camera(scene), rng, split="seen", kind=kind).plan  # type: ignore[arg-type]
        except SceneError:
            return None
        if not same_plan(plan, truth, scene, kind)[0]:  # type: ignore[arg-type]
            return plan
    return None


def test_the_same_seed_asks_the_same_and_another_seed_does_not(agent: Agent) -> None:
    assert agent.world is not None
    ask = [[q.instruction for q in agent_questions("single", 4, seed, agent.world)] for seed in (1, 1, 2)]
    assert ask[0] == ask[1] != ask[2]


def test_a_plan_is_exact_only_with_its_points_on_the_objects(agent: Agent) -> None:
    assert agent.world is not None
    asked = next(q for q in agent_questions("single", 1, 0, agent.world))
    call = asked.truth.calls[0]
    assert isinstance(call, Pick)
    assert same_plan(asked.truth, asked.truth, asked.scene, asked.kind) == (True, [0.0])
    off = call.model_copy(update={"point": (min(call.point[0] + 0.1, 1.0), call.point[1])})
    exact, distances = same_plan(Plan(calls=(off,)), asked.truth, asked.scene, asked.kind)
    assert not exact
    assert distances[0] > 0.02 or not distances
    assert not same_plan(Plan(calls=(Refuse(reason="absent"),)), asked.truth, asked.scene, asked.kind)[0]


def test_a_suite_reports_each_kind(agent: Agent, planner: Told) -> None:
    planner.answer = Plan(calls=(Refuse(reason="unclear"),))
    report = evaluate_agent(agent, "single", 4, 0)
    assert report.success.rate == 0.0
    assert set(report.by) == set(AGENT_KINDS["single"])
    assert report.metrics["exact_plan"] == 0.0
