"""How often a policy does what it was asked, on episodes it was never trained on.

    skills                every skill in the nominal simulation, told exactly where things are
    noise1cm, noise2cm    the same, told points that are off by so much (standard deviation along x and along y)
    randomized            every episode another arm (0 to 150 ms late, offset, soft, worn), camera, calibration, lamp and table
    shapes                pick objects that training never contained: a bar, a cone, a ring

The goals come from the true scene, so these figures say what the *policy* can do when it is told where things are; how
often words and pictures lead there is the agent's evaluation. Success is judged from outside, after the policy has ended
the skill by its own done output: a skill without that claim counts as failed.

``place`` puts something on a bare spot, which looks like any other: no policy can see that it was told the wrong one. With
errors of 1 cm along x and y 13.5 % of the told spots are themselves further off than the 2 cm that count as success. The
metric ``place_as_told`` judges by the spot that was told.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from hardware.errors import EmbodiedError
from hardware.robot import Robot
from policies.goal import Goal
from policies.images import VIEWS, SeeingRobot
from policies.intervals import wilson
from policies.policy import Policy
from policies.randomization import ALWAYS, Wear, error_shape, random_appearance, random_hardware
from policies.runtime import PolicyRuntime, RuntimeOptions
from policies.skills import SKILLS, Skill

if TYPE_CHECKING:
    from rich.console import Console

    from policies.shapes import Shape
    from policies.worn_robot import WornStage

SuiteName = Literal["skills", "noise1cm", "noise2cm", "randomized", "shapes"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)
#: Errors (m) of the points in the suites that have them.
SUITE_NOISE_M: dict[SuiteName, float] = {"noise1cm": 0.01, "noise2cm": 0.02}

#: Added to the seed, so that evaluation and training (seeds 0..9999) never share an episode.
SEED_BASE = 1_000_000
#: Control steps the world goes on after the policy is done, so that a falling object does not count as placed.
SETTLE_STEPS = 10


@dataclass(frozen=True)
class EvalConfig:
    """Measure the low-level policy, skill by skill."""

    suite: SuiteName = "skills"
    """What is measured: skills; the same with wrong points (noise1cm, noise2cm); randomized; or new shapes."""
    episodes: int = 100
    """Unseen episodes per skill."""
    seed: int = 0
    """Seed of the episodes."""
    weights: Path | None = None
    """Policy folder; without it the shipped weights."""
    skills: tuple[Skill, ...] = SKILLS
    """Which skills to measure."""
    goal_noise_m: float = 0.0
    """Standard deviation of an error of goal points along x and y (stack: half of it along z), as a planner makes. 0: the
    suite's own."""
    mode: Literal["ensemble", "receding"] = "ensemble"
    """How chunks become commands."""
    workers: int = 1
    """Processes that evaluate; more than one needs ``weights`` on disk."""
    json: bool = False
    """Print the result as one JSON object on the last line."""

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"there is no suite {self.suite!r}; choose one of: {', '.join(SUITES)}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, not {self.episodes}")
        if self.goal_noise_m < 0.0:
            raise ValueError(f"goal_noise_m must not be negative, not {self.goal_noise_m}")

    @property
    def noise_m(self) -> float:
        """The error of the points: the one asked for, or the suite's."""
        return self.goal_noise_m or SUITE_NOISE_M.get(self.suite, 0.0)

    @property
    def parts(self) -> tuple[str, ...]:
        """What is reported separately: skills, or shapes."""
        if self.suite != "shapes":
            return self.skills
        from policies.shapes import SHAPES

        return SHAPES


@dataclass(frozen=True)
class Outcome:
    """One episode."""

    success: bool  # done by the policy's own word, and true
    claimed: bool  # done by the policy's own word
    true: bool  # true when it ended, whether claimed or not
    steps: int
    as_told: bool | None = None  # place: true by the spot that was told, not the one that was meant


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

    say = console or RichConsole(stderr=True)
    outcomes: dict[str, list[Outcome]] = {}
    with Progress(console=say, transient=True) as progress:
        bar = progress.add_task("evaluating", total=len(config.parts) * config.episodes)
        for part, outcome in _all_outcomes(config, policy):
            outcomes.setdefault(part, []).append(outcome)
            progress.update(bar, advance=1, description=part)
    result = summarise(config, {part: outcomes[part] for part in config.parts})
    show(result, say)
    if config.json:
        print(json.dumps(result))
    return result


def _all_outcomes(config: EvalConfig, policy: Policy | None) -> Iterator[tuple[str, Outcome]]:
    if config.workers > 1 and policy is None:
        # Spawned, not forked: a physics client and torch's threads do not survive a fork.
        with ProcessPoolExecutor(config.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = {pool.submit(_part, replace(config, workers=1, json=False), part): part for part in config.parts}
            for job in as_completed(jobs):
                for outcome in job.result():
                    yield jobs[job], outcome
        return
    for part in config.parts:
        for outcome in _outcomes(config, part, policy):
            yield part, outcome


def _part(config: EvalConfig, part: str) -> list[Outcome]:
    """One worker's share."""
    import torch

    torch.set_num_threads(1)
    return list(_outcomes(config, part, None))


def _outcomes(config: EvalConfig, part: str, policy: Policy | None) -> Iterator[Outcome]:
    """The episodes of one skill or shape, one after the other."""
    from policies.checkpoint import load_policy
    from policies.shapes import SHAPES
    from policies.worn_robot import WornStage

    runtime = PolicyRuntime(policy or load_policy(config.weights), RuntimeOptions(mode=config.mode))
    stage = WornStage()
    try:
        for index in range(config.episodes):
            if config.suite == "shapes":
                yield run_shape(stage, runtime, SHAPES[config.parts.index(part)], index, config)
            else:
                yield run_episode(stage, runtime, SKILLS[SKILLS.index(part)], index, config)
    finally:
        stage.close()


def run_episode(stage: WornStage, runtime: PolicyRuntime, skill: Skill, index: int, config: EvalConfig) -> Outcome:
    """Evaluation episode ``index`` of a skill; it depends on (seed, suite, skill, index) alone."""
    from policies.collect import begin
    from sim.conditions import At, holds
    from sim.dynamics import Dynamics
    from sim.rollout import SkillEpisode

    rng = np.random.default_rng((SEED_BASE + config.seed, SKILLS.index(skill), index))
    # Of its own, so that the same situations come up in every suite.
    varied = np.random.default_rng((SEED_BASE + config.seed, SKILLS.index(skill), index, 1))
    while True:
        episode = SkillEpisode.sample(skill, rng)
        dynamics, stage.wear, stage.appearance = Dynamics(), Wear(), None
        if config.suite == "randomized":
            dynamics, stage.wear = random_hardware(varied, ALWAYS)
            stage.appearance = random_appearance(varied, ALWAYS)
        begun = begin(stage, episode, dynamics, rng)
        if begun is not None:  # the scripted pick that sets a placing episode up may fail: draw another
            break
    true_goal, start = begun
    error = rng.normal(0.0, 1.0, 3) * config.noise_m
    error *= error_shape(skill)  # only a stack's height is in doubt: the table's is known
    if stage.appearance is not None:
        error += stage.pointed(true_goal.point) - true_goal.point
    goal = Goal(skill, true_goal.point + error, true_goal.to + error)
    result = runtime.run(_robot(stage, runtime.policy, goal), goal)
    _settle(stage, result.done)
    true = holds(stage.world, episode.condition, start)
    as_told = None
    if isinstance(episode.condition, At) and skill == "place":
        told = replace(episode.condition, xy=(float(goal.point[0]), float(goal.point[1])))
        as_told = result.done and holds(stage.world, told, start)
    return Outcome(result.done and true, result.done, true, result.steps, as_told)


def run_shape(stage: WornStage, runtime: PolicyRuntime, shape: Shape, index: int, config: EvalConfig) -> Outcome:
    """Pick an unseen shape; depends on (seed, shape, index) alone."""
    from policies.shapes import LIFTED_M, SHAPES, shape_on_table

    rng = np.random.default_rng((SEED_BASE + config.seed, len(SKILLS) + SHAPES.index(shape), index))
    with shape_on_table(stage, shape, rng) as thing:
        before = thing.foot
        point = before + rng.normal(0.0, 1.0, 3) * config.noise_m * error_shape("pick")
        goal = Goal("pick", point, point)
        result = runtime.run(_robot(stage, runtime.policy, goal), goal)
        _settle(stage, result.done)
        true = bool(thing.foot[2] - before[2] > LIFTED_M)
    return Outcome(result.done and true, result.done, true, result.steps)


def _robot(stage: WornStage, policy: Policy, goal: Goal) -> Robot:
    """The robot, with cameras if the policy looks through any; only what it looks at is drawn."""
    views = getattr(policy, "views", VIEWS if policy.cameras else ())
    if not views:
        return stage.robot
    known = {view.camera for view in views}
    unknown = [name for name in policy.cameras if name not in known]
    if unknown:
        raise EmbodiedError(f"the policy wants the cameras {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return SeeingRobot(stage.robot, stage.eyes(views, goal.point))


def _settle(stage: WornStage, done: bool) -> None:
    for _ in range(SETTLE_STEPS if done else 0):
        stage.robot.act(stage.robot.observe().command)


def summarise(config: EvalConfig, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    """The result object: overall and per-skill success with Wilson intervals, and a few metrics."""
    every = [outcome for some in outcomes.values() for outcome in some]
    metrics: dict[str, float] = {
        "wrong_done": sum(o.claimed and not o.true for o in every) / len(every),
        "missed_done": sum(o.true and not o.claimed for o in every) / len(every),
    }
    metrics |= {f"steps_{skill}": float(np.mean([o.steps for o in some])) for skill, some in outcomes.items()}
    told = [o.as_told for o in every if o.as_told is not None]
    if told:
        metrics["place_as_told"] = sum(told) / len(told)
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

    table = Table(
        "skill" if result["suite"] != "shapes" else "shape", "success", "95 % interval", "episodes", "mean steps"
    )
    for name, row in {**result["by"], "all": result["success"]}.items():
        steps = result["metrics"].get(f"steps_{name}")
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(
            name, f"{row['rate']:.3f}", interval, str(row["episodes"]), "" if steps is None else f"{steps:.0f}"
        )
    console.print(table)
