"""Reinforcement learning: environments that hide what a robot cannot know, actors that run, checkpoints without pickle."""

from __future__ import annotations

import builtins
import dataclasses
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from hardware.arm_spec import SO101
from hardware.errors import CheckpointError, EmbodiedError
from hardware.robot import Observation
from policies import kinds
from policies.checkpoint import load_point_network, load_policy, save
from policies.goal import Goal
from policies.point import PointConfig, PointNetwork, PointPolicy
from policies.policy import Chunk, Policy
from policies.rl.actor import (
    ACTION_SCALE,
    FEATURE_WIDTH,
    STATE_WIDTH,
    ActorConfig,
    ActorNetwork,
    ActorPolicy,
    actor_kind,
    corrected,
    desired_goal,
    features,
    state_row,
    told_point,
)
from policies.rl.config import RlConfig
from policies.rl.environments import ResidualEnv, RobotView
from sim.envs import make

BOUND = (0.03,) * 5 + (0.0,)


@pytest.fixture(autouse=True)
def known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "actor", actor_kind)


def residual_network(seed: int = 0) -> ActorNetwork:
    torch.manual_seed(seed)
    base = PointConfig(width=16, layers=1)
    return ActorNetwork(ActorConfig("pick", 16, bound=BOUND, base=base.to_json())).eval()


def shipped_residual(skill: str = "pick") -> ActorNetwork:
    """The shipped point policy with a correction that nobody has trained."""
    base = load_point_network()
    network = ActorNetwork(ActorConfig(skill, 16, bound=BOUND, base=base.config.to_json()))
    assert network.base is not None
    network.base.load_state_dict(base.state_dict())
    return network.eval()


# Environments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skill", ["reach", "push", "pick"])
def test_both_checkers_find_nothing_wrong(skill: Any) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check

    env = RobotView(skill)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Joint speeds have no bound that a robot could promise, so neither has the row that holds them.
        warnings.filterwarnings("ignore", message=".*[Bb]ox.*observation.*(infinity|minimum|maximum|unbounded).*")
        warnings.filterwarnings("ignore", message=".*the environment .* is different from the unwrapped version.*")
        check_env(env, skip_render_check=True)
        sb3_check(env, warn=False)
    env.close()


def test_rewards_come_for_batches_of_goals_and_follow_relabelling() -> None:
    env = RobotView("push")
    seen, _ = env.reset(seed=1)
    seen, reward, *_ = env.step(env.action_space.sample())
    assert reward == env.compute_reward(seen["achieved_goal"], seen["desired_goal"], {}) == -1.0
    assert env.compute_reward(seen["achieved_goal"], seen["achieved_goal"], {}) == 0.0  # hindsight: it meant to
    achieved = np.stack([seen["achieved_goal"], seen["desired_goal"]])
    np.testing.assert_array_equal(env.compute_reward(achieved, np.stack([seen["desired_goal"]] * 2), [{}, {}]), [-1, 0])
    env.close()


@pytest.mark.parametrize("skill", ["reach", "pick", "push", "place"])
def test_an_actor_sees_in_training_what_it_will_see_on_a_robot(skill: Any) -> None:
    """The environment's row and goal are those that the policy makes of observation and planner's goal."""
    env, twin = RobotView(skill), make(skill)
    seen, _ = env.reset(seed=3)
    twin.reset(seed=3)
    goal = Goal(skill, twin._goal.point, twin._goal.to)
    before = None
    for step in range(4):
        observation = twin._stage.robot.observe()
        row = state_row(observation, observation.q if before is None else before, goal.point)
        before = observation.q
        np.testing.assert_allclose(seen["observation"], row, atol=2e-5)
        np.testing.assert_allclose(seen["desired_goal"], desired_goal(goal), atol=1e-6)
        action = np.full(6, 0.1 * step, np.float32)
        seen, twin_seen = env.step(action)[0], twin.step(action)[0]
        assert np.array_equal(seen["achieved_goal"], twin_seen["achieved_goal"])
    env.close()
    twin.close()


def test_the_actor_does_not_see_where_the_object_is(rng: np.random.Generator) -> None:
    start, desired = rng.normal(size=3), rng.normal(size=3)
    np.testing.assert_array_equal(
        told_point("push", start, desired), start
    )  # where the planner saw it, not where it is
    np.testing.assert_allclose(told_point("pick", start, desired), desired - [0, 0, 0.08])
    state = torch.randn(4, STATE_WIDTH)
    assert features(state, torch.randn(4, 3)).shape == (4, FEATURE_WIDTH)


def test_features_turn_with_the_arm() -> None:
    """The same situation at another azimuth looks the same, apart from the joints and points themselves."""
    relative = []
    for pan in (0.0, 0.8):
        q = SO101.home.copy()
        q[0] = pan
        row = state_row(Observation(0.0, q, q), q, np.zeros(3))
        tool, (cos, sin) = row[18:21], row[27:29]
        goal = tool + [0.1 * cos - 0.05 * sin, 0.1 * sin + 0.05 * cos, -0.02]  # ahead and to the left of the tool
        seen = features(torch.from_numpy(row)[None], torch.from_numpy(goal.astype(np.float32))[None])
        relative.append(seen[0, STATE_WIDTH : STATE_WIDTH + 6].numpy())
    np.testing.assert_allclose(relative[0], relative[1], atol=1e-4)
    np.testing.assert_allclose(relative[0][:3], [0.5, 0.25, -0.1], atol=1e-4)


# Residuals -----------------------------------------------------------------------------------------------------------


def test_a_correction_is_bounded_and_leaves_the_gripper_alone(rng: np.random.Generator) -> None:
    chunk = Chunk(rng.uniform(0.0, 1.0, (10, 6)), 0.5)
    moved = corrected(chunk, np.full(6, 50.0), np.array(BOUND))
    np.testing.assert_allclose(moved - chunk.targets, np.tile(BOUND, (10, 1)), atol=1e-12)


def test_training_and_running_a_residual_are_the_same_motion() -> None:
    """Episodes of the environment, step by step, against ``PolicyRuntime`` with the exported policy."""
    from policies.rl.train import act
    from policies.runtime import PolicyRuntime

    network = shipped_residual()
    assert network.base is not None
    env = ResidualEnv("pick", PointPolicy(network.base), np.array(BOUND))
    seen, _ = env.reset(seed=5)
    goal, sent = env._now.goal, []
    for _ in range(12):
        seen, *_ = env.step(act(network, seen))
        sent.append(env._stage.robot.observe().command)
    env.reset(seed=5)
    ran: list[Any] = []

    def watch(step: Any) -> bool:
        ran.append(step.applied.q)
        return len(ran) < 12

    PolicyRuntime(ActorPolicy(network)).run(env._stage.robot, goal, on_step=watch)
    np.testing.assert_allclose(np.stack(ran), np.stack(sent), atol=1e-5)
    env.close()


def test_no_correction_is_the_base_policy_and_other_skills_are_left_to_it() -> None:
    network = shipped_residual()
    with torch.no_grad():
        network.mean.weight.zero_()
        network.mean.bias.zero_()
    base, policy = PointPolicy(network.base), ActorPolicy(network)
    seen = Observation(0.0, SO101.home, SO101.home)
    for skill in ("pick", "press"):
        goal = Goal(skill, np.array([0.2, 0.0, 0.0]), np.array([0.2, 0.0, 0.0]))
        base.reset()
        policy.reset()
        assert np.array_equal(base.act(seen, goal).targets, policy.act(seen, goal).targets)


def test_an_episode_with_a_base_policy_ends_by_its_own_word_and_is_judged() -> None:
    network = shipped_residual("reach")
    assert network.base is not None
    env = ResidualEnv("reach", PointPolicy(network.base), np.array(BOUND), "randomized")
    env.reset(seed=0)
    total, over, info = 0.0, False, {}
    while not over:
        _, reward, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        total, over = total + reward, terminated or truncated
    assert terminated and info["is_success"] and total > 0.9
    env.close()


# Policies and checkpoints --------------------------------------------------------------------------------------------


def test_an_actor_is_a_policy_that_keeps_to_its_skill() -> None:
    torch.manual_seed(0)
    network = ActorNetwork(ActorConfig("reach", 16))
    policy = ActorPolicy(network)
    assert isinstance(policy, Policy) and policy.name == "actor" and policy.cameras == ()
    seen = Observation(0.0, SO101.home, SO101.home)
    goal = Goal("reach", np.array([0.2, 0.1, 0.0]), np.array([0.2, 0.1, 0.0]))
    chunk = policy.act(seen, goal)
    assert chunk.targets.shape == (1, 6) and np.all(np.abs(chunk.targets[0] - SO101.home) <= ACTION_SCALE + 1e-9)
    assert 0.0 < chunk.done < 1.0
    with pytest.raises(CheckpointError, match="learned 'reach' only"):
        policy.act(seen, dataclasses.replace(goal, skill="pick"))


@pytest.mark.parametrize("residual", [False, True])
def test_checkpoints_hold_json_and_safetensors_and_give_the_same_policy(tmp_path: Path, residual: bool) -> None:
    network = residual_network() if residual else ActorNetwork(ActorConfig("pick", 16))
    save(tmp_path, "actor", network, card="# card\n", made={"method": "test"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors", "stats.json"]
    loaded = load_policy(tmp_path)
    assert loaded.name == ("residual" if residual else "actor")
    seen = Observation(0.0, SO101.home, SO101.home)
    goal = Goal("pick", np.array([0.2, 0.1, 0.0]), np.array([0.2, 0.1, 0.0]))
    mine, theirs = ActorPolicy(network).act(seen, goal), loaded.act(seen, goal)
    assert np.array_equal(mine.targets, theirs.targets) and mine.done == theirs.done


@pytest.mark.parametrize(
    "change", [{"skill": "juggle"}, {"bound": [0.1] * 5}, {"bound": [9.0] * 6}, {"base": None}, {"width": "wide"}]
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path, "actor", residual_network(), card="", made={})
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit this version"):
        load_policy(tmp_path)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["her", "residual"])
def test_a_short_training_leaves_a_policy_that_the_evaluation_takes(
    tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from policies.rl import train

    monkeypatch.setattr(train, "GLANCE_EPISODES", 1)
    monkeypatch.setattr(train, "DONE_EPISODES", 1)
    monkeypatch.setattr("policies.rl.environments.STEPS", 20)
    config = RlConfig(
        out=tmp_path,
        skill="reach",
        method=method,
        steps=160,
        warmup=120,
        batch=16,
        width=16,
        evaluate_every=0,
        evaluate=1,
    )
    result = train.train_rl(config, console=Console(quiet=True))
    assert result["success"]["episodes"] == 1
    assert [step for step, _ in result["training"]["curve"]] == ([0, 160] if method == "residual" else [160])
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["kind"] == "actor" and told["made"]["method"] == method and told["made"]["seed"] == 0
    card = (tmp_path / "README.md").read_text()
    assert "embodied train rl --skill reach" in card and "Wilson" in card
    # Learned, not as it began; a residual's base has not moved.
    fresh = train._new_actor(config)
    torch.manual_seed(config.seed)
    loaded: Any = load_policy(tmp_path)
    assert not torch.equal(loaded.network.latent[0].weight, fresh.latent[0].weight)
    if method == "residual":
        assert torch.equal(loaded.network.base.chunk_head.weight, load_point_network().chunk_head.weight)
        assert isinstance(loaded.network.base, PointNetwork)


@pytest.mark.parametrize(("rates", "kept"), [((0.5, 0.25, 0.5), 0), ((0.5, 0.75, 0.75), 1), ((0.5, 0.75, 0.25), 1)])
def test_a_residual_is_kept_only_when_it_does_better_than_its_base(
    rates: tuple[float, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from policies.rl import train

    network = ActorNetwork(ActorConfig("reach", 16))

    def exported(model: Any, network: ActorNetwork) -> None:
        network.mean.bias.data.fill_(float(model.num_timesteps))

    left = list(rates)

    def played(env: object, network: object, episodes: int, seed: int) -> list[tuple[bool, list[Any], list[Any]]]:
        won = round(episodes * left.pop(0))
        return [(index < won, [], []) for index in range(episodes)]

    monkeypatch.setattr(train, "export", exported)
    monkeypatch.setattr(train, "_episodes", played)
    best = train.Best(network, None, Console(quiet=True))
    for step in range(3):
        best.look(SimpleNamespace(num_timesteps=step))
    assert best.weights["mean.bias"][0] == kept


def test_while_only_the_critics_learn_the_actor_stays(tmp_path: Path) -> None:
    """With a burn-in as long as the training the residual is still next to nothing."""
    from rich.console import Console

    from policies.rl import train

    config = RlConfig(
        out=tmp_path, skill="reach", method="residual", steps=60, burn_in=60, batch=16, width=16, evaluate_every=0,
        evaluate=1,
    )  # fmt: skip
    train.train_rl(config, console=Console(quiet=True))
    loaded: Any = load_policy(tmp_path)
    assert float(loaded.network.mean.weight.detach().abs().max()) < 0.01
    assert float(loaded.network.mean.bias.detach().abs().max()) == 0.0


def test_what_is_exported_acts_as_the_library_does() -> None:
    import stable_baselines3

    from policies.rl import train

    config = RlConfig(skill="reach", width=16)
    env, network = RobotView("reach"), ActorNetwork(ActorConfig("reach", 16))
    model = train._new_model(stable_baselines3, config, env)
    train.export(model, network)
    seen, _ = env.reset(seed=0)
    np.testing.assert_allclose(train.act(network, seen), model.predict(seen, deterministic=True)[0], atol=1e-5)
    env.close()


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from embodied.commands.train_rl import run

    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "stable_baselines3":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EmbodiedError, match=r"pip install 'embodied\[rl\]'"):
        run(["--skill", "reach"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skill": "press"}, "no goal point"), ({"skill": "juggle"}, "choose one of"), ({"steps": 0}, "steps"),
        ({"hardware": "randomized"}, "--method residual"), ({"bound_rad": 1.0}, "bound_rad"), ({"gamma": 1.0}, "gamma"),
        ({"warmup": -1}, "warmup"), ({"burn_in": -1}, "burn_in"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_why(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RlConfig(**options)


@pytest.mark.slow
def test_reach_is_solved_within_minutes(tmp_path: Path) -> None:
    from rich.console import Console

    from policies.rl.train import train_rl

    result = train_rl(RlConfig(out=tmp_path, steps=3000, evaluate=50), console=Console(quiet=True))
    assert result["success"]["rate"] >= 0.9
