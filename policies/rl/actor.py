"""The actor in one file: what it sees, its network, and the policy object that runs on a robot.

Only what a real robot knows goes in: joints, commands, and the points that the planner told. The true place of the object,
which rewards and hindsight goals are made of, does not, so what is learned in simulation can be carried out without it.

    alone      target = command sent last + action * (0.1 rad; gripper 0.125), an action being six numbers -1..1
    residual   target = what the frozen point policy wants + action * bound, for every step of its chunk
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hardware.arm_spec import SO101, ArmSpec
from hardware.errors import CheckpointError
from hardware.kinematics import forward
from hardware.robot import Observation
from policies.goal import Goal
from policies.policy import Chunk
from policies.skills import SKILLS
from sim.envs import GRIPPER_STEP, JOINT_STEP_RAD, LIFT_M, REACH_HEIGHT_M

if TYPE_CHECKING:
    from policies.kinds import Kind
    from policies.point import PointNetwork

Float = NDArray[np.float64]

#: How far above the told point the goal of a skill lies, m.
RISE_M: dict[str, float] = {"reach": REACH_HEIGHT_M, "pick": LIFT_M}
#: A state row: q (6), command - q (6), q - q a step ago (6), tool position (3), where the tool points (3), how the jaws are
#: turned (3), cosine and sine of the tool's azimuth (2), the told point (3), what the base policy wants - command (6), its
#: belief that it is done (1). The last two are zero without a base.
STATE_WIDTH = 39
_TOOL, _TURN, _POINT = slice(18, 21), slice(27, 29), slice(29, 32)
#: A state row's own entries, and two points relative to the tool, coarse and fine.
FEATURE_WIDTH = STATE_WIDTH + 12
#: Scales of one action, alone.
ACTION_SCALE: Float = np.array([JOINT_STEP_RAD] * 5 + [GRIPPER_STEP])


def told_point(skill: str, start: Float, desired: Float) -> Float:
    """The planner's ``point`` (3,), from where the object stood at the start and the goal (3,) of the environment."""
    return start if skill == "push" else desired - np.array([0.0, 0.0, RISE_M.get(skill, 0.0)])


def desired_goal(goal: Goal) -> Float:
    """The goal (3,) of the environment, from a planner's goal."""
    return goal.to + np.array([0.0, 0.0, RISE_M.get(goal.skill, 0.0)])


def state_row(
    observation: Observation, before: Float, point: Float, base: Chunk | None = None, spec: ArmSpec = SO101
) -> NDArray[np.float32]:
    """One state row (STATE_WIDTH,); ``before``: q (6,) a step ago."""
    q, command = observation.q, observation.command
    pose = forward(spec, q)
    azimuth = math.atan2(pose[1, 3], pose[0, 3] - spec.arm_origins[0].xyz[0])
    wanted = np.zeros(6) if base is None else 10.0 * (base.targets[0] - command)
    return np.concatenate(
        [
            q, 10.0 * (command - q), 10.0 * (q - before), pose[:3, 3], pose[:3, 2], pose[:3, 0],
            [math.cos(azimuth), math.sin(azimuth)], point, wanted, [0.0 if base is None else base.done],
        ]
    ).astype(np.float32)  # fmt: skip


def features(state: Tensor, desired: Tensor) -> Tensor:
    """State rows (B, STATE_WIDTH) and goals (B, 3) -> features (B, FEATURE_WIDTH).

    The points are seen from the tool, in a frame that turns with it: the same at every azimuth.
    """
    tool, turn = state[:, _TOOL], state[:, _TURN]
    parts = [state]
    for place in (desired, state[:, _POINT]):
        apart = place - tool
        along = turn[:, 0] * apart[:, 0] + turn[:, 1] * apart[:, 1]
        across = turn[:, 0] * apart[:, 1] - turn[:, 1] * apart[:, 0]
        seen = torch.stack([along, across, apart[:, 2]], dim=1)
        parts += [5.0 * seen, torch.tanh(25.0 * seen)]
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class ActorConfig:
    """Everything needed to rebuild the network; stored as ``config.json`` beside the weights."""

    skill: str
    width: int = 128
    """Hidden units per layer; two layers."""
    control_hz: float = 20.0
    """The control rate of the environment."""
    bound: tuple[float, ...] | None = None
    """(6,) largest correction in rad and openings; None: no base policy."""
    base: dict[str, Any] | None = None
    """The base policy's own config."""
    skills: tuple[str, ...] = SKILLS
    """Names of the skills there were."""

    def to_json(self) -> dict[str, object]:
        """Plain data for ``config.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ActorConfig:
        """Inverse of ``to_json``. Raises ``ValueError`` or ``TypeError``."""
        bound = fields.get("bound")
        config = cls(**{**fields, "bound": None if bound is None else tuple(float(b) for b in bound)})
        if config.skill not in SKILLS or (config.bound is None) != (config.base is None):
            raise ValueError("an actor needs a known skill, and a bound exactly if it has a base policy")
        if config.bound is not None and (len(config.bound) != 6 or not all(0.0 <= b <= 0.3 for b in config.bound)):
            raise ValueError(f"a residual's bound must be six numbers in 0..0.3, not {config.bound}")
        return config


class ActorNetwork(nn.Module):
    """State rows (B, STATE_WIDTH) and goals (B, 3) -> action (B, 6) in -1..1 and done logit (B,)."""

    def __init__(self, config: ActorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.latent = nn.Sequential(
            nn.Linear(FEATURE_WIDTH, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )  # as stable-baselines3 builds it
        self.mean = nn.Linear(width, 6)
        self.done = nn.Sequential(nn.Linear(FEATURE_WIDTH, 64), nn.Tanh(), nn.Linear(64, 1))
        self.base: PointNetwork | None = None
        if config.base is not None:
            from policies.point import PointConfig, PointNetwork

            self.base = PointNetwork(PointConfig(**{**config.base, "skills": tuple(config.base["skills"])}))

    def forward(self, state: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """Deterministic action and done logit."""
        seen = features(state, desired)
        return torch.tanh(self.mean(self.latent(seen))), self.done(seen).squeeze(1)


class ActorPolicy:
    """A learned actor as a ``Policy``: one skill, told by points; refuses the others unless it has a base to leave them to."""

    cameras: tuple[str, ...] = ()

    def __init__(self, network: ActorNetwork, spec: ArmSpec = SO101) -> None:
        from policies.point import PointPolicy

        self.network = network.eval()
        self.control_hz = network.config.control_hz
        self.name = "residual" if network.base is not None else "actor"
        self._spec = spec
        self._base = PointPolicy(network.base) if network.base is not None else None
        self._bound = None if network.config.bound is None else np.array(network.config.bound)
        self._before: Float | None = None

    def reset(self) -> None:
        """A new skill begins; before its first step the arm is taken to have stood still."""
        self._before = None
        if self._base is not None:
            self._base.reset()

    @torch.inference_mode()
    def act(self, observation: Observation, goal: Goal) -> Chunk:
        """The chunk (H, 6) and the done belief. Raises ``CheckpointError`` for a skill that was not learned."""
        chunk = self._base.act(observation, goal) if self._base is not None else None
        if goal.skill != self.network.config.skill:
            if chunk is not None:  # nothing was learned about it: the base policy as it is
                return chunk
            raise CheckpointError(
                f"this policy learned {self.network.config.skill!r} only and is asked to {goal.skill!r}; "
                "use a policy that has that skill"
            )
        before = observation.q if self._before is None else self._before
        self._before = np.array(observation.q)
        state = state_row(observation, before, goal.to_move().point, chunk, self._spec)
        desired = desired_goal(goal).astype(np.float32)
        action, done_logit = self.network(torch.from_numpy(state)[None], torch.from_numpy(desired)[None])
        change = action[0].double().numpy()
        if chunk is not None and self._bound is not None:
            return Chunk(corrected(chunk, change, self._bound), chunk.done)
        target = observation.command + change * ACTION_SCALE
        target[5] = target[5].clip(0.0, 1.0)
        return Chunk(target[None], float(torch.sigmoid(done_logit[0])))


def corrected(chunk: Chunk, action: Float, bound: Float) -> Float:
    """A base policy's targets (H, 6) with the bounded correction (6,) added to every step."""
    targets = chunk.targets + np.clip(action, -1.0, 1.0) * bound
    targets[:, 5] = targets[:, 5].clip(0.0, 1.0)
    return targets


def actor_kind() -> Kind:
    """The entry of ``policies/kinds.py``: loads and runs; it is trained by ``policies/rl/train.py``, not by imitation."""
    from policies.kinds import Kind

    def not_imitated(*arguments: Any) -> Any:
        raise CheckpointError("an actor learns from reward: use `embodied train rl`")

    return Kind(
        "actor", "Actor learned from reward",
        "It sees joint states and goal points; no image, and nothing of the simulator.",
        "It knows one skill, and never sees the objects.",
        not_imitated, lambda fields: ActorNetwork(ActorConfig.from_json(dict(fields))),
        not_imitated, not_imitated, ActorPolicy, lambda config: (),
    )  # fmt: skip
