"""Gymnasium environments, one per skill: ``gymnasium.make("embodied/Pick-v0")`` after ``import sim.envs``.

    embodied/Reach-v0  Pick-v0  Place-v0  Bowl-v0  Stack-v0  Push-v0      goal-conditioned
    embodied/Open-v0   Close-v0  Press-v0                                 one fixed purpose each

Without the import, ``gymnasium.make("sim.envs:embodied/Pick-v0")`` does the same.

``obs_type="state"`` (default) gives true object positions: it is for reinforcement learning in simulation. With
``obs_type="image"`` the observation is what a robot has: a camera picture and measured joints, under LeRobot's names, and
the goal points, without which nobody could tell which of the objects is meant.

An action is six numbers in -1 … 1: changes of the five joint targets, then of the gripper's, per control step (20 Hz).
Every action passes the same safety core as everything else. Where there is a goal point, the reward is 0 within 2 cm of it
and -1 elsewhere, or minus the distance (``reward="dense"``); else 0 once it is done and -1 before, or how much is still
missing. Episodes end by time only (as gymnasium-robotics does, so that hindsight relabelling stays right);
``info["is_success"]`` says whether the task is done now, as ``sim.conditions`` judges it: an object held at the spot where
it should be put down has reached the goal point, but the task is not done.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hardware.errors import EmbodiedError
from hardware.kinematics import tool_position
from hardware.robot import Observation
from sim.conditions import score
from sim.rollout import SkillEpisode, Stage

Array = NDArray[Any]
ObsType = Literal["state", "image"]
RewardType = Literal["sparse", "dense"]

#: Environment name: skill.
ENVIRONMENTS: dict[str, str] = {
    "Reach": "reach", "Pick": "pick", "Place": "place", "Bowl": "bowl", "Stack": "stack", "Push": "push",
    "Open": "open", "Close": "close", "Press": "press",
}  # fmt: skip
GOAL_CONDITIONED = ("reach", "pick", "place", "bowl", "stack", "push")
STEPS = 120
#: Largest change of a joint target (rad) and of the gripper's (opening) in one control step.
JOINT_STEP_RAD = 0.1
GRIPPER_STEP = 0.125
#: A goal counts as reached within this distance (m).
REACHED_M = 0.02
REACH_HEIGHT_M = 0.06
LIFT_M = 0.08
IMAGE_SIZE = (128, 96)
_FAR_M = 2.0


class SkillEnv(gymnasium.Env[Any, Array]):
    """One skill in a new random scene each episode."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (declared so by gymnasium)

    def __init__(
        self,
        skill: str = "pick",
        obs_type: ObsType = "state",
        render_mode: str | None = None,
        reward: RewardType = "sparse",
    ) -> None:
        if skill not in ENVIRONMENTS.values():
            raise EmbodiedError(f"there is no skill {skill!r}; choose one of: {', '.join(ENVIRONMENTS.values())}")
        if obs_type not in ("state", "image"):
            raise EmbodiedError(f"there is no observation type {obs_type!r}; choose one of: state, image")
        if reward not in ("sparse", "dense"):
            raise EmbodiedError(f"there is no reward type {reward!r}; choose one of: sparse, dense")
        self.skill, self.obs_type, self.render_mode, self.reward = skill, obs_type, render_mode, reward
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.observation_space = self._space()
        self._stage = Stage()
        self._scale = np.array([JOINT_STEP_RAD] * 5 + [GRIPPER_STEP])

    def _space(self) -> spaces.Space[Any]:
        if self.obs_type == "image":
            width, height = IMAGE_SIZE
            return spaces.Dict(
                {
                    "pixels": spaces.Box(0, 255, (height, width, 3), np.uint8),
                    "agent_pos": spaces.Box(-4.0, 4.0, (6,), np.float32),
                    "goal": spaces.Box(-_FAR_M, _FAR_M, (6,), np.float32),  # its two points
                }
            )
        return spaces.Box(-4.0, 4.0, (20,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw a scene and a start; the same seed gives the same episode to the bit."""
        super().reset(seed=seed)
        while True:
            self._episode = SkillEpisode.sample(self.skill, self.np_random)
            begun = self._stage.begin(self._episode)
            if begun is not None:  # else the object to hold at the start was not picked up: another scene
                break
        self._goal, self._start = begun
        self._desired = self._wanted()
        self._look()
        return self._observation(), self._info()

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the joint targets by ``action`` and let one control step (0.05 s) pass."""
        change = np.clip(np.asarray(action, float), -1.0, 1.0) * self._scale
        self._stage.robot.act(self._seen.command + change)
        self._look()
        info = self._info()
        return self._observation(), self._reward(info), False, False, info

    def _look(self) -> None:
        """Ask the world once per step for what observation, goal and reward are made of."""
        world, moved = self._stage.world, self._moved
        self._seen: Observation = self._stage.robot.observe()
        self._tool = tool_position(world.spec, world.arm_q_list())
        self._foot = world.object_foot(moved)
        self._score = score(world, self._episode.condition, self._start)

    def _reward(self, info: dict[str, Any]) -> float:
        return self._score - 1.0 if self.reward == "dense" else 0.0 if info["is_success"] else -1.0

    def render(self) -> Any:
        """The front camera's picture (H, W, 3) uint8."""
        return self._stage.world.render("front").rgb

    def close(self) -> None:
        """Release the physics client."""
        self._stage.close()

    @property
    def _moved(self) -> str:
        """The object whose position counts: the one held at the start, or the one acted on."""
        return self._episode.held or self._episode.target

    def _achieved(self) -> Array:
        return np.array(self._tool if self.skill == "reach" else self._foot, np.float32).clip(-_FAR_M, _FAR_M)

    def _wanted(self) -> Array:
        rise = {"reach": REACH_HEIGHT_M, "pick": LIFT_M}.get(self.skill, 0.0)
        point = self._goal.to if self.skill == "push" else self._goal.point
        return np.asarray(point + np.array([0.0, 0.0, rise]), np.float32)

    def _observation(self) -> Any:
        world, seen, episode = self._stage.world, self._seen, self._episode
        if self.obs_type == "image":
            points = np.concatenate([self._goal.point, self._goal.to]).astype(np.float32)
            picture = world.render("front", size=IMAGE_SIZE).rgb
            return {"pixels": picture, "agent_pos": seen.q.astype(np.float32), "goal": points}
        place, extra = self._foot, [0.0, 0.0]
        if self.skill in ("open", "close"):
            place, extra[0] = world.handle_position(episode.target), world.drawer_opening(episode.target)
        elif self.skill == "press":
            extra[1] = float(world.button_pressed(episode.target))
        state = np.array([*seen.q, *seen.command, *self._tool, *place, *extra], np.float32)
        return state.clip(-4.0, 4.0)

    def _info(self) -> dict[str, Any]:
        return {"is_success": self._score >= 1.0}


class GoalSkillEnv(SkillEnv):
    """A skill whose purpose is a point: dictionary observations and ``compute_reward``, for hindsight relabelling."""

    def __init__(self, skill: str = "pick", render_mode: str | None = None, reward: RewardType = "sparse") -> None:
        if skill not in GOAL_CONDITIONED:
            raise EmbodiedError(f"{skill!r} has no goal point; choose one of: {', '.join(GOAL_CONDITIONED)}")
        super().__init__(skill, "state", render_mode, reward)

    def _space(self) -> spaces.Space[Any]:
        point = spaces.Box(-_FAR_M, _FAR_M, (3,), np.float32)
        return spaces.Dict({"observation": super()._space(), "achieved_goal": point, "desired_goal": point})

    def _observation(self) -> Any:
        state = super()._observation()
        return {"observation": state, "achieved_goal": self._achieved(), "desired_goal": self._desired.copy()}

    def _reward(self, info: dict[str, Any]) -> float:
        return float(self.compute_reward(self._achieved(), self._desired, info))

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Any:
        """0 within 2 cm of the goal, else -1, or minus the distance (m) if dense.

        For one goal (3,) or a batch (n, 3), as hindsight relabelling asks.
        """
        apart = np.asarray(achieved_goal) - np.asarray(desired_goal)
        distance = np.sqrt(np.square(apart).sum(axis=-1))
        reward = -distance if self.reward == "dense" else np.where(distance < REACHED_M, 0.0, -1.0)
        return reward.astype(np.float32)


def make(
    skill: str = "pick", obs_type: ObsType = "state", render_mode: str | None = None, reward: RewardType = "sparse"
) -> SkillEnv:
    """The environment of a skill: goal-conditioned where it has a goal point and the observation is the state."""
    if skill in GOAL_CONDITIONED and obs_type == "state":
        return GoalSkillEnv(skill, render_mode, reward)
    return SkillEnv(skill, obs_type, render_mode, reward)


def register() -> None:
    """Make the environments known to gymnasium; done once, on import."""
    for name, skill in ENVIRONMENTS.items():
        if f"embodied/{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"embodied/{name}-v0", "sim.envs:make", max_episode_steps=STEPS, kwargs={"skill": skill})


register()
