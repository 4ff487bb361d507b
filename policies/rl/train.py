"""Trains an actor with stable-baselines3's SAC and writes it as a checkpoint of this project: JSON and safetensors, no pickle.

    her        SAC and hindsight relabelling (Andrychowicz et al. 2017) on a sparse reward, from nothing
    residual   SAC on bounded corrections of a frozen cloned policy (Silver et al. 2018, Johannink et al. 2019)

The library is needed for training only: what comes out runs without it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hardware.errors import EmbodiedError
from policies.checkpoint import load_point_network, save
from policies.evaluation import EvalConfig, evaluate
from policies.point import PointPolicy
from policies.rl.actor import FEATURE_WIDTH, ActorConfig, ActorNetwork, ActorPolicy, features
from policies.rl.config import RlConfig
from policies.rl.environments import ResidualEnv, RobotView

if TYPE_CHECKING:
    from rich.console import Console

_MISSING = "reinforcement learning needs stable-baselines3, which is not installed; run: pip install 'embodied[rl]'"
#: Episodes of a look in between, and those from which the actor learns when it is done.
GLANCE_EPISODES, DONE_EPISODES = 40, 30
#: Seeds of these episodes, far from one another and from those of `embodied eval`.
GLANCE_SEED, DONE_SEED = 500_000, 600_000
#: Success for so many steps counts as done; a goal that is only passed does not.
LASTING_STEPS = 6
#: How little a residual does before it has learned anything.
_SHY_LOG_STD = -2.0


def train_rl(config: RlConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Train, save to ``config.out``, measure; returns the evaluation's result with the training's figures added.

    Raises ``EmbodiedError`` when stable-baselines3 is missing, ``CheckpointError`` for an unusable base policy.
    """
    sb3 = _library()
    from rich.console import Console as RichConsole

    say = console or RichConsole(stderr=True)
    if config.method == "residual" and config.steps <= config.burn_in:
        say.print(
            f"{config.steps} steps are not more than the burn-in ({config.burn_in}): the base stays as it is; take more"
        )
    torch.manual_seed(config.seed)
    network = _new_actor(config)
    env, other = _environment(config, network), _environment(config, network)  # one to learn in, one to measure in
    began = time.perf_counter(), time.process_time()
    try:
        model = _new_model(sb3, config, env)
        best = Best(network, other, say)
        _learn(model, config, best)
        best.look(model)
        network.load_state_dict(best.weights)
        if network.base is None:
            _teach_done(network, other, config.seed)
    finally:
        env.close()
        other.close()
    made = {
        "method": config.method, "skill": config.skill, "steps": config.steps, "seed": config.seed,
        "hardware": config.hardware, "seconds": round(time.perf_counter() - began[0], 1),
        "cpu_seconds": round(time.process_time() - began[1], 1), "curve": best.curve,
    }  # fmt: skip
    result = measure(config, ActorPolicy(network), say)
    made["success"] = result["success"]
    save(config.out, "actor", network, card=model_card(config, made), made=made)
    say.print(f"weights and card: {config.out}")
    return {**result, "training": made}


def measure(config: RlConfig, policy: ActorPolicy | PointPolicy, console: Console) -> dict[str, Any]:
    """Success on unseen episodes by the rules of ``embodied eval policy``, on the hardware that was trained for."""
    suite = "randomized" if config.hardware == "randomized" else "skills"
    wanted = EvalConfig(suite=suite, episodes=config.evaluate, seed=0, skills=(config.skill,))  # type: ignore[arg-type]
    return evaluate(wanted, console=console, policy=policy)


def _library() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise EmbodiedError(_MISSING) from error
    return stable_baselines3


def _new_actor(config: RlConfig) -> ActorNetwork:
    """An actor that has learned nothing; a residual's base is as it will stay."""
    if config.method == "her":
        return ActorNetwork(ActorConfig(config.skill, config.width))
    base = load_point_network(config.base)
    # The gripper is left to the base policy: a hold that is corrected by chance is a drop.
    bound = (config.bound_rad,) * 5 + (0.0,)
    network = ActorNetwork(
        ActorConfig(config.skill, config.width, base.config.control_hz, bound, base.config.to_json())
    )
    if network.base is not None:
        network.base.load_state_dict(base.state_dict())
    return network


def _environment(config: RlConfig, network: ActorNetwork) -> Any:
    if network.base is None:
        return RobotView(config.skill)
    return ResidualEnv(config.skill, PointPolicy(network.base), np.array(network.config.bound), config.hardware)


def _new_model(sb3: Any, config: RlConfig, env: Any) -> Any:
    """SAC whose actor and critics look at ``features``."""
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class GoalFeatures(BaseFeaturesExtractor):  # type: ignore[misc]
        def __init__(self, space: Any) -> None:
            super().__init__(space, FEATURE_WIDTH)

        def forward(self, seen: dict[str, Tensor]) -> Tensor:
            return features(seen["observation"], seen["desired_goal"])

    her = config.method == "her"
    model = sb3.SAC(
        "MultiInputPolicy", env, learning_rate=config.learning_rate, batch_size=config.batch, gamma=config.gamma,
        learning_starts=max(config.warmup, 120) if her else 1, tau=0.01, buffer_size=max(config.steps, 1000), device="cpu",
        ent_coef="auto_0.1" if her else "auto_0.02", seed=config.seed,
        replay_buffer_class=sb3.HerReplayBuffer if her else None,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"} if her else None,
        policy_kwargs={
            "features_extractor_class": GoalFeatures, "net_arch": [config.width, config.width],
            "activation_fn": nn.ReLU,
        },
    )  # fmt: skip
    if not her:
        with torch.no_grad():
            model.policy.actor.mu.weight.mul_(0.01)
            model.policy.actor.mu.bias.zero_()
            model.policy.actor.log_std.weight.mul_(0.01)
            model.policy.actor.log_std.bias.fill_(_SHY_LOG_STD)
    return model


def _learn(model: Any, config: RlConfig, best: Best) -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    class Glance(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            if config.method == "residual" and self.num_timesteps == config.burn_in:
                actor.requires_grad_(True)
            if config.evaluate_every and self.num_timesteps % config.evaluate_every == 0:
                best.look(self.model)
            return True

    actor = model.policy.actor
    if config.method == "residual":
        best.look(model)  # the base policy as it is: what is worse is not kept
        actor.requires_grad_(config.burn_in == 0)
    model.learn(config.steps, callback=Glance(), progress_bar=False)


class Best:
    """Keeps the weights that did best so far, judged on episodes that are neither trained on nor reported."""

    def __init__(self, network: ActorNetwork, env: Any, console: Console) -> None:
        self.curve: list[tuple[int, float]] = []
        self.weights: dict[str, Tensor] = copy.deepcopy(network.state_dict())
        self._network, self._env, self._console, self._rate = network, env, console, -1.0

    def look(self, model: Any) -> None:
        """Measure the model now."""
        if self.curve and self.curve[-1][0] == model.num_timesteps:
            return
        export(model, self._network)
        outcomes = [success for success, *_ in _episodes(self._env, self._network, GLANCE_EPISODES, GLANCE_SEED)]
        rate = sum(outcomes) / GLANCE_EPISODES
        self.curve.append((int(model.num_timesteps), rate))
        self._console.print(f"step {model.num_timesteps:6d}: {sum(outcomes)} of {GLANCE_EPISODES} episodes succeed")
        # Of two that do as well the later one; with a base, which was looked at first, only what does better than all before.
        if rate > self._rate or (rate == self._rate and self.curve[0][0] > 0):
            self._rate, self.weights = rate, copy.deepcopy(self._network.state_dict())


def export(model: Any, network: ActorNetwork) -> None:
    """Copy what SAC's actor has learned into a network of this project."""
    network.latent.load_state_dict(model.policy.actor.latent_pi.state_dict())
    network.mean.load_state_dict(model.policy.actor.mu.state_dict())


def _episodes(
    env: Any, network: ActorNetwork, episodes: int, seed: int
) -> Iterator[tuple[bool, list[dict[str, Any]], list[bool]]]:
    """Episodes with the deterministic actor: whether it succeeded in the end, what was seen, and success step by step."""
    for index in range(episodes):
        seen, _ = env.reset(seed=seed + index)
        rows, held, over = [], [], False
        while not over:
            action = act(network, seen)
            rows.append(seen)
            seen, _, terminated, truncated, info = env.step(action)
            held.append(bool(info["is_success"]))
            over = terminated or truncated
        yield held[-1], rows, held


@torch.inference_mode()
def act(network: ActorNetwork, seen: dict[str, Any]) -> Any:
    """The deterministic action (6,) for one observation of the environment."""
    state, desired = torch.from_numpy(seen["observation"])[None], torch.from_numpy(seen["desired_goal"])[None]
    return network(state, desired)[0][0].numpy()


def _teach_done(network: ActorNetwork, env: Any, seed: int) -> None:
    """Teach the actor to recognise success that lasts from what it sees: logistic regression on its own episodes."""
    rows, held = [], []
    for _, seen, success in _episodes(env, network, DONE_EPISODES, DONE_SEED + seed):
        rows += seen[1:]  # the success of a step shows in the observation after it
        held += [all(success[step : step + LASTING_STEPS]) for step in range(len(success) - 1)]
    seen = features(
        torch.from_numpy(np.stack([row["observation"] for row in rows])),
        torch.from_numpy(np.stack([row["desired_goal"] for row in rows])),
    )
    wanted = torch.tensor(held, dtype=torch.float32)
    optimizer = torch.optim.Adam(network.done.parameters(), 3e-3)
    for _ in range(600):
        loss = functional.binary_cross_entropy_with_logits(network.done(seen).squeeze(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def model_card(config: RlConfig, made: dict[str, Any]) -> str:
    """The model card (Markdown): what it is, what made it, what it can do."""
    success = made["success"]
    how = {
        "her": "SAC with hindsight relabelling, from nothing, on a sparse reward",
        "residual": f"SAC on corrections of at most {config.bound_rad} rad on top of a frozen cloned policy",
    }[config.method]
    curve = ", ".join(f"{step}: {rate:.2f}" for step, rate in made["curve"])
    base = f" --base {config.base.name}" if config.base is not None else ""
    return f"""# An actor that learned to {config.skill} from reward

{how}; {config.steps} control steps in simulation ({config.hardware} hardware), seed {config.seed}.
It sees joint states and goal points; no image, and nothing of the simulator. Other skills it {_OTHERS[config.method]}.

```bash
embodied train rl --skill {config.skill} --method {config.method} --hardware {config.hardware} \\
    --steps {config.steps} --seed {config.seed}{base}
```

Measured on {success["episodes"]:.0f} unseen episodes: {success["rate"]:.3f} (Wilson 95 % interval {success["low"]:.3f} to
{success["high"]:.3f}), ended by its own *done*. On the way, {GLANCE_EPISODES} other episodes each: {curve}.
It took {made["seconds"]:.0f} s, {made["cpu_seconds"]:.0f} s of one processor core.
"""


_OTHERS = {"her": "refuses", "residual": "leaves to the base policy"}
