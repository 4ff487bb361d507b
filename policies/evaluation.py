"""How often the point policy does what it was asked, on episodes it was never trained on.

The goals come from the true scene, so these figures say what the *policy* can do when it is told where things are; how
often words and pictures lead there is the agent's evaluation. Success is judged from outside, after the policy has ended
the skill by its own done output: a skill without that claim counts as failed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.goal import SKILLS, Goal, Skill
from policies.policy import Policy
from policies.runtime import PolicyRuntime, RuntimeOptions

if TYPE_CHECKING:
    from rich.console import Console

    from sim.rollout import Stage

#: Added to the seed, so that evaluation and training (seeds 0..9999) never share an episode.
SEED_BASE = 1_000_000
#: Control steps the world goes on after the policy is done, so that a falling object does not count as placed.
SETTLE_STEPS = 10


@dataclass(frozen=True)
class EvalConfig:
    """Measure the low-level policy, skill by skill."""

    suite: Literal["skills"] = "skills"
    """What is measured: every skill on its own."""
    episodes: int = 100
    """Unseen episodes per skill."""
    seed: int = 0
    """Seed of the episodes."""
    weights: Path | None = None
    """Policy folder; without it the shipped weights."""
    skills: tuple[Skill, ...] = SKILLS
    """Which skills to measure."""
    goal_noise_m: float = 0.0
    """Standard deviation of an error of goal points along x and y (stack: half of it along z), as a planner makes."""
    mode: Literal["ensemble", "receding"] = "ensemble"
    """How chunks become commands."""
    json: bool = False
    """Print the result as one JSON object on the last line."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, not {self.episodes}")
        if self.goal_noise_m < 0.0:
            raise ValueError(f"goal_noise_m must not be negative, not {self.goal_noise_m}")


@dataclass(frozen=True)
class Outcome:
    """One episode."""

    success: bool  # done by the policy's own word, and true
    claimed: bool  # done by the policy's own word
    true: bool  # true when it ended, whether claimed or not
    steps: int


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval (95 %) of a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.959964
    share = successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def rate(successes: int, trials: int) -> dict[str, float]:
    """``rate``, ``low``, ``high`` and ``episodes`` as the command line's JSON has them."""
    low, high = wilson(successes, trials)
    return {"rate": successes / trials if trials else 0.0, "low": low, "high": high, "episodes": trials}


def evaluate(config: EvalConfig, *, console: Console | None = None, policy: Policy | None = None) -> dict[str, Any]:
    """Run the suite; returns the JSON object described in the command line's help.

    ``policy`` is measured instead of ``config.weights`` if given. Raises ``CheckpointError`` for unusable weights.
    """
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    from policies.checkpoint import load_policy
    from sim.rollout import Stage

    runtime = PolicyRuntime(policy or load_policy(config.weights), RuntimeOptions(mode=config.mode))
    say = console or RichConsole(stderr=True)
    outcomes: dict[str, list[Outcome]] = {}
    stage = Stage()
    try:
        with Progress(console=say, transient=True) as progress:
            bar = progress.add_task("evaluating", total=len(config.skills) * config.episodes)
            for skill in config.skills:
                for index in range(config.episodes):
                    outcomes.setdefault(skill, []).append(run_episode(stage, runtime, skill, index, config))
                    progress.update(bar, advance=1, description=skill)
    finally:
        stage.close()
    result = summarise(config, outcomes)
    show(result, say)
    if config.json:
        print(json.dumps(result))
    return result


def run_episode(stage: Stage, runtime: PolicyRuntime, skill: Skill, index: int, config: EvalConfig) -> Outcome:
    """Evaluation episode ``index`` of a skill; it depends on (seed, skill, index) alone."""
    from policies.collect import begin
    from sim.conditions import holds
    from sim.dynamics import Dynamics
    from sim.rollout import SkillEpisode

    rng = np.random.default_rng((SEED_BASE + config.seed, SKILLS.index(skill), index))
    while True:
        episode = SkillEpisode.sample(skill, rng)
        begun = begin(stage, episode, Dynamics(), rng)
        if begun is not None:  # the scripted pick that sets a placing episode up may fail: draw another
            break
    true_goal, start = begun
    error = rng.normal(0.0, 1.0, 3) * config.goal_noise_m
    error[2] *= 0.5 if skill == "stack" else 0.0  # the other skills act on the table, whose height is known
    goal = Goal(skill, true_goal.point + error, true_goal.to + error)
    result = runtime.run(stage.robot, goal)
    for _ in range(SETTLE_STEPS if result.done else 0):
        stage.robot.act(stage.robot.observe().command)
    true = holds(stage.world, episode.condition, start)
    return Outcome(result.done and true, result.done, true, result.steps)


def summarise(config: EvalConfig, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    """The result object: overall and per-skill success with Wilson intervals, and a few metrics."""
    every = [outcome for some in outcomes.values() for outcome in some]
    metrics: dict[str, float] = {
        "wrong_done": sum(o.claimed and not o.true for o in every) / len(every),
        "missed_done": sum(o.true and not o.claimed for o in every) / len(every),
    }
    metrics |= {f"steps_{skill}": float(np.mean([o.steps for o in some])) for skill, some in outcomes.items()}
    return {
        "suite": config.suite,
        "episodes": config.episodes,
        "seed": config.seed,
        "success": rate(sum(o.success for o in every), len(every)),
        "by": {skill: rate(sum(o.success for o in some), len(some)) for skill, some in outcomes.items()},
        "metrics": metrics,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the result as a table."""
    from rich.table import Table

    table = Table("skill", "success", "95 % interval", "episodes", "mean steps")
    for name, row in {**result["by"], "all": result["success"]}.items():
        steps = result["metrics"].get(f"steps_{name}")
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(
            name, f"{row['rate']:.3f}", interval, str(row["episodes"]), "" if steps is None else f"{steps:.0f}"
        )
    console.print(table)
