"""The environments in which actors learn: as ``sim/envs.py``, but seen as a robot sees it, and with a base policy at work.

Both give a dictionary: ``observation`` (STATE_WIDTH,), ``desired_goal`` (3,), ``achieved_goal`` (3,). The last is the true
place of the object; rewards and hindsight goals are made of it, and no actor looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk, Policy
from policies.randomization import ALWAYS, Wear, random_appearance, random_hardware
from policies.rl.actor import STATE_WIDTH, corrected, desired_goal, state_row, told_point
from policies.rl.config import Hardware
from policies.runtime import TIMEOUT_S, ChunkBlender, RuntimeOptions
from policies.skills import Skill
from sim.envs import STEPS, make

#: What the largest correction of every joint costs in a step, so that none is made for nothing.
EFFORT = 0.01

Float = NDArray[np.float64]
Array = NDArray[Any]


def _space() -> spaces.Dict:
    point = spaces.Box(-2.0, 2.0, (3,), np.float32)
    state = spaces.Box(-np.inf, np.inf, (STATE_WIDTH,), np.float32)
    return spaces.Dict({"observation": state, "achieved_goal": point, "desired_goal": point})


class RobotView(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A goal-conditioned skill as the robot knows it. ``compute_reward`` is the environment's own, alone and in batches."""

    def __init__(self, skill: Skill) -> None:
        super().__init__(gymnasium.wrappers.TimeLimit(make(skill), STEPS))
        self.skill = skill
        self.observation_space = _space()
        self._before: Float | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new scene."""
        seen, info = self.env.reset(seed=seed, options=options)
        desired = seen["desired_goal"].astype(float)
        self._point = told_point(self.skill, seen["achieved_goal"].astype(float), desired)
        self._before = None
        return self._seen(seen), info

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One control step."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(seen), float(reward), terminated, truncated, info

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Any:
        """0 within 2 cm of the goal, else -1; for one (3,) or a batch (n, 3)."""
        return self.env.get_wrapper_attr("compute_reward")(achieved_goal, desired_goal, info)

    def _seen(self, seen: dict[str, Array]) -> dict[str, Array]:
        q, command = seen["observation"][:6].astype(float), seen["observation"][6:12].astype(float)
        before = q if self._before is None else self._before
        self._before = q
        state = state_row(Observation(0.0, q, command), before, self._point)
        return {**seen, "observation": state}


@dataclass(frozen=True)
class _Situation:
    """What an episode with a base policy is judged and told by."""

    episode: Any
    start: Any
    goal: Goal


class ResidualEnv(gymnasium.Env[Any, Array]):
    """A frozen policy carries a skill out by the rules of ``PolicyRuntime``; an action is a bounded correction of its chunk.

    The episode ends when the base policy says that it is done, or at the skill's time-out. Reward: how much the score
    of the task's condition rises in a step, less a little for the size of the correction, and at the end 1 for a success
    that was claimed, -1 for anything else.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium)

    def __init__(self, skill: Skill, base: Policy, bound: Float, hardware: Hardware = "nominal") -> None:
        from policies.worn_robot import WornStage

        self.skill, self.hardware = skill, hardware
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.observation_space = _space()
        self._base, self._bound, self._options = base, np.asarray(bound, float), RuntimeOptions()
        self._stage = WornStage()
        self._limit = round(TIMEOUT_S[skill] * base.control_hz)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new scene and, if asked for, another arm."""
        super().reset(seed=seed)
        self._now = self._begin(self.np_random)
        self._base.reset()
        self._blender = ChunkBlender(self._options)
        self._steps = self._done_for = 0
        self._before: Float | None = None
        self._score = self._judge()
        return self._look(), {"is_success": False}

    def _begin(self, rng: np.random.Generator) -> _Situation:
        from policies.collect import begin
        from sim.dynamics import Dynamics
        from sim.rollout import SkillEpisode

        stage = self._stage
        while True:
            episode = SkillEpisode.sample(self.skill, rng)
            dynamics, stage.wear, stage.appearance = Dynamics(), Wear(), None
            if self.hardware == "randomized":
                dynamics, stage.wear = random_hardware(rng, ALWAYS)
                stage.appearance = random_appearance(rng, ALWAYS)
            begun = begin(stage, episode, dynamics, rng)
            if begun is not None:
                break
        true, start = begun
        off = np.zeros(3)
        if stage.appearance is not None:  # a planner points at the right pixel; calibration makes a wrong place of it
            off = stage.pointed(true.point) - true.point
        return _Situation(episode, start, Goal(self.skill, true.point + off, true.to + off))

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One control step with a correction (6,) in -1..1."""
        targets = corrected(self._chunk, np.asarray(action, float), self._bound)
        self._stage.robot.act(self._blender.next(Chunk(targets, self._chunk.done)))
        self._steps += 1
        seen = self._look()
        terminated, truncated = self._done_for >= self._options.done_steps, self._steps >= self._limit
        if terminated:
            self._settle()
        score, self._score = self._score, self._judge()
        effort = EFFORT * float(np.mean(np.square(action[:5])))
        reward, success = self._score - score - effort, terminated and self._score >= 1.0
        if terminated or truncated:
            reward += 1.0 if success else -1.0
        return seen, reward, terminated, truncated and not terminated, {"is_success": success}

    def close(self) -> None:
        """Release the physics client."""
        self._stage.close()

    def _judge(self) -> float:
        from sim.conditions import score

        return score(self._stage.world, self._now.episode.condition, self._now.start)

    def _settle(self) -> None:
        from policies.evaluation import SETTLE_STEPS

        for _ in range(SETTLE_STEPS):
            self._stage.robot.act(self._stage.robot.observe().command)

    def _look(self) -> dict[str, Array]:
        observation = self._stage.robot.observe()
        self._chunk = self._base.act(observation, self._now.goal)
        self._done_for = self._done_for + 1 if self._chunk.done > self._options.done_threshold else 0
        before = observation.q if self._before is None else self._before
        self._before = np.array(observation.q)
        state = state_row(observation, before, self._now.goal.point, self._chunk)
        goal = desired_goal(self._now.goal).astype(np.float32)
        # Nothing is relabelled here: what counts as achieved is judged by the condition, not by a point.
        return {"observation": state, "achieved_goal": goal.copy(), "desired_goal": goal}
