"""The options of a reinforcement learning run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.skills import SKILLS, Skill

Method = Literal["her", "residual"]
Hardware = Literal["nominal", "randomized"]
#: A residual's reward comes at the end of a skill of 100 to 400 steps, a goal's at every step.
USUAL: dict[Method, dict[str, float]] = {
    "her": {"learning_rate": 1e-3, "gamma": 0.95}, "residual": {"learning_rate": 3e-4, "gamma": 0.99},
}  # fmt: skip
#: Skills whose purpose is a point that a robot can be told, see ``sim/envs.py``.
HER_SKILLS: tuple[Skill, ...] = ("reach", "pick", "place", "bowl", "stack", "push")


@dataclass(frozen=True)
class RlConfig:
    """Learn one skill from reward: SAC with hindsight relabelling from nothing, or a bounded correction of a cloned policy."""

    out: Path = Path("runs/rl")
    """Folder for the weights and the model card; `embodied run --policy` takes it."""
    skill: Skill = "reach"
    """Which skill."""
    method: Method = "her"
    """her: from nothing, with sparse reward and hindsight relabelling. residual: on top of a frozen point policy."""
    base: Path | None = None
    """residual: folder of the point policy to correct; without it the shipped weights."""
    bound_rad: float = 0.03
    """residual: the largest correction of an arm joint's target, in each control step."""
    hardware: Hardware = "nominal"
    """residual: nominal, or randomized as in the evaluation suite of that name (late, soft, worn and badly calibrated)."""
    steps: int = 4000
    """Control steps in the environment."""
    warmup: int = 500
    """her: control steps with random actions before the first gradient step."""
    batch: int = 128
    """Transitions per gradient step."""
    width: int = 128
    """Hidden units of actor and critics (two layers)."""
    learning_rate: float = -1.0
    """Adam's step size, for actor, critics and entropy. This and the next: -1 is the method's usual value."""
    gamma: float = -1.0
    """Discount per control step (0.05 s)."""
    burn_in: int = 3000
    """residual: control steps in which only the critics learn; what knows nothing yet would lead the base policy astray."""
    evaluate_every: int = 2000
    """Control steps between two evaluations; the best weights are kept. 0: only at the end."""
    evaluate: int = 100
    """Episodes of the evaluation at the end, on seeds that training never sees."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.skill not in SKILLS:
            raise ValueError(f"there is no skill {self.skill!r}; choose one of: {', '.join(SKILLS)}")
        if self.method == "her" and self.skill not in HER_SKILLS:
            raise ValueError(
                f"{self.skill!r} has no goal point to relabel; use --method residual or a skill of: {', '.join(HER_SKILLS)}"
            )
        if self.method == "her" and (self.hardware != "nominal" or self.base is not None):
            raise ValueError("--hardware and --base belong to --method residual")
        for name in ("steps", "batch", "width", "evaluate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup", "evaluate_every", "burn_in"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0.0 < self.bound_rad <= 0.3:
            raise ValueError(f"bound_rad must lie between 0 and 0.3, not {self.bound_rad}")
        for name, usual in USUAL[self.method].items():
            if getattr(self, name) == -1.0:
                object.__setattr__(self, name, usual)
        if not 0.0 < self.gamma < 1.0 or not self.learning_rate > 0.0:
            raise ValueError("gamma must lie between 0 and 1, learning_rate above 0")
