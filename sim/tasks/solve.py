"""Solves tasks with the scripted experts and the true scene (*privileged*): demonstrations, tests and upper bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hardware.errors import SceneError
from hardware.kinematics import tool_position
from hardware.robot import Observation
from sim.conditions import DIRECTION_XY, Start
from sim.experts import SkillGoal
from sim.experts.expert import TRAVEL_Z, Expert, Move
from sim.rollout import Stage, goal_point
from sim.scene import CONTAINERS
from sim.tasks import TaskSample, success
from sim.tasks.placing import spot_beside
from sim.tasks.single import PUSH_M
from sim.tasks.task import Step
from sim.world import World

Float = NDArray[np.float64]
OnStep = Callable[[Observation, Float, Float, bool], None]

#: Joint step (rad) on the way home, per control step.
_HOME_STEP_RAD = 0.08


def step_goal(world: World, step: Step) -> SkillGoal:
    """The skill and the goal points of a step, as the world stands now. Raises ``SceneError`` for an unknown relation."""
    if step.skill == "push":
        point = world.object_foot(step.object)
        dx, dy = DIRECTION_XY[step.direction]  # type: ignore[index]
        return SkillGoal("push", point, point + np.array([dx * PUSH_M, dy * PUSH_M, 0.0]))
    if step.skill != "place":
        point = goal_point(world, step.skill, step.object)
        return SkillGoal(step.skill, point, point)
    reference = world.scene.find(step.reference)
    if step.relation in ("in", "on") and reference.kind in CONTAINERS:
        point = world.object_foot(step.reference) + np.array([*step.offset_m, 0.0])
        return SkillGoal("bowl", point, point)
    if step.relation == "on":
        point = goal_point(world, "stack", step.reference)
        return SkillGoal("stack", point, point)
    if step.relation not in DIRECTION_XY:
        raise SceneError(f"nothing can be placed {step.relation!r}; choose in, on, {', '.join(DIRECTION_XY)}")
    foot = world.object_foot(step.reference)
    here = reference.model_copy(update={"position": (float(foot[0]), float(foot[1]))})
    point = np.array([*spot_beside(here, step.relation), 0.0])  # type: ignore[arg-type]
    return SkillGoal("place", point, point)


class _Retreat(Expert):
    """Straight up to where nothing is in the way, then home; the gripper stays as it was told to be."""

    opening: float = 0.0
    lifted: bool = False

    def act(self, observation: Observation) -> Move:
        if not self.previous:
            self.opening = float(observation.command[5])
        return super().act(observation)

    def decide(self, q: list[float]) -> Move:
        tool = tool_position(self.spec, q)
        self.lifted = self.lifted or tool[2] > TRAVEL_Z - 0.01
        if not self.lifted:
            return self.go(q, (tool[0], tool[1], TRAVEL_Z), self.opening)
        change = self.spec.home[:5] - np.array(q[:5])
        largest = float(np.abs(change).max())
        arm = np.array(q[:5]) + change * min(1.0, _HOME_STEP_RAD / max(largest, 1e-9))
        return Move(np.append(arm, self.opening), largest < 0.03)


def go_home(stage: Stage, on_step: OnStep | None = None) -> None:
    """Bring the arm home, lifting first, with whatever it holds."""
    here = np.zeros(3)
    stage.play(SkillGoal("home", here, here), expert=_Retreat, dwell=1, on_step=on_step)


def solve(stage: Stage, sample: TaskSample, on_step: OnStep | None = None) -> bool:
    """Load a task's scene and carry its steps out; returns whether the task's condition holds in the end."""
    stage.load(sample.scene)
    start = Start.of(stage.world)
    for step in sample.steps:
        stage.play(step_goal(stage.world, step), on_step=on_step)
        # A gripper above an object, or one that holds it, is what was asked for when nothing follows.
        if step is not sample.steps[-1] or step.skill not in ("reach", "pick"):
            go_home(stage, on_step)
    return success(stage.world, sample, start)
