"""The gymnasium environments: both checkers without a warning, repeatable to the bit, expert rewarded."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim.envs
from hardware.errors import EmbodiedError
from sim.experts import make_expert


@pytest.mark.parametrize("name", sim.envs.ENVIRONMENTS)
def test_gymnasium_and_stable_baselines_find_nothing_wrong(name: str) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(f"embodied/{name}-v0")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check(env.unwrapped, warn=True)
        env.close()


def test_images_pass_the_checkers_too() -> None:
    env = gymnasium.make("embodied/Reach-v0", obs_type="image", render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=1)
    assert observation["pixels"].shape == (96, 128, 3) and observation["pixels"].std() > 5
    goal = env.unwrapped._goal  # type: ignore[attr-defined]
    np.testing.assert_allclose(observation["goal"], [*goal.point, *goal.to], atol=1e-6)
    assert env.render().shape == (384, 512, 3)
    env.close()


def test_goals_are_rewarded_alone_and_in_batches() -> None:
    for reward, near, far in (("sparse", 0.0, -1.0), ("dense", -0.01, -0.5)):
        env: Any = gymnasium.make("embodied/Place-v0", reward=reward).unwrapped
        observation, _ = env.reset(seed=2)
        assert env.compute_reward(observation["achieved_goal"], observation["desired_goal"], {}) < 0.0
        goal = observation["desired_goal"]
        achieved = np.stack([goal + [0.01, 0.0, 0.0], goal + [0.0, 0.5, 0.0]]).astype(np.float32)
        rewards = env.compute_reward(achieved, np.stack([goal, goal]), [{}, {}])
        np.testing.assert_allclose(rewards, [near, far], atol=1e-6)
        env.close()


def test_purposes_without_a_goal_point_can_be_rewarded_densely() -> None:
    env: Any = gymnasium.make("embodied/Open-v0", reward="dense").unwrapped
    env.reset(seed=0)
    rewards = []
    for opening in (0.0, 0.4, 1.0):
        env._stage.world.set_drawer_opening(env._episode.target, opening)
        rewards.append(env.step(np.zeros(6, np.float32))[1])
    env.close()
    assert -1.01 < rewards[0] < rewards[1] < rewards[2] == 0.0


def test_the_module_prefix_spares_the_import() -> None:
    env = gymnasium.make("sim.envs:embodied/Close-v0")
    assert env.spec is not None and env.spec.max_episode_steps == sim.envs.STEPS
    env.close()


def _run(seed: int) -> list[np.ndarray[Any, Any]]:
    env = gymnasium.make("embodied/Push-v0")
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    out = [observation["observation"]]
    for _ in range(25):
        observation, *_ = env.step(env.action_space.sample())
        out.append(observation["observation"])
    env.close()
    return out


def test_the_same_seed_is_the_same_episode_to_the_bit() -> None:
    first, second, other = _run(3), _run(3), _run(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[-1], other[-1])


@pytest.mark.parametrize("name", ["Reach", "Pick", "Bowl", "Press"])
def test_the_expert_succeeds_through_the_action_space(name: str) -> None:
    env = gymnasium.make(f"embodied/{name}-v0")
    inner: Any = env.unwrapped
    successes = 0
    for seed in range(3):
        env.reset(seed=seed)
        expert = make_expert(inner._stage.world.spec, inner._goal)
        info: dict[str, Any] = {}
        for _ in range(sim.envs.STEPS):
            seen = inner._stage.robot.observe()
            change = (expert.act(seen).target - seen.command) / inner._scale
            _, reward, _, truncated, info = env.step(np.clip(change, -1, 1).astype(np.float32))
            assert reward in (0.0, -1.0)
            if info["is_success"] or truncated:
                break
        successes += info["is_success"]
    env.close()
    assert successes >= 2


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(EmbodiedError, match="reach, pick"):
        sim.envs.SkillEnv("juggle")
    with pytest.raises(EmbodiedError, match="state, image"):
        sim.envs.SkillEnv("pick", obs_type="smell")  # type: ignore[arg-type]
    with pytest.raises(EmbodiedError, match="sparse, dense"):
        sim.envs.make("pick", reward="generous")  # type: ignore[arg-type]
    with pytest.raises(EmbodiedError, match="no goal point"):
        sim.envs.GoalSkillEnv("press")
